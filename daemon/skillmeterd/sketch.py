"""Sketch: quantiles of latencies within 1 %, in about a kilobyte, that merge exactly.

This is DDSketch (Masson, Rim, Lee: DDSketch, a fast and fully-mergeable quantile sketch with relative-error
guarantees, VLDB 2019). With GAMMA = (1 + ACCURACY) / (1 - ACCURACY), bin i counts the values in
(GAMMA**(i-1), GAMMA**i], and 2 * GAMMA**i / (GAMMA + 1) is within ACCURACY of each of them. Values below SMALLEST
count as zero, in a bin of their own. Two sketches merge by adding counts: a merged sketch is the sketch of all values.

Encoded, a sketch is the counts by bin (counts.py).
"""

import math
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable
from itertools import accumulate
from typing import Final

from . import counts

ACCURACY: Final = 0.01
SMALLEST: Final = 0.001  # milliseconds: a microsecond, below what anybody asks of a latency
GAMMA: Final = (1 + ACCURACY) / (1 - ACCURACY)
ZERO_BIN: Final = -1000  # below the bin of SMALLEST, which is -345

_BINS_PER_E: Final = 1 / math.log(GAMMA)
_FEW: Final = 8  # values that are counted sooner one by one than by making a Counter
_log = math.log
_ceil = math.ceil


class Sketch:
    """Counts by bin. Not thread-safe."""

    __slots__ = ("bins",)

    def __init__(self, bins: dict[int, int] | None = None) -> None:
        self.bins: dict[int, int] = {} if bins is None else bins

    @classmethod
    def of(cls, values: Iterable[float]) -> "Sketch":
        """The sketch of values, each finite and not negative."""
        sketch = cls()
        sketch.add_all(values)
        return sketch

    @classmethod
    def decode(cls, data: bytes) -> "Sketch":
        """Raises msgspec.DecodeError when the bytes are no sketch."""
        return cls(counts.decode(data))

    def encode(self) -> bytes:
        """The bytes that `decode` takes."""
        return counts.encode(self.bins)

    def add_all(self, values: Iterable[float]) -> None:
        """Count values, each finite and not negative."""
        bins = [_ceil(_log(v) * _BINS_PER_E) if v >= SMALLEST else ZERO_BIN for v in values]
        if len(bins) > _FEW:
            counts.add(self.bins, Counter(bins))
        else:
            for bin_ in bins:
                self.bins[bin_] = self.bins.get(bin_, 0) + 1

    def merge(self, other: "Sketch") -> None:
        """Add another's counts."""
        counts.add(self.bins, other.bins)

    @property
    def count(self) -> int:
        """How many values were counted."""
        return sum(self.bins.values())

    def quantile(self, q: float) -> float | None:
        """The value below which the share `q`, 0 to 1, lies: milliseconds; None when nothing was counted."""
        return self.quantiles(q)[0]

    def quantiles(self, *shares: float) -> tuple[float | None, ...]:
        """Several at once, as most of the work is putting the bins in order."""
        if not self.bins:
            return (None,) * len(shares)
        ordered = sorted(self.bins)
        up_to = list(accumulate(map(self.bins.__getitem__, ordered)))
        highest_rank = up_to[-1] - 1
        return tuple(_middle(ordered[bisect_right(up_to, q * highest_rank)]) for q in shares)


def _middle(bin_: int) -> float:
    return 0.0 if bin_ == ZERO_BIN else float(2 * GAMMA**bin_ / (GAMMA + 1))
