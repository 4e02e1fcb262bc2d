"""What queries remember of days that are over: no question changes the answer to another, and late events are seen."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skillmeter.errors import QueryError
from skillmeter.events import Event
from skillmeterd.queries import METHODS, Queries

from .test_queries import NOW_NS, commit, histories, recorded, run

spans = st.sampled_from([1, 2, 7, 8, 30])
orgs = st.sampled_from([None, "o1"])
questions = st.one_of(
    st.tuples(
        st.sampled_from(["usage", "trends", "distribution", "breakdown", "timeline"]),
        st.fixed_dictionaries({"skill_id": st.just("a"), "days": spans, "org_id": orgs}),
    ),
    st.tuples(st.just("adoption"), st.fixed_dictionaries({"skill_id": st.just("a"), "org_id": orgs})),
    st.tuples(st.just("recommend"), st.fixed_dictionaries({"user_id": st.just("u1"), "org_id": orgs})),
    st.tuples(st.sampled_from(["overview", "activity"]), st.fixed_dictionaries({"days": spans, "org_id": orgs})),
    st.tuples(
        st.just("leaderboard"),
        st.fixed_dictionaries(
            {"metric": st.sampled_from(["usage_count", "performance", "adoption"]), "days": spans, "org_id": orgs}
        ),
    ),
    st.tuples(st.sampled_from(["metrics", "health_score"]), st.just({"skill_id": "a"})),
)


@given(histories, histories, st.lists(questions, min_size=2, max_size=8))
def test_no_question_changes_the_answer_to_another(
    events: list[Event], late: list[Event], asked: list[tuple[str, dict[str, Any]]]
) -> None:
    """Whatever was asked before, and also after more events came, one gets what one who asks nothing else gets."""
    with recorded([run("a", ago=1, user="u1"), run("b", ago=1, user="u2"), *events]) as queries:
        for more in ([], late):
            commit(queries.store, more)  # type: ignore[attr-defined]
            for method, params in asked:
                alone = Queries(queries.store.path, clock_ns=lambda: NOW_NS)  # type: ignore[attr-defined]
                try:
                    assert answer(queries, method, params) == answer(alone, method, params), (method, params)
                finally:
                    alone.close()


def test_users_of_yesterday_and_parts_of_yesterday_are_two_things() -> None:
    """Adoption looks at yesterday by itself, and so does a breakdown of two days."""
    with recorded([run(ago=1, user="u1"), run(ago=1)]) as queries:
        assert queries.ask("adoption", {"skill_id": "a"}).users_yesterday == 1
        assert len(queries.ask("breakdown", {"skill_id": "a", "days": 2}).users) == 2


def answer(queries: Queries, method: str, params: dict[str, Any]) -> object:
    """What is answered, if only an error."""
    assert method in METHODS
    try:
        return queries.ask(method, params)
    except QueryError as error:
        return str(error)


@pytest.mark.parametrize("window", [{}, {"days": 1}, {"days": 7}])
@pytest.mark.parametrize("org", [None, "o1"])
def test_what_is_known_of_a_skill_goes_with_its_next_execution(window: dict[str, int], org: str | None) -> None:
    """Percentiles and users of the board follow the record, of today and of days that are over."""
    before = [run(ago=3, user="u1", org="o1"), run(ago=40, org="o1"), run(user="u1", org="o1", latency_ms=10.0)]
    with recorded(before) as queries:
        for more in (run(user="u2", org="o1", latency_ms=900.0), run(ago=3, user="u3", org="o1", latency_ms=5000.0)):
            asked = {"metric": "adoption", "org_id": org, **window}
            queries.ask("leaderboard", asked)
            commit(queries.store, [more])  # type: ignore[attr-defined]
            alone = Queries(queries.store.path, clock_ns=lambda: NOW_NS)  # type: ignore[attr-defined]
            assert queries.ask("leaderboard", asked) == alone.ask("leaderboard", asked)
            alone.close()
