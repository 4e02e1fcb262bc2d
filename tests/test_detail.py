"""Detail and timeline: the newest events themselves, and how the page's answers stay small."""

import datetime
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skillmeter.errors import QueryError
from skillmeter.events import Execution
from skillmeterd.queries import detail, recent

from .histories import MIDNIGHT_NS, NOW_NS, SKILLS, TODAY, recorded, run
from .recomputation import DAY_NS


def at_s(time: datetime.datetime) -> float:
    """Unix seconds."""
    return time.timestamp()


class TestTimelines:
    """Calls over time."""

    @given(st.lists(st.tuples(st.sampled_from(SKILLS), st.integers(0, DAY_NS // 2), st.booleans()), min_size=1))
    def test_minutes_of_today_are_what_the_events_say(self, made: list[tuple[str, int, bool]]) -> None:
        """With today alone, each event is in the step that its time is in, in the timeline and in the activity."""
        events = [Execution(MIDNIGHT_NS + at, skill, None, None, good, 10.0) for skill, at, good in made]
        with recorded(events) as record:
            record.check("activity", {})
            for skill in {skill for skill, _, _ in made}:
                record.check("timeline", {"skill_id": skill})

    def test_a_look_that_ends_too_early_says_so(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """With more events today than are looked at, the answer holds the newest and says that it is not complete."""
        monkeypatch.setattr(recent, "LOOK_BACK", 10)
        with recorded([run("a", ago=0.4 - at / 100) for at in range(30)]) as record:
            found = record.ask("timeline", {"skill_id": "a"})
        assert not found.is_complete
        assert sum(point.executions for point in found.points) in (10, 11)

    def test_late_events_do_not_make_a_look_seem_complete(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """An event of yesterday before the look says nothing of those of today that came before it."""
        monkeypatch.setattr(recent, "LOOK_BACK", 2)
        with recorded([run("a"), run("a"), run("b", ago=1), run("b", ago=1), run("a")]) as record:
            assert not record.ask("timeline", {"skill_id": "a"}).is_complete

    def test_a_clock_that_runs_ahead_does_not_hide_the_others(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """A look whose first event is of next year holds those that came after it."""
        monkeypatch.setattr(recent, "LOOK_BACK", 3)
        failed = [run("a", ago=ago, success=False) for ago in (0, -365, 0.1, 0)]
        with recorded(failed) as record:
            assert sum(point.failures for point in record.ask("timeline", {"skill_id": "a"}).points) == 2
            found = record.ask("breakdown", {"skill_id": "a"})
            assert [part.failures for part in found.errors] == [3]
            assert at_s(found.errors_since) == (NOW_NS - DAY_NS // 10) / 1e9

    def test_a_late_event_does_not_make_a_look_seem_longer(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """A look says that it goes back to when it begins, and not to when an event that came then had happened."""
        monkeypatch.setattr(recent, "LOOK_BACK", 200)
        failed = [run("a", ago=ago, success=False) for ago in (0.3, 3, 0.2, *[0.1] * 198)]
        with recorded(failed) as record:
            found = record.ask("breakdown", {"skill_id": "a"})
        assert at_s(found.errors_since) == (NOW_NS - DAY_NS // 5) / 1e9
        assert [part.failures for part in found.errors] == [199]

    def test_late_events_of_days_that_are_over_are_seen(self) -> None:
        """What was remembered of a day holds no longer when an event is added to it."""
        with recorded([run("a", ago=3)]) as record:
            assert [point.executions for point in record.ask("timeline", {"skill_id": "a"}).points] == [1, 0, 0, 0]
            record.commit([run("a", ago=3), run("a", ago=1)])
            assert [point.executions for point in record.ask("timeline", {"skill_id": "a"}).points] == [2, 0, 1, 0]
            assert record.ask("activity").executions == [2, 0, 1, 0]

    def test_days_before_the_first_step_count(self) -> None:
        """With a call before the 366 days that are shown, all of them are; also if it comes late."""
        with recorded([run("a", ago=1)]) as record:
            record.check("activity", {"days": 3660})
            record.commit([run("a", ago=400)])
            assert len(record.ask("activity", {"days": 3660}).executions) == 366
            record.check("activity", {"days": 3660})
            record.check("timeline", {"skill_id": "a", "days": 3660})

    def test_many_skills_take_little_memory(self) -> None:
        """Of those that are not shown, their days are not held; of equals the first by name are shown."""
        events = [run(f"skill {number:04}", ago=300) for number in range(2000)]
        with recorded([*events, run("skill 1999")]) as record:
            tracemalloc.start()
            try:
                found = record.ask("activity", {"days": 366, "limit": 3})
                peak = tracemalloc.get_traced_memory()[1]
            finally:
                tracemalloc.stop()
        assert [skill.skill_id for skill in found.skills] == ["skill 1999", "skill 0000", "skill 0001"]
        assert found.executions == [2000, *[0] * 299, 1]
        assert peak < 2000 * 301 * 8 / 4  # a quarter of what a number for each day would take

    def test_events_of_the_future_are_left_out(self) -> None:
        """A clock that runs a year ahead does not stretch the axis."""
        with recorded([run("a"), run("a", ago=-365)]) as record:
            assert len(record.ask("timeline", {"skill_id": "a"}).points) <= 61
            assert sum(record.ask("activity").executions) == 1


class TestDistribution:
    """Latencies in bins."""

    @given(st.lists(st.floats(0, 1e7), min_size=1))
    def test_each_latency_is_in_one_bin(self, latencies: list[float]) -> None:
        """Bins follow one another without gaps or overlap, are not too many, and hold every latency."""
        with recorded([run("a", latency_ms=latency) for latency in latencies]) as record:
            record.check("distribution", {"skill_id": "a"})

    def test_nothing(self) -> None:
        """Without calls in the period there are no bins."""
        with recorded([run("a", ago=9)]) as record:
            assert record.ask("distribution", {"skill_id": "a", "days": 2}) == []


class TestBreakdown:
    """A skill by its parts."""

    def test_error_types(self) -> None:
        """Failures are counted by their type, the most frequent first; one without a type is told too."""
        failed = [
            Execution(NOW_NS, "a", None, None, False, 1.0, error_type=kind) for kind in ("KeyError", "KeyError", None)
        ]
        with recorded([*failed, run("a"), run("b", success=False)]) as record:
            errors = record.ask("breakdown", {"skill_id": "a"}).errors
        assert [(part.name, part.failures) for part in errors] == [("KeyError", 2), (None, 1)]

    def test_errors_of_deleted_events(self) -> None:
        """Failures whose events were deleted have no type any more: the answer says from when on there is one."""
        with recorded([run("a", success=False)]) as record:
            record.now_ns += 9 * DAY_NS
            record.commit([run("a", ago=-8, success=False)])
            assert record.ask("breakdown", {"skill_id": "a"}).errors_since is None
            record.cleanup(7)
            found = record.ask("breakdown", {"skill_id": "a"})
            assert at_s(found.errors_since) == (NOW_NS + 8 * DAY_NS) / 1e9
            assert [part.failures for part in found.errors] == [1]
            record.now_ns += 9 * DAY_NS
            record.cleanup(7)
            found = record.ask("breakdown", {"skill_id": "a"})
            assert at_s(found.errors_since) == record.now_ns / 1e9
            assert found.errors == []
            assert record.ask("breakdown", {"skill_id": "a", "days": 7}).errors_since is None

    def test_at_most_ten_of_each(self) -> None:
        """Of many users the ten with most calls are told."""
        with recorded([run("a", user=f"u{number}") for number in range(20) for _ in range(number + 1)]) as record:
            users = record.ask("breakdown", {"skill_id": "a"}).users
        assert [part.name for part in users] == [f"u{number}" for number in range(19, 9, -1)]

    def test_of_very_many_users_only_the_last_days_are_told(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """A day that would be more than is looked at is left out with all before it, and the answer says so."""
        monkeypatch.setattr(detail, "MAX_USES", 3)
        uses = [(1, "u1"), (1, "u2"), (2, "u3"), (2, "u4"), (0, "u1")]
        with recorded([run("a", ago=ago, user=user) for ago, user in uses]) as record:
            found = record.ask("breakdown", {"skill_id": "a", "days": 7})
            assert [(part.name, part.executions) for part in found.users] == [("u1", 2), ("u2", 1)]
            assert at_s(found.users_since) == (TODAY - 1) * DAY_NS / 1e9
            assert record.ask("breakdown", {"skill_id": "a", "days": 2}).users_since is None

    def test_a_small_org_beside_a_large_one_shows_its_users(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """They are bounded by what the org did, and not by what all the others did."""
        monkeypatch.setattr(detail, "MAX_USES", 3)
        many = [run("a", ago=1, user=f"u{number}", org="large") for number in range(9)]
        with recorded(
            [*many, run("a", ago=1, user="v", org="small"), run("a", ago=2, user="w", org="small")]
        ) as record:
            found = record.ask("breakdown", {"skill_id": "a", "org_id": "small", "days": 7})
            assert {part.name for part in found.users} == {"v", "w"}
            assert found.users_since is None
            assert record.ask("breakdown", {"skill_id": "a", "org_id": "large", "days": 7}).users == []

    def test_today_is_told_however_many_users_it_has(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """A list of nobody would help nobody."""
        monkeypatch.setattr(detail, "MAX_USES", 1)
        with recorded([run("a", user=user) for user in ("u1", "u2")] + [run("a", ago=1, user="u3")]) as record:
            found = record.ask("breakdown", {"skill_id": "a"})
        assert {part.name for part in found.users} == {"u1", "u2"}


class TestNames:
    """What there is to choose from."""

    def test_pages_of_names(self) -> None:
        """Names come in their order, page by page, each once; an absent org is no name."""
        with recorded([run("b", org="o2"), run("a", org="o1"), run("c")]) as record:
            assert record.ask("orgs") == ["o1", "o2"]
            assert record.ask("skills", {"limit": 2}) == ["a", "b"]
            assert record.ask("skills", {"limit": 2, "after": "b"}) == ["c"]

    def test_names_by_a_part(self) -> None:
        """Letters of either case find each other, and no other sign stands for anything but itself."""
        with recorded([run(name, org=name) for name in ("parse_json", "JSON", "100%", "a\0b", "\u00e4")]) as record:
            for method in ("orgs", "skills"):
                assert record.ask(method, {"find": "Json"}) == ["JSON", "parse_json"]
                assert record.ask(method, {"find": "json", "after": "JSON", "limit": 1}) == ["parse_json"]
                assert [record.ask(method, {"find": part}) for part in "%_b"] == [["100%"], ["parse_json"], ["a\0b"]]

    @pytest.mark.parametrize("method", ["timeline", "distribution", "breakdown"])
    def test_an_unknown_skill_is_an_error(self, method: str) -> None:
        """A skill that nobody recorded is not answered with zeros."""
        with recorded([run("parse_json")]) as record, pytest.raises(QueryError, match="did you mean 'parse_json'"):
            record.ask(method, {"skill_id": "parse_jsn"})
