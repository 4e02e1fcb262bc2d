"""The journal: this process's events on their way, in memory-mapped files; buffer, spool and retry queue in one.

The owner holds an flock on the head for its life. Segments form a chain: each knows its successor, and the current one
takes the appends. Rolling needs no lock and no owner: whoever finds the current segment full takes the successor (or
makes one; the first to attach its own wins), seals the full one and moves `current` on. Each step is one atomic
operation that may be repeated or interleaved with other threads and signal handlers at will: a stale `current` only
leads to a sealed segment, which leads on. (A lock here would deadlock in a signal handler; a second lane for calls
that find the first one busy loses or doubles events.) Without the GIL, `append` takes a lock after all; see gil.py.

`put` is the write of the current segment, and the short way. A forked child shares the mapping but not the write
position, so one append there would overwrite the parent's. Hence `put` is barred while a fork is under way; the long
way asks whose process it is, and hands what comes to a closed or inherited journal to its *heir*.

Who runs what: any thread appends and counts. The shipper's thread alone reads, frees and prepares segments ahead.
"""

import contextlib
import functools
import itertools
import mmap
import os
import struct
import time
import zlib
from collections.abc import Callable
from typing import Final

import msgspec

from . import faults, spool
from .errors import JournalError, came_between, meant_for_caller
from .gil import has_gil, one_at_a_time
from .ledger import Ledger
from .logs import logger
from .native import Depth
from .records import (
    HEAD_BYTES,
    RECORD_HEADER_BYTES,
    RECORD_MAGIC,
    SEGMENT_HEADER_BYTES,
    SegmentHeader,
    cut,
    encode_segment_header,
)
from .segment import Segment, create_file

HEAD_FILE_BYTES: Final = 64 * 1024  # a process that records once pays for this much
SEGMENT_FILE_BYTES: Final = 1024 * 1024  # about 15,000 events; making one takes 0.1 to 0.3 ms
MAX_NESTED: Final = 3  # handlers that interrupt each other while they make room; the next ones are refused
RETRY_S: Final = 0.1  # after a failed try to make a segment, drop without another for so long

_pack = struct.Struct("<IHH").pack
_crc32 = zlib.crc32

forks: list[None] = []
"""One for each fork under way in this process; appending and popping are atomic."""

_closed_map = mmap.mmap(-1, 1)
_closed_map.close()
_barred = _closed_map.write  # raises ValueError as a full segment does: from C, without a frame of its own


class Heir(msgspec.Struct, frozen=True):
    """Who takes what comes to a journal that was closed, or that belongs to the parent process."""

    accept: Callable[[bytes], bool]
    """As Journal.append."""
    count: Callable[[str], None]
    """As Journal.count."""


NO_HEIR: Final = Heir(lambda _: False, lambda _: None)


class Piece(msgspec.Struct, frozen=True):
    """Whole records from the journal: from offset `start`, following on all that ends at `continues`."""

    continues: int
    start: int
    body: bytes

    @property
    def end(self) -> int:
        """The offset behind the last record."""
        return self.start + len(self.body)


