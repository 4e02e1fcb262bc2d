"""Track: times a block or a function and records it as one execution.

What counts as a success:

    returned, or ran to the block's end     success
    raised an exception                     failure, with the exception's type; the exception goes on unchanged
    was cancelled (asyncio.CancelledError)  failure, like any exception: what was asked for was not done
    a generator closed by its consumer      success: it delivered all that was wanted of it
    KeyboardInterrupt                       failure
    SystemExit                              success for exit status 0, else failure

A generator's time is that of its life, from the first `next` to its end, its consumer's pauses included. One that
is never started is not recorded. A plain function that returns an awaitable or an iterator is timed until it returns.
"""

import functools
import sys
import time
from collections.abc import AsyncGenerator, Callable, Generator
from types import FrameType, TracebackType
from typing import Any, Final, Protocol, TypeVar, cast

from .events import MAX_ID_CHARS

F = TypeVar("F", bound=Callable[..., Any])

_clock_s: Final = time.perf_counter


class RecordExecution(Protocol):
    """What a tracker records with: the client's `record_skill_execution`. It returns False rather than raise."""

    def __call__(
        self,
        skill_id: str,
        success: bool,
        latency_ms: float,
        user_id: str | None = None,
        org_id: str | None = None,
        *,
        error_type: str | None = None,
        skill_version: str | None = None,
        attributes: dict[str, Any] | None = None,
    ) -> bool:
        """Record one execution."""


class Tracker:
    """A context manager and a decorator: each run of the block or function is one execution.

    One instance may be used by many threads, tasks and generators at once, and within itself.
    """

    __slots__ = ("_attributes", "_org_id", "_record", "_running", "_skill_id", "_skill_version", "_user_id")

    def __init__(
        self,
        record: RecordExecution,
        skill_id: str,
        user_id: str | None = None,
        org_id: str | None = None,
        *,
        skill_version: str | None = None,
        attributes: dict[str, Any] | None = None,
    ) -> None:
        self._record = record
        self._skill_id = skill_id
        self._user_id = user_id
        self._org_id = org_id
        self._skill_version = skill_version
        self._attributes = attributes
        self._running: dict[FrameType, list[float]] = {}

    def __enter__(self) -> None:
        # A block is entered and left by one frame, and within a frame blocks nest. So the frame tells apart the
        # uses of one instance that interleave: threads, tasks, greenlets, suspended generators.
        self._running.setdefault(sys._getframe(1), []).append(_clock_s())

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        ended_s = _clock_s()
        frame = sys._getframe(1)
        starts_s = self._running.get(frame)
        if starts_s is None:
            self._keep(ended_s - self._latest_start_s(), error)
            return
        started_s = starts_s.pop()
        if not starts_s:
            del self._running[frame]
        self._keep(ended_s - started_s, error)

    def _latest_start_s(self) -> float:
        """Forget and return the latest start: for a block left by another frame than entered it (ExitStack)."""
        frame, starts_s = self._running.popitem()
        started_s = starts_s.pop()
        if starts_s:
            self._running[frame] = starts_s
        return started_s

    def __call__(self, function: F) -> F:
        """The function, tracked: of the same kind (plain, async, generator, async generator), name and signature."""
        import inspect  # slow, and needed only by those who decorate

        if isinstance(function, (classmethod, staticmethod)):
            return cast("F", type(function)(self(function.__func__)))
        if isinstance(function, type) or not callable(function):
            raise TypeError(f"track wraps functions and methods, not {function!r}")
        for is_kind, wrap in (
            (inspect.iscoroutinefunction, self._wrap_coroutine),
            (inspect.isasyncgenfunction, self._wrap_async_generator),
            (inspect.isgeneratorfunction, self._wrap_generator),
        ):
            if is_kind(function) or is_kind(function.__call__):  # type: ignore[operator]
                return cast("F", wrap(function))
        return cast("F", self._wrap_function(function))

    def _wrap_function(self, function: Callable[..., Any]) -> Callable[..., Any]:
        keep = self._keep

        @functools.wraps(function)
        def tracked(*args: Any, **kwargs: Any) -> Any:
            started_s = _clock_s()
            try:
                result = function(*args, **kwargs)
            except BaseException as error:
                keep(_clock_s() - started_s, error)
                raise
            keep(_clock_s() - started_s)
            return result

        return tracked

    def _wrap_coroutine(self, function: Callable[..., Any]) -> Callable[..., Any]:
        keep = self._keep

        @functools.wraps(function)
        async def tracked(*args: Any, **kwargs: Any) -> Any:
            started_s = _clock_s()
            try:
                result = await function(*args, **kwargs)
            except BaseException as error:
                keep(_clock_s() - started_s, error)
                raise
            keep(_clock_s() - started_s)
            return result

        return tracked

    def _wrap_generator(self, function: Callable[..., Any]) -> Callable[..., Any]:
        keep = self._keep

        @functools.wraps(function)
        def tracked(*args: Any, **kwargs: Any) -> Generator[Any, Any, Any]:
            started_s = _clock_s()
            try:
                result = yield from function(*args, **kwargs)
            except BaseException as error:
                keep(_clock_s() - started_s, error)
                raise
            keep(_clock_s() - started_s)
            return result

        return tracked

    def _wrap_async_generator(self, function: Callable[..., Any]) -> Callable[..., Any]:
        keep = self._keep

        @functools.wraps(function)
        async def tracked(*args: Any, **kwargs: Any) -> AsyncGenerator[Any, Any]:
            started_s = _clock_s()
            try:
                inner = function(*args, **kwargs)
                step = inner.asend(None)
                while True:
                    try:
                        value = await step
                    except StopAsyncIteration:
                        break
                    try:
                        step = inner.asend((yield value))
                    except GeneratorExit:
                        await inner.aclose()
                        raise
                    except BaseException as thrown:
                        step = inner.athrow(thrown)
            except BaseException as error:
                keep(_clock_s() - started_s, error)
                raise
            keep(_clock_s() - started_s)

        return tracked

    def _keep(self, elapsed_s: float, error: BaseException | None = None) -> None:
        failed = error is not None and not _is_success(error)
        self._record(
            self._skill_id,
            not failed,
            elapsed_s * 1000.0,
            self._user_id,
            self._org_id,
            error_type=_type_name(type(error)) if failed else None,
            skill_version=self._skill_version,
            attributes=self._attributes,
        )


def _is_success(error: BaseException) -> bool:
    if isinstance(error, SystemExit):
        return error.code is None or (isinstance(error.code, int) and error.code == 0)
    return isinstance(error, GeneratorExit)


def _type_name(kind: type) -> str:
    """The qualified name of an exception's type, as an error_type that is always valid."""
    name = kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
    return name[:MAX_ID_CHARS].encode(errors="replace").decode() or "unknown"
