"""Records: the format is pinned by golden bytes, and reading finds every valid record around whatever damage."""

import struct
import zlib
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from skillmeter import records
from skillmeter.errors import CorruptJournal
from skillmeter.records import (
    HEAD_BYTES,
    LEDGER,
    LEDGER_AT,
    MAX_OFFSET,
    MAX_PAYLOAD_BYTES,
    RECORD_HEADER_BYTES,
    SEARCH_EFFORT,
    SEARCH_STEP_BYTES,
    SEGMENT_HEADER_BYTES,
    Head,
    Scan,
    SegmentHeader,
    cut,
    decode_head,
    decode_ledger,
    decode_segment_header,
    encode_head,
    encode_segment_header,
    frame,
    parse,
    scan,
)

GOLDEN = Path(__file__).parent / "golden"
PRODUCER = bytes(range(16))
HEAD = Head(PRODUCER, 1_700_000_000_123_456_789, 4242)
SEGMENT = SegmentHeader(PRODUCER, 3, 3_145_536)
PAYLOAD = bytes.fromhex("9701cf1797a3c0a7d4bd15a170c0c0c3cb4028000000000000")

payloads = st.lists(st.binary(min_size=1, max_size=60), max_size=8)


def golden(name: str) -> bytes:
    """The bytes of a file of an earlier release, kept as lines of hexadecimal."""
    return bytes.fromhex((GOLDEN / f"{name}.hex").read_text())


# The format.


def test_the_bytes_of_a_head_are_pinned():
    """A head is written as release 1 of the format wrote it, and read back from those bytes."""
    assert encode_head(HEAD) == golden("head")
    assert decode_head(golden("head").ljust(HEAD_BYTES, b"\0")) == HEAD


def test_the_bytes_of_a_segment_header_are_pinned():
    """The same for a segment's header."""
    assert encode_segment_header(SEGMENT) == golden("segment")
    assert decode_segment_header(golden("segment")) == SEGMENT


def test_the_bytes_of_a_record_are_pinned():
    """The same for a record: CRC-32 from the length on, length, FF FE, payload."""
    assert frame(PAYLOAD) == golden("record")
    assert list(parse(golden("record"))) == [(RECORD_HEADER_BYTES + len(PAYLOAD), PAYLOAD)]
    crc, length, magic = struct.unpack_from("<IH2s", golden("record"))
    assert (crc, length, magic) == (zlib.crc32(PAYLOAD, len(PAYLOAD)), len(PAYLOAD), b"\xff\xfe")


def test_the_ledger_s_slots_are_pinned():
    """Slots keep their places: a name may be added at the end, none may move."""
    assert " ".join(LEDGER) == (GOLDEN / "ledger.txt").read_text().strip()
    page = bytearray(HEAD_BYTES)
    struct.pack_into(f"<{len(LEDGER)}Q", page, LEDGER_AT, *range(len(LEDGER)))
    assert decode_ledger(page) == tuple(range(len(LEDGER)))
    assert LEDGER_AT + 8 * len(LEDGER) <= HEAD_BYTES


@given(st.binary(min_size=16, max_size=16), st.integers(0, 2**64 - 1), st.integers(0, 2**32 - 1))
def test_heads_and_segment_headers_come_back(producer, at_ns, number):
    """Every head and every segment header decodes to what was encoded."""
    head, segment = Head(producer, at_ns, number), SegmentHeader(producer, number, min(at_ns, MAX_OFFSET))
    assert decode_head(encode_head(head).ljust(HEAD_BYTES, b"\0")) == head
    assert decode_segment_header(encode_segment_header(segment)) == segment


@given(st.integers(MAX_OFFSET + 1, 2**64 - 1))
def test_a_segment_cannot_begin_where_no_offset_is(base):
    """Such a number, with its checksum right, would be past what SQLite can keep."""
    with pytest.raises(CorruptJournal):
        decode_segment_header(encode_segment_header(SegmentHeader(bytes(16), 1, base)))


@given(st.integers(0, 51), st.integers(0, 7))
def test_a_flipped_bit_in_a_header_is_noticed(at, bit):
    """No bit of a header can change without being refused."""
    page, header = bytearray(golden("head").ljust(HEAD_BYTES, b"\0")), bytearray(golden("segment"))
    page[at] ^= 1 << bit
    with pytest.raises(CorruptJournal):
        decode_head(bytes(page))
    if at < 44:
        header[at] ^= 1 << bit
        with pytest.raises(CorruptJournal):
            decode_segment_header(bytes(header))


@given(st.binary(max_size=2 * SEGMENT_HEADER_BYTES))
@example(b"")
@example(encode_head(HEAD))
def test_arbitrary_bytes_are_no_header(data):
    """Whatever a file begins with, the answer is CorruptJournal."""
    with pytest.raises(CorruptJournal):
        decode_head(data)
    if data != golden("segment"):
        with pytest.raises(CorruptJournal):
            decode_segment_header(data)


# Reading what its writer left.


