"""Counts: how many of each number, as bytes that add up.

They are the msgpack map from a number to its count, in no order: sorting and delta-coding it would save a third of the
bytes and double the time to add. A few counts are not added at once but set beside the others: then the bytes are the
msgpack array of such maps, whose sum is meant. So a commit that touches very many series, each with little, need not
read what all of them have had before.
"""

from typing import Final

import msgspec

Counts = dict[int, int]

MAX_PARTS: Final = 8  # maps in an array; at most 15, as its head is one byte
FEW_BYTES: Final = 32  # a map of up to some ten counts

encode: Final = msgspec.msgpack.Encoder().encode
_decode_map: Final = msgspec.msgpack.Decoder(Counts).decode
_decode_array: Final = msgspec.msgpack.Decoder(list[Counts]).decode
_ARRAYS: Final = [bytes((0x90 | parts,)) for parts in range(MAX_PARTS + 1)]  # heads, by the number of maps


def decode(data: bytes) -> Counts:
    """Raises msgspec.DecodeError when the bytes are no counts."""
    if not _parts(data):
        return _decode_map(data)
    first, *others = _decode_array(data)
    for part in others:
        add(first, part)
    return first


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
    parts = _parts(old)
    if len(more) <= FEW_BYTES and parts < MAX_PARTS and not _parts(more):
        return _ARRAYS[parts + 1] + old[1:] + more if parts else _ARRAYS[2] + old + more
    counts = decode(old)
    add(counts, decode(more))
    return encode(counts)


def encode_one(number: int, count: int) -> bytes:
    """A single count. In SQL it is counts_of."""
    return encode({number: count})


def _parts(data: bytes) -> int:
    """How many maps the array has; 0: it is a map itself."""
    return data[0] & 0x0F if data[:1] and data[0] >> 4 == 9 else 0
