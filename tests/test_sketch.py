"""The latency sketch: its error bound, and that merging loses nothing."""

import math
import random

from hypothesis import given
from hypothesis import strategies as st

from skillmeterd.counts import add_encoded
from skillmeterd.sketch import ACCURACY, SMALLEST, ZERO_BIN, Sketch

latencies = st.lists(st.one_of(st.floats(0, 1e15), st.floats(0, 0.01)), min_size=1, max_size=300)
quantiles = st.floats(0, 1)


@given(latencies, quantiles)
def test_a_quantile_is_within_one_percent_of_the_true_value(values: list[float], q: float) -> None:
    """For any latencies and any quantile; below a microsecond the answer may be zero."""
    true = sorted(values)[math.floor(q * (len(values) - 1))]
    found = Sketch.of(values).quantile(q)
    assert found is not None
    assert abs(found - true) <= max(true * ACCURACY * 1.000001, 0 if true >= SMALLEST else SMALLEST)


@given(latencies, latencies)
def test_merging_two_sketches_gives_the_sketch_of_all_values(left: list[float], right: list[float]) -> None:
    """Exactly, in both orders, and through the bytes."""
    whole = Sketch.of(left + right)
    for first, second in ((left, right), (right, left)):
        merged = Sketch.decode(add_encoded(Sketch.of(first).encode(), Sketch.of(second).encode()))
        assert merged.bins == whole.bins
        assert merged.count == len(left) + len(right)


@given(st.lists(latencies, max_size=5))
def test_adding_in_parts_gives_the_sketch_of_all_values(parts: list[list[float]]) -> None:
    """However the values were cut into parts."""
    sketch = Sketch()
    for part in parts:
        sketch.add_all(part)
    assert sketch.bins == Sketch.of([value for part in parts for value in part]).bins


def test_a_missing_sketch_merges_as_an_empty_one() -> None:
    """The first sketch of a series is its own merge."""
    new = Sketch.of([1.0, 2.0]).encode()
    assert add_encoded(None, new) == new


def test_an_empty_sketch_has_no_quantile() -> None:
    """No value is made up where there is none."""
    assert Sketch().quantile(0.5) is None


def test_zero_latencies_are_counted_as_zero() -> None:
    """A latency of zero has a quantile of zero, and does not disturb the others."""
    sketch = Sketch.of([0.0, 0.0, 0.0, 100.0])
    assert sketch.quantile(0.5) == 0.0
    assert math.isclose(sketch.quantile(1) or 0, 100, rel_tol=ACCURACY)


@given(latencies)
def test_no_latencies_can_make_a_sketch_large(values: list[float]) -> None:
    """Bins are bounded on both sides, so that a client cannot blow up a series with tiny values."""
    assert all(bin_ == ZERO_BIN or -346 <= bin_ <= 1728 for bin_ in Sketch.of(values).bins)


def test_a_sketch_of_many_latencies_stays_small() -> None:
    """A hundred thousand values over five decades take less than three kilobytes."""
    dice = random.Random(1)
    assert len(Sketch.of([dice.lognormvariate(4, 1.5) for _ in range(100_000)]).encode()) < 3000
