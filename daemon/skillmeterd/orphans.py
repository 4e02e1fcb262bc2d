"""Orphans: the journals of dead processes are found, committed from their offset, and deleted.

The owner holds a lock on its head for life; who gets that lock knows that the owner is dead, and keeps everybody else
out. Its segments are listed only then, when no more can come. Each journal is read segment by segment into chunks, many
journals into one transaction. Files are deleted after the commit, the head last: whatever is killed in between, the
offset in SQLite says what is already there. Batches that the owner sent may still arrive meanwhile and move that
offset; the store then refuses our next chunk, and the journal is read anew.
"""

import contextlib
import errno
import logging
import os
import resource
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from skillmeter import faults, records
from skillmeter.errors import CorruptJournal

from . import spool
from .errors import StaleChunks, StoreReplaced
from .intake import INTAKE_BYTES, pick
from .quarantine import Quarantine
from .store import Chunk, Store

log = logging.getLogger(__name__)

MAX_OPEN: Final = 128  # journals in one transaction, each with a descriptor that holds its lock
MAX_RECORD_BYTES: Final = records.RECORD_HEADER_BYTES + records.MAX_PAYLOAD_BYTES
RECORD_BYTES: Final = 64  # that a record takes in memory besides its payload, which may be a single byte
OPEN_SHARE: Final = 8  # of all descriptors that we may have, at most this part; clients need the others


@dataclass(slots=True)
class Adopted:
    """A dead producer's journal, its lock held by us."""

    path: Path
    fd: int
    producer: bytes
    ledger: tuple[int, ...]
    segments: list[Path]
    chunks: Iterator[Chunk] = field(default_factory=lambda: iter(()))
    set_aside: int = 0
    """Segments that could not be read."""


@dataclass(frozen=True, slots=True)
class Part:
    """A file of a journal: its records begin at byte `start`, with offset `base`."""

    index: int
    path: Path
    start: int
    base: int


