"""The backlog: what is in a spool, for people - whose journals, what they hold, and what was set aside."""

import contextlib
import os
import sqlite3
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Final, Literal

import msgspec

from skillmeter import records
from skillmeter.errors import CorruptJournal

from . import spool
from .database import open_reader

Owner = Literal["alive", "ended", "gone", "unreadable"]

_RECORDS: Final = "SELECT records FROM producer WHERE producer = ?"


class Waiting(msgspec.Struct, frozen=True, kw_only=True):
    """A journal that is in the spool. What cannot be known is None."""

    journal: str
    owner: Owner
    """"gone": somebody finished it while we looked."""
    why: str = ""
    """What is wrong with one that is unreadable."""
    pid: int | None = None
    """In the name space of its process."""
    age_s: int | None = None
    bytes: int = 0
    """On the disk."""
    attempted: int | None = None
    refused: int | None = None
    stored: int | None = None
    """Of its events, in the database."""

    @property
    def pending(self) -> int | None:
        """Events that are not in the database yet."""
        if self.attempted is None or self.refused is None:
            return None
        return max(0, self.attempted - self.refused - (self.stored or 0))


def waiting(folder: Path, db_path: Path, now_ns: int | None = None) -> list[Waiting]:
    """Every journal in a spool, the oldest first. Looks at locks and lets go of them at once. Raises OSError."""
    heads, sizes, _ = _listed(folder)
    now_ns = time.time_ns() if now_ns is None else now_ns
    with contextlib.ExitStack() as stack:
        stored = _stored(db_path, stack)
        found = [_look(path, sizes[path.stem], stored, now_ns) for path in heads]
    return sorted(found, key=lambda one: (-(one.age_s or 0), one.journal))


def ended(folder: Path) -> int:
    """How many journals of ended processes are in a spool. Raises OSError."""
    return sum(_owner(path)[0] == "ended" for path in _listed(folder)[0])


def headless(folder: Path) -> list[Path]:
    """Segments whose head is gone: nobody can say whether their owner lives. Raises OSError."""
    return _listed(folder)[2]


def set_aside(folder: Path) -> list[Path]:
    """What is in a spool's quarantine. Raises OSError."""
    return sorted(spool.entries(folder / "quarantine"))


def foreign(folder: Path) -> list[Path]:
    """What is in a spool that neither clients nor daemons put there. Raises OSError."""
    ours = {"daemon.lock", "quarantine"}
    suffixes = {spool.HEAD_SUFFIX, spool.SEGMENT_SUFFIX}
    return sorted(path for path in spool.entries(folder) if path.name not in ours and path.suffix not in suffixes)


def _listed(folder: Path) -> tuple[list[Path], dict[str, int], list[Path]]:
    """Heads, bytes by the stem of names, and segments without a head; from one listing."""
    sizes: dict[str, int] = defaultdict(int)
    heads: dict[str, Path] = {}
    segments: list[tuple[str, Path]] = []
    for path in spool.entries(folder):
        stem = path.name.partition(".")[0]
        if path.suffix == spool.HEAD_SUFFIX:
            heads[path.stem] = path
        elif path.suffix == spool.SEGMENT_SUFFIX:
            segments.append((stem, path))
        with contextlib.suppress(FileNotFoundError):
            sizes[stem] += path.lstat().st_blocks * 512
    return list(heads.values()), sizes, sorted(path for stem, path in segments if stem not in heads)


def _look(path: Path, size: int, stored: Callable[[bytes], int | None], now_ns: int) -> Waiting:
    owner, page, why = _owner(path)
    if page is None:
        return Waiting(journal=path.stem, owner=owner, bytes=size, why=why)
    try:
        head = records.decode_head(page)
    except CorruptJournal as error:
        return Waiting(journal=path.stem, owner="unreadable", bytes=size, why=str(error))
    counts = dict(zip(records.LEDGER, records.decode_ledger(page), strict=True))
    return Waiting(
        journal=path.stem,
        owner=owner,
        pid=head.pid,
        age_s=max(0, (now_ns - head.created_at_ns) // 1_000_000_000),
        bytes=size,
        attempted=counts["attempted"],
        refused=sum(count for name, count in counts.items() if name.startswith(("rejected.", "dropped."))),
        stored=stored(head.producer),
    )


def _owner(path: Path) -> tuple[Owner, bytes | None, str]:
    """Whether a journal's owner lives, its first page, and why it cannot be read."""
    try:
        with spool.opened(path) as fd:
            return "ended" if spool.lock(fd) else "alive", os.pread(fd, records.HEAD_BYTES, 0), ""
    except FileNotFoundError:
        return "gone", None, ""
    except (CorruptJournal, OSError) as error:
        return "unreadable", None, str(error)


def _stored(db_path: Path, stack: contextlib.ExitStack) -> Callable[[bytes], int | None]:
    """How to ask a database for the events it has of a producer; None where there is none to ask."""
    try:
        db = stack.enter_context(contextlib.closing(open_reader(db_path)))
        db.execute(_RECORDS, (b"",))
    except sqlite3.Error:
        return lambda _: None

    def stored(producer: bytes) -> int | None:
        row = db.execute(_RECORDS, (producer,)).fetchone()
        return 0 if row is None else int(row[0])

    return stored
