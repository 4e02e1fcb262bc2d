"""The shipper: the background thread that carries a journal's records to the daemon and frees what is committed.

It keeps at most WINDOW_BYTES unacknowledged. What it sent and what was acknowledged are two offsets; a timeout, a new
socket or a rewind just moves the first back. It sleeps when all is acknowledged, and while no daemon is there.
"""

import contextlib
import time
from collections.abc import Callable
from typing import Any, Final

from . import faults, wire
from .connection import Connection, load_zmq
from .errors import SkillmeterError, WireError
from .journal import Journal, Piece
from .logs import logger
from .native import Bell, load, start_thread

START_DELAY_S: Final = 0.1  # a process that ends before is spared the import of zmq; the daemon takes its journal
GATHER_S: Final = 0.01  # after a quiet time, wait for more events before the first batch
BATCH_BYTES: Final = 128 * 1024  # bounds what a daemon with many clients has in memory
WINDOW_BYTES: Final = 1024 * 1024
ACK_TIMEOUT_S: Final = 2.0  # a commit takes milliseconds; a slow disk, a second
MAX_ACK_TIMEOUT_S: Final = 10.0
RENEW_S: Final = 15.0  # a socket that may have given up; whoever adds our key to the daemon's waits no longer
RETRY_S: Final = 1.0  # after an error of the operating system, such as no descriptors left