class Orphans:
    """Takes turns with serving: `step` does a bounded piece of work. Owned by the ingest thread."""

    def __init__(self, spool_dir: Path, store: Store, quarantine: Quarantine) -> None:
        self.recovered = 0
        """Journals taken over since the start."""
        self._spool_dir = spool_dir
        self._store = store
        self._quarantine = quarantine
        self._max_open = max(1, min(MAX_OPEN, resource.getrlimit(resource.RLIMIT_NOFILE)[0] // OPEN_SHARE))
        self._heads: list[Path] = []
        self._open: list[Adopted] = []
        self._left: set[str] = set()  # said once, then passed over in silence

    @property
    def pending(self) -> int:
        """Journals still to be looked at in this round."""
        return len(self._heads) + len(self._open)

    def look(self) -> None:
        """Start a round: list the spool. Raises OSError."""
        self._heads = [path for path in spool.entries(self._spool_dir) if path.suffix == spool.HEAD_SUFFIX]

    def step(self) -> bool:
        """Commit and delete a bounded number of orphans. False: this round is done.

        Raises StoreUnavailable or OSError, which ends the round; journals stay as they are, for the next one to find.
        """
        try:
            if not self._open:
                self._adopt_some()
            chunks = self._read_some()
            if chunks:
                self._store.commit(chunks)
                faults.point("orphans.committed")
            self._delete_finished(chunks)
        except StaleChunks as error:
            self.release()
            if isinstance(error, StoreReplaced):
                raise
            log.info("orphans are read anew", extra={"why": str(error)})
        except BaseException:
            self.release()
            self._heads.clear()  # the round is over, so that nobody tries again at once
            raise
        return self.pending > 0

    def release(self) -> None:
        """Let go of every lock."""
        for adopted in self._open:
            os.close(adopted.fd)
        self._open.clear()

    # Adopting.

    def _adopt_some(self) -> None:
        locked = self._lock_some()
        try:
            segments = self._segments_of({path.stem for path, _ in locked}) if locked else {}
            while locked:
                path, fd = locked.pop()
                adopted = None
                try:
                    faults.point("orphans.adopted")
                    adopted = self._read_head(path, fd, segments[path.stem])
                except OSError as error:
                    self._leave(path, str(error))
                finally:
                    if adopted is None:
                        os.close(fd)
                if adopted is not None:
                    adopted.chunks = self._chunks(adopted)
                    self._open.append(adopted)
        finally:
            for _, fd in locked:
                os.close(fd)

    def _lock_some(self) -> list[tuple[Path, int]]:
        """Heads whose owners are dead, with the descriptors that hold their locks. Raises OSError."""
        locked: list[tuple[Path, int]] = []
        spare = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)  # what is locked will have to be read, too
        try:
            while self._heads and len(locked) < self._max_open:
                path = self._heads.pop()
                try:
                    fd = self._lock_head(path)
                except OSError as error:
                    if error.errno not in (errno.EMFILE, errno.ENFILE):
                        self._leave(path, str(error))
                        continue
                    if not locked:
                        raise
                    self._heads.append(path)
                    break
                if fd is not None:
                    locked.append((path, fd))
        finally:
            os.close(spare)
        return locked

    def _lock_head(self, path: Path) -> int | None:
        """A descriptor that holds the lock, if the owner is dead. Raises OSError."""
        try:
            fd = spool.open_regular(path)
        except FileNotFoundError:
            return None
        if fd is None:
            self._leave(path, spool.NOT_OURS)
            return None
        mine = False
        try:
            mine = spool.lock(fd) and spool.is_linked(fd, path)
        finally:
            if not mine:
                os.close(fd)
        return fd if mine else None

    def _segments_of(self, stems: set[str]) -> dict[str, list[Path]]:
        """The segments of dead owners, by the stem of their names. Raises OSError."""
        found: dict[str, list[Path]] = {stem: [] for stem in stems}
        for path in spool.entries(self._spool_dir):
            stem = path.name.partition(".")[0]
            if path.suffix == spool.SEGMENT_SUFFIX and stem in stems:
                found[stem].append(path)
        return found

    def _read_head(self, path: Path, fd: int, segments: list[Path]) -> Adopted | None:
        """The journal, if it can be read. Raises OSError."""
        page = os.pread(fd, records.HEAD_BYTES, 0)
        try:
            head = records.decode_head(page)
            if head.producer.hex() != path.stem:
                raise CorruptJournal("the name is another producer's")
        except CorruptJournal as error:
            if not segments and not spool.has_content(fd):
                os.unlink(path)  # its writer was killed before it wrote the header, and so before any record
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
                    size += sum(map(len, chunk.payloads)) + RECORD_BYTES * len(chunk.payloads)
                    if size >= INTAKE_BYTES:
                        return chunks
            except (
                OSError,
                CorruptJournal,
            ) as error:  # what was read of it may be committed; the rest is tried again in the next round
                self._leave(adopted.path, str(error))
                self._open.remove(adopted)
                os.close(adopted.fd)
        return chunks

    def _chunks(self, adopted: Adopted) -> Iterator[Chunk]:
        """What is not committed yet of a journal, a chunk for each segment; the last one finishes the producer.

        Raises OSError, CorruptJournal.
        """
        at = self._store.committed(adopted.producer).offset
        parts = self._parts(adopted)
        lost = 0
        previous_index = previous_end = 0
        for part in parts:
            data = spool.read_file(part.path, part.start)
            if _lacks_records(at, previous_end, part.index - previous_index - 1, part.base) and not adopted.set_aside:
                lost = 1  # at least: the rest of what is missing has the same cause, see outcomes.py
                log.warning("segments are gone that were not committed", extra={"journal": adopted.path.name})
            previous_index, previous_end = part.index, part.base + len(data)
            if previous_end > at:
                chunk = self._chunk(adopted, data, part.base, at, sealed=part is not parts[-1])
                at = chunk.committed
                yield chunk
        last = Chunk(adopted.producer, at, [], [], adopted.ledger, continues=at, finished=True)
        last.corrupt, last.lost = adopted.set_aside, lost
        yield last

    def _chunk(self, adopted: Adopted, data: bytes, base: int, at: int, *, sealed: bool) -> Chunk:
        scan = records.scan(data, sealed=sealed)
        offsets, payloads = pick(scan, base, at)
        committed = max(at, base + scan.end)
        chunk = Chunk(adopted.producer, committed, offsets, payloads, adopted.ledger, continues=at)
        for first, last in scan.corrupt:
            if base + first >= at:
                chunk.corrupt += 1
                self._quarantine.keep(adopted.producer, base + first, data[first:last])
        if chunk.corrupt:  # one line a file, however many places it has
            log.warning("set damaged bytes aside", extra={"journal": adopted.path.name, "places": chunk.corrupt})
        return chunk

    def _parts(self, adopted: Adopted) -> list[Part]:
        """The parts of a journal in their order: the head, and the segments that hold records. Raises OSError."""
        by_index = {0: Part(0, adopted.path, records.HEAD_BYTES, 0)}
        for path in sorted(adopted.segments):
            header = self._segment_header(adopted, path)
            if header is None:
                continue
            if header.index in by_index:  # two threads made one each; the one that lost the race is empty
                self._set_aside([path], "a second segment of this index")
                adopted.set_aside += 1
            else:
                by_index[header.index] = Part(header.index, path, records.SEGMENT_HEADER_BYTES, header.base)
        return [part for _, part in sorted(by_index.items())]

    def _segment_header(self, adopted: Adopted, path: Path) -> records.SegmentHeader | None:
        """The header, if the segment holds records. What is not a segment is set aside. Raises OSError."""
        try:
            with spool.opened(path) as fd:
                if not spool.has_content(fd, records.SEGMENT_HEADER_BYTES):
                    return None
                header = records.decode_segment_header(os.pread(fd, records.SEGMENT_HEADER_BYTES, 0))
                if header.producer != adopted.producer or not header.index:
                    raise CorruptJournal("a segment of another producer")
                return header
        except FileNotFoundError:
            return None
        except CorruptJournal as error:
            self._set_aside([path], str(error))
            adopted.set_aside += 1
            return None

    # Ending.

    def _delete_finished(self, chunks: list[Chunk]) -> None:
        finished = {chunk.producer for chunk in chunks if chunk.finished}
        for adopted in [adopted for adopted in self._open if adopted.producer in finished]:
            self._open.remove(adopted)
            try:
                _delete(adopted)
                self.recovered += 1
            except OSError as error:
                self._leave(adopted.path, str(error))
            finally:
                os.close(adopted.fd)

    def _set_aside(self, paths: list[Path], why: str) -> None:
        for path in paths:
            with contextlib.suppress(FileNotFoundError):
                target = self._quarantine.move(path)
                log.warning("set aside what is no journal of ours", extra={"file": str(target), "why": why})

    def _leave(self, path: Path, why: str) -> None:
        if path.name not in self._left and len(self._left) < 10_000:
            self._left.add(path.name)
            log.warning("left alone in the spool", extra={"file": str(path), "why": why})


def _lacks_records(committed: int, end: int, missing: int, base: int) -> bool:
    """Whether records behind `committed` were in the `missing` segments between one that ends at `end` and one that
    begins at `base`. What a segment leaves free at its end is less than the record that did not fit."""
    if missing <= 0:  # the head itself has none before it
        return False
    capacity = (base - end) // missing
    return committed <= base - min(capacity, MAX_RECORD_BYTES)


def _delete(adopted: Adopted) -> None:
    """Delete the files of a journal that is committed, the head last. Raises OSError."""
    faults.point("orphans.before_unlink")
    for path in adopted.segments:
        path.unlink(missing_ok=True)  # what was set aside is there no longer
    faults.point("orphans.unlinked_segments")
    adopted.path.unlink(missing_ok=True)
    faults.point("orphans.after_unlink")
