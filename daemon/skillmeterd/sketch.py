"""Sketch: quantiles of latencies within 1 %, in a few hundred bytes, that merge exactly.

This is DDSketch (Masson, Rim, Lee: DDSketch, a fast and fully-mergeable quantile sketch with relative-error
guarantees, VLDB 2019). With GAMMA = (1 + ACCURACY) / (1 - ACCURACY), bin i counts the values in
(GAMMA**(i-1), GAMMA**i], and 2 * GAMMA**i / (GAMMA + 1) is within ACCURACY of each of them. Values below SMALLEST
count as zero. Two sketches merge by adding counts, so a merged sketch is the sketch of all the values.

Encoded, a sketch is three things in msgpack: [zeros, steps, counts]; the steps are the first bin, then the distance
from each bin to the next; the counts are the bins' in the same order.
"""

import math
from collections import Counter
from collections.abc import Iterable
from itertools import accumulate
from operator import sub
from typing import Final

import msgspec

ACCURACY: Final = 0.01
SMALLEST: Final = 0.001  # milliseconds: a microsecond, below what anybody asks of a latency
GAMMA: Final = (1 + ACCURACY) / (1 - ACCURACY)

_BINS_PER_E: Final = 1 / math.log(GAMMA)
_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(tuple[int, list[int], list[int]]).decode


class Sketch:
    """Counts by bin. Not thread-safe."""

    __slots__ = ("bins", "zeros")

    def __init__(self, zeros: int = 0, bins: Iterable[tuple[int, int]] = ()) -> None:
        self.zeros = zeros
        self.bins: Counter[int] = Counter(dict(bins))

    @classmethod
    def of(cls, values: Iterable[float]) -> "Sketch":
        """The sketch of values, each finite and not negative."""
        sketch = cls()
        sketch.add_all(values)
        return sketch

    @classmethod
    def decode(cls, data: bytes) -> "Sketch":
        """Raises msgspec.DecodeError when the bytes are no sketch."""
        zeros, steps, counts = _decode(data)
        return cls(zeros, zip(accumulate(steps), counts, strict=True))

    def encode(self) -> bytes:
        """The same counts give the same bytes."""
        bins = sorted(self.bins)
        steps = list(map(sub, bins, [0, *bins]))
        return _encode((self.zeros, steps, [self.bins[bin_] for bin_ in bins]))

    def add_all(self, values: Iterable[float]) -> None:
        """Count values, each finite and not negative."""
        values = list(values)
        seen = [value for value in values if value >= SMALLEST]
        self.zeros += len(values) - len(seen)
        self.bins.update([math.ceil(log * _BINS_PER_E) for log in map(math.log, seen)])

    def merge(self, other: "Sketch") -> None:
        """Add another's counts."""
        self.zeros += other.zeros
        self.bins.update(other.bins)

    @property
    def count(self) -> int:
        """How many values were counted."""
        return self.zeros + self.bins.total()

    def quantile(self, q: float) -> float | None:
        """The value below which the share `q`, 0 to 1, lies: milliseconds; None when nothing was counted."""
        if not self.count:
            return None
        rank = q * (self.count - 1)
        below = self.zeros
        if rank < below:
            return 0.0
        for bin_ in sorted(self.bins):
            below += self.bins[bin_]
            if rank < below:
                break
        return float(2 * GAMMA**bin_ / (GAMMA + 1))


def merge_encoded(old: bytes | None, new: bytes) -> bytes:
    """Two encoded sketches as one; `old` may be missing."""
    if old is None:
        return new
    sketch = Sketch.decode(old)
    sketch.merge(Sketch.decode(new))
    return sketch.encode()
