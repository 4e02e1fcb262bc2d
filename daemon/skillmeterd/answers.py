"""Answers: questions from clients are answered and encoded on threads of their own, so that none holds up a commit."""

import logging
import queue
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any, Final

from skillmeter import wire
from skillmeter.errors import QueryError

from .errors import DaemonError

log = logging.getLogger(__name__)

MAX_WAITING: Final = 256  # questions for each thread; more are told to come again
STOP_S: Final = 5.0

Answer = Callable[[dict[str, Any]], Any]
Question = tuple[bytes, wire.Request]


class Answers:
    """Threads that answer; `submit` and `finished` belong to the thread that owns the socket."""

    def __init__(
        self,
        methods: Mapping[str, Answer],
        wake: Callable[[], None],
        *,
        quick: Mapping[str, Answer],
        slow: Mapping[str, Answer],
    ) -> None:
        """`quick` methods only look at memory; they are answered at once, even while a long query runs.

        `slow` ones wait for the network: they have a thread of their own, and hold up only each other.
        """
        self._methods = {**methods, **slow}
        self._quick = quick
        self._wake = wake
        self._slow = frozenset(slow)
        self._answered: queue.SimpleQueue[tuple[bytes, list[bytes]]] = queue.SimpleQueue()
        self._threads = {False: _Thread("answers", self._answer), True: _Thread("slow answers", self._answer)}

    @property
    def is_running(self) -> bool:
        """Whether any of the threads is."""
        return any(thread.is_alive for thread in self._threads.values())

    def start(self) -> None:
        """Start the threads."""
        for thread in self._threads.values():
            thread.start()

    def submit(self, identity: bytes, request: wire.Request) -> None:
        """Have a question answered; the answer comes out of `finished`."""
        if request.method in self._quick:
            self._answered.put((identity, self._frames(request, self._quick[request.method])))
        elif not self._threads[request.method in self._slow].ask((identity, request)):
            busy = wire.Response(request.id, error="the daemon is busy; ask again")
            self._answered.put((identity, wire.encode(busy)))

    def finished(self) -> list[tuple[bytes, list[bytes]]]:
        """The answers that are there: whom they are for, and their frames."""
        answers = []
        while not self._answered.empty():
            answers.append(self._answered.get())
        return answers

    def stop(self) -> None:
        """End the threads once each has answered what it is at."""
        deadline_s = time.monotonic() + STOP_S
        for thread in self._threads.values():
            thread.end()
        for thread in self._threads.values():
            thread.join(max(0.0, deadline_s - time.monotonic()))

    def _answer(self, question: Question) -> None:
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


class _Thread:
    """Takes questions in their order."""

    def __init__(self, name: str, answer: Callable[[Question], None]) -> None:
        self._answer = answer
        self._questions: queue.Queue[Question | None] = queue.Queue(MAX_WAITING)
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    @property
    def is_alive(self) -> bool:
        return self._thread.is_alive()

    def start(self) -> None:
        self._thread.start()

    def ask(self, question: Question) -> bool:
        """Whether there is room for it."""
        try:
            self._questions.put_nowait(question)
        except queue.Full:
            return False
        return True

    def end(self) -> None:
        """Have it end after the question that it is at."""
        while self._thread.is_alive():
            try:
                self._questions.put_nowait(None)
                break
            except queue.Full:
                self._questions.get_nowait()

    def join(self, timeout_s: float) -> None:
        if self._thread.is_alive():
            self._thread.join(timeout_s)

    def _run(self) -> None:
        while (question := self._questions.get()) is not None:
            self._answer(question)