@given(payloads, st.integers(0, 100), st.booleans())
def test_undamaged_records_are_read_as_they_were_written(written, zeros, sealed):
    """Records followed by zeros are all found, and nothing is called torn or corrupt."""
    data = b"".join(map(frame, written))
    found = scan(data + bytes(zeros), sealed=sealed)
    assert found.payloads == written
    assert (found.corrupt, found.torn, found.end) == ([], 0, len(data))
    assert [end for end, _ in parse(data)] == found.ends


@given(payloads, st.binary(min_size=1, max_size=60), st.data())
def test_a_torn_tail_costs_only_the_unfinished_record(written, last, data):
    """A writer killed within a record loses that record alone, and it is no corruption."""
    whole, record = b"".join(map(frame, written)), frame(last)
    kept = data.draw(st.integers(0, len(record) - 1))
    found = scan((whole + record[:kept]).ljust(len(whole) + 200, b"\0"), sealed=False)
    assert found.payloads == written
    assert found.corrupt == []
    assert found.torn == len(record[:kept].rstrip(b"\0"))
    assert found.end == len(whole)


@given(payloads.filter(bool), st.binary(min_size=1, max_size=40), st.data())
def test_records_around_damage_are_found(written, damage, data):
    """Overwrite a span anywhere: every record outside of it is delivered, in order, and nothing is made up."""
    framed = [frame(payload) for payload in written]
    whole = bytearray(b"".join(framed))
    at = data.draw(st.integers(0, len(whole) - 1))
    whole[at : at + len(damage)] = damage[: len(whole) - at]
    found = scan(bytes(whole).ljust(len(whole) + 50, b"\0"), sealed=True)
    position, survivors = 0, []
    for record, payload in zip(framed, written, strict=True):
        if whole[position : position + len(record)] == record:
            survivors.append((position + len(record), payload))
        position += len(record)
    assert set(survivors) <= set(zip(found.ends, found.payloads, strict=True))
    assert found.ends == sorted(found.ends)
    for end, payload in zip(found.ends, found.payloads, strict=True):
        assert whole[:end].endswith(frame(payload))


@given(payloads, st.binary(max_size=300), st.booleans())
def test_each_byte_is_explained(written, noise, sealed):
    """Records, corrupt spans, a torn tail and zeros cover all of a segment, without overlap."""
    data = b"".join(map(frame, written)) + noise
    found = scan(data, sealed=sealed)
    spans = [(end - RECORD_HEADER_BYTES - len(body), end) for end, body in zip(found.ends, found.payloads, strict=True)]
    spans = sorted([*spans, *found.corrupt])
    position = 0
    for first, last in spans:
        assert first == position
        position = last
    assert position == found.end
    assert not data[found.end + found.torn :].strip(b"\0")
    assert not (sealed and found.torn)


@pytest.mark.parametrize("pattern", [b"\xff\xfe", b"\xff\xff\xff\xfe", b"\x01\x00\xff\xfe"])
def test_what_looks_like_records_everywhere_is_given_up(pattern, monkeypatch):
    """The work grows with the size, not with its square; what was not looked at is corrupt, and never torn."""
    data = pattern * (2**20 // len(pattern))
    checked = []

    def crc32(payload, start):
        checked.append(len(payload))
        return zlib.crc32(payload, start)

    monkeypatch.setattr(records, "_crc32", crc32)
    found = scan(data, sealed=False)
    assert found == Scan([], [], [(0, len(data))], 0, len(data))
    assert sum(checked) + SEARCH_STEP_BYTES * len(checked) < 2 * SEARCH_EFFORT * len(data)


def test_tiny_records_that_are_all_damaged_are_all_looked_at():
    """The last one, which is whole, is found behind them."""
    data = (b"\0\0\0\0\1\0\xff\xfex") * 100_000 + frame(PAYLOAD)
    assert scan(data, sealed=True).payloads == [PAYLOAD]


@given(st.binary(max_size=400), st.integers(0, 400))
def test_parsing_arbitrary_bytes_only_yields_what_frames_back(data, at):
    """Whatever the bytes, `parse` yields records that are there, one after the other, and raises nothing."""
    position = at
    for end, payload in parse(data, at):
        assert data[position:end] == frame(payload)
        position = end


@given(payloads.filter(bool), st.integers(1, 400))
def test_a_cut_is_a_record_boundary(written, max_bytes):
    """A batch ends where a record ends, within its bytes if one record fits, and always with at least one."""
    data = b"".join(map(frame, written))
    at = cut(data, max_bytes)
    ends = [end for end, _ in parse(data)]
    assert at in ends
    assert at == max([end for end in ends if end <= max_bytes], default=ends[0])


def test_the_longest_payload_frames():
    """A record holds 65,535 bytes; one byte more is refused by the packing itself."""
    longest = b"x" * MAX_PAYLOAD_BYTES
    assert list(parse(frame(longest))) == [(RECORD_HEADER_BYTES + MAX_PAYLOAD_BYTES, longest)]
    with pytest.raises(struct.error):
        frame(longest + b"x")
