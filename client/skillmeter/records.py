"""Records: how events are framed in a journal, and how a journal's bytes are read back.

A journal is the files of one producer, in one folder:

    PRODUCER.journal        the head: ledger and the first records; its flock says that the owner lives
    PRODUCER.NNNNNNNN.seg   the segments that follow, numbered in hexadecimal as they were made

PRODUCER is the producer id in hexadecimal. The order of segments is their index, in their headers; of two with one
index (a writer was killed between making one and finding that another thread had been faster) one is empty.

All integers are little-endian. The head begins with a page of its own:

    0       8       10      12      16                  32              40      48      52
    +-------+-------+-------+-------+-------------------+---------------+-------+-------+----------+
    | magic |version|   0   | size  | producer id       | created_at_ns |  pid  |  crc  | zeros    |
    | 8     | u16   | u16   | u32   | 16 bytes          | u64           | u64   | u32   | to 64    |
    +-------+-------+-------+-------+-------------------+---------------+-------+-------+----------+
    64      72      80 ...                                                                      4096
    +---------------+---------------+-----------------------------------------------------------+
    | ledger slot 0 | ledger slot 1 | ... one u64 per name of LEDGER, then zeros                 |
    +---------------+---------------+-----------------------------------------------------------+

A segment file begins with 64 bytes:

    0       8       10      12      16                  32        40        44               64
    +-------+-------+-------+-------+-------------------+---------+---------+----------------+
    | magic |version|   0   | index | producer id       | base    |  crc    | zeros          |
    | 8     | u16   | u16   | u32   | 16 bytes          | u64     |  u32    |                |
    +-------+-------+-------+-------+-------------------+---------+---------+----------------+

Each `crc` is the CRC-32 of the bytes before it. Records follow, one after the other, zeros after the last:

    0       4        6        8
    +-------+--------+--------+------------------+
    | crc   | length | FF FE  | payload          |   crc = CRC-32 of the payload, started from its length
    | u32   | u16    |        | `length` bytes   |   FF FE never occurs in UTF-8, which helps to find records again
    +-------+--------+--------+------------------+

The *offset* of a record is the number of record bytes that fit before it: `base` of its segment (the head's is 0)
plus its distance from the segment's first record. A segment's unused tail keeps its offsets: the next one's
base is this one's base plus its capacity.

This module opens nothing and reads no clock.
"""

import struct
import zlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

import msgspec

from .errors import CorruptJournal
from .events import REJECT_REASONS

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

VERSION: Final = 1
HEAD_MAGIC: Final = b"SKMHEAD\n"
SEGMENT_MAGIC: Final = b"SKMSEGM\n"
RECORD_MAGIC: Final = 0xFEFF  # FF FE on disk
HEAD_BYTES: Final = 4096
SEGMENT_HEADER_BYTES: Final = 64
LEDGER_AT: Final = 64
MAX_PAYLOAD_BYTES: Final = 65535
MAX_OFFSET: Final = 2**62  # as in the protocol; SQLite's integers end soon after
SEARCH_EFFORT: Final = 64
"""Bytes looked at for each byte of a damaged file, to find records again: one of tiny records that are all damaged is
searched to its end, and one that was made to look like the beginning of a record everywhere takes no longer."""
SEARCH_STEP_BYTES: Final = 512  # as which a look at one place counts, besides the payload that it checks

DROP_REASONS: Final = (
    "spool_full",  # the bound of this process is reached
    "disk_full",  # ENOSPC or a quota
    "spool_unavailable",  # missing, read-only, not permitted
    "too_large",  # longer than a record, or than a segment
    "busy",  # signal handlers came faster than room could be made for them
    "closed",  # recorded after close()
    "internal",  # a fault of ours, logged with its traceback
)
LEDGER: Final = (
    "attempted",
    *(f"rejected.{reason}" for reason in REJECT_REASONS),
    *(f"dropped.{reason}" for reason in DROP_REASONS),
    "sync_failed",  # accepted, but the disk refused to confirm it (fsync durability)
)
"""The ledger's slots in their order, which is part of the format: new names go at the end."""

_RECORD = struct.Struct("<IHH")
_HEAD = struct.Struct("<8sHHI16sQQ")
_SEGMENT = struct.Struct("<8sHHI16sQ")
_CRC = struct.Struct("<I")
_LEDGER = struct.Struct(f"<{len(LEDGER)}Q")
RECORD_HEADER_BYTES: Final = _RECORD.size

_pack_record = _RECORD.pack
_unpack_record = _RECORD.unpack_from
_crc32 = zlib.crc32


class Head(msgspec.Struct, frozen=True):
    """The first page of a journal, less its ledger."""

    producer: bytes
    created_at_ns: int
    pid: int


class SegmentHeader(msgspec.Struct, frozen=True):
    """The first bytes of a segment file."""

    producer: bytes
    index: int
    base: int


class Scan(msgspec.Struct, frozen=True):
    """What `scan` found in one segment's bytes. Positions count from the first byte given."""

    payloads: list[bytes]
    ends: list[int]
    """Where each payload's record ends; the last is where the valid records end."""
    corrupt: list[tuple[int, int]]
    """Spans that are neither records nor an explained end."""
    torn: int
    """Bytes of an unfinished record at the end: the normal trace of a killed writer."""
    end: int
    """Everything before this position is explained: by a record, or by a span of `corrupt`."""


def frame(payload: bytes) -> bytes:
    """A record. The payload has 1 to MAX_PAYLOAD_BYTES bytes."""
    size = len(payload)
    return _pack_record(_crc32(payload, size), size, RECORD_MAGIC) + payload


