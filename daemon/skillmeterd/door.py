"""The door: lets connections to an ipc socket in only while there are descriptors for them.

libzmq ends the process when its accept() finds no descriptor left. So where few are allowed it never listens to the
socket's name: connections gather in a queue of ours, and libzmq is given a queue to accept from, which is at most QUEUE
connections. Before that the name goes to the next queue, by a rename, so that nobody can join the one that was given
away. It has to stay for as long as one of its connections does, as libzmq ends these with it. Without descriptors to
spare the door stays shut: who waits waits, and who finds the queue full tries again by himself.
"""

import contextlib
import os
import select
import socket
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import zmq
from zmq.utils.monitor import recv_monitor_message

FEW: Final = 16_384  # allowed descriptors; with more, so many connections do not happen, and libzmq may listen itself
QUEUE: Final = 8
SPARE: Final = 16  # descriptors for the database's readers, for orphans and for HTTP
LOOK_S: Final = 0.2  # between two looks for room while the door is shut
ACCEPT_S: Final = 0.002  # libzmq's thread accepts in far less
EVENTS: Final = zmq.EVENT_ACCEPTED | zmq.EVENT_DISCONNECTED


@dataclass(slots=True)
class Given:
    """A queue that libzmq accepts from: our hold on it until it is empty, and its connections."""

    queue: socket.socket | None
    accepted: int = 0
    ended: int = 0

    def is_empty(self) -> bool:
        """Whether all were accepted. Nobody can come later."""
        if self.queue is not None and not _has_somebody(self.queue):
            self.queue.close()
            self.queue = None
        return self.queue is None


class Door:
    """Listens for a ROUTER. Owned by its thread."""

    def __init__(self, router: Any, path: Path, limit: int) -> None:
        """`limit` is how many descriptors this process may have."""
        self._router = router
        self._path = path
        self._limit = limit
        self._made = 0
        self._waiting: socket.socket | None = None
        self._given: dict[str, Given] = {}  # by the endpoint that libzmq knows it by
        self._monitor = router.context.socket(zmq.PAIR)
        self._monitor.setsockopt(zmq.LINGER, 0)
        self._monitor.setsockopt(zmq.RCVHWM, 0)  # or libzmq's thread would wait for us to read

    def open(self) -> None:
        """Start to listen. Raises OSError."""
        self._router.monitor(f"inproc://door-{id(self)}", EVENTS)
        self._monitor.connect(f"inproc://door-{id(self)}")
        self._waiting = self._queue()

    @property
    def fd(self) -> int:
        """Readable when somebody waits."""
        return -1 if self._waiting is None else self._waiting.fileno()

    def turn(self) -> float | None:
        """Let in who waits, if there is room. Returns after how many seconds to call again; None: see `fd`."""
        self._note_events()
        if not all(given.is_empty() for given in self._given.values()):
            return ACCEPT_S
        self._take_back()
        if self._waiting is None or not _has_somebody(self._waiting):
            return None
        try:
            if len(os.listdir("/dev/fd")) + QUEUE + SPARE > self._limit:
                return LOOK_S
            self._give(self._waiting)
        except (OSError, zmq.ZMQError):  # others were faster to take the last descriptors
            return LOOK_S
        return ACCEPT_S

    def close(self) -> None:
        """Stop to listen, and remove the socket's name. The ROUTER's own end closes the connections."""
        self._path.unlink(missing_ok=True)
        self._router.disable_monitor()
        self._monitor.close()
        for queue in (self._waiting, *(given.queue for given in self._given.values())):
            if queue is not None:
                queue.close()

    def _queue(self) -> socket.socket:
        """A new queue that has the socket's name; who comes from now on comes to it. Raises OSError."""
        self._made += 1
        made_as = self._path.with_name(f"{self._path.name}{self._made:x}")
        made_as.unlink(missing_ok=True)
        queue = socket.socket(socket.AF_UNIX)
        try:
            queue.setblocking(False)
            with private():
                queue.bind(str(made_as))
            share_with_group(made_as)
            queue.listen(QUEUE - 1)  # the kernel lets one more in
            made_as.rename(self._path)
        except BaseException:
            queue.close()
            made_as.unlink(missing_ok=True)
            raise
        return queue

    def _give(self, queue: socket.socket) -> None:
        self._waiting = self._queue()
        self._router.setsockopt(zmq.USE_FD, os.dup(queue.fileno()))
        self._router.bind(f"ipc://{queue.getsockname()}")
        self._given[self._router.getsockopt_string(zmq.LAST_ENDPOINT)] = Given(queue)

    def _note_events(self) -> None:
        while self._monitor.poll(0):
            event = recv_monitor_message(self._monitor)
            given = self._given.get(event["endpoint"].decode())
            if given is not None:
                given.accepted += event["event"] == zmq.EVENT_ACCEPTED
                given.ended += event["event"] == zmq.EVENT_DISCONNECTED

    def _take_back(self) -> None:
        """Close the queues whose connections have all ended."""
        for endpoint, given in list(self._given.items()):
            if 0 < given.accepted == given.ended:
                del self._given[endpoint]
                self._router.unbind(endpoint)


@contextlib.contextmanager
def private() -> Iterator[None]:
    """What is made in here is its owner's alone."""
    mask = os.umask(0o177)
    try:
        yield
    finally:
        os.umask(mask)


def share_with_group(path: Path) -> None:
    """Let the group in where the folder's set-group-id bit says so."""
    if path.parent.stat().st_mode & stat.S_ISGID:
        path.chmod(0o660)


def _has_somebody(queue: socket.socket) -> bool:
    poller = select.poll()
    poller.register(queue, select.POLLIN)
    return bool(poller.poll(0))
