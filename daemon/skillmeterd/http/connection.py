"""Connection: uvicorn's HTTP/1.1 protocol, with a deadline for everything a client may be slow at.

When there are too many clients the slowest gives way: whoever has waited longest without a whole request, or has been
longest at reading its answer. So a scrape always gets in.
"""

import asyncio
import contextlib
import socket
import struct
import sys
from typing import Any, Final

import h11
from uvicorn.config import Config
from uvicorn.protocols.http.h11_impl import H11Protocol, RequestResponseCycle
from uvicorn.server import ServerState

from .messages import TOO_LONG, Response

HEAD_S: Final = 10.0  # from the connection to the end of the first request's headers
IDLE_S: Final = 90.0  # from an answer to the end of the next request's headers; Prometheus keeps its connection
ANSWER_S: Final = 60.0  # from a request's headers until its answer has been sent
MAX_WAITING: Final = 64  # connections without a whole request
MAX_SERVED: Final = 24  # connections with one
PIECE_BYTES: Final = 4096  # of what comes, parsed at once: a body's beginning is in the last piece at most
RESET: Final = struct.pack("ii", 1, 0)  # SO_LINGER: on closing, drop what was not sent


class Room:
    """The connections there are, in each of the two states in the order in which they came to it."""

    def __init__(self) -> None:
        self.waiting: dict[Connection, None] = {}
        self.served: dict[Connection, None] = {}

    @property
    def is_full(self) -> bool:
        """Whether more are served than may be, all of them waiting for our threads."""
        return len(self.served) > MAX_SERVED

    def wait(self, connection: "Connection") -> None:
        """A connection waits for a request."""
        self.leave(connection)
        if len(self.waiting) >= MAX_WAITING:
            next(iter(self.waiting)).abort()
        self.waiting[connection] = None

    def serve(self, connection: "Connection") -> None:
        """A connection's request is being answered."""
        self.leave(connection)
        if len(self.served) >= MAX_SERVED:
            slowest = next((served for served in self.served if served.is_sending), None)
            if slowest is not None:  # else none is slow: they wait for our threads, and those have a bound
                slowest.abort()
        self.served[connection] = None

    def leave(self, connection: "Connection") -> None:
        """A connection is lost, or changes its state."""
        self.waiting.pop(connection, None)
        self.served.pop(connection, None)


class Connection(H11Protocol):
    """One client. Owned by the event loop."""

    def __init__(self, config: Config, state: ServerState, room: Room) -> None:
        super().__init__(config, state, {})
        self._room = room
        self._deadline: asyncio.TimerHandle | None = None

    @property
    def is_sending(self) -> bool:
        """Whether an answer is on its way."""
        cycle: RequestResponseCycle | None = self.cycle
        return cycle is not None and cycle.response_started

    def abort(self) -> None:
        """End it now; what was not sent is forgotten, by the kernel too."""
        self._room.leave(self)
        with contextlib.suppress(OSError):
            self.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        self.transport.abort()

    def connection_made(self, transport: Any) -> None:
        """A client has come."""
        super().connection_made(transport)
        self._room.wait(self)
        self._expect(HEAD_S)

    def connection_lost(self, exc: Exception | None) -> None:
        """The client has gone."""
        self._room.leave(self)
        if self._deadline is not None:
            self._deadline.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Some of a request, or all of it, or more. A body is not looked at: its pieces could be a byte each."""
        before = self.cycle
        try:
            for at in range(0, len(data), PIECE_BYTES):
                if self.conn.their_state is h11.SEND_BODY or self.transport.is_closing():
                    break
                super().data_received(data[at : at + PIECE_BYTES])
        except h11.LocalProtocolError:  # rubbish behind a request that is still being answered
            self.abort()
        self._note_request(before)

    def send_400_response(self, msg: str) -> None:  # noqa: ARG002 - which says nothing
        """Refuse what is no HTTP/1.1 request, and close. Called while the error is handled that says what it is."""
        if self.cycle is not None:
            self.cycle.disconnected = True  # if its body is what is wrong, its answer comes too late
        problem = sys.exception()
        status = problem.error_status_hint if isinstance(problem, h11.RemoteProtocolError) else 400
        refusal = Response.problem(status, f"this is no HTTP/1.1: {problem}", connection="close")
        if status == TOO_LONG.status:
            refusal = TOO_LONG
        assert isinstance(refusal.body, bytes)
        head = h11.Response(status_code=refusal.status, headers=refusal.head(len(refusal.body)))
        for event in (head, h11.Data(data=refusal.body), h11.EndOfMessage()):
            self.transport.write(self.conn.send(event) or b"")
        self.transport.close()

    def on_response_complete(self) -> None:
        """The whole answer has been handed to the socket; the next request may be there already."""
        before = self.cycle
        if self._room.is_full and self.conn.trailing_data[0]:  # who sends ahead gives way
            self.transport.close()
        if not self.transport.is_closing():
            self._room.wait(self)
            self._expect(IDLE_S)
        try:
            super().on_response_complete()
        except h11.LocalProtocolError:  # it was rubbish, behind a HEAD, say, which no body may answer
            self.abort()
        self._note_request(before)

    def _note_request(self, before: object) -> None:
        if self.cycle is not before and not self.transport.is_closing():
            self._room.serve(self)
            self._expect(ANSWER_S)

    def _expect(self, seconds: float) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
        self._deadline = self.loop.call_later(seconds, self.abort)
