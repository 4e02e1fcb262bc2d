"""The connection: this process's ZeroMQ context, its sockets to the daemon, and questions to it.

zmq is imported when the first socket is made: it costs about 40 ms, which a process that records once and ends does
not have to pay. A forked child must not touch its parent's context; `forget` keeps it alive, unused. The context ends
with the last socket after `close`: ending it earlier would pull sockets from under the threads that use them.
"""

import os
import time
from typing import Any, Final, Self

from . import wire
from .errors import DaemonUnavailable, QueryError, SkillmeterError, WireError
from .native import load, original
from .parsers import Secret
from .settings import ClientSettings

_inherited: list[Any] = []

HWM_MESSAGES: Final = 64  # the byte window of the shipper is reached long before
ROOM: Final = 16  # descriptors; a context with its first socket takes 10


class Connection:
    """Makes sockets for one client. Any thread; each socket belongs to the thread that asked for it."""

    def __init__(self, endpoint: str, *, server_key: str | None = None, client_secret: Secret | None = None) -> None:
        """With the daemon's public CURVE key and this client's own secret one, or with neither."""
        self.endpoint = endpoint
        self._server_key = server_key
        self._client_secret = client_secret
        self._context: Any = None
        self._sockets = 0
        self._closed = False
        self._pid = os.getpid()
        self._lock = original("_thread", "RLock")()  # reentrant, for signal handlers that close the client

    @classmethod
    def to(cls, settings: ClientSettings) -> Self:
        """The connection that these settings say."""
        return cls(settings.endpoint, server_key=settings.curve_server_key, client_secret=settings.curve_client_secret)

    @property
    def gives_up(self) -> bool:
        """Whether libzmq stops trying when the daemon refuses us: a socket that could not connect for long has to be
        replaced, as the daemon may have been told of our key meanwhile."""
        return self._client_secret is not None

    def dealer(self) -> Any:
        """A new DEALER that is connecting; give it back with `hang_up`. Raises OSError while there are too few
        descriptors left, zmq.ZMQError, and SkillmeterError after `close`."""
        zmq = load_zmq()
        socket = self._socket(zmq)
        try:
            socket.setsockopt(zmq.LINGER, 0)
            socket.setsockopt(zmq.IMMEDIATE, 1)  # queue nothing for a daemon that is not there
            socket.setsockopt(zmq.SNDHWM, HWM_MESSAGES)
            socket.setsockopt(zmq.RCVHWM, HWM_MESSAGES)
            socket.setsockopt(zmq.MAXMSGSIZE, wire.MAX_MESSAGE_BYTES)
            socket.setsockopt(zmq.RECONNECT_IVL, 50)
            socket.setsockopt(zmq.RECONNECT_IVL_MAX, 1000)
            self._show_keys(socket)
            socket.connect(self.endpoint)
        except BaseException:
            self.hang_up(socket)
            raise
        return socket

    def hang_up(self, socket: Any) -> None:
        """Close a socket, in the thread that asked for it."""
        socket.close(0)
        self._forget_socket()

    def ask(self, method: str, params: dict[str, Any] | None = None, *, timeout_s: float = 5.0) -> Any:
        """The daemon's answer to a question. Raises DaemonUnavailable after `timeout_s`, QueryError if it says no."""
        deadline_s = time.monotonic() + timeout_s
        try:
            zmq = load_zmq()
        except OSError as error:
            raise DaemonUnavailable(f"cannot make a socket to {self.endpoint}: {error}") from error
        try:
            socket = self.dealer()
        except (OSError, zmq.ZMQError) as error:
            raise DaemonUnavailable(f"cannot make a socket to {self.endpoint}: {error}") from error
        try:
            request = wire.Request(1, method, params or {})
            if not socket.poll(_left_ms(deadline_s), zmq.POLLOUT):
                raise self._nobody(timeout_s)
            socket.send_multipart(wire.encode(request), zmq.NOBLOCK)
            while socket.poll(_left_ms(deadline_s)):
                answer = wire.decode_to_client(socket.recv_multipart())
                if isinstance(answer, wire.Refusal):
                    raise DaemonUnavailable(f"the daemon at {self.endpoint} refuses: {answer.reason}")
                if isinstance(answer, wire.Response) and answer.id == request.id:
                    if answer.error:
                        raise QueryError(answer.error)
                    return answer.result
            raise self._nobody(timeout_s)
        except (zmq.ZMQError, WireError) as error:
            raise DaemonUnavailable(f"the daemon at {self.endpoint} cannot be asked: {error}") from error
        finally:
            self.hang_up(socket)

    def close(self) -> None:
        """Make no more sockets, and end the context with the last one. Idempotent."""
        self._closed = True
        self._end_context()

    def forget(self) -> None:
        """In a forked child: start over, and leave the parent's context alone. Idempotent."""
        if self._pid != os.getpid():
            self._lock = original("_thread", "RLock")()  # as above
            _inherited.append(self._context)
            self._context, self._sockets, self._pid = None, 0, os.getpid()

    def _socket(self, zmq: Any) -> Any:
        with self._lock:
            if self._closed:
                raise SkillmeterError("the client is closed")
            self._sockets += 1  # first: if a signal handler closes us now, the context still waits for this one
            try:
                if self._context is None:
                    self._context = zmq.Context(io_threads=1)
                return self._context.socket(zmq.DEALER)
            except BaseException:
                self._forget_socket()
                raise

    def _forget_socket(self) -> None:
        with self._lock:
            self._sockets -= 1
        self._end_context()

    def _show_keys(self, socket: Any) -> None:
        if self._server_key is None or self._client_secret is None:
            return
        zmq = load_zmq()
        secret = self._client_secret.reveal().encode()
        socket.setsockopt(zmq.CURVE_SECRETKEY, secret)
        socket.setsockopt(zmq.CURVE_PUBLICKEY, zmq.curve_public(secret))
        socket.setsockopt(zmq.CURVE_SERVERKEY, self._server_key.encode())
        socket.setsockopt(zmq.RECONNECT_IVL, 1000)  # a daemon that has another key hangs up on every try

    def _end_context(self) -> None:
        with self._lock:
            if not self._closed or self._sockets:
                return
            context, self._context = self._context, None
        if context is not None:
            context.term()

    def _nobody(self, timeout_s: float) -> DaemonUnavailable:
        keys = ""
        if self._client_secret is not None:
            keys = (
                "; one that has another key than ANALYTICS_CURVE_SERVER_KEY, or does not have this client's public key"
                " in ANALYTICS_CURVE_CLIENT_KEYS, does not answer either"
            )
        elif self.endpoint.startswith("tcp://"):
            keys = (
                "; one with CURVE keys answers only who has ANALYTICS_CURVE_SERVER_KEY and"
                " ANALYTICS_CURVE_CLIENT_SECRET, on its own machine, too"
            )
        return DaemonUnavailable(
            f"no skillmeter daemon answered at {self.endpoint} within {timeout_s:g} s; "
            "start one with `skillmeter run`, or set ANALYTICS_ENDPOINT to where it listens" + keys
        )


def load_zmq() -> Any:
    """The module zmq, when there are enough descriptors to import and to use it; else OSError.

    libzmq ends the process, which is the application's, if it finds none left while it makes a context.
    """
    taken: list[int] = []
    try:
        while len(taken) < ROOM:
            taken += os.pipe()
    finally:
        for fd in taken:
            os.close(fd)
    return load("zmq")


def _left_ms(deadline_s: float) -> int:
    return max(0, int((deadline_s - time.monotonic()) * 1000))
