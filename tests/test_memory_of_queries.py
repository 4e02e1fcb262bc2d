"""What queries remember of days that are over: no question changes the answer to another, and late events are seen."""

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skillmeter.events import Execution, Rating
from skillmeterd.queries.params import METRICS

from .histories import NOW_NS, ORGS, Chapter, check_life, lives, nows, questions, recorded, run
from .recomputation import DAY_NS

any_question = st.one_of([st.tuples(st.just(method), params) for method, params in questions.items()])


@given(lives, st.lists(any_question, min_size=2, max_size=8), nows)
@settings(max_examples=100)
def test_no_question_changes_the_answer_to_another(
    life: list[Chapter], asked: list[tuple[str, dict[str, object]]], now_ns: int
) -> None:
    """Whatever was asked before, and also after more events came, each answer is that of the plain recomputation."""
    check_life(life, asked, now_ns)


@given(lives, st.sampled_from([2, 7, 30, 366]), nows)
@settings(max_examples=25)
def test_no_two_questions_share_what_is_remembered(life: list[Chapter], days: int, now_ns: int) -> None:
    """Of one skill and of all, over all orgs and within each, in one window: whatever might be taken for another."""
    asked: list[tuple[str, dict[str, object]]] = []
    for org in ORGS:
        of_all: dict[str, object] = {"days": days, "org_id": org}
        of_skill: dict[str, object] = {"skill_id": "a", **of_all}
        asked += [(method, of_skill) for method in ("usage", "trends", "timeline", "distribution", "breakdown")]
        asked += [(method, of_all) for method in ("leaderboard", "overview", "activity")]
        asked += [("adoption", {"skill_id": "a", "org_id": org}), ("recommend", {"user_id": "u1", "org_id": org})]
    check_life(life, asked, now_ns)


@pytest.mark.parametrize("method", ["trends", "timeline", "activity"])
def test_a_day_without_anything_is_a_day(method: str) -> None:
    """A window is not taken for one that begins or ends on another day, if nothing happened in between."""
    skill = {} if method == "activity" else {"skill_id": "a"}
    with recorded([run(ago=1), run(ago=9)]) as record:
        for days in (2, 3, 4):
            record.check(method, {**skill, "days": days})
        record.now_ns += DAY_NS
        for days in (3, 4, 11):
            record.check(method, {**skill, "days": days})


@pytest.mark.parametrize("ago", [6, 3, 1])
@pytest.mark.parametrize("late", [run(user="u2"), Rating(NOW_NS, "a", "u1", "o1", 2)])
def test_what_comes_late_is_seen(ago: int, late: Execution | Rating) -> None:
    """On the first day of a window that was asked for, on its last that is over, and in between."""
    late = msgspec.structs.replace(late, recorded_at_ns=NOW_NS - ago * DAY_NS)
    asked: list[tuple[str, dict[str, object]]] = [("adoption", {"skill_id": "a"}), ("recommend", {"user_id": "u1"})]
    asked += [("leaderboard", {"days": 7, "metric": metric}) for metric in METRICS]
    asked += [(method, {"days": 7}) for method in ("overview", "activity")]
    of_skill = ("usage", "trends", "timeline", "distribution", "breakdown")
    asked += [(method, {"days": 7, "skill_id": "a"}) for method in of_skill]
    with recorded([run(ago=day, user="u1", latency_ms=1.0 + day) for day in range(10)]) as record:
        for more in ([], [late]):
            record.commit(more)
            for method, params in asked:
                record.check(method, params)


def test_users_of_yesterday_and_parts_of_yesterday_are_two_things() -> None:
    """Adoption looks at yesterday by itself, and so does a breakdown of two days."""
    with recorded([run(ago=1, user="u1"), run(ago=1)]) as record:
        assert record.ask("adoption", {"skill_id": "a"}).users_yesterday == 1
        assert len(record.ask("breakdown", {"skill_id": "a", "days": 2}).users) == 2


@pytest.mark.parametrize("window", [{}, {"days": 1}, {"days": 7}])
@pytest.mark.parametrize("org", [None, "o1"])
def test_what_is_known_of_a_skill_goes_with_its_next_execution(window: dict[str, int], org: str | None) -> None:
    """Percentiles and users of the board follow the record, of today and of days that are over."""
    before = [run(ago=3, user="u1", org="o1"), run(ago=40, org="o1"), run(user="u1", org="o1", latency_ms=10.0)]
    with recorded(before) as record:
        for more in (run(user="u2", org="o1", latency_ms=900.0), run(ago=3, user="u3", org="o1", latency_ms=5000.0)):
            asked = {"metric": "adoption", "org_id": org, **window}
            record.check("leaderboard", asked)
            record.commit([more])
            record.check("leaderboard", asked)
