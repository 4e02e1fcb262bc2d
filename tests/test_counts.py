"""Counts: they add up exactly, whichever way their bytes were put together."""

from collections import Counter
from functools import reduce

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from skillmeterd import counts

some = st.dictionaries(st.integers(-1000, 2**40), st.integers(1, 2**40), min_size=1, max_size=20)


@given(st.lists(some, min_size=1, max_size=3 * counts.MAX_PARTS), st.integers(-1000, 2**40))
def test_encoded_counts_add_up(parts: list[dict[int, int]], first: int) -> None:
    """As those of a Counter do: few counts and many, in any order, over the bound on parts and below it."""
    encoded: bytes | None = None
    plain: Counter[int] = Counter()
    for part in parts:
        encoded = counts.add_encoded(encoded, counts.encode(part))
        plain.update(part)
        assert counts.decode(encoded) == plain
    assert encoded is not None
    assert counts.since(encoded, first) == sum(count for number, count in plain.items() if number >= first)


few = st.dictionaries(st.integers(0, 9), st.integers(1, 9), min_size=1, max_size=2)


@given(*[st.lists(few, min_size=1, max_size=counts.MAX_PARTS + 1)] * 2)
def test_sums_add_up(parts: list[dict[int, int]], more: list[dict[int, int]]) -> None:
    """Each of them made of parts: what was added lately is added to what there was before."""
    one, other = ([*map(counts.encode, both)] for both in (parts, more))
    encoded = counts.add_encoded(reduce(counts.add_encoded, one), reduce(counts.add_encoded, other))
    assert counts.decode(encoded) == sum(map(Counter, [*parts, *more]), Counter())


@given(some)
def test_what_is_taken_away_is_gone(part: dict[int, int]) -> None:
    """Nothing is left of a number that comes to nothing."""
    back = counts.encode({number: -count for number, count in part.items()})
    assert counts.decode(counts.add_encoded(counts.encode({-1: 7}), counts.encode({-1: 1}))) == {-1: 8}
    assert counts.decode(counts.add_encoded(counts.encode(part), back)) == {}


def test_parts_are_bounded() -> None:
    """Bytes do not grow with every addition of the same few numbers."""
    encoded = counts.encode({1: 1})
    longest = 0
    for _ in range(1000):
        encoded = counts.add_encoded(encoded, counts.encode({1: 1, 2: 1}))
        longest = max(longest, len(encoded))
    assert counts.decode(encoded) == {1: 1001, 2: 1000}
    assert longest <= 100


@given(st.binary(max_size=40))
def test_other_bytes_are_told_apart(data: bytes) -> None:
    """What is no counts raises one error."""
    try:
        assert isinstance(counts.decode(data), dict)
    except msgspec.MsgspecError:
        pass


def test_no_bytes_are_no_counts() -> None:
    """An empty blob is broken, not empty."""
    with pytest.raises(msgspec.DecodeError):
        counts.decode(b"")
    with pytest.raises(msgspec.DecodeError):
        counts.decode(b"\x90")
