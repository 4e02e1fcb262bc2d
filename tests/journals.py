"""Journals: files as a client leaves them when it dies, made without a client."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from skillmeter import records
from skillmeter.events import encode_execution

HEADER = records.RECORD_HEADER_BYTES


def event(name: str, skill: str = "parse_json") -> bytes:
    """The payload of an execution by user `name`."""
    return encode_execution(skill, True, 12.5, name, "o1")


@dataclass(frozen=True)
class Written:
    """A journal's files, the head first, and its records: the offset of each and its payload, in order."""

    producer: bytes
    files: list[Path]
    records: list[tuple[int, bytes]]

    @property
    def head(self) -> Path:
        """The file that its owner would hold a lock on."""
        return self.files[0]

    def end(self, count: int) -> int:
        """The offset behind the first `count` records."""
        offset, payload = self.records[count - 1] if count else (-HEADER, b"")
        return offset + HEADER + len(payload)


def write_journal(
    spool_dir: Path,
    parts: Sequence[Sequence[bytes]],
    *,
    producer: bytes | None = None,
    attempted: int | None = None,
    capacity: int = 4096,
    pid: int = 1,
) -> Written:
    """Write the payloads of `parts` into a head and a segment for each further part.

    `capacity` is each file's room for records; `attempted` is what the ledger says, by default as many as there are;
    `pid` is the process that the head names.
    """
    spool_dir.mkdir(mode=0o700, exist_ok=True)
    producer = producer or os.urandom(16)
    head = spool_dir / f"{producer.hex()}.journal"
    written = Written(producer, [head], [])
    for index, part in enumerate(parts):
        body = b"".join(map(records.frame, part))
        assert len(body) <= capacity
        base = index * capacity
        if index:
            path = spool_dir / f"{producer.hex()}.{index:08x}.seg"
            header = records.encode_segment_header(records.SegmentHeader(producer, index, base))
            written.files.append(path)
        else:
            path = head
            counts = [sum(map(len, parts)) if attempted is None else attempted]
            header = records.encode_head(records.Head(producer, 1, pid)) + counts[0].to_bytes(8, "little")
            header = header.ljust(records.HEAD_BYTES, b"\0")
        path.write_bytes(header + body.ljust(capacity, b"\0"))
        at = base
        for payload in part:
            written.records.append((at, payload))
            at += HEADER + len(payload)
    return written


def first_byte(written: Written, number: int) -> tuple[Path, int]:
    """The file and the position in it where a record begins."""
    for part, path in enumerate(written.files):
        start = records.SEGMENT_HEADER_BYTES if part else records.HEAD_BYTES
        capacity = path.stat().st_size - start
        offset = written.records[number][0]
        if part * capacity <= offset < (part + 1) * capacity:
            return path, start + offset - part * capacity
    raise AssertionError(f"there is no record {number}")


def flip(path: Path, position: int, mask: int = 1) -> None:
    """Change bits of one byte."""
    with path.open("r+b") as file:
        file.seek(position)
        (byte,) = file.read(1)
        file.seek(position)
        file.write(bytes([byte ^ mask]))
