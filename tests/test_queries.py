"""Queries: each answer equals a plain recomputation from the raw events, over random histories around midnight UTC."""

import datetime
import math
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skillmeter.errors import QueryError
from skillmeter.events import Event, Execution, Health, Rating
from skillmeter.results import LeaderboardEntry, SkillUsage
from skillmeterd.errors import StoreUnavailable
from skillmeterd.queries import METHODS, Queries, formulas
from skillmeterd.queries.params import METRICS, PERIODS
from skillmeterd.rows import DAY_NS
from skillmeterd.store import Chunk, Store

TODAY = 20_000
MIDNIGHT_NS = TODAY * DAY_NS
NOW_NS = MIDNIGHT_NS + DAY_NS // 2

SKILLS = ("a", "b", "c")
ORGS = (None, "o1", "o2")
USERS = (None, "u1", "u2", "u3", "u4")

days = st.sampled_from([0, 0, 0, 1, 1, 2, 6, 7, 8, 13, 14, 29, 30, 31, 400])
moments = st.sampled_from([0, 1, DAY_NS // 3, DAY_NS - 1])  # a day's first and last nanoseconds
times = st.builds(lambda ago, at: MIDNIGHT_NS - ago * DAY_NS + at, days, moments) | st.just(NOW_NS + DAY_NS)
executions = st.builds(
    Execution,
    times,
    st.sampled_from(SKILLS),
    st.sampled_from(USERS),
    st.sampled_from(ORGS),
    st.booleans(),
    st.sampled_from([0.0, 0.5, 1.0, 10.0, 10.0, 250.0, 99_999.0]),
)
ratings = st.builds(
    Rating, times, st.sampled_from(SKILLS), st.sampled_from(USERS), st.sampled_from(ORGS), st.integers(1, 5)
)
healths = st.builds(Health, times, st.sampled_from(SKILLS), st.floats(0, 100))
happenings = executions | executions | executions | ratings | healths
histories = st.lists(happenings, max_size=3) | st.lists(happenings, min_size=20, max_size=60)


@contextmanager
def recorded(*groups: Sequence[Event], now_ns: int = NOW_NS) -> Iterator[Queries]:
    """Queries over a database to which each group was committed, asked at noon."""
    with tempfile.TemporaryDirectory() as folder:
        store = Store.open(Path(folder) / "analytics.db", clock_ns=lambda: now_ns)
        queries = Queries(store.path, clock_ns=lambda: now_ns)
        try:
            commit(store, *groups)
            queries.store = store  # type: ignore[attr-defined]
            yield queries
        finally:
            queries.close()
            store.close()


def commit(store: Store, *groups: Sequence[Event], producer: bytes = bytes(16)) -> None:
    """Commit each group, continuing the producer's journal."""
    for group in groups:
        start = store.committed(producer).offset
        payloads = [msgspec.msgpack.encode(event) for event in group]
        offsets = [start + 100 * index for index in range(len(payloads))]
        store.commit([Chunk(producer, start + 100 * len(payloads), offsets, payloads)])


def run(skill: str = "a", ago: float = 0, user: str | None = None, org: str | None = None, **more: Any) -> Execution:
    """An execution so many days before noon."""
    return Execution(
        NOW_NS - int(ago * DAY_NS), skill, user, org, more.get("success", True), more.get("latency_ms", 10.0)
    )


# The plain recomputation.


def runs_of(events: Sequence[Event], skill: str | None, org: str | None, first_day: int | None) -> list[Execution]:
    """The executions that a question is about."""
    return [
        event
        for event in events
        if isinstance(event, Execution) and _is_about(event, skill, org) and _is_since(event, first_day)
    ]


def ratings_of(events: Sequence[Event], skill: str | None, org: str | None, first_day: int | None) -> list[int]:
    """The ratings that a question is about."""
    return [
        event.rating
        for event in events
        if isinstance(event, Rating) and _is_about(event, skill, org) and _is_since(event, first_day)
    ]


def _is_about(event: Execution | Rating, skill: str | None, org: str | None) -> bool:
    return skill in (None, event.skill_id) and org in (None, event.org_id)


def _is_since(event: Event, first_day: int | None) -> bool:
    return first_day is None or event.recorded_at_ns // DAY_NS >= first_day


def users_of(runs: Sequence[Execution]) -> set[str]:
    """The users of some executions; an absent one is none."""
    return {run.user_id for run in runs if run.user_id is not None}


def mean(values: Sequence[float]) -> float | None:
    """The sum over the count."""
    return sum(values) / len(values) if values else None


def same(found: float | None, wanted: float | None, tolerance: float = 1e-9) -> bool:
    """Equal, but for rounding."""
    if found is None or wanted is None:
        return found is wanted
    return math.isclose(found, wanted, rel_tol=tolerance, abs_tol=1e-9)


def check_percentiles(found: Any, runs: Sequence[Execution]) -> None:
    """p50, p95 and p99 are within 1 % of the true ones: the value at rank q * (n - 1), rounded down."""
    latencies = sorted(run.latency_ms for run in runs)
    for q, name in ((0.5, "p50_latency_ms"), (0.95, "p95_latency_ms"), (0.99, "p99_latency_ms")):
        wanted = latencies[int(q * (len(latencies) - 1))] if latencies else None
        assert same(getattr(found, name), wanted, 0.0101), (name, found, latencies)


def check_counts(found: Any, runs: Sequence[Execution]) -> None:
    """Counts, rate, mean and users."""
    good = sum(run.success for run in runs)
    assert (found.execution_count, found.success_count, found.failure_count) == (len(runs), good, len(runs) - good)
    assert same(found.success_rate, mean([float(run.success) for run in runs]))
    assert same(found.avg_latency_ms, mean([run.latency_ms for run in runs]))
    assert found.unique_users == len(users_of(runs))


def at(time_ns: int) -> datetime.datetime:
    """A time as results have it."""
    return datetime.datetime.fromtimestamp(0, datetime.UTC) + datetime.timedelta(microseconds=time_ns // 1000)


class TestAgainstRawEvents:
    """Random histories, in two commits."""

    @given(histories, histories, st.sampled_from([1, 2, 7, 30, 31, 500]), st.sampled_from(ORGS))
    @settings(max_examples=40)
    def test_usage(self, early: list[Event], late: list[Event], days: int, org: str | None) -> None:
        """Usage of every skill in a window, over all orgs and within one, asked before and after more events."""
        with recorded(early) as queries:
            for events in (early, early + late):
                if events is not early:
                    commit(queries.store, late)  # type: ignore[attr-defined]
                for skill in {event.skill_id for event in events}:
                    found = queries.ask("usage", {"skill_id": skill, "days": days, "org_id": org})
                    runs = runs_of(events, skill, org, TODAY - days + 1)
                    check_counts(found, runs)
                    check_percentiles(found, runs)
                    assert found.min_latency_ms == min((run.latency_ms for run in runs), default=None)
                    assert found.max_latency_ms == max((run.latency_ms for run in runs), default=None)
                    moments = [at(run.recorded_at_ns) for run in runs]
                    assert found.first_used == min(moments, default=None)
                    assert found.last_used == max(moments, default=None)

    @given(histories)
    @settings(max_examples=40)
    def test_metrics(self, events: list[Event]) -> None:
        """Totals, ratings, the last stated health and the computed one, since ever."""
        with recorded(events) as queries:
            for skill in {event.skill_id for event in events}:
                found = queries.ask("metrics", {"skill_id": skill})
                runs, rated = runs_of(events, skill, None, None), ratings_of(events, skill, None, None)
                check_counts(found, runs)
                check_percentiles(found, runs)
                counts = [getattr(found, f"rating_{stars}_count") for stars in range(1, 6)]
                assert counts == [rated.count(stars) for stars in range(1, 6)]
                assert (found.rating_count, same(found.rating_avg, mean(rated))) == (len(rated), True)
                said = [e for e in events if isinstance(e, Health) and e.skill_id == skill]
                latest = max(said, key=lambda e: e.recorded_at_ns, default=None)
                last = [e.score for e in said if latest and e.recorded_at_ns == latest.recorded_at_ns]
                assert found.health_score == (last[-1] if last else None)
                rating_times = [e.recorded_at_ns for e in events if isinstance(e, Rating) and e.skill_id == skill]
                assert found.last_rated == (at(max(rating_times)) if rating_times else None)
                health = formulas.health(
                    mean([float(run.success) for run in runs]),
                    mean(rated),
                    len(runs_of(events, skill, None, TODAY - 29)) if runs else None,
                    mean([run.latency_ms for run in runs]),
                )
                assert same(queries.ask("health_score", {"skill_id": skill}), health)

    @given(histories, histories, st.sampled_from(METRICS), st.sampled_from([*PERIODS, 1, 14]), st.sampled_from(ORGS))
    @settings(max_examples=100)
    def test_leaderboard(
        self, early: list[Event], late: list[Event], metric: str, period: str | int, org: str | None
    ) -> None:
        """Five metrics, all periods, all orgs or one: every place and everything that is said of it."""
        window = {"days": period} if isinstance(period, int) else {"period": period}
        days = period if isinstance(period, int) else PERIODS[period]
        first_day = None if days is None else TODAY - days + 1
        with recorded(early) as queries:
            for events in (early, early + late):
                if events is not early:
                    commit(queries.store, late)  # type: ignore[attr-defined]
                found = queries.ask("leaderboard", {"metric": metric, "org_id": org, **window})
                wanted = self.board(events, metric, org, first_day)
                assert [entry.skill_id for entry in found] == [skill for skill, _ in wanted]
                assert [entry.rank for entry in found] == list(range(1, len(wanted) + 1))
                for entry, (skill, score) in zip(found, wanted, strict=True):
                    assert same(entry.score, score, 0.0101 if metric == "performance" else 1e-9)
                    runs = runs_of(events, skill, org, first_day)
                    assert entry.executions == len(runs)
                    assert entry.unique_users == len(users_of(runs))
                    assert same(entry.avg_latency_ms, mean([run.latency_ms for run in runs]))
                    assert same(entry.rating_avg, mean(ratings_of(events, skill, org, first_day)))
                    check_percentiles(entry, runs)

    @staticmethod
    def board(events: list[Event], metric: str, org: str | None, first_day: int | None) -> list[tuple[str, float]]:
        """Skills and their scores, the first first."""
        all_ratings = ratings_of(events, None, org, first_day)
        placed = []
        for skill in SKILLS:
            runs, rated = runs_of(events, skill, org, first_day), ratings_of(events, skill, org, first_day)
            latencies = sorted(run.latency_ms for run in runs)
            scores: dict[str, float | None] = {
                "usage_count": len(runs) or None,
                "success_rate": formulas.wilson(sum(r.success for r in runs), len(runs))[0] if runs else None,
                "rating": (10 * (mean(all_ratings) or 0) + sum(rated)) / (10 + len(rated)) if rated else None,
                "adoption": len(users_of(runs)) or None,
                "performance": latencies[int(0.95 * (len(runs) - 1))] if runs else None,
            }
            score = scores[metric]
            if score is not None:
                falling = score if metric == "performance" else -score
                few = metric == "performance" and len(runs) < 20
                placed.append(((few, round(falling, 9), -len(runs), skill), score))
        return [(place[-1], score) for place, score in sorted(placed)]

    @given(histories, histories, st.sampled_from([1, 2, 31]), st.sampled_from(ORGS))
    @settings(max_examples=30)
    def test_trends(self, early: list[Event], late: list[Event], days: int, org: str | None) -> None:
        """A point for each day up to today, with zeros for days without use."""
        with recorded(early) as queries:
            for events in (early, early + late):
                if events is not early:
                    commit(queries.store, late)  # type: ignore[attr-defined]
                for skill in {event.skill_id for event in events}:
                    points = queries.ask("trends", {"skill_id": skill, "days": days, "org_id": org})
                    assert [(p.day - datetime.date(1970, 1, 1)).days for p in points] == [
                        *range(TODAY - days + 1, TODAY + 1)
                    ]
                    for point in points:
                        day = (point.day - datetime.date(1970, 1, 1)).days
                        runs = [
                            run for run in runs_of(events, skill, org, day) if run.recorded_at_ns < (day + 1) * DAY_NS
                        ]
                        check_counts(point, runs)
                        check_percentiles(point, runs)

    @given(histories, histories, st.sampled_from(ORGS))
    @settings(max_examples=40)
    def test_adoption(self, early: list[Event], late: list[Event], org: str | None) -> None:
        """Users by day and week, their growth, and who came back."""
        with recorded(early) as queries:
            for events in (early, early + late):
                if events is not early:
                    commit(queries.store, late)  # type: ignore[attr-defined]
                for skill in {event.skill_id for event in events}:
                    found = queries.ask("adoption", {"skill_id": skill, "org_id": org})

                    def users(first: int, last: int = 10**6, skill: str | None = skill, known=events) -> set[str]:
                        runs = runs_of(known, skill, org, TODAY + first)
                        return users_of([run for run in runs if run.recorded_at_ns // DAY_NS <= TODAY + last])

                    assert found.users == len(users(-(10**6)))
                    assert found.users_today == len(users(0))
                    assert found.users_yesterday == len(users(-1, -1))
                    assert found.users_this_week == len(users(-6))
                    assert found.users_last_week == len(users(-13, -7))
                    assert found.retained_users == len(users(-13, -7) & users(-6))
                    assert found.active_users == len(users(-29))
                    assert found.active_users_of_any_skill == len(users(-29, skill=None))
                    assert same(found.retention, mean([float(user in users(-6)) for user in users(-13, -7)]))

    @given(histories, st.sampled_from(["u1", "u2", "nobody"]), st.sampled_from(ORGS))
    @settings(max_examples=60)
    def test_recommendations(self, events: list[Event], user: str, org: str | None) -> None:
        """Skills of similar users by overlap, then growing ones; never one that was used; always the same."""
        with recorded(events) as queries:
            found = queries.ask("recommend", {"user_id": user, "limit": 10, "org_id": org})
            assert found == queries.ask("recommend", {"user_id": user, "limit": 10, "org_id": org})
        runs = runs_of(events, None, org, None)
        used = {name: {run.skill_id for run in runs if run.user_id == name} for name in USERS}
        mine = used.get(user, set())
        shared = {name: len(mine & skills) for name, skills in used.items() if name not in (None, user)}
        likely = Counter[str]()
        for name, count in shared.items():
            likely.update({skill: count for skill in used[name] - mine if count})
        similar = sorted(likely, key=lambda s: (-likely[s], -sum(s in used[n] for n, c in shared.items() if c), s))
        week = Counter(run.skill_id for run in runs_of(events, None, org, TODAY - 6))
        before = Counter(run.skill_id for run in runs_of(events, None, org, TODAY - 13)) - week
        growth = {skill: week[skill] - before[skill] for skill in week if skill not in mine | set(likely)}
        growing = sorted((skill for skill in growth if growth[skill] > 0), key=lambda s: (-growth[s], s))
        assert [(r.skill_id, r.kind, r.score) for r in found] == [
            *((skill, "collaborative", likely[skill]) for skill in similar),
            *((skill, "trending", growth[skill]) for skill in growing),
        ]


class TestHonestRanking:
    """Little evidence does not win."""

    def test_success_rate(self) -> None:
        """990 of 1000 is before 2 of 2."""
        many = [run("many", success=index >= 10) for index in range(1000)]
        with recorded([*many, run("few"), run("few")]) as queries:
            assert self.order(queries, "success_rate") == ["many", "few"]

    def test_rating(self) -> None:
        """Forty ratings of 4.5 in the mean are before a single 5."""
        rated = [Rating(NOW_NS, "good", None, None, 4 + index % 2) for index in range(40)]
        bad = [Rating(NOW_NS, "bad", None, None, 2)] * 40
        with recorded([*rated, *bad, Rating(NOW_NS, "new", None, None, 5)]) as queries:
            assert self.order(queries, "rating") == ["good", "new", "bad"]

    def test_performance(self) -> None:
        """The p95 of twenty runs is before the single run that was faster."""
        with recorded([*[run("tried")] * 20, run("once", latency_ms=1.0)]) as queries:
            assert self.order(queries, "performance") == ["tried", "once"]

    @staticmethod
    def order(queries: Queries, metric: str) -> list[str]:
        """The skills from the first place on."""
        return [entry.skill_id for entry in queries.ask("leaderboard", {"metric": metric})]


class TestReasons:
    """A recommendation says why, truly."""

    def test_collaborative(self) -> None:
        """The reason counts the similar users and what they share."""
        used = {"u1": "ab", "u2": "abc", "u3": "ac"}
        events = [run(skill, user=user) for user, skills in used.items() for skill in skills]
        with recorded(events) as queries:
            (found,) = queries.ask("recommend", {"user_id": "u1"})
        assert (found.skill_id, found.score) == ("c", 3.0)
        assert found.reason == "used by 2 users who share up to 2 skills with this one"

    def test_trending(self) -> None:
        """The reason gives both weeks."""
        with recorded([run(ago=8), run(), run()]) as queries:
            (found,) = queries.ask("recommend", {"user_id": "nobody"})
        assert (found.kind, found.reason) == ("trending", "2 executions in the last 7 days, 1 in the 7 days before")


class TestUsersInAnyOrder:
    """Different users are counted exactly, whenever their events come."""

    def test_who_comes_back_is_counted_once(self) -> None:
        """A user of three days is one user of the week, and one of each day."""
        with recorded([run(ago=2, user="u1")], [run(ago=1, user="u1")], [run(user="u1")]) as queries:
            assert queries.ask("usage", {"skill_id": "a", "days": 7}).unique_users == 1
            assert self.by_day(queries) == [1, 1, 1]

    def test_a_late_event(self) -> None:
        """A day that is filled in later counts its user once, in whichever orgs he was."""
        late = [run(ago=1, user="u1", org="o1"), run(ago=1, user="u1", org="o2"), run(ago=1, user="u2")]
        with recorded([run(user="u1", org="o1")], *([event] for event in late)) as queries:
            assert self.by_day(queries) == [0, 2, 1]
            assert queries.ask("usage", {"skill_id": "a", "days": 7}).unique_users == 2

    @staticmethod
    def by_day(queries: Queries) -> list[int]:
        """The users of the last three days."""
        return [point.unique_users for point in queries.ask("trends", {"skill_id": "a", "days": 3})]


class TestBadQuestions:
    """What is wrong is said, by name."""

    @pytest.mark.parametrize(
        ("method", "params", "message"),
        [
            ("usage", {"skill_id": "parse_jsn"}, "a skill 'parse_jsn'; did you mean 'parse_json'?"),
            ("trends", {"skill_id": "x"}, "nothing was recorded of a skill 'x'"),
            ("adoption", {"skill_id": "x"}, "nothing was recorded of a skill 'x'"),
            ("usage", {"skill_id": "parse_json", "days": -1}, "days: expected int >= 1"),
            ("usage", {"skill_id": "parse_json", "days": 10**9}, "days: expected int <= 3660"),
            ("usage", {"skill_id": "parse_json", "days": "7"}, "days: expected int, got str"),
            ("usage", {"skill_id": 7}, "skill_id: expected str, got int"),
            ("usage", {"skill_id": ""}, "skill_id: expected str of length >= 1"),
            ("usage", {}, "missing required field skill_id"),
            ("usage", {"skill_id": "a", "colour": "red"}, "contains unknown field colour"),
            ("leaderboard", {"metric": "beauty"}, "metric must be one of usage_count, success_rate, rating, adoption"),
            ("leaderboard", {"period": "yearly"}, "period must be one of all, daily, weekly, monthly, not 'yearly'"),
            ("leaderboard", {"period": "daily", "days": 2}, "give period or days, not both"),
            ("leaderboard", {"limit": 0}, "limit: expected int >= 1"),
            ("recommend", {"user_id": None}, "user_id: expected str, got null"),
            ("beauty", {}, "there is no query 'beauty'; there are usage, "),
        ],
    )
    def test_message(self, method: str, params: dict[str, Any], message: str) -> None:
        """Each mistake has its message."""
        with recorded([run("parse_json")]) as queries, pytest.raises(QueryError) as raised:
            queries.ask(method, params)
        assert message.lower() in str(raised.value).lower()

    def test_unknown_is_none_where_none_is_an_answer(self) -> None:
        """Metrics and health of an unknown skill are None; an unknown org has used nothing."""
        with recorded([run("a")]) as queries:
            assert queries.ask("metrics", {"skill_id": "x"}) is None
            assert queries.ask("health_score", {"skill_id": "x"}) is None
            assert queries.ask("leaderboard", {"org_id": "x"}) == []
            assert queries.ask("usage", {"skill_id": "a", "org_id": "x"}).execution_count == 0

    def test_no_database(self, tmp_path: Path) -> None:
        """Without a file the error says so."""
        with pytest.raises(StoreUnavailable, match="there is no database"):
            Queries(tmp_path / "none.db").ask("db_stats")

    def test_numbers_as_text(self) -> None:
        """From a URL, numbers come as text."""
        with recorded([run("a")]) as queries:
            assert queries.ask("usage", {"skill_id": "a", "days": "7"}, strict=False).period_days == 7


class TestBoundaries:
    """Midnight, nothing, and other files."""

    @pytest.mark.parametrize("ask", [name for name, (kind, _) in METHODS.items() if not kind.__struct_fields__[:1]])
    def test_empty(self, ask: str) -> None:
        """An empty database answers."""
        with recorded() as queries:
            assert queries.ask(ask) is not None

    def test_empty_leaderboard(self) -> None:
        """Nobody has a place where nothing happened."""
        with recorded() as queries:
            assert queries.ask("leaderboard") == []
            assert queries.ask("recommend", {"user_id": "u1"}) == []

    def test_daily_begins_at_midnight(self) -> None:
        """A nanosecond before midnight UTC is yesterday."""
        first, last = run("a"), run("a")
        first.recorded_at_ns, last.recorded_at_ns = MIDNIGHT_NS, MIDNIGHT_NS - 1
        with recorded([first, last]) as queries:
            (entry,) = queries.ask("leaderboard", {"period": "daily"})
        assert entry.executions == 1

    def test_another_database_in_its_place(self) -> None:
        """What was remembered of one file is not said of another."""
        with recorded([run("a", ago=1)]) as queries, recorded([run("b", ago=1)] * 2) as others:
            assert queries.ask("leaderboard", {"period": "weekly"})[0].executions == 1
            path = queries.store.path  # type: ignore[attr-defined]
            for recorder in (queries, others):
                recorder.store.close()  # type: ignore[attr-defined]
            for suffix in ("-wal", "-shm"):  # which the connection that is still open has kept
                path.with_name(path.name + suffix).unlink(missing_ok=True)
            others.store.path.replace(path)  # type: ignore[attr-defined]
            (entry,) = queries.ask("leaderboard", {"period": "weekly"})
        assert (entry.skill_id, entry.executions) == ("b", 2)

    def test_stats(self) -> None:
        """Rows, names and times of what is kept."""
        with recorded([run("a", 1, "u1", "o1"), run("b", 0, "u2", "o1")]) as queries:
            found = queries.ask("db_stats")
        assert (found.events, found.skills, found.orgs, found.users, found.producers) == (2, 2, 1, 2, 1)
        assert (found.oldest, found.newest) == (at(NOW_NS - DAY_NS), at(NOW_NS))
        assert found.database_bytes > 0


def test_results_travel() -> None:
    """A result is the same after msgpack, and plain as a dict."""
    with recorded([run("a", user="u1", org="o1")]) as queries:
        for answer, kind in (
            (queries.ask("usage", {"skill_id": "a"}), SkillUsage),
            (queries.ask("leaderboard")[0], LeaderboardEntry),
        ):
            assert msgspec.convert(msgspec.msgpack.decode(msgspec.msgpack.encode(answer)), kind) == answer
            assert answer.to_dict()["skill_id"] == "a"
