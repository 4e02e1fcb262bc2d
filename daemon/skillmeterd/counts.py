"""Counts: how many of each number, as bytes that add up - the msgpack map from a number to its count, in no order.

Sorting and delta-coding it would save a third of the bytes and double the time to add, which every commit does for
every series.
"""

from typing import Final

import msgspec

Counts = dict[int, int]

encode: Final = msgspec.msgpack.Encoder().encode
decode: Final = msgspec.msgpack.Decoder(Counts).decode
"""Raises msgspec.DecodeError when the bytes are none."""


def add(counts: Counts, more: Counts) -> None:
    """Add to counts in place; `more` may take away, too. What comes to nothing goes."""
    known = counts.get
    for number, count in more.items():
        joint = known(number, 0) + count
        if joint:
            counts[number] = joint
        else:
            counts.pop(number, None)


def since(data: bytes, first: int) -> int:
    """The sum of the encoded counts of `first` and all numbers above it."""
    return sum([count for number, count in decode(data).items() if number >= first])


def add_encoded(old: bytes | None, more: bytes) -> bytes:
    """The sum of two, encoded; `old` may be missing. In SQL it is counts_add."""
    if old is None:
        return more
    counts = decode(old)
    add(counts, decode(more))
    return encode(counts)


def encode_one(number: int, count: int) -> bytes:
    """A single count. In SQL it is counts_of."""
    return encode({number: count})
