"""Remembered: whatever it answers is true, over any days and users; and it answers what there is a byte for."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skillmeterd import remembered
from skillmeterd.remembered import FIRST_ORG, NEVER, SEVERAL, USER_BITS, Days, Remembered

DAY = 20_000
ORG, PAIR = 3, 7

days = st.sampled_from([0, DAY - 101, DAY - 100, DAY - 99, DAY, DAY + 1, DAY + 154, DAY + 155, DAY + 156, 100_000])
sizes = st.sampled_from([0, 3, 20, 1000])
uses = st.tuples(st.sampled_from([1, 255, 256, 511, 2**32 - 1]), st.sampled_from([1, 2]), days)


def _key(user: int, no: int) -> int:
    return user << USER_BITS | no


@settings(max_examples=500)
@given(st.lists(st.tuples(days, st.lists(uses, min_size=1, max_size=6)), max_size=8), sizes, sizes)
def test_what_it_answers_is_true(
    groups: list[tuple[int, list[tuple[int, int, int]]]], most: int, most_single: int
) -> None:
    """Against a dict that forgets nothing."""
    known = Remembered()
    truth: Days = {}
    met: set[int] = set()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(remembered, "MAX_BLOCKS", most)
        patch.setattr(remembered, "MAX_SINGLE", most_single)
        for today, group in groups:
            known.turn_to(today)
            for user, skill, day in group:
                others = known.others(day, skill, ORG, PAIR, [user, 0])
                assert others == [_key(user, 0)] or (others == [] and truth[_key(user, skill)] == day)
                answered: Days = {}
                unknown = known.recall([_key(user, 1), _key(user, 2)], answered)
                assert sorted([*unknown, *answered]) == [_key(user, 1), _key(user, 2)]
                assert answered == {key: truth.get(key, NEVER) for key in answered}
                assert known.org(user) in ({0, FIRST_ORG + ORG} if user in met else {0})
            for user, skill, day in group:
                if user not in met:
                    known.put_whole(user)
                met.add(user)
                key = _key(user, skill)
                truth[key] = max(day, truth.get(key, NEVER))
                known.put_days({key: truth[key]})
                known.put_orgs({user: FIRST_ORG + ORG})
            known.trim()


def test_it_answers_days_near_the_daemons() -> None:
    """254 of them, from a hundred before; a new user's other skills have never been seen."""
    known = Remembered()
    known.turn_to(DAY)
    for user, day in enumerate(range(DAY - 99, DAY + 155), 1):
        known.put_whole(user)
        known.put_orgs({user: FIRST_ORG + ORG})
        known.put_days({_key(user, 1): day})
        assert known.others(day, 1, ORG, PAIR, [user]) == []
        assert known.others(day, 1, ORG + 1, PAIR, [user]) == [_key(user, 0)]
        assert known.others(day, 2, ORG, PAIR, [user]) == [_key(user, 0)]
        answered: Days = {}
        assert known.recall([_key(user, 1), _key(user, 2)], answered) == []
        assert answered == {_key(user, 1): day, _key(user, 2): NEVER}


@pytest.mark.parametrize("day", [0, DAY - 100, DAY + 155, 100_000])
def test_it_answers_far_days_while_they_are_few(monkeypatch: pytest.MonkeyPatch, day: int) -> None:
    """Afterwards that there is one is still known: it is not taken for never, nor for another. Near days stay."""
    known = Remembered()
    known.turn_to(DAY)
    known.put_whole(1)
    known.put_orgs({1: FIRST_ORG + ORG})
    known.put_days({_key(1, 1): day, _key(1, 2): DAY})
    answered: Days = {}
    assert known.recall([_key(1, 1)], answered) == []
    assert answered == {_key(1, 1): day}
    assert known.others(day, 1, ORG, PAIR, [1]) == []
    assert known.others(day + 1000, 1, ORG, PAIR, [1]) == [_key(1, 0)]
    monkeypatch.setattr(remembered, "MAX_SINGLE", 0)
    known.trim()
    assert known.recall([_key(1, 1), _key(1, 2)], {}) == [_key(1, 1)]
    assert known.others(day, 1, ORG, PAIR, [1]) == [_key(1, 0)]


def test_what_was_far_does_not_hide_what_is_near() -> None:
    """A user who was last seen long ago comes today, and then on that day again: that is late."""
    known = Remembered()
    known.turn_to(DAY)
    known.put_orgs({1: FIRST_ORG + ORG})
    for day in (0, DAY):
        known.put_days({_key(1, 1): day})
    assert known.others(0, 1, ORG, PAIR, [1]) == [_key(1, 0)]


def test_users_of_several_orgs_are_known_by_pair() -> None:
    """Not by their last day with the skill, which may be that in another org."""
    known = Remembered()
    known.turn_to(DAY)
    known.put_orgs({1: SEVERAL})
    known.put_days({_key(1, 1): DAY})
    assert known.others(DAY, 1, ORG, PAIR, [1]) == [_key(1, 0)]
    known.of_pair[_key(1, PAIR)] = DAY
    assert known.others(DAY, 1, ORG, PAIR, [1]) == []
    assert known.others(DAY + 1, 1, ORG, PAIR, [1]) == [_key(1, 0)]


def test_as_the_days_go_by_it_begins_anew() -> None:
    """When there is no byte for the daemon's day."""
    known = Remembered()
    for day in (DAY, DAY + 155, DAY):
        known.turn_to(day)
        assert known.recall([_key(1, 1)], {}) == [_key(1, 1)]
        known.put_days({_key(1, 1): day})
        for today in (day - 99, day + 154):
            known.turn_to(today)
            assert known.recall([_key(1, 1)], {}) == []
