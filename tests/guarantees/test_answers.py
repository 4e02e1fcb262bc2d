"""Answers: from the record call to the client's answer and the command line's, all is as recomputed from what was
recorded; also after the daemon was killed, after a cleanup, and without a daemon."""

import random
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from click.testing import CliRunner

from skillmeter import QueryError, create_analytics_client
from skillmeter.client import AnalyticsClient
from skillmeter.events import Event, Execution, Health, Rating
from skillmeter.results import LeaderboardEntry, SkillUsage, UsageTrendPoint
from skillmeterd.cli import group
from tests.comparison import check, plain
from tests.histories import ORGS, SKILLS, USERS, Record
from tests.recomputation import ANSWERS, DAY_NS, History, day_of
from tests.support import DaemonProcess, rows

METRICS = ("usage_count", "success_rate", "rating", "adoption", "performance")
LATENCIES = (0.0, 0.5, 1.0, 10.0, 250.0, 99_999.0)
SPANS = (1, 2, 30, 3660)
ALL = 1000


def executions(dice: random.Random, count: int, days_ago: tuple[int, ...]) -> Iterator[Execution]:
    """Executions at the very ends of UTC days and in between; clients date events by whole seconds."""
    today = time.time_ns() // DAY_NS
    for _ in range(count):
        second = dice.choice((0, 1, 40_000, 86_399))
        yield Execution(
            (today - dice.choice(days_ago)) * DAY_NS + second * 1_000_000_000,
            dice.choice(SKILLS),
            dice.choice(USERS),
            dice.choice(ORGS),
            dice.random() < 0.7,
            dice.choice(LATENCIES),
            dice.choice((None, "KeyError")),
        )


class Application:
    """A process that records, and knows what it has recorded."""

    def __init__(self, daemon: DaemonProcess, dice: random.Random) -> None:
        self.client = create_analytics_client(endpoint=daemon.endpoint, spool_dir=str(daemon.spool_dir))
        self.dice = dice
        self.recorded: Counter[tuple[object, ...]] = Counter()

    def record(self, count: int, *days_ago: int) -> None:
        """Executions, ratings and health scores; all of them are committed."""
        for run in executions(self.dice, count, days_ago):
            assert self.client.record_skill_execution(
                run.skill_id,
                run.success,
                run.latency_ms,
                run.user_id,
                run.org_id,
                error_type=run.error_type,
                timestamp=run.recorded_at_ns // 1_000_000_000,
            )
            self.recorded[tuple(msgspec.structs.astuple(run))] += 1
            skill, user, org = self.dice.choice(SKILLS), self.dice.choice(USERS), self.dice.choice(ORGS)
            if self.dice.random() < 0.1:
                assert self.client.record_skill_rating(skill, 1 + count % 5, user, org)
                self.recorded["rating", skill, user, org, 1 + count % 5] += 1
            if self.dice.random() < 0.1:
                assert self.client.update_health_score(skill, 0.5 * count)
                self.recorded["health", skill, 0.5 * count] += 1
        assert self.client.flush(30)


def stored(db: Path) -> list[Event]:
    """The raw events, as they are in SQL."""
    found: list[Event] = []
    for row in rows(db):
        at_ns, skill, user, org = row["recorded_at"], row["skill_id"], row["user_id"], row["org_id"]
        if row["kind"] == "execution":
            found.append(Execution(at_ns, skill, user, org, bool(row["success"]), row["latency_ms"], row["error_type"]))
        elif row["kind"] == "rating":
            found.append(Rating(at_ns, skill, user, org, row["rating"]))
        else:
            found.append(Health(at_ns, skill, row["score"]))
    return found


def without_times(events: list[Event]) -> Counter[tuple[object, ...]]:
    """As an Application counts them: clients give no time for a rating or a health score."""
    return Counter(
        tuple(msgspec.structs.astuple(event))
        if isinstance(event, Execution)
        else (type(event).__name__.lower(), *msgspec.structs.astuple(event)[1:])
        for event in events
    )


def keep_clear_of_midnight() -> None:
    """The days that a test speaks of must not pass while it asks."""
    left_s = 86_400 - time.time() % 86_400
    if left_s < 60:
        time.sleep(left_s)


