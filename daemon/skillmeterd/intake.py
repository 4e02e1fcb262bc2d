"""Intake: batches on their way into one transaction, each held against its producer's committed offset.

Below the offset is a duplicate and skipped; at it, taken; above it a gap, and the client is told to rewind. This is the
half of exactly-once that the receiver decides; the other half is that the store keeps offsets and rows in one
transaction, and refuses a chunk that no longer continues what is committed. No IO, no clock.
"""

from collections.abc import Callable
from typing import Final

from skillmeter import records, wire

from .store import Chunk, Committed

INTAKE_BYTES: Final = 2 * 1024 * 1024
"""Enough that one fsync is small against the work (about 25,000 events), little enough for the memory."""


class Intake:
    """Chunks for one transaction."""

    def __init__(self, committed: Callable[[bytes], Committed]) -> None:
        """`committed` says what SQLite has of a producer."""
        self.chunks: list[Chunk] = []
        self.waiting: dict[bytes, set[bytes]] = {}
        """By producer, the ZeroMQ identities that wait for an acknowledgement."""
        self.corrupt: list[tuple[bytes, int, bytes]] = []
        """Spans to set aside: producer, offset, bytes."""
        self.duplicates = 0
        """Batches that held nothing new."""
        self._committed = committed
        self._reached: dict[bytes, Committed] = {}  # with these chunks
        self._bytes = 0

    @property
    def full(self) -> bool:
        """Whether it should be committed before anything is added."""
        return self._bytes >= INTAKE_BYTES

    def add(self, identity: bytes, batch: wire.Batch, body: bytes) -> wire.Rewind | None:
        """Take a batch, or say from where the client has to send again."""
        producer = batch.producer
        at, events = self._reached.get(producer) or self._committed(producer)
        lost_elsewhere = batch.lost and batch.continues < at < batch.start  # told to another database, which had less
        if batch.continues > at or lost_elsewhere:
            return wire.Rewind(producer, at, events)
        self.waiting.setdefault(producer, set()).add(identity)
        end = batch.start + len(body)
        self.duplicates += end <= at and bool(body)
        if end < at:
            return None  # all of it is committed, and a ledger from before is older too
        chunk = Chunk(producer, max(at, end), [], [], tuple(batch.ledger), continues=at)
        if batch.start > at:  # else the loss lies before what is committed, so it was counted with that
            chunk.lost = batch.lost
        self._fill(chunk, batch.start, body, at)
        self.chunks.append(chunk)
        self._reached[producer] = Committed(chunk.committed, events + len(chunk.payloads) + chunk.lost)
        self._bytes += len(body) + 256
        return None

    def _fill(self, chunk: Chunk, start: int, body: bytes, at: int) -> None:
        position = 0
        for end, payload in records.parse(body):
            if start + position >= at:
                chunk.offsets.append(start + position)
                chunk.payloads.append(payload)
            position = end
        if position < len(body):
            self._fill_damaged(chunk, start, body, at)

    def _fill_damaged(self, chunk: Chunk, start: int, body: bytes, at: int) -> None:
        """Take what can be read from bytes that are not all records; the rest is counted and set aside."""
        scan = records.scan(body, sealed=True)
        spans = scan.corrupt
        if scan.end < len(body):  # zeros, which end a segment but never a batch
            begin = spans.pop()[0] if spans and spans[-1][1] == scan.end else scan.end
            spans.append((begin, len(body)))
        chunk.offsets, chunk.payloads = pick(scan, start, at)
        for first, last in spans:
            if start + first >= at:
                chunk.corrupt += 1
                self.corrupt.append((chunk.producer, start + first, body[first:last]))


def pick(scan: records.Scan, start: int, at: int) -> tuple[list[int], list[bytes]]:
    """Offsets and payloads of the records from offset `at` on; `start` is the offset of the first byte scanned."""
    found = [
        (offset, payload)
        for end, payload in zip(scan.ends, scan.payloads, strict=True)
        if (offset := start + end - records.RECORD_HEADER_BYTES - len(payload)) >= at
    ]
    return [offset for offset, _ in found], [payload for _, payload in found]
