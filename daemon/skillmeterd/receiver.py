"""The receiver: the ROUTER socket. Takes batches, has them committed as a group, and acknowledges after that.

One thread owns it, together with the store. Batches that come while the store is unavailable are forgotten unanswered
(the clients have them), except the group that failed: it is tried again until it is in, or until it no longer fits
what is committed.
"""

import contextlib
import logging
import os
import resource
import time
from pathlib import Path
from typing import Any, Final

import zmq

from skillmeter import faults, wire
from skillmeter.errors import WireError

from . import activation, door
from .answers import Answers
from .errors import StaleChunks, StoreUnavailable
from .gate import Gate, Keys
from .intake import Intake
from .quarantine import Quarantine
from .store import Store
from .vitals import Vitals

log = logging.getLogger(__name__)

HWM_MESSAGES: Final = 4  # per client: half a MiB of batches at most wait in memory for each
UNREAD_MESSAGES: Final = 16  # per client: acknowledgements of twice its window; an answer may have megabytes
MAX_SOCKETS: Final = 8192
MAX_MESSAGES: Final = 1024  # in one group: many small or bad ones must not keep the others from being committed
RETRY_S: Final = 0.5  # between tries of a group that could not be committed


class Receiver:
    """Serves one endpoint. Owned by the ingest thread."""

    def __init__(
        self, endpoint: str, store: Store, quarantine: Quarantine, vitals: Vitals, *, keys: Keys | None = None
    ) -> None:
        self.answers: Answers | None = None
        """Who answers questions; set before the first `serve`."""
        self._endpoint = endpoint
        self._store = store
        self._quarantine = quarantine
        self._vitals = vitals
        self._path: Path | None = None  # of the socket, once libzmq has bound it
        self._door: door.Door | None = None
        self._failed: Intake | None = None
        self._retry_at_s = 0.0
        self._context = zmq.Context(io_threads=1)
        self._context.set(zmq.MAX_SOCKETS, MAX_SOCKETS)
        self._socket = self._context.socket(zmq.ROUTER)
        self._socket.setsockopt(zmq.LINGER, 0)
        self._socket.setsockopt(zmq.RCVHWM, HWM_MESSAGES)
        self._socket.setsockopt(zmq.SNDHWM, UNREAD_MESSAGES)
        self._socket.setsockopt(zmq.MAXMSGSIZE, wire.MAX_BATCH_BYTES)
        self._socket.setsockopt(zmq.BACKLOG, 1024)
        self._gate = None if keys is None else Gate(self._socket, keys)
        self._wake_in, self._wake_out = os.pipe()
        os.set_blocking(self._wake_in, False)
        os.set_blocking(self._wake_out, False)
        self._poller = zmq.Poller()
        self._poller.register(self._socket, zmq.POLLIN)
        self._poller.register(self._wake_in, zmq.POLLIN)
        for waiting in self._gate.sockets if self._gate else ():
            self._poller.register(waiting, zmq.POLLIN)

    @property
    def endpoint(self) -> str:
        """Where it listens, with the port that was free if the setting said 0."""
        if self._door is not None:
            return self._endpoint
        return self._socket.getsockopt_string(zmq.LAST_ENDPOINT) or self._endpoint

    def bind(self) -> None:
        """Listen. Raises zmq.ZMQError, DaemonError or OSError. An ipc socket belongs to its owner, and to the group of
        a folder that has the set-group-id bit."""
        where = self._endpoint.removeprefix("ipc://")
        passed_fd = activation.inherited(where)  # raises if the endpoint is tcp: only a path can have been passed on
        if where == self._endpoint:
            self._socket.bind(self._endpoint)
            return
        path = Path(where)
        if passed_fd is not None:  # its mode is the service manager's affair, and so is its end
            self._socket.setsockopt(zmq.USE_FD, passed_fd)
            self._socket.bind(self._endpoint)
            return
        limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        if limit < door.FEW:
            self._door = door.Door(self._socket, path, limit)
            self._door.open()
            return
        with door.private():
            self._socket.bind(self._endpoint)
        self._path = path
        door.share_with_group(path)

    @property
    def retries(self) -> bool:
        """Whether a group waits for the store to work again."""
        return self._failed is not None

    def wake(self) -> None:
        """End the wait in `serve`. Any thread, and signal handlers."""
        with contextlib.suppress(OSError):
            os.write(self._wake_out, b"x")

    def serve(self, timeout_s: float) -> None:
        """Wait up to `timeout_s` seconds for messages, and see one group of them through."""
        if self._failed is not None:
            timeout_s = min(timeout_s, max(0.0, self._retry_at_s - time.monotonic()))
        ready = self._poll(timeout_s)
        if self._wake_in in ready:
            with contextlib.suppress(BlockingIOError):
                os.read(self._wake_in, 4096)
        if self._gate is not None:
            self._gate.turn()
            self._vitals.refused_connections = self._gate.refused
        self._send_answers()
        if self._failed is not None and time.monotonic() >= self._retry_at_s:
            self._commit(self._failed)
        if self._socket in ready:
            self._take()

    def close(self) -> None:
        """Stop listening. What clients have sent and was not acknowledged, they have."""
        if self._door is not None:
            self._door.close()
        self._socket.close(0)
        if self._gate is not None:
            self._gate.close()
        self._context.destroy(linger=0)
        if self._path is not None:
            self._path.unlink(missing_ok=True)  # libzmq leaves it; ours, since we hold the lock beside it
        for fd in (self._wake_in, self._wake_out):
            os.close(fd)

    def _poll(self, timeout_s: float) -> dict[Any, int]:
        """What there is to do, after at most so many seconds."""
        if self._door is not None:
            again_s = self._door.turn()
            if again_s is None:
                self._poller.register(self._door.fd, zmq.POLLIN)
            else:
                timeout_s = min(timeout_s, again_s)
        ready = dict(self._poller.poll(int(timeout_s * 1000)))
        if self._door is not None and self._door.fd in self._poller:
            self._poller.unregister(self._door.fd)
        return ready

    def _take(self) -> None:
        """Take messages until there is enough for a group, or no more."""
        intake = Intake(self._store.committed)
        for _ in range(MAX_MESSAGES):
            try:
                identity, *frames = self._socket.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                break
            try:
                self._dispatch(intake, identity, frames)
            except StoreUnavailable as error:
                self._vitals.store_failed(error)
            if intake.full:
                break
        faults.point("receiver.received")
        self._vitals.duplicates += intake.duplicates
        if intake.waiting:
            self._commit(intake)

    def _dispatch(self, intake: Intake, identity: bytes, frames: list[bytes]) -> None:
        try:
            message, body = wire.decode_to_daemon(frames)
        except WireError as error:
            self._vitals.refused_messages += 1
            self._send(identity, wire.Refusal(str(error)))
            return
        if isinstance(message, wire.Request):
            if self.answers is not None:
                self.answers.submit(identity, message)
                self._send_answers()
        elif self._failed is None:
            self._vitals.batches += 1
            rewind = intake.add(identity, message, body)
            if rewind is not None:
                self._vitals.rewinds += 1
                self._send(identity, rewind)

    def _commit(self, intake: Intake) -> None:
        """See a group through: commit, then acknowledge."""
        began_s = time.monotonic()
        self._failed = None
        try:
            if intake.chunks:
                self._count(self._store.commit(intake.chunks).stored, time.monotonic() - began_s)
        except StaleChunks as error:
            log.warning("clients have to send again", extra={"problem": str(error)})
            self._answer(intake, wire.Rewind)
        except StoreUnavailable as error:
            self._vitals.store_failed(error)
            self._failed, self._retry_at_s = intake, time.monotonic() + RETRY_S
        else:
            self._keep_corrupt(intake)
            faults.point("receiver.before_ack")
            self._answer(intake, wire.Ack)
            faults.point("receiver.after_ack")

    def _count(self, stored: int, seconds: float) -> None:
        self._vitals.store_worked()
        self._vitals.commits += 1
        self._vitals.events += stored
        self._vitals.commit_seconds += seconds
        self._vitals.last_commit_ns = time.time_ns()

    def _keep_corrupt(self, intake: Intake) -> None:
        if intake.corrupt:  # one line a group: a client can send damaged bytes all day
            producer, offset, _ = intake.corrupt[0]
            where = {"producer": producer.hex(), "offset": offset, "places": len(intake.corrupt)}
            log.warning("set damaged bytes aside", extra=where)
        for producer, offset, span in intake.corrupt:
            with contextlib.suppress(OSError):  # it is counted; the bytes are for a person's curiosity
                self._quarantine.keep(producer, offset, span)
        self._vitals.quarantined = self._quarantine.count

    def _answer(self, intake: Intake, kind: type[wire.Ack | wire.Rewind]) -> None:
        """Tell everybody who waits what is committed now. Who hears nothing, as the store failed, asks again."""
        try:
            for producer, identities in intake.waiting.items():
                known = self._store.committed(producer)
                for identity in identities:
                    self._send(identity, kind(producer, known.offset, known.events))
        except StoreUnavailable as error:
            self._vitals.store_failed(error)

    def _send_answers(self) -> None:
        for identity, frames in self.answers.finished() if self.answers else ():
            self._send_frames(identity, frames)

    def _send(self, identity: bytes, message: wire.ToClient) -> None:
        self._send_frames(identity, wire.encode(message))

    def _send_frames(self, identity: bytes, frames: list[bytes]) -> None:
        """Send, or let it be if the client is gone or does not read: it will ask again."""
        with contextlib.suppress(zmq.ZMQError):
            self._socket.send_multipart([identity, *frames], zmq.NOBLOCK)