def check_client(client: AnalyticsClient, events: list[Event], kept: int) -> None:
    """Every call that asks, with the answer of the plain recomputation."""
    history = History(events, time.time_ns(), kept, [day_of(event) for event in events])

    def same(found: Any, method: str, **asked: Any) -> None:
        check(plain(found), ANSWERS[method](history, **asked), f"{method} {asked}")

    for skill in SKILLS:
        same(client.get_skill_metrics(skill), "metrics", skill_id=skill)
        same(client.compute_health_score(skill), "health_score", skill_id=skill)
        for org in (*ORGS, "nobody's"):
            same(client.get_adoption_metrics(skill, org), "adoption", skill_id=skill, org_id=org)
            for days in SPANS:
                asked = {"skill_id": skill, "days": days, "org_id": org}
                same(client.get_skill_usage(skill, days, org), "usage", **asked)
                if days < 3660:
                    same(client.get_usage_trends(skill, days, org), "trends", **asked)
    for org in (*ORGS, "nobody's"):
        for metric in METRICS:
            for period in ("all", "daily", "weekly", "monthly"):
                asked = {"metric": metric, "period": period, "org_id": org, "limit": 3}
                same(client.get_leaderboard(3, metric, period, org), "leaderboard", **asked)
                same(client.compute_leaderboard(metric, period, 3, org), "leaderboard", **asked)
        for days in SPANS:
            same(client.get_top_skills(ALL, org, days), "leaderboard", days=days, org_id=org, limit=ALL)
        for user in (*USERS[1:], "nobody"):
            same(client.recommend_skills(user, ALL, org), "recommend", user_id=user, org_id=org, limit=ALL)
    same(client.get_db_stats(), "db_stats")
    with pytest.raises(QueryError, match="nothing was recorded"):
        client.get_skill_usage("nobody's")


def printed(*words: str) -> bytes:
    """What a command prints as JSON."""
    result = CliRunner().invoke(group, [*words, "--json"], prog_name="skillmeter")
    assert result.exit_code == 0, result.output
    return result.stdout_bytes


def check_commands(events: list[Event], kept: int) -> None:
    """Every command that asks, likewise."""
    history = History(events, time.time_ns(), kept, [day_of(event) for event in events])

    def same(found: Any, method: str, **asked: Any) -> None:
        check(plain(found), ANSWERS[method](history, **asked), f"{method} {asked}")

    for org in ("o1", None):
        within = ["--org", org] if org else []
        for metric in METRICS:
            board = msgspec.json.decode(
                printed("leaderboard", "--metric", metric, *within), type=list[LeaderboardEntry]
            )
            same(board, "leaderboard", metric=metric, org_id=org)
        live = msgspec.json.decode(printed("top", *within), type=list[LeaderboardEntry])
        same(live, "leaderboard", period="daily", org_id=org)
        for skill in SKILLS[:-1]:  # no command line can have a NUL
            words = [skill, "--days", "31", *within]
            asked = {"skill_id": skill, "days": 31, "org_id": org}
            facts = msgspec.json.decode(printed("usage", *words))
            same(facts.pop("health"), "health_score", skill_id=skill)
            same(facts.pop("adoption"), "adoption", skill_id=skill, org_id=org)
            same(msgspec.convert(facts, SkillUsage), "usage", **asked)
            same(msgspec.json.decode(printed("trends", *words), type=list[UsageTrendPoint]), "trends", **asked)
    told = [msgspec.json.decode(line) for line in printed("tail", "-n", "100000", "--no-follow").splitlines()]
    latest = events[len(events) - kept :]
    assert [line["recorded_at"] for line in told] == [event.recorded_at_ns for event in latest]
    assert [line["skill_id"] for line in told] == [event.skill_id for event in latest]


def test_every_answer_all_the_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A history of months, part of it recorded ten days ago and deleted in the end, with late and future events."""
    keep_clear_of_midnight()
    dice = random.Random(4)
    old = list(executions(dice, 60, (10, 11, 40, 400)))
    record = Record(tmp_path, time.time_ns() - 10 * DAY_NS)
    record.commit(old)
    record.close()
    with DaemonProcess(tmp_path) as daemon:
        app = Application(daemon, dice)
        app.record(100, 0, 0, 1, 7, 13, 29, 30)
        events = stored(daemon.db_path)
        assert events[: len(old)] == old
        assert without_times(events[len(old) :]) == app.recorded
        check_client(app.client, events, len(events))
        app.record(40, 0, 1, 8, 31, 365, -1)  # days that were asked about get more
        events = stored(daemon.db_path)
        assert without_times(events[len(old) :]) == app.recorded
        check_client(app.client, events, len(events))
        daemon.restart()
        check_client(app.client, events, len(events))
        assert app.client.cleanup_old_data(7) == len(old)
        assert stored(daemon.db_path) == events[len(old) :]
        check_client(app.client, events, len(events) - len(old))
        app.client.close()
        monkeypatch.setenv("ANALYTICS_DB_PATH", str(daemon.db_path))
        check_commands(events, len(events) - len(old))
        daemon.stop()
        check_commands(events, len(events) - len(old))
