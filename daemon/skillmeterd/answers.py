"""Answers: questions from clients are answered and encoded on a thread of their own, so that none holds up a commit."""

import logging
import queue
import threading
from collections.abc import Callable, Mapping
from typing import Any, Final

from skillmeter import wire
from skillmeter.errors import QueryError

from .errors import DaemonError

log = logging.getLogger(__name__)

MAX_WAITING: Final = 256  # questions; more are told to come again

Answer = Callable[[dict[str, Any]], Any]


class Answers:
    """A thread that answers; `submit` and `finished` belong to the thread that owns the socket."""

    def __init__(self, methods: Mapping[str, Answer], wake: Callable[[], None], *, quick: Mapping[str, Answer]) -> None:
        """`quick` methods only look at memory; they are answered at once, even while a long query runs."""
        self._methods = methods
        self._quick = quick
        self._wake = wake
        self._questions: queue.Queue[tuple[bytes, wire.Request] | None] = queue.Queue(MAX_WAITING)
        self._answered: queue.SimpleQueue[tuple[bytes, list[bytes]]] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="answers", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def submit(self, identity: bytes, request: wire.Request) -> None:
        """Have a question answered; the answer comes out of `finished`."""
        if request.method in self._quick:
            self._answered.put((identity, self._frames(request, self._quick[request.method])))
            return
        try:
            self._questions.put_nowait((identity, request))
        except queue.Full:
            busy = wire.Response(request.id, error="the daemon is busy; ask again")
            self._answered.put((identity, wire.encode(busy)))

    def finished(self) -> list[tuple[bytes, list[bytes]]]:
        """The answers that are there: whom they are for, and their frames."""
        answers = []
        while not self._answered.empty():
            answers.append(self._answered.get())
        return answers

    def stop(self) -> None:
        """End the thread once it has answered what it is at."""
        while self._thread.is_alive():
            try:
                self._questions.put_nowait(None)
                break
            except queue.Full:
                self._questions.get_nowait()
        if self._thread.is_alive():
            self._thread.join(timeout=5)

    def _run(self) -> None:
        while (question := self._questions.get()) is not None:
            identity, request = question
            self._answered.put((identity, self._frames(request, self._methods.get(request.method))))
            self._wake()

    def _frames(self, request: wire.Request, method: Answer | None) -> list[bytes]:
        """The answer, encoded."""
        try:
            if method is None:
                raise QueryError(f"there is no method {request.method!r}")
            frames = wire.encode(wire.Response(request.id, method(request.params)))
            if len(frames[1]) > wire.MAX_MESSAGE_BYTES:
                raise QueryError(f"the answer takes {len(frames[1])} bytes; ask for less")
            return frames
        except (QueryError, DaemonError) as error:
            return wire.encode(wire.Response(request.id, error=str(error)))
        except Exception:  # a fault of ours must not end the thread that answers everybody
            log.exception("a question failed", extra={"method": request.method})
            return wire.encode(wire.Response(request.id, error="the daemon failed to answer; its log says why"))