class Journal:
    """One producer's journal, held open by its owner. `append` may be called from anywhere, at any time."""

    def __init__(
        self,
        head: Segment,
        producer: bytes,
        ledger: Ledger,
        heir: Heir,
        *,
        max_bytes: int,
        segment_bytes: int,
        sync: bool,
    ):
        """Use `Journal.create`."""
        self.producer = producer
        self.ledger = ledger
        self.idle = False
        """Set by the shipper before it goes to sleep; an append then calls `wake`."""
        self.wake: Callable[[], None] = _nobody
        self.kept_from = 0
        """Everything before this offset is committed and freed."""
        self._heir = heir
        self._pid = os.getpid()
        self._head = self._oldest = self.current = head
        self._max_bytes = max_bytes
        self._segment_bytes = segment_bytes
        self._sync = sync
        self._file_numbers = itertools.count(1)
        self._making = Depth(MAX_NESTED)
        self._retry_at_s = 0.0
        self._retry_reason = ""
        self.attempted = ledger["attempted"]
        """Counts one attempt; ValueError once the journal is closed."""
        self.plain = not (sync or faults.ACTIVE) and has_gil()
        """Whether an append is `put` and `attempted`, and nothing more."""
        self.put: Callable[[bytes], int] = _barred
        """Appends a framed record, or raises ValueError: then `write` is the way."""
        self._aim(head)
        if faults.ACTIVE:
            self.append = self._append_with_faults  # type: ignore[method-assign]
        elif sync:
            self.append = self._append_and_sync  # type: ignore[method-assign]
        if not has_gil():
            self.append = one_at_a_time(self.append)  # type: ignore[method-assign]
            self.count = one_at_a_time(self.count)  # type: ignore[method-assign]

    @classmethod
    def create(
        cls,
        spool_dir: str,
        *,
        max_bytes: int,
        sync: bool = False,
        carried: Ledger | None = None,
        heir: Heir = NO_HEIR,
        head_bytes: int = HEAD_FILE_BYTES,
        segment_bytes: int = SEGMENT_FILE_BYTES,
    ) -> "Journal":
        """A new journal in `spool_dir`, which is made if it is missing; at most `max_bytes` on disk.

        `sync` makes each append wait for the disk. Raises JournalError. Call `noted` once it is where a forked child
        would find it, or `discard`.
        """
        spool.make(spool_dir)
        while True:
            producer = os.urandom(16)
            head = spool.create_head(f"{spool_dir}/{producer.hex()}.journal", producer, head_bytes)
            if head is not None:
                break
        try:
            faults.point("journal.created")
            if sync:
                spool.sync_folder(spool_dir)
            ledger = Ledger(head.page, carried=carried)
            return cls(head, producer, ledger, heir, max_bytes=max_bytes, segment_bytes=segment_bytes, sync=sync)
        except BaseException:  # a handler's timeout, too, leaves nothing behind
            head.discard()
            spool.unfinished.discard(os.path.basename(head.path))
            raise

    def noted(self) -> None:
        """Its owner knows of it."""
        spool.unfinished.discard(os.path.basename(self._head.path))

    def append(self, payload: bytes) -> bool:
        """Keep an event. True: it will be in SQLite exactly once. False: it was counted as dropped."""
        size = len(payload)
        try:
            record = _pack(_crc32(payload, size), size, RECORD_MAGIC) + payload
        except struct.error:
            self.count("dropped.too_large")
            return False
        return self.write(record)

    def write(self, record: bytes) -> bool:
        """Append a framed record; True and False as for `append`."""
        try:
            self.put(record)
        except ValueError as error:
            if came_between(error):
                raise
            return self._write_further_on(record)
        try:
            return self.kept()
        except RecursionError:  # the caller's stack has no room for that call
            return True

    def kept(self) -> bool:
        """Do what is left after a record was put, or a refusal counted: count the attempt, wake the shipper. True.

        Raises nothing of its own, but the call itself may: RecursionError, which undoes nothing.
        """
        try:
            self.attempted()
            if self.idle:
                self.wake()
        except ValueError as error:  # closed meanwhile; the daemon counts what it finds in the journal
            if came_between(error):
                raise
        except RecursionError:  # the caller's stack is full: the shipper will be woken by somebody else
            pass
        return True

    def count(self, name: str) -> None:
        """Count a call that was refused: `rejected.REASON` or `dropped.REASON` of records.LEDGER."""
        if os.getpid() != self._pid:
            self._heir.count(name)
            return
        try:
            self.ledger[name]()  # before the attempt: if a handler raises in between, nothing is pending for ever
        except ValueError as error:
            if came_between(error):
                raise
            self._heir.count(name)
        else:
            try:
                self.kept()
            except RecursionError:  # or it would be counted once more, as a fault
                pass

    def bar(self) -> None:
        """A fork is under way: nothing is to be appended by the short way. The next append lifts it."""
        self.put = _barred

    @property
    def end(self) -> int:
        """The offset behind the last record so far."""
        segment = self.current
        while segment.next is not None and segment.sealed:
            segment = segment.next
        return segment.end

    @property
    def disk_bytes(self) -> int:
        """Bytes that the files take."""
        return self._bytes_up_to(self.current.base + self.current.capacity)

    # The shipper's side: one thread.

    def read(self, offset: int, max_bytes: int) -> Piece | None:
        """The records from `offset` on, at most `max_bytes` unless one alone is larger; None: there are no more yet.

        `offset` is `kept_from` or the end of a record behind it. Raises OSError if a file cannot be read; one that
        somebody deleted is passed over, and its events come to light in the ledger as unfinished.
        """
        segment = self._oldest
        continues = offset
        while True:
            start = max(offset, segment.base)
            finished, end = segment.sealed, segment.end  # in this order: a segment grows until it is sealed
            if start < end:
                try:
                    body = segment.read(start, end)
                except FileNotFoundError:
                    logger().error("%s was deleted; the events in it that were not sent are lost", segment.path)
                    segment.lose(start)
                    continue
                return Piece(continues, start, body[: cut(body, max_bytes)])
            if not finished or segment.next is None:
                return None
            segment = segment.next

    def free(self, offset: int) -> None:
        """Everything before `offset` is committed: delete the segments that lie before it."""
        while self._oldest.sealed and self._oldest.next is not None and self._oldest.end <= offset:
            done, self._oldest = self._oldest, self._oldest.next
            self.kept_from = max(self.kept_from, done.end)
            if done is not self._head:  # its file holds the lock and the ledger
                faults.point("shipper.before_free")
                done.discard()
                faults.point("shipper.after_free")
        if self._oldest is not self._head:
            self._head.successors[0] = self._oldest  # or the head would keep all those in memory

    def records_between(self, offset: int, end: int) -> int:
        """How many records there are from `offset` to `end`, of those that are still kept."""
        count = 0
        while offset < end and (piece := self.read(offset, self._segment_bytes)) is not None:
            body = piece.body[: max(0, end - piece.start)]
            at = 0
            while at < len(body):
                at += RECORD_HEADER_BYTES + int.from_bytes(body[at + 4 : at + 6], "little")
                count += 1
            offset = piece.end
        return count

    def tidy(self) -> None:
        """Unmap what is sealed, and have the next segment ready before it is needed."""
        segment = self._oldest
        while segment is not self.current and segment.next is not None:
            if segment.sealed and segment is not self._head:
                segment.unmap()
            segment = segment.next
        if self.current.index or self.current.end - self.current.base > self.current.capacity // 2:
            with contextlib.suppress(JournalError):  # whoever needs it will try again, and count
                self._successor(self.current)

    def close(self) -> None:
        """Let go of the files; the daemon finds the lock free and takes what is not committed. Idempotent."""
        segment: Segment | None = self._oldest
        while segment is not None:
            segment.seal()
            segment.end_chain()
            if self._sync:
                with contextlib.suppress(OSError):
                    segment.sync()
            if segment is not self._head:
                segment.close()
            segment = segment.next
        self.ledger.close()
        self._head.close()  # last: with it goes the lock, and nothing can be appended any more
        self.noted()

    def close_copy(self) -> None:
        """In a forked child: close the copies of mappings and descriptors. The parent's lock is not touched by that."""
        self.put = _barred
        self.ledger.close()
        segment: Segment | None = self._oldest
        while segment is not None:
            segment.end_chain()
            segment.close()
            segment = segment.next
        self._head.close()

    def discard(self) -> None:
        """Delete a journal that was never used."""
        self.ledger.close()
        self._head.discard()
        self.noted()

    # Rolling.

    def _write_further_on(self, record: bytes) -> bool:
        """Append to the first segment from the current one on that has room. False: counted as dropped."""
        if os.getpid() != self._pid:
            return self._heir.accept(record[RECORD_HEADER_BYTES:])
        segment = self.current
        while True:
            try:
                segment.write(record)
            except ValueError as error:
                if came_between(error):
                    raise
            else:
                try:
                    self._aim(segment)
                    return self.kept()
                except RecursionError:  # as in `write`; a later call aims
                    return True
            try:
                following = self._successor(segment, len(record))
            except JournalError as error:
                if error.reason == "closed":
                    return self._heir.accept(record[RECORD_HEADER_BYTES:])
                self.count(f"dropped.{error.reason}")
                return False
            faults.point("journal.roll")
            segment.seal()
            faults.point("journal.sealed")
            self.current = segment = following
            self.wake()  # the shipper prepares the one after

    def _aim(self, segment: Segment) -> None:
        """Let the short way lead to a segment, if no fork is under way."""
        if not forks:
            self.put = segment.write
        if forks:
            self.put = _barred

    def _successor(self, segment: Segment, room: int = 0) -> Segment:
        """The segment after this one, made if need be, for a record of `room` bytes. Raises JournalError."""
        if room > self._segment_bytes - SEGMENT_HEADER_BYTES:
            raise JournalError("too_large", f"a record of {room} bytes; a segment holds fewer")
        if not segment.successors:
            candidate = self._create_segment(segment)
            segment.successors.append(candidate)
            if segment.next is not candidate:
                candidate.discard()
        if segment.next is None:
            raise JournalError("closed", "the journal is closed")
        return segment.next

    def _create_segment(self, before: Segment) -> Segment:
        base = before.base + before.capacity
        if self._bytes_up_to(base + self._segment_bytes) > self._max_bytes:
            raise JournalError("spool_full", f"the spool of this process has its {self._max_bytes} bytes")
        if time.monotonic() < self._retry_at_s:
            raise JournalError(self._retry_reason, "tried a moment ago")
        try:
            if not self._making.enter():
                raise JournalError("busy", "room is being made already")
            return self._make_segment(SegmentHeader(self.producer, before.index + 1, base))
        except JournalError as error:
            if error.reason != "busy":
                self._retry_reason = error.reason
                self._retry_at_s = time.monotonic() + RETRY_S
            raise
        finally:
            self._making.leave()

    def _bytes_up_to(self, offset: int) -> int:
        oldest, head = self._oldest, self._head
        return HEAD_BYTES + offset - oldest.base + (0 if oldest is head else head.capacity)  # the head's file stays

    def _make_segment(self, header: SegmentHeader) -> Segment:
        path = f"{os.path.splitext(self._head.path)[0]}.{next(self._file_numbers):08x}.seg"
        segment = Segment(
            path,
            create_file(path),
            self._segment_bytes,
            encode_segment_header(header),
            index=header.index,
            base=header.base,
            start=SEGMENT_HEADER_BYTES,
        )
        if not self._sync:
            segment.release_descriptor()
            return segment
        try:
            spool.sync_folder(os.path.dirname(path))
        except JournalError:
            segment.discard()
            raise
        return segment

    # Other kinds of append.

    def _append_and_sync(self, payload: bytes) -> bool:
        """Append, and wait for the disk. What the disk refuses is still delivered, so it stays True, counted."""
        first = self.current
        if not Journal.append(self, payload):
            return False
        # The record is in `first` or in a segment after it, at the latest the one that is current now.
        segment: Segment | None = first
        last = self.current
        while segment is not None:
            try:
                segment.sync()
            except OSError as error:
                if meant_for_caller(error):
                    raise
                self._count_failed_sync()
            segment = None if segment is last else segment.next
        return True

    def _count_failed_sync(self) -> None:
        try:
            self.ledger["sync_failed"]()
        except ValueError as error:  # closed meanwhile, which syncs too
            if came_between(error):
                raise

    def _append_with_faults(self, payload: bytes) -> bool:
        """Append, with a kill before, in the middle and after: for tests."""
        faults.point("journal.before_write")
        if faults.hit("journal.torn_write"):
            record = _pack(_crc32(payload, len(payload)), len(payload), RECORD_MAGIC) + payload
            with contextlib.suppress(ValueError):
                faults.die(functools.partial(self.current.write, record[: len(record) // 2]))
            faults.die()
        kept = self._append_and_sync(payload) if self._sync else Journal.append(self, payload)
        faults.point("journal.after_write")
        return kept


def _nobody() -> None:
    """Nobody is waiting to be woken."""
