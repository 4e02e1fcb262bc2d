"""Detail and timeline: what the page shows beside a board equals a plain recomputation from the raw events."""

import datetime
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skillmeter.errors import QueryError
from skillmeter.events import Event, Execution
from skillmeterd.queries import detail, recent
from skillmeterd.queries.formulas import wilson
from skillmeterd.rows import DAY_NS

from .test_queries import (
    MIDNIGHT_NS,
    NOW_NS,
    ORGS,
    SKILLS,
    TODAY,
    commit,
    histories,
    ratings_of,
    recorded,
    run,
    runs_of,
)

windows = st.sampled_from([1, 2, 7, 30, 3660])
orgs = st.sampled_from(ORGS)


def first_of(days: int) -> int:
    """The first day of a window that ends today."""
    return TODAY - days + 1


def failures(runs: Sequence[Execution]) -> int:
    """How many failed."""
    return sum(not run.success for run in runs)


def at_s(time: datetime.datetime) -> float:
    """Unix seconds."""
    return time.timestamp()


class TestOverview:
    """All skills together."""

    @given(histories, windows, orgs)
    def test_is_what_the_events_say(self, events: list[Event], days: int, org: str | None) -> None:
        """Sums, interval, users and ratings are those of the events in the window and org."""
        runs, ratings = runs_of(events, None, org, first_of(days)), ratings_of(events, None, org, first_of(days))
        with recorded(events) as queries:
            found = queries.ask("overview", {"days": days, "org_id": org})
        assert (found.executions, found.failures) == (len(runs), failures(runs))
        assert found.skills == len({run.skill_id for run in runs})
        assert found.unique_users == len({run.user_id for run in runs} - {None})
        interval = wilson(len(runs) - failures(runs), len(runs)) if runs else (None, None)
        assert (found.success_rate_low, found.success_rate_high) == interval
        assert found.rating_count == len(ratings)
        assert found.rating_avg == (pytest.approx(sum(ratings) / len(ratings)) if ratings else None)


