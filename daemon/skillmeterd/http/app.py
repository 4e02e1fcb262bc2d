"""App: the ASGI application. Lets requests in, has them answered on a thread, and sends the answer."""

import asyncio
import logging
import sqlite3
import zlib
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

from ..database import hint
from ..errors import DaemonError
from .guard import Guard
from .messages import MAX_HEAD_BYTES, TOO_LONG, Request, Response, Route, Routes

log = logging.getLogger(__name__)

Scope = MutableMapping[str, Any]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

THREADS: Final = 2  # for each kind of route: one long answer does not hold up the next
MAX_WAITING: Final = 16  # requests for each kind; more are told to come again
COMPRESS_FROM_BYTES: Final = 1024
COMPRESS_LEVEL: Final = 1  # metrics shrink to a tenth with it; higher levels take thrice as long for little
PIECE_CHARS: Final = 65_536
SEND_BYTES: Final = 65_536  # at once, so that of a slow reader's answer little lies in the socket's buffer


class App:
    """Owned by the listener's event loop; handlers run on its pools."""

    def __init__(self, routes: Routes, guard: Guard) -> None:
        self._routes = routes
        self._guard = guard
        self._pools = {is_open: _Pool(is_open=is_open) for is_open in (True, False)}

    def close(self) -> None:
        """Wait for no handler; those that run end with the process at the latest."""
        for pool in self._pools.values():
            pool.close()

    async def __call__(self, scope: Scope, receive: object, send: Send) -> None:  # noqa: ARG002 - bodies are not read
        """Answer one request."""
        request = Request(scope["path"], scope["query_string"].decode("latin-1"), _headers(scope))
        response, body = await self._answer(scope["method"], request, _head_bytes(scope))
        more = {"content_encoding": "gzip"} if body[:2] == b"\x1f\x8b" else {}
        if request.has_body:
            more["connection"] = "close"
        raw = response.head(len(body), **more)
        await send({"type": "http.response.start", "status": response.status, "headers": raw})
        for at in range(0, len(body) or 1, SEND_BYTES):
            part = body[at : at + SEND_BYTES]
            await send({"type": "http.response.body", "body": part, "more_body": at + SEND_BYTES < len(body)})

    async def _answer(self, method: str, request: Request, head_bytes: int) -> tuple[Response, bytes]:
        route = self._routes.get(request.path)
        is_open = route is not None and route.is_open
        refusal = TOO_LONG if head_bytes > MAX_HEAD_BYTES else None
        refusal = refusal or self._guard.refusal(method, request.headers, is_open=is_open)
        if refusal is None and route is None:
            refusal = Response.problem(404, "there is nothing at this path")
        if refusal is not None or route is None:
            assert refusal is not None
            return refusal, _encode(refusal, request)
        if route.is_quick:
            return handle(route, request)
        return await self._pools[is_open].run(route, request)


class _Pool:
    """Threads for handlers. Owned by the event loop."""

    def __init__(self, *, is_open: bool) -> None:
        self._threads = ThreadPoolExecutor(THREADS, "http-monitoring" if is_open else "http-page")
        self._waiting = 0

    async def run(self, route: Route, request: Request) -> tuple[Response, bytes]:
        if self._waiting >= MAX_WAITING:
            busy = Response.problem(503, "the daemon is busy; ask again", retry_after="1")
            return busy, _encode(busy, request)
        self._waiting += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._threads, handle, route, request)
        finally:
            self._waiting -= 1

    def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)


def handle(route: Route, request: Request) -> tuple[Response, bytes]:
    """A handler's response and its body as it is sent. What fails is a response too."""
    try:
        response = route.handler(request)
        return response, _encode(response, request)
    except DaemonError as error:
        response = Response.problem(503, str(error), retry_after="5")
    except sqlite3.Error as error:
        log.warning("cannot read the database", extra={"path": request.path, "problem": str(error)})
        response = Response.problem(503, f"the database cannot be read: {error}; {hint(error)}", retry_after="5")
    except Exception:  # a fault of ours must not end the listener
        log.exception("a request failed", extra={"path": request.path})
        response = Response.problem(500, "the daemon failed to answer; its log says why")
    return response, _encode(response, request)


def _headers(scope: Scope) -> dict[str, str]:
    return {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}


def _head_bytes(scope: Scope) -> int:
    """What came before the blank line. The parser looks at its length only while it waits for more."""
    fields = sum(len(name) + len(value) + len(": \r\n") for name, value in scope["headers"])
    return fields + len(scope["method"]) + len(scope["raw_path"]) + len(scope["query_string"]) + len(" ? HTTP/1.1\r\n")


def _encode(response: Response, request: Request) -> bytes:
    """The body, compressed if that is worth it and the client takes it."""
    body = response.body
    pieces = (body,) if isinstance(body, bytes) else _joined(body)
    is_small = isinstance(body, bytes) and len(body) < COMPRESS_FROM_BYTES
    if is_small or not request.accepts("accept-encoding", "gzip") or "content-encoding" in response.headers:
        return b"".join(pieces)
    gzip = zlib.compressobj(COMPRESS_LEVEL, wbits=31)
    return b"".join([*(gzip.compress(piece) for piece in pieces), gzip.flush()])


def _joined(pieces: Iterable[str]) -> Iterable[bytes]:
    """Small pieces put together: zlib lets other threads run only while it is at a large one."""
    held: list[str] = []
    size = 0
    for piece in pieces:
        held.append(piece)
        size += len(piece)
        if size >= PIECE_CHARS:
            yield "".join(held).encode()
            held, size = [], 0
    yield "".join(held).encode()
