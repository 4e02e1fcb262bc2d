"""Orphans: the journals of dead processes are found, committed from their offset, and deleted.

The owner holds a lock on its head for life; who gets that lock knows that the owner is dead, and keeps everybody else
out. Each journal is read segment by segment into chunks, many journals into one transaction. Files are deleted after
the commit, the head last: whatever is killed in between, the offset in SQLite says what is already there.
"""

import contextlib
import fcntl
import logging
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from skillmeter import faults, records
from skillmeter.errors import CorruptJournal

from .intake import INTAKE_BYTES, pick
from .quarantine import Quarantine
from .store import Chunk, Store

log = logging.getLogger(__name__)

MAX_OPEN: Final = 128  # journals in one transaction, each with a descriptor that holds its lock
MAX_FILE_BYTES: Final = 256 * 1024 * 1024  # nothing of ours is larger
HEAD_SUFFIX: Final = ".journal"
SEGMENT_SUFFIX: Final = ".seg"


@dataclass(slots=True)
class Adopted:
    """A dead producer's journal, its lock held by us."""

    path: Path
    fd: int
    producer: bytes
    ledger: tuple[int, ...]
    segments: list[Path]
    chunks: Iterator[Chunk] = field(default_factory=lambda: iter(()))


class Orphans:
    """Takes turns with serving: `step` does a bounded piece of work. Owned by the ingest thread."""

    def __init__(self, spool_dir: Path, store: Store, quarantine: Quarantine) -> None:
        self.recovered = 0
        """Journals taken over since the start."""
        self._spool_dir = spool_dir
        self._store = store
        self._quarantine = quarantine
        self._heads: list[Path] = []
        self._segments: dict[str, list[Path]] = {}
        self._open: list[Adopted] = []
        self._left: set[str] = set()  # said once, then passed over in silence

    @property
    def pending(self) -> int:
        """Journals still to be looked at in this round."""
        return len(self._heads) + len(self._open)

    def look(self) -> None:
        """Start a round: list the spool. A spool that is not there has no orphans."""
        self._heads, self._segments = [], {}
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            for entry in os.scandir(self._spool_dir):
                stem, _, suffix = entry.name.rpartition(".")
                if f".{suffix}" == HEAD_SUFFIX:
                    self._heads.append(self._spool_dir / entry.name)
                elif f".{suffix}" == SEGMENT_SUFFIX:
                    self._segments.setdefault(stem.partition(".")[0], []).append(self._spool_dir / entry.name)

    def step(self) -> bool:
        """Commit and delete a bounded number of orphans. False: this round is done.

        Raises StoreUnavailable; the journals stay as they are then, and are found again in the next round.
        """
        try:
            self._adopt_some()
            chunks = self._read_some()
            if chunks:
                self._store.commit(chunks)
                faults.point("orphans.committed")
            self._delete_finished(chunks)
        except BaseException:
            self.release()
            raise
        return self.pending > 0

    def release(self) -> None:
        """Let go of every lock."""
        for adopted in self._open:
            os.close(adopted.fd)
        self._open.clear()

    # Adopting.

    def _adopt_some(self) -> None:
        while self._heads and len(self._open) < MAX_OPEN:
            path = self._heads.pop()
            try:
                adopted = self._adopt(path)
            except OSError as error:
                self._leave(path, str(error))
                continue
            if adopted is not None:
                adopted.chunks = self._chunks(adopted)
                self._open.append(adopted)

    def _adopt(self, path: Path) -> Adopted | None:
        """The journal, if its owner is dead and it can be read. Raises OSError."""
        try:
            fd = _open_regular(path)
        except FileNotFoundError:
            return None
        if fd is None:
            self._leave(path, "not a regular file")
            return None
        adopted = None
        try:
            if _lock(fd) and _is_linked(fd, path):
                adopted = self._read_head(path, fd)
        finally:
            if adopted is None:
                os.close(fd)
        if adopted is not None:
            faults.point("orphans.adopted")
        return adopted

    def _read_head(self, path: Path, fd: int) -> Adopted | None:
        page = os.pread(fd, records.HEAD_BYTES, 0)
        segments = self._segments.get(path.stem, [])
        try:
            head = records.decode_head(page)
            if head.producer.hex() != path.stem:
                raise CorruptJournal("the name is another producer's")
        except CorruptJournal as error:
            if not _has_content(fd):  # its writer was killed before it wrote the header, and so before any record
                os.unlink(path)
            elif page[:8] == records.HEAD_MAGIC and page[8:10] != records.VERSION.to_bytes(2, "little"):
                self._leave(path, str(error))  # for a newer daemon
            else:
                self._set_aside([*segments, path], str(error))
            return None
        return Adopted(path, fd, head.producer, records.decode_ledger(page), segments)

    # Reading.

    def _read_some(self) -> list[Chunk]:
        """Chunks for one transaction."""
        chunks: list[Chunk] = []
        size = 0
        for adopted in self._open.copy():
            try:
                for chunk in adopted.chunks:
                    chunks.append(chunk)
                    size += sum(map(len, chunk.payloads))
                    if size >= INTAKE_BYTES:
                        return chunks
            except OSError as error:  # what was read of it may be committed; the rest is tried again in the next round
                self._leave(adopted.path, str(error))
                self._open.remove(adopted)
                os.close(adopted.fd)
        return chunks

    def _chunks(self, adopted: Adopted) -> Iterator[Chunk]:
        """What is not committed yet of a journal, a chunk for each segment; the last one finishes the producer.

        Raises OSError.
        """
        at = self._store.committed(adopted.producer).offset
        parts = list(self._parts(adopted))
        while len(parts) > 1 and _is_blank(parts[-1][0]):
            parts.pop()  # prepared, but nobody wrote to it: so the one before may end in a torn record
        for path, start, base in parts:
            data = _read_file(path)[start:]
            if base + len(data) > at:
                chunk = self._chunk(adopted, data, base, at, sealed=path != parts[-1][0])
                at = chunk.committed
                yield chunk
        yield Chunk(adopted.producer, at, [], [], adopted.ledger, finished=True)

    def _chunk(self, adopted: Adopted, data: bytes, base: int, at: int, *, sealed: bool) -> Chunk:
        scan = records.scan(data, sealed=sealed)
        offsets, payloads = pick(scan, base, at)
        committed = max(at, base + scan.end)
        chunk = Chunk(adopted.producer, committed, offsets, payloads, adopted.ledger)
        for first, last in scan.corrupt:
            if base + first >= at:
                chunk.corrupt += 1
                self._quarantine.keep(adopted.producer, base + first, data[first:last])
                log.warning("set damaged bytes aside", extra={"journal": adopted.path.name, "offset": base + first})
        return chunk

    def _parts(self, adopted: Adopted) -> Iterator[tuple[Path, int, int]]:
        """Path, first record's position and base of each segment, in order, the head first."""
        yield adopted.path, records.HEAD_BYTES, 0
        by_index: dict[int, tuple[Path, int]] = {}
        for path in sorted(adopted.segments):
            header = self._segment_header(adopted, path)
            if header is None:
                continue
            if header.index in by_index:  # two threads made one each; the one that lost the race is empty
                if _is_blank(by_index[header.index][0]):
                    by_index[header.index] = (path, header.base)
                elif not _is_blank(path):
                    self._set_aside([path], "a second segment of this index")
                continue
            by_index[header.index] = (path, header.base)
        for _, (path, base) in sorted(by_index.items()):
            yield path, records.SEGMENT_HEADER_BYTES, base

    def _segment_header(self, adopted: Adopted, path: Path) -> records.SegmentHeader | None:
        try:
            fd = _open_regular(path)
            if fd is None:
                self._leave(path, "not a regular file")
                return None
            try:
                header = records.decode_segment_header(os.pread(fd, records.SEGMENT_HEADER_BYTES, 0))
                if header.producer != adopted.producer:
                    raise CorruptJournal("a segment of another producer")
                return header
            except CorruptJournal as error:
                if _has_content(fd):
                    self._set_aside([path], str(error))
                return None
            finally:
                os.close(fd)
        except FileNotFoundError:  # its owner freed it after we listed the folder, and died
            return None

    # Ending.

    def _delete_finished(self, chunks: list[Chunk]) -> None:
        finished = {chunk.producer for chunk in chunks if chunk.finished}
        for adopted in [adopted for adopted in self._open if adopted.producer in finished]:
            self._open.remove(adopted)
            faults.point("orphans.before_unlink")
            for path in adopted.segments:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(path)
            faults.point("orphans.unlinked_segments")
            os.unlink(adopted.path)
            os.close(adopted.fd)
            faults.point("orphans.after_unlink")
            self.recovered += 1

    def _set_aside(self, paths: list[Path], why: str) -> None:
        for path in paths:
            with contextlib.suppress(FileNotFoundError):
                target = self._quarantine.move(path)
                log.warning("set aside what is no journal of ours", extra={"file": str(target), "why": why})

    def _leave(self, path: Path, why: str) -> None:
        if path.name not in self._left and len(self._left) < 10_000:
            self._left.add(path.name)
            log.warning("left alone in the spool", extra={"file": str(path), "why": why})