def parse(data: bytes, at: int = 0) -> Iterator[tuple[int, bytes]]:
    """The records that stand one after the other from `at`: (end position, payload). Stops at what is not one."""
    size = len(data)
    while at + RECORD_HEADER_BYTES <= size:
        crc, length, magic = _unpack_record(data, at)
        end = at + RECORD_HEADER_BYTES + length
        if magic != RECORD_MAGIC or not length or end > size:
            return
        payload = data[at + RECORD_HEADER_BYTES : end]
        if _crc32(payload, length) != crc:
            return
        yield end, payload
        at = end


def cut(data: bytes, max_bytes: int) -> int:
    """The last record boundary within the first `max_bytes`, or the end of the first record if that is larger.

    `data` holds whole records. Nothing is checked but the lengths: the writer made them, the daemon checks.
    """
    if len(data) <= max_bytes:
        return len(data)
    at = 0
    while True:
        _, length, _ = _unpack_record(data, at)
        end = at + RECORD_HEADER_BYTES + int(length)
        if end > max_bytes:
            return at or end
        at = end


def scan(data: bytes, *, sealed: bool) -> Scan:
    """Read one segment's record bytes as a dead writer left them.

    `sealed` says that a later segment exists. Reading ends where only zeros follow. What is no record there
    is *torn* if nothing valid comes after it in the last segment, and *corrupt* otherwise; so is the rest of a file in
    which the search for records was given up (SEARCH_EFFORT).
    """
    payloads: list[bytes] = []
    ends: list[int] = []
    corrupt: list[tuple[int, int]] = []
    used = len(data.rstrip(b"\0"))
    left = SEARCH_EFFORT * max(used, HEAD_BYTES)
    at = 0
    while True:
        for end, payload in parse(data, at):
            payloads.append(payload)
            ends.append(end)
            at = end
        if at >= used:
            return Scan(payloads, ends, corrupt, 0, at)
        again, left = _next_record(data, at + 1, used, left)
        if again is None:
            if sealed or left < 0:
                corrupt.append((at, used))
                return Scan(payloads, ends, corrupt, 0, used)
            return Scan(payloads, ends, corrupt, used - at, at)
        corrupt.append((at, again))
        at = again


def _next_record(data: bytes, at: int, used: int, left: int) -> tuple[int | None, int]:
    """Where the next valid record begins at or after `at`, and the effort that is left of `left`: below 0, the search
    was given up."""
    magic = RECORD_MAGIC.to_bytes(2, "little")
    found = data.find(magic, at + RECORD_HEADER_BYTES - 2, used)
    while found >= 0:
        start = found - (RECORD_HEADER_BYTES - 2)
        if next(parse(data, start), None) is not None:
            return start, left
        left -= SEARCH_STEP_BYTES + min(int(_unpack_record(data, start)[1]), used - start)
        if left < 0:
            break
        found = data.find(magic, found + 1, used)
    return None, left


def encode_head(head: Head) -> bytes:
    """The head's first bytes, up to the ledger."""
    body = _HEAD.pack(HEAD_MAGIC, VERSION, 0, HEAD_BYTES, head.producer, head.created_at_ns, head.pid)
    return (body + _CRC.pack(_crc32(body))).ljust(LEDGER_AT, b"\0")


def decode_head(data: bytes) -> Head:
    """Raises CorruptJournal when `data` does not begin with a head of this version."""
    _check(data, HEAD_MAGIC, _HEAD, HEAD_BYTES)
    _, _, _, size, producer, created_at_ns, pid = _HEAD.unpack_from(data)
    if size != HEAD_BYTES:
        raise CorruptJournal(f"head of {size} bytes, expected {HEAD_BYTES}")
    return Head(producer, created_at_ns, pid)


def encode_segment_header(header: SegmentHeader) -> bytes:
    """The first bytes of a segment file."""
    body = _SEGMENT.pack(SEGMENT_MAGIC, VERSION, 0, header.index, header.producer, header.base)
    return (body + _CRC.pack(_crc32(body))).ljust(SEGMENT_HEADER_BYTES, b"\0")


def decode_segment_header(data: bytes) -> SegmentHeader:
    """Raises CorruptJournal when `data` does not begin with a segment header of this version."""
    _check(data, SEGMENT_MAGIC, _SEGMENT, SEGMENT_HEADER_BYTES)
    _, _, _, index, producer, base = _SEGMENT.unpack_from(data)
    if base > MAX_OFFSET:
        raise CorruptJournal(f"offset {base}, where no journal gets")
    return SegmentHeader(producer, index, base)


def decode_ledger(data: "ReadableBuffer") -> tuple[int, ...]:
    """The ledger's slots from a head's page, in the order of LEDGER."""
    return _LEDGER.unpack_from(data, LEDGER_AT)


def _check(data: bytes, magic: bytes, layout: struct.Struct, size: int) -> None:
    if len(data) < size:
        raise CorruptJournal(f"{len(data)} bytes are too few for a header of {size}")
    if data[: len(magic)] != magic:
        raise CorruptJournal("not a file of ours: its first bytes are others")
    (version,) = struct.unpack_from("<H", data, len(magic))
    if version != VERSION:
        raise CorruptJournal(f"format version {version}; this release reads {VERSION}")
    if _CRC.unpack_from(data, layout.size)[0] != _crc32(data[: layout.size]):
        raise CorruptJournal("its header fails its checksum")
