"""The carrier: takes a file's events to the daemon as one producer, with the offsets that make a repetition harmless.

The producer's id is a hash of the file's content: the same file is the same producer, and what the daemon has of it is
skipped. So an import is committed the way everything is, and one that was interrupted goes on where it was.
"""

import hashlib
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, Final

import zmq

from skillmeter import records, wire
from skillmeter.connection import Connection
from skillmeter.errors import DaemonUnavailable, WireError

from ..errors import DaemonError

FORMAT: Final = b"skillmeter import 1\n"  # another number when the same file would make other bytes
BATCH_BYTES: Final = 128 * 1024
WINDOW: Final = 4  # batches on their way: what the daemon's queue for one client holds
SILENCE_S: Final = 30.0
PROBE_S: Final = 2.0  # a commit takes milliseconds; then ask how far it is

Events = Iterable[tuple[bytes, bool]]
"""Of each its payload, and whether the database has it already, from elsewhere: it is not sent, and leaves a gap."""


def producer_of(path: Path) -> bytes:
    """The producer id of a file's content. Raises OSError."""
    digest = hashlib.sha256(FORMAT)
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.digest()[:16]


class _Forgotten(Exception):
    """The daemon may not have what was sent: it was ended, or takes long. Ask it, and go on from there."""


class Carrier:
    """Carries one producer's events over a connection that it owns. For the thread that makes it."""

    def __init__(self, connection: Connection, producer: bytes, silence_s: float = SILENCE_S) -> None:
        """Raises DaemonUnavailable."""
        self._producer = producer
        self._silence_s = silence_s
        self._endpoint = connection.endpoint
        self._connection = connection
        try:
            self._socket: Any = connection.dealer()
        except (OSError, zmq.ZMQError) as error:
            connection.close()
            raise DaemonUnavailable(f"cannot make a socket to {connection.endpoint}: {error}") from error

    def close(self) -> None:
        """Hang up. Once."""
        self._connection.hang_up(self._socket)
        self._connection.close()

    def committed(self) -> wire.Ack | wire.Rewind:
        """What the daemon has of this producer. Raises DaemonUnavailable."""
        while self._socket.poll(0):  # answers to batches that are given up
            self._socket.recv_multipart()
        self._send(wire.Batch(self._producer, 0, 0, []), b"")
        return self._answer()

    def carry(self, events: Callable[[], Events], on_progress: Callable[[int], None]) -> int:
        """Have the events committed that are not yet; returns how many were stored by this.

        `events` gives them from the first on, again after a daemon has ended with batches on their way. `on_progress`
        takes the number of this producer's that are committed. Raises DaemonUnavailable, DaemonError.
        """
        ack = self.committed()
        before, moved_s = ack.events, time.monotonic()
        while True:
            on_progress(ack.events)
            try:
                return self._carry(ack, events(), on_progress).events - before
            except _Forgotten:
                reached = self.committed()
            if reached.offset < ack.offset:
                raise DaemonError("the daemon's database was replaced meanwhile; run the same import again")
            if reached.offset > ack.offset:
                moved_s = time.monotonic()
            elif time.monotonic() - moved_s > self._silence_s:
                raise self._silent()
            ack = reached

    def _carry(
        self, ack: wire.Ack | wire.Rewind, events: Events, on_progress: Callable[[int], None]
    ) -> wire.Ack | wire.Rewind:
        """Send what is not committed and wait until it is. Raises _Forgotten when some of it has to be sent again."""
        sent, waiting = ack.offset, deque[int]()
        for start, body in batches(events):
            if start + len(body) <= ack.offset:
                continue
            self._send(wire.Batch(self._producer, min(start, sent), start, []), body)
            sent = start + len(body)
            waiting.append(sent)
            while len(waiting) >= WINDOW:
                ack = self._settle(waiting, on_progress)
        while waiting:
            ack = self._settle(waiting, on_progress)
        return ack

    def _settle(self, waiting: deque[int], on_progress: Callable[[int], None]) -> wire.Ack:
        if not self._socket.poll(int(PROBE_S * 1000)):
            raise _Forgotten
        answer = self._answer()
        if isinstance(answer, wire.Rewind) or answer.offset < waiting[0]:
            raise _Forgotten  # a gap: it began anew while batches were on their way
        while waiting and waiting[0] <= answer.offset:
            waiting.popleft()
        on_progress(answer.events)
        return answer

    def _send(self, batch: wire.Batch, body: bytes) -> None:
        if not self._socket.poll(int(self._silence_s * 1000), zmq.POLLOUT):
            raise self._silent()
        self._socket.send_multipart(wire.encode(batch, body), zmq.NOBLOCK)

    def _answer(self) -> wire.Ack | wire.Rewind:
        deadline_s = time.monotonic() + self._silence_s
        while self._socket.poll(max(0, int((deadline_s - time.monotonic()) * 1000))):
            try:
                answer = wire.decode_to_client(self._socket.recv_multipart())
            except WireError as error:
                raise DaemonUnavailable(f"the daemon at {self._endpoint} cannot be understood: {error}") from error
            if isinstance(answer, wire.Ack | wire.Rewind) and answer.producer == self._producer:
                return answer
            if isinstance(answer, wire.Refusal):
                raise DaemonUnavailable(f"the daemon at {self._endpoint} refuses: {answer.reason}")
        raise self._silent()

    def _silent(self) -> DaemonUnavailable:
        return DaemonUnavailable(
            f"no skillmeter daemon took events at {self._endpoint} within {self._silence_s:g} s; start one with "
            "`skillmeter run`, and run the same import again: it goes on where it was"
        )


def batches(events: Events) -> Iterator[tuple[int, bytes]]:
    """(offset, records) of each batch. An event has the same offset whichever of them are known."""
    parts: list[bytes] = []
    start = end = 0
    for payload, is_known in events:
        record = records.frame(payload)
        if parts and (is_known or end - start + len(record) > BATCH_BYTES):
            yield start, b"".join(parts)
            parts = []
        if not is_known:
            start = start if parts else end
            parts.append(record)
        end += len(record)
    if parts:
        yield start, b"".join(parts)