def _open_regular(path: Path) -> int | None:
    """A descriptor, or None for what is not a regular file. Never follows a link, never waits for a FIFO."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        if isinstance(error, FileNotFoundError):
            raise
        if not stat.S_ISREG(os.lstat(path).st_mode):
            return None
        raise
    info = os.fstat(fd)
    if stat.S_ISREG(info.st_mode) and info.st_size <= MAX_FILE_BYTES:
        return fd
    os.close(fd)
    return None


def _lock(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _is_linked(fd: int, path: Path) -> bool:
    """Whether the locked file still is the one of that name: another daemon may have deleted it meanwhile."""
    try:
        return os.path.samestat(os.fstat(fd), os.lstat(path))
    except FileNotFoundError:
        return False


def _read_file(path: Path) -> bytes:
    fd = _open_regular(path)
    if fd is None:
        raise OSError(f"{path} is no regular file any more")
    with os.fdopen(fd, "rb") as file:
        return file.read()


def _has_content(fd: int) -> bool:
    """Whether a file holds anything but zeros."""
    at = 0
    while block := os.pread(fd, 1 << 20, at):
        if block.strip(b"\0"):
            return True
        at += len(block)
    return False


def _is_blank(path: Path) -> bool:
    """Whether a segment file has no byte behind its header."""
    return not _read_file(path)[records.SEGMENT_HEADER_BYTES :].strip(b"\0")