class Shipper:
    """Carries one journal. The thread started by `start` owns the socket; others only wake it."""

    def __init__(self, journal: Journal, connection: Connection) -> None:
        """Raises OSError if there are no descriptors left."""
        self.acked = 0
        """The offset up to which the daemon has committed."""
        self.acked_ledger: tuple[int, ...] = ()
        """The ledger that the daemon has committed."""
        self.running = True
        """Whether the thread may still do something."""
        self._journal = journal
        self._connection = connection
        self._stopping = False
        self._hurry = False
        self._sent = 0
        self._in_flight: list[tuple[int, tuple[int, ...]]] = []  # (end offset, ledger) of each batch, oldest first
        self._known = (0, 0)  # the highest offset ever acknowledged, and how many events there were before it
        self._lost = 0  # to be declared by the batch that continues `_lost_from`
        self._lost_from = -1
        self._failures = 0
        self._progress_at_s = 0.0
        self._renew_at_s = 0.0
        self._bell = Bell()

    def start(self) -> None:
        """Start the thread. Raises RuntimeError where no thread can be started."""
        self._journal.wake = self.wake
        try:
            start_thread(self._run)
        except BaseException:
            self.running = False
            raise

    def wake(self) -> None:
        """There is something to do. Never raises or blocks; safe in a signal handler."""
        self._journal.idle = False
        self._bell.ring()

    def hurry(self) -> None:
        """Send now, without waiting for more."""
        self._hurry = True
        self.wake()

    def stop(self) -> None:
        """Ask the thread to end; `running` tells when it has."""
        self._stopping = True
        self.wake()

    def close(self) -> None:
        """Give the descriptors back; only when the thread has ended or was never started, or in a forked child.
        Idempotent."""
        self._bell.close()

    @property
    def settled(self) -> bool:
        """Whether the daemon has committed everything, the ledger too."""
        return self.acked >= self._journal.end and self.acked_ledger == self._journal.ledger.snapshot()

    # The thread.

    def _run(self) -> None:
        try:
            self._wait_without_zmq(START_DELAY_S)
            while not self._stopping:
                self._attempt(self._ship)
        except Exception:  # the top of the thread: the journal keeps everything, but somebody must hear of it
            if self._stopping:
                return  # the journal may have been closed meanwhile
            logger().exception("the shipper has stopped; what this process records stays in its journal")
        finally:
            self.running = False
            if self._stopping:  # who stopped it may not have waited so long
                self._bell.close()

    def _attempt(self, ship: Callable[[], None]) -> None:
        """Run until the socket has to be replaced; wait a while after an error that may pass."""
        try:
            zmq = load_zmq()
        except OSError:
            self._wait_without_zmq(RETRY_S)
            return
        try:
            ship()
        except (OSError, zmq.ZMQError) as error:
            with contextlib.suppress(OSError, ImportError):  # which is imported for this, perhaps without descriptors
                logger().debug("shipping is interrupted: %s", error)
            self._wait_without_zmq(RETRY_S)
        except SkillmeterError:
            if not self._stopping:
                raise

    def _wait_without_zmq(self, timeout_s: float) -> None:
        deadline_s = time.monotonic() + timeout_s
        while not (self._stopping or self._hurry) and (left_s := deadline_s - time.monotonic()) > 0:
            self._bell.wait(left_s)

    def _ship(self) -> None:
        """Serve one socket until it is to be replaced by a new one, or the thread is to stop."""
        zmq = load("zmq")
        socket = self._connection.dealer()
        poller = zmq.Poller()
        poller.register(self._bell.fileno(), zmq.POLLIN)
        poller.register(socket, zmq.POLLIN)
        self._go_back(self.acked)
        self._renew_at_s = time.monotonic() + RENEW_S
        try:
            while not self._stopping:
                self._journal.tidy()
                waits_for_daemon = not self._send_all(socket)
                if not waits_for_daemon:
                    self._renew_at_s = time.monotonic() + RENEW_S
                poller.modify(socket, zmq.POLLIN | (zmq.POLLOUT if waits_for_daemon else 0))
                timeout_ms = self._timeout_ms(waits_for_daemon)
                ready = dict(poller.poll(timeout_ms))
                if self._bell.fileno() in ready:
                    self._bell.silence()
                    if self._quiet() and not self._hurry:
                        self._wait_without_zmq(GATHER_S)
                if ready.get(socket, 0) & zmq.POLLIN:
                    self._receive_all(socket)
                elif self._in_flight and time.monotonic() >= self._ack_deadline_s():
                    self._failures += 1
                    return
                elif self._connection.gives_up and time.monotonic() >= self._renew_at_s:
                    return
        finally:
            self._journal.idle = False
            self._connection.hang_up(socket)

    def _timeout_ms(self, waits_for_daemon: bool) -> int | None:
        """How long to sleep, at most; None: until something happens."""
        if self._in_flight:
            return max(0, int((self._ack_deadline_s() - time.monotonic()) * 1000) + 1)
        if waits_for_daemon and self._connection.gives_up:
            return max(0, int((self._renew_at_s - time.monotonic()) * 1000) + 1)
        if waits_for_daemon:
            return None  # POLLOUT comes when a daemon is there; a journal that rolls wakes us to prepare a segment
        self._journal.idle = True
        return 0 if self._has_more() else None  # look again: an append may have come before `idle` was seen

    def _quiet(self) -> bool:
        return not self._in_flight

    def _has_more(self) -> bool:
        return self._sent < self._journal.end or self.acked_ledger != self._journal.ledger.snapshot()

    # Sending.

    def _send_all(self, socket: Any) -> bool:
        """Send what the window allows. False: the socket takes nothing now, there is no daemon or it is busy."""
        while self._sent - self.acked < WINDOW_BYTES:
            piece = self._journal.read(self._sent, BATCH_BYTES)
            ledger = self._journal.ledger.snapshot()
            if piece is None:
                if self._in_flight or (ledger == self.acked_ledger and self._lost_from < 0):
                    return True
                piece = Piece(self._sent, max(self._sent, self._journal.kept_from), b"")  # the ledger, or a loss, alone
            elif self._in_flight and len(piece.body) < BATCH_BYTES // 4:
                return True  # small, and the daemon is at work: let it grow until the next acknowledgement
            if not self._send(socket, piece, ledger):
                return False
            if not piece.body:
                return True
        return True

    def _send(self, socket: Any, piece: Piece, ledger: tuple[int, ...]) -> bool:
        zmq = load("zmq")
        lost = self._lost if piece.continues == self._lost_from else 0
        batch = wire.Batch(self._journal.producer, piece.continues, piece.start, list(ledger), lost)
        faults.point("shipper.before_send")
        try:
            socket.send_multipart(wire.encode(batch, piece.body), zmq.NOBLOCK)
        except zmq.Again:
            return False
        faults.point("shipper.after_send")
        if not self._in_flight:
            self._progress_at_s = time.monotonic()
        self._sent = piece.end
        self._in_flight.append((piece.end, ledger))
        return True

    # Receiving.

    def _receive_all(self, socket: Any) -> None:
        zmq = load("zmq")
        while True:
            try:
                frames = socket.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                return
            try:
                self._receive(wire.decode_to_client(frames))
            except WireError as error:
                logger().warning(
                    "the daemon at %s sent what this client cannot read: %s", self._connection.endpoint, error
                )

    def _receive(self, message: wire.ToClient) -> None:
        if isinstance(message, wire.Refusal):
            logger().warning("the daemon at %s refuses: %s", self._connection.endpoint, message.reason)
        elif isinstance(message, wire.Response) or message.producer != self._journal.producer:
            return
        elif isinstance(message, wire.Ack):
            self._acknowledge(message)
        else:
            self._rewind(message)

    def _acknowledge(self, ack: wire.Ack) -> None:
        if ack.offset < self.acked:
            return  # an old one, from before a rewind
        self._progress()
        self.acked = ack.offset
        while self._in_flight and self._in_flight[0][0] <= ack.offset:
            self.acked_ledger = self._in_flight.pop(0)[1]
            self._lost_from = -1
        self._known = max(self._known, (ack.offset, ack.events))
        self._journal.free(ack.offset)
        if not self._has_more():
            self._hurry = False

    def _rewind(self, rewind: wire.Rewind) -> None:
        """The daemon has less than we sent from: go back, and declare what we no longer have."""
        self._progress()
        kept_from = self._journal.kept_from
        if rewind.offset < kept_from:
            counted_to, events = self._known
            gone = events - self._journal.records_between(kept_from, counted_to)
            self._lost, self._lost_from = max(0, gone - rewind.events), rewind.offset
            logger().warning("the daemon has forgotten %d events that it had acknowledged", self._lost)
        self.acked = min(self.acked, rewind.offset)
        self._go_back(rewind.offset)

    def _progress(self) -> None:
        self._failures = 0
        self._progress_at_s = time.monotonic()

    def _go_back(self, offset: int) -> None:
        self._sent = offset
        self._in_flight.clear()

    def _ack_deadline_s(self) -> float:
        timeout_s = min(ACK_TIMEOUT_S * (1 << min(self._failures, 8)), MAX_ACK_TIMEOUT_S)
        return self._progress_at_s + timeout_s * self._jitter()

    def _jitter(self) -> float:
        """Between 1 and 1.25, the same until the next failure: it spreads clients that lost their daemon at once."""
        return 1 + (hash((id(self), self._failures)) & 0xFF) / 1024