class TestTimelines:
    """Calls over time."""

    @given(histories, windows, orgs)
    def test_days_are_what_the_events_say(self, events: list[Event], days: int, org: str | None) -> None:
        """With an earlier day in the window, there is a step for each day from the first one with calls on."""
        runs = runs_of(events, "a", org, max(first_of(days), TODAY - 365))
        by_day = Counter(run.recorded_at_ns // DAY_NS for run in runs)
        with recorded(events, [run("a", ago=500)]) as queries:  # so that the skill is known
            found = queries.ask("timeline", {"skill_id": "a", "days": days, "org_id": org})
        earlier = [day for day in by_day if day < TODAY]
        if found.step_s < 86_400:
            assert not earlier
            return
        first = int(at_s(found.start)) // 86_400
        assert [point.executions for point in found.points] == [by_day[day] for day in range(first, TODAY + 1)]
        assert sum(point.failures for point in found.points) == failures(
            [run for run in runs if run.recorded_at_ns // DAY_NS <= TODAY]
        )

    @given(st.lists(st.tuples(st.sampled_from(SKILLS), st.integers(0, DAY_NS // 2), st.booleans()), min_size=1))
    def test_minutes_of_today_are_what_the_events_say(self, made: list[tuple[str, int, bool]]) -> None:
        """With today alone, each event is in the step that its time is in, in the timeline and in the activity."""
        events = [Execution(MIDNIGHT_NS + at, skill, None, None, good, 10.0) for skill, at, good in made]
        with recorded(events) as queries:
            overall = queries.ask("activity")
            each = {skill: queries.ask("timeline", {"skill_id": skill}) for skill in {skill for skill, _, _ in made}}
        assert counted(overall.start, overall.step_s, overall.executions) == steps_of(events, overall)
        assert sum(overall.failures) == failures(events)
        for skill, found in each.items():
            mine = [event for event in events if event.skill_id == skill]
            assert len(found.points) <= 61
            runs = [point.executions for point in found.points]
            assert counted(found.start, found.step_s, runs) == steps_of(mine, found)
            assert {point.p50_latency_ms is None for point in found.points if point.executions} == {False}

    @given(histories, windows, orgs)
    def test_activity_is_the_sum_of_its_skills(self, events: list[Event], days: int, org: str | None) -> None:
        """All skills together are the sum of each, and only the most used are told one by one."""
        with recorded(events) as queries:
            found = queries.ask("activity", {"days": days, "org_id": org})
            fewer = queries.ask("activity", {"days": days, "org_id": org, "limit": 1})
        sums = [sum(step) for step in zip(*(skill.executions for skill in found.skills), strict=True)]
        assert found.executions == (sums or [0] * len(found.executions))
        assert fewer.skills == found.skills[:1]
        assert fewer.executions == found.executions
        if found.step_s == 86_400:
            runs = runs_of(events, None, org, max(first_of(days), TODAY - 365))
            shown = [run for run in runs if run.recorded_at_ns // DAY_NS <= TODAY]
            assert (sum(found.executions), sum(found.failures)) == (len(shown), failures(shown))
            first = int(at_s(found.start)) // 86_400
            by_day = Counter((run.skill_id, run.recorded_at_ns // DAY_NS) for run in shown)
            assert {skill.skill_id: skill.executions for skill in found.skills} == {
                name: [by_day[name, day] for day in range(first, TODAY + 1)] for name, _ in by_day
            }

    def test_a_look_that_ends_too_early_says_so(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """With more events today than are looked at, the answer holds the newest and says that it is not complete."""
        monkeypatch.setattr(recent, "LOOK_BACK", 10)
        with recorded([run("a", ago=0.4 - at / 100) for at in range(30)]) as queries:
            found = queries.ask("timeline", {"skill_id": "a"})
        assert not found.is_complete
        assert sum(point.executions for point in found.points) in (10, 11)

    def test_late_events_of_days_that_are_over_are_seen(self) -> None:
        """What was remembered of a day holds no longer when an event is added to it."""
        with recorded([run("a", ago=3)]) as queries:
            assert [point.executions for point in queries.ask("timeline", {"skill_id": "a"}).points] == [1, 0, 0, 0]
            commit(queries.store, [run("a", ago=3), run("a", ago=1)])  # type: ignore[attr-defined]
            assert [point.executions for point in queries.ask("timeline", {"skill_id": "a"}).points] == [2, 0, 1, 0]
            assert queries.ask("activity").executions == [2, 0, 1, 0]

    def test_events_of_the_future_are_left_out(self) -> None:
        """A clock that runs a year ahead does not stretch the axis."""
        with recorded([run("a"), run("a", ago=-365)]) as queries:
            assert len(queries.ask("timeline", {"skill_id": "a"}).points) <= 61
            assert sum(queries.ask("activity").executions) == 1


def counted(start: datetime.datetime, step_s: int, executions: Sequence[int]) -> Counter[int]:
    """Executions by the Unix second at which their step begins."""
    first = int(at_s(start))
    return Counter({first + step * step_s: runs for step, runs in enumerate(executions) if runs})


def steps_of(events: Sequence[Execution], answer: Any) -> Counter[int]:
    """The same, from the events."""
    return Counter(event.recorded_at_ns // 10**9 // answer.step_s * answer.step_s for event in events)


class TestDistribution:
    """Latencies in bins."""

    @given(st.lists(st.floats(0, 1e7), min_size=1))
    def test_each_latency_is_in_one_bin(self, latencies: list[float]) -> None:
        """Bins follow one another without gaps or overlap, are not too many, and hold every latency."""
        with recorded([run("a", latency_ms=latency) for latency in latencies]) as queries:
            bins = queries.ask("distribution", {"skill_id": "a"})
        assert len(bins) <= 41
        assert sum(bin_.executions for bin_ in bins) == len(latencies)
        ends = [bin_ for bin_ in bins if bin_.from_ms]
        assert all(one.to_ms == pytest.approx(other.from_ms) for one, other in pairwise(ends))
        for bin_ in bins:
            at_most = sum(bin_.from_ms * 1.0001 < latency <= bin_.to_ms * 0.9999 for latency in latencies)
            at_least = sum(bin_.from_ms * 0.9999 <= latency <= bin_.to_ms * 1.0001 for latency in latencies)
            assert at_most <= bin_.executions <= at_least

    def test_nothing(self) -> None:
        """Without calls in the period there are no bins."""
        with recorded([run("a", ago=9)]) as queries:
            assert queries.ask("distribution", {"skill_id": "a", "days": 2}) == []


class TestBreakdown:
    """A skill by its parts."""

    @given(histories, windows, orgs)
    def test_is_what_the_events_say(self, events: list[Event], days: int, org: str | None) -> None:
        """Users, orgs, failures and stars are those of the events in the window and org."""
        runs, ratings = runs_of(events, "a", org, first_of(days)), ratings_of(events, "a", org, first_of(days))
        with recorded(events, [run("a", ago=4000)]) as queries:
            found = queries.ask("breakdown", {"skill_id": "a", "days": days, "org_id": org})
        assert {part.name: part.executions for part in found.orgs} == Counter(run.org_id for run in runs)
        assert {part.name: part.executions for part in found.users} == Counter(run.user_id for run in runs)
        assert sum(part.failures for part in found.users) == failures(runs)
        assert sum(part.executions for part in found.errors) == failures(runs)
        assert found.ratings == [ratings.count(stars) for stars in range(1, 6)]
        assert found.errors_since is found.users_since is None

    def test_error_types(self) -> None:
        """Failures are counted by their type, the most frequent first; one without a type is told too."""
        failed = [
            Execution(NOW_NS, "a", None, None, False, 1.0, error_type=kind) for kind in ("KeyError", "KeyError", None)
        ]
        with recorded([*failed, run("a"), run("b", success=False)]) as queries:
            errors = queries.ask("breakdown", {"skill_id": "a"}).errors
        assert [(part.name, part.failures) for part in errors] == [("KeyError", 2), (None, 1)]

    def test_at_most_ten_of_each(self) -> None:
        """Of many users the ten with most calls are told."""
        with recorded([run("a", user=f"u{number}") for number in range(20) for _ in range(number + 1)]) as queries:
            users = queries.ask("breakdown", {"skill_id": "a"}).users
        assert [part.name for part in users] == [f"u{number}" for number in range(19, 9, -1)]

    def test_of_very_many_users_only_the_last_days_are_told(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """A day that would be more than is looked at is left out with all before it, and the answer says so."""
        monkeypatch.setattr(detail, "MAX_USES", 3)
        uses = [(1, "u1"), (1, "u2"), (2, "u3"), (2, "u4"), (0, "u1")]
        with recorded([run("a", ago=ago, user=user) for ago, user in uses]) as queries:
            found = queries.ask("breakdown", {"skill_id": "a", "days": 7})
            assert [(part.name, part.executions) for part in found.users] == [("u1", 2), ("u2", 1)]
            assert at_s(found.users_since) == (TODAY - 1) * DAY_NS / 1e9
            assert queries.ask("breakdown", {"skill_id": "a", "days": 2}).users_since is None

    def test_today_is_told_however_many_users_it_has(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """A list of nobody would help nobody."""
        monkeypatch.setattr(detail, "MAX_USES", 1)
        with recorded([run("a", user=user) for user in ("u1", "u2")] + [run("a", ago=1, user="u3")]) as queries:
            found = queries.ask("breakdown", {"skill_id": "a"})
        assert {part.name for part in found.users} == {"u1", "u2"}


class TestNames:
    """What there is to choose from."""

    def test_pages_of_names(self) -> None:
        """Names come in their order, page by page, each once; an absent org is no name."""
        with recorded([run("b", org="o2"), run("a", org="o1"), run("c")]) as queries:
            assert queries.ask("orgs") == ["o1", "o2"]
            assert queries.ask("skills", {"limit": 2}) == ["a", "b"]
            assert queries.ask("skills", {"limit": 2, "after": "b"}) == ["c"]

    @pytest.mark.parametrize("method", ["timeline", "distribution", "breakdown"])
    def test_an_unknown_skill_is_an_error(self, method: str) -> None:
        """A skill that nobody recorded is not answered with zeros."""
        with recorded([run("parse_json")]) as queries, pytest.raises(QueryError, match="did you mean 'parse_json'"):
            queries.ask(method, {"skill_id": "parse_jsn"})
