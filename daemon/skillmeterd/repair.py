"""Repair: what the quarantine holds, and what of it can go back into the spool without storing an event twice.

That is one case: a journal whose head lost its header. The file's name is the producer, and offsets count from the
head's first record, so a new header makes the journal what it was; the database knows what it has of that producer. The
counts beside the header have no checksum and are started afresh. Everything else stays where it is, for a person.
"""

import os
import re
from pathlib import Path
from typing import Final

import msgspec

from skillmeter import records
from skillmeter.errors import CorruptJournal

from . import backlog, spool

_OURS: Final = re.compile(r"([0-9a-f]{32})\.(journal|[0-9a-f]{8}\.seg|[0-9a-f]{16}\.bytes)")


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """One thing in the quarantine."""

    file: str
    what: str
    why: str
    bytes: int = 0
    records: int = 0
    """That can be read."""
    repairable: bool = False


def examine(folder: Path) -> list[Finding]:
    """Everything in the quarantine of a spool. Raises OSError."""
    return [_examine(path) for path in backlog.set_aside(folder)]


def repair(folder: Path, file: str) -> int:
    """Put a repairable journal back into its spool, where the daemon takes it; how many files that were.

    Raises OSError, or CorruptJournal if it is not repairable.
    """
    head = folder / "quarantine" / file
    if not _examine(head).repairable:
        raise CorruptJournal("it cannot be repaired", path=str(head))
    siblings = [path for path in backlog.set_aside(folder) if path.name.startswith(f"{head.stem}.")]
    moved = [path for path in siblings if path.suffix == spool.SEGMENT_SUFFIX]
    moved.append(head)  # last: it is what is looked for
    for path in moved:
        if (folder / path.name).exists():
            raise FileExistsError(f"{path.name} is in the spool already")
    with head.open("r+b") as opened:
        opened.write(records.encode_head(records.Head(bytes.fromhex(head.stem), 0, 0)).ljust(records.HEAD_BYTES, b"\0"))
        opened.flush()
        os.fsync(opened.fileno())
    for path in moved:
        path.rename(folder / path.name)
    return len(moved)


def _examine(path: Path) -> Finding:
    size = path.lstat().st_size
    named = _OURS.fullmatch(path.name)
    try:
        data = spool.read_file(path, 0)
    except CorruptJournal as error:
        return Finding(file=path.name, what="no journal", why=str(error), bytes=size)
    if named is None:
        return Finding(file=path.name, what="no journal", why="its name is not one of ours", bytes=size)
    if named[2] == "journal":
        return _examine_head(path.name, data, named[1])
    if named[2].endswith("seg"):
        return _examine_segment(path.name, data)
    return Finding(file=path.name, what="damaged bytes", why="they are no records", bytes=size)


def _examine_head(name: str, data: bytes, producer: str) -> Finding:
    found = len(records.scan(data[records.HEAD_BYTES :], sealed=True).payloads)
    try:
        head = records.decode_head(data)
        why = "the name is another producer's" if head.producer.hex() != producer else "nothing is wrong with it"
        repairable = False
    except CorruptJournal as error:
        why, repairable = str(error), found > 0
    return Finding(file=name, what="head", why=why, bytes=len(data), records=found, repairable=repairable)


def _examine_segment(name: str, data: bytes) -> Finding:
    found = len(records.scan(data[records.SEGMENT_HEADER_BYTES :], sealed=True).payloads)
    try:
        records.decode_segment_header(data)
        why = "its journal was set aside, or has another of its number"
    except CorruptJournal as error:
        why = str(error)
    return Finding(file=name, what="segment", why=why, bytes=len(data), records=found)
