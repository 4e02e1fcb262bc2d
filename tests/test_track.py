"""Track: what is timed, what counts as a success, and that user code cannot tell that it is tracked."""

import asyncio
import contextlib
import functools
import gc
import inspect
import threading
from collections.abc import Callable, Coroutine
from typing import Any, NamedTuple

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from skillmeter import track
from skillmeter.errors import InvalidEventError
from skillmeter.testing import RecordingClient
from skillmeter.track import Tracker


class Call(NamedTuple):
    skill_id: str
    success: bool
    latency_ms: float
    user_id: str | None
    org_id: str | None
    error_type: str | None
    skill_version: str | None
    attributes: dict[str, Any] | None


class Calls(list[Call]):
    """A recorder that keeps its calls."""

    def record(
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
        self.append(Call(skill_id, success, latency_ms, user_id, org_id, error_type, skill_version, attributes))
        return False  # as for an event that is refused: user code must not notice

    @property
    def outcomes(self) -> list[tuple[bool, str | None]]:
        return [(call.success, call.error_type) for call in self]

    @property
    def latencies_ms(self) -> list[float]:
        return [call.latency_ms for call in self]


class Clock:
    """A clock that the test sets, for each thread by itself."""

    def __init__(self) -> None:
        self._local = threading.local()

    def __call__(self) -> float:
        return getattr(self._local, "now_s", 0.0)

    def set(self, now_s: float) -> None:
        self._local.now_s = now_s


@pytest.fixture
def calls() -> Calls:
    """A recorder."""
    return Calls()


@pytest.fixture
def tracker(calls) -> Tracker:
    """A tracker that records into `calls`."""
    return Tracker(calls.record, "skill")


@pytest.fixture
def clock(monkeypatch) -> Clock:
    """The clock of all trackers."""
    clock = Clock()
    monkeypatch.setattr(track, "_clock_s", clock)
    return clock


def run(coroutine: Coroutine[Any, Any, Any]) -> Any:
    """The result of a coroutine that never waits."""
    try:
        coroutine.send(None)
    except StopIteration as end:
        return end.value
    raise AssertionError("it waits")


# What is recorded


def test_a_block_is_one_execution_with_all_its_particulars(calls, clock):
    """A block is recorded once, with its ids, extras and milliseconds."""
    with Tracker(calls.record, "skill", "u", "o", skill_version="2", attributes={"size": 1}):
        clock.set(0.25)
    assert calls == [Call("skill", True, 250.0, "u", "o", None, "2", {"size": 1})]


def test_each_call_of_a_function_is_one_execution(calls, clock, tracker):
    """A decorated function returns what it returned, and each call is timed by itself."""

    @tracker
    def work(at_s, *, result):
        clock.set(at_s)
        return result

    assert [work(1.0, result="a"), work(3.0, result="b")] == ["a", "b"]
    assert calls.latencies_ms == [1000.0, 2000.0]


def test_a_coroutine_is_timed_until_it_ends(calls, clock, tracker):
    """Awaiting is the call: making the coroutine records nothing."""

    @tracker
    async def work(x):
        clock.set(0.5)
        return x + 1

    coroutine = work(1)
    assert calls == []
    assert run(coroutine) == 2
    assert calls.latencies_ms == [500.0]


def test_a_generator_is_timed_from_its_first_next_to_its_end(calls, clock, tracker):
    """What passes before the first `next` does not count; the consumer's pauses do."""

    @tracker
    def numbers():
        yield 1
        yield 2

    generator = numbers()
    clock.set(10.0)
    assert next(generator) == 1
    clock.set(12.0)
    assert list(generator) == [2]
    assert calls.latencies_ms == [2000.0]


def test_an_async_generator_is_timed_from_its_first_step_to_its_end(calls, clock, tracker):
    """An async generator is timed as a generator is."""

    @tracker
    async def numbers():
        yield 1
        yield 2

    async def consume() -> Any:
        generator = numbers()
        clock.set(10.0)
        got = []
        async for number in generator:
            got.append(number)
            clock.set(11.0 + number)
        return got

    assert run(consume()) == [1, 2]
    assert calls.latencies_ms == [3000.0]


@pytest.mark.parametrize("started", [False, True])
def test_a_generator_that_never_ran_is_not_an_execution(calls, tracker, started):
    """A generator is recorded if its body began to run, however it ended."""

    @tracker
    def numbers():
        yield 1

    generator = numbers()
    if started:
        next(generator)
    del generator
    gc.collect()
    assert calls.outcomes == [(True, None)] * started


# What counts as a success


class Outer:
    class Inner(Exception):
        """A type within a type."""


class Surrogate(Exception):
    pass


Surrogate.__qualname__ = "\ud800" + "x" * 300
EXCEPTIONS = [
    (ValueError("x"), False, "ValueError"),
    (Outer.Inner(), False, f"{__name__}.Outer.Inner"),
    (asyncio.CancelledError(), False, "asyncio.exceptions.CancelledError"),
    (KeyboardInterrupt(), False, "KeyboardInterrupt"),
    (SystemExit(1), False, "SystemExit"),
    (SystemExit("message"), False, "SystemExit"),
    (SystemExit(), True, None),
    (SystemExit(0), True, None),
    (GeneratorExit(), True, None),
    (Surrogate(), False, f"{__name__}.?{'x' * 300}"[:256]),
]


def _in_block(tracker: Tracker, error: BaseException) -> None:
    with tracker:
        raise error


def _in_function(tracker: Tracker, error: BaseException) -> None:
    @tracker
    def fail() -> Any:
        raise error

    fail()


def _in_coroutine(tracker: Tracker, error: BaseException) -> None:
    @tracker
    async def fail() -> Any:
        raise error

    run(fail())


def _in_generator(tracker: Tracker, error: BaseException) -> None:
    @tracker
    def fail() -> Any:
        yield
        raise error

    list(fail())


def _in_async_generator(tracker: Tracker, error: BaseException) -> None:
    @tracker
    async def fail() -> Any:
        yield
        raise error

    async def consume() -> Any:
        async for _ in fail():
            pass

    run(consume())


@pytest.mark.parametrize(("error", "success", "error_type"), EXCEPTIONS)
@pytest.mark.parametrize(
    "raise_it", [_in_block, _in_function, _in_coroutine, _in_generator, _in_async_generator], ids=lambda f: f.__name__
)
def test_an_exception_is_recorded_and_goes_on(calls, tracker, raise_it, error, success, error_type):
    """The very exception reaches the caller, with nothing added to it, and is recorded by its kind."""
    with pytest.raises(type(error)) as caught:
        raise_it(tracker, error)
    assert caught.value is error
    assert error.__context__ is None
    assert calls.outcomes == [(success, error_type)]


def test_a_cancelled_task_is_a_failure(calls, tracker):
    """Cancelling a tracked coroutine cancels it, and records that it did not do its work."""

    async def main() -> None:
        waiting = asyncio.Event()

        @tracker
        async def work():
            waiting.set()
            await asyncio.Event().wait()

        task = asyncio.create_task(work())
        await waiting.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())
    assert calls.outcomes == [(False, "asyncio.exceptions.CancelledError")]


def test_a_generator_closed_by_its_consumer_is_a_success(calls, tracker):
    """Whoever takes only the first items got what was wanted; the generator's own cleanup runs."""
    cleaned = []

    @tracker
    def numbers():
        try:
            yield 1
            yield 2
        finally:
            cleaned.append(True)

    for _ in (generator := numbers()):
        generator.close()
    assert calls.outcomes == [(True, None)]
    assert cleaned == [True]


def test_a_generator_that_fails_while_it_is_closed_is_a_failure(calls, tracker):
    """Closing early is no success when the cleanup raises."""

    @tracker
    def numbers():
        try:
            yield 1
        finally:
            raise OSError("cleanup")

    generator = numbers()
    next(generator)
    with pytest.raises(OSError, match="cleanup"):
        generator.close()
    assert calls.outcomes == [(False, "OSError")]


def test_a_generator_that_will_not_be_closed_is_a_failure(calls, tracker):
    """Yielding when asked to end is the error that Python makes of it, for both kinds."""

    @tracker
    def stubborn():
        with contextlib.suppress(GeneratorExit):
            yield 1
        yield 2

    @tracker
    async def async_stubborn():
        with contextlib.suppress(GeneratorExit):
            yield 1
        yield 2

    async def close_async() -> None:
        generator = async_stubborn()
        await anext(generator)
        await generator.aclose()

    generator = stubborn()
    next(generator)
    with pytest.raises(RuntimeError, match="ignored GeneratorExit"):
        generator.close()
    with pytest.raises(RuntimeError, match="ignored GeneratorExit"):
        run(close_async())
    assert calls.outcomes == [(False, "RuntimeError")] * 2


def test_an_async_generator_left_behind_is_closed_by_the_loop(calls, tracker):
    """`break` out of `async for` leaves a generator for the loop to finish: awaited cleanup included."""
    cleaned = []

    @tracker
    async def numbers():
        try:
            yield 1
            yield 2
        finally:
            await asyncio.sleep(0)
            cleaned.append(True)

    async def main() -> None:
        async for _ in numbers():
            break
        while not calls:
            gc.collect()
            await asyncio.sleep(0)

    asyncio.run(main())
    assert cleaned == [True]
    assert calls.outcomes == [(True, None)]


def test_strict_mode_tells_of_an_invalid_event():
    """The recorder decides what raises: a strict client's InvalidEventError reaches the caller."""
    with pytest.raises(InvalidEventError, match="skill_id"), RecordingClient(strict=True).track(""):
        pass


# User code cannot tell


class Custom(Exception):
    pass


STEPS = st.sampled_from(["yield", "swallow", "raise"])
OPERATIONS = st.lists(st.sampled_from(["next", "send", "throw", "throw_stop", "close"]), max_size=6).map(
    lambda operations: [*operations, "close"]  # so that each comes to its end
)
SWALLOWED = example(["swallow", "yield", "yield"], ["next", "throw", "send", "throw", "close"])


def program(script: list[str]):
    """A generator that goes through a script and shows all that is done to it."""
    seen: Any = "start"
    for step in script:
        if step == "raise":
            raise Custom("own")
        try:
            seen = yield step, seen
        except Custom as error:
            if step != "swallow":
                raise
            seen = f"swallowed {error}"
    return seen


async def async_program(script: list[str]):
    """The same, async."""
    seen: Any = "start"
    for step in script:
        if step == "raise":
            raise Custom("own")
        try:
            seen = yield step, seen
        except Custom as error:
            if step != "swallow":
                raise
            seen = f"swallowed {error}"


def trace(operations: list[str], do: Callable[[str], Any]) -> list[Any]:
    """What a consumer sees of a generator to which it does these things."""
    seen = []
    for operation in operations:
        try:
            seen.append(do(operation))
        except BaseException as error:
            seen.append((type(error), str(error), getattr(error, "value", None), type(error.__context__)))
    return seen


def consume(generator: Any, operations: list[str]) -> list[Any]:
    """What a consumer sees of a generator."""
    actions: dict[str, Callable[[], Any]] = {
        "next": lambda: next(generator),
        "send": lambda: generator.send("sent"),
        "throw": lambda: generator.throw(Custom("thrown")),
        "throw_stop": lambda: generator.throw(StopIteration("thrown")),
        "close": generator.close,
    }
    return trace(operations, lambda operation: actions[operation]())


def consume_async(generator: Any, operations: list[str]) -> list[Any]:
    """What a consumer sees of an async generator."""
    actions: dict[str, Callable[[], Any]] = {
        "next": generator.__anext__,
        "send": lambda: generator.asend("sent"),
        "throw": lambda: generator.athrow(Custom("thrown")),
        "throw_stop": lambda: generator.athrow(StopAsyncIteration("thrown")),
        "close": generator.aclose,
    }

    async def one(operation: str) -> Any:
        return await actions[operation]()

    return trace(operations, lambda operation: run(one(operation)))


def was_started(operations: list[str]) -> bool:
    """Whether the body ran: sending to a new generator is refused, and throwing at one ends it unstarted."""
    return next(operation for operation in operations if operation != "send") == "next"


@SWALLOWED
@given(script=st.lists(STEPS, max_size=4), operations=OPERATIONS)
def test_a_tracked_generator_is_the_generator(script, operations):
    """Whatever is sent, thrown or closed, a consumer sees the same; one that ran is recorded once at its end."""
    calls = Calls()
    tracked = Tracker(calls.record, "skill")(program)
    assert consume(tracked(script), operations) == consume(program(script), operations)
    assert len(calls) == was_started(operations)


@SWALLOWED
@given(script=st.lists(STEPS, max_size=4), operations=OPERATIONS)
def test_a_tracked_async_generator_is_the_async_generator(script, operations):
    """The same for async generators: asend, athrow and aclose reach the body."""
    calls = Calls()
    tracked = Tracker(calls.record, "skill")(async_program)
    assert consume_async(tracked(script), operations) == consume_async(async_program(script), operations)
    assert len(calls) == was_started(operations)


def test_a_generator_returns_its_value(tracker):
    """`yield from` a tracked generator gives what it returned."""

    @tracker
    def inner():
        yield 1
        return "result"

    def outer() -> Any:
        result = yield from inner()
        yield result

    assert list(outer()) == [1, "result"]


def plain(a, b=2):
    """A plain function."""
    return a, b


async def coroutine(a, b=2):
    """A coroutine function."""
    return a, b


def generator(a, b=2):
    """A generator function."""
    yield a, b


async def async_generator(a, b=2):
    """An async generator function."""
    yield a, b


@pytest.mark.parametrize("function", [plain, coroutine, generator, async_generator])
def test_a_tracked_function_keeps_its_kind_name_and_signature(tracker, function):
    """Frameworks that look at a function find the same kind, name, text and parameters."""
    tracked = tracker(function)
    kinds: list[Callable[[Any], bool]] = [
        inspect.isfunction,
        inspect.iscoroutinefunction,
        inspect.isgeneratorfunction,
        inspect.isasyncgenfunction,
    ]
    assert [is_kind(tracked) for is_kind in kinds] == [is_kind(function) for is_kind in kinds]
    assert (tracked.__name__, tracked.__qualname__, tracked.__doc__) == (
        function.__name__,
        function.__qualname__,
        function.__doc__,
    )
    assert inspect.signature(tracked) == inspect.signature(function)
    assert tracked.__wrapped__ is function


def test_methods_of_all_sorts(calls, tracker):
    """Methods, class methods and static methods work, with the decorators in either order."""

    class Tools:
        name = "tools"

        @tracker
        def method(self):
            return self.name

        @tracker
        @classmethod
        def class_outside(cls):
            return cls.name

        @classmethod
        @tracker
        def class_inside(cls):
            return cls.name

        @tracker
        @staticmethod
        def static_outside():
            return "static"

        @staticmethod
        @tracker
        def static_inside():
            return "static"

        @property
        @tracker
        def prop(self):
            return self.name

    tools = Tools()
    assert [tools.method(), Tools.class_outside(), tools.class_inside(), tools.prop] == ["tools"] * 4
    assert [Tools.static_outside(), tools.static_inside()] == ["static"] * 2
    assert len(calls) == 6


def test_callables_that_are_not_functions(calls, tracker):
    """Builtins, partials and objects with an (async) __call__ can be tracked."""

    class Tool:
        def __call__(self, x):
            return x

    class AsyncTool:
        async def __call__(self, x):
            return x

    assert tracker(len)("abc") == 3
    assert tracker(functools.partial(plain, 1))() == (1, 2)
    assert run(tracker(functools.partial(coroutine, 1))()) == (1, 2)
    assert tracker(Tool())(4) == 4
    awaitable = tracker(AsyncTool())(5)
    assert len(calls) == 4
    assert run(awaitable) == 5
    assert len(calls) == 5


@pytest.mark.parametrize("thing", [int, "text", None, property(plain)])
def test_what_cannot_be_tracked_is_refused(tracker, thing):
    """A class would no longer be one, and what is not callable has no run to time."""
    with pytest.raises(TypeError, match="functions and methods"):
        tracker(thing)


def test_a_wrong_call_of_a_tracked_function_is_a_failure(calls, tracker):
    """Arguments that do not fit raise what they always raise."""
    with pytest.raises(TypeError, match="missing 1 required"):
        tracker(plain)()
    assert calls.outcomes == [(False, "TypeError")]


# One tracker used many times at once


def test_nested_blocks_of_one_tracker_keep_their_own_times(calls, clock, tracker):
    """Within itself, each block has its own start."""
    with tracker:
        clock.set(1.0)
        with tracker:
            clock.set(3.0)
        clock.set(7.0)
    assert calls.latencies_ms == [2000.0, 7000.0]


def test_blocks_of_suspended_generators_keep_their_own_times(calls, clock, tracker):
    """Blocks that neither nest nor follow one another are still told apart."""

    def hold() -> Any:
        with tracker:
            yield

    first, second = hold(), hold()
    next(first)
    clock.set(1.0)
    next(second)
    clock.set(10.0)
    list(first)
    clock.set(100.0)
    list(second)
    assert calls.latencies_ms == [10_000.0, 99_000.0]


def test_blocks_of_tasks_keep_their_own_times(calls, clock, tracker):
    """Tasks that are inside the block at the same time and leave it in another order."""

    async def main() -> None:
        events = [asyncio.Event() for _ in range(5)]

        async def work(number: int) -> None:
            clock.set(number)
            with tracker:
                await events[number].wait()

        tasks = [asyncio.create_task(work(number)) for number in range(5)]
        await asyncio.sleep(0)
        clock.set(100.0)
        for number in (3, 0, 4, 1, 2):
            events[number].set()
            await tasks[number]

    asyncio.run(main())
    assert calls.latencies_ms == [97_000.0, 100_000.0, 96_000.0, 99_000.0, 98_000.0]


def test_blocks_and_calls_of_threads_keep_their_own_times(calls, clock, tracker):
    """Threads that are all inside the same tracker's block and function at once."""
    threads = 8
    inside = threading.Barrier(threads)

    @tracker
    def work(number):
        with tracker:
            inside.wait()
            clock.set(number)
        clock.set(number + 100.0)

    workers = [threading.Thread(target=work, args=(number,)) for number in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    expected = [number * 1000.0 for number in range(threads)]
    assert sorted(calls.latencies_ms) == expected + [latency_ms + 100_000.0 for latency_ms in expected]


def test_recursion_keeps_its_own_times(calls, clock, tracker):
    """A tracked function that calls itself is timed at every level."""

    @tracker
    def descend(levels):
        if levels:
            descend(levels - 1)
        clock.set(clock() + 1.0)

    descend(3)
    assert calls.latencies_ms == [1000.0, 2000.0, 3000.0, 4000.0]


def test_an_exit_stack_leaves_blocks_in_its_order(calls, clock, tracker):
    """contextlib.ExitStack enters and leaves from frames of its own, the last block first."""
    with tracker, contextlib.ExitStack() as stack:
        clock.set(1.0)
        stack.enter_context(tracker)
        clock.set(3.0)
        stack.enter_context(tracker)
        with tracker:
            clock.set(10.0)
    assert calls.latencies_ms == [7000.0, 7000.0, 9000.0, 10_000.0]


def test_blocks_left_by_another_frame_than_entered_them(calls, clock, tracker):
    """A framework may enter in one function and leave in another: the last entered is left first."""

    def enter() -> None:
        tracker.__enter__()
        clock.set(1.0)
        tracker.__enter__()

    enter()
    clock.set(5.0)
    tracker.__exit__(None, None, None)
    tracker.__exit__(None, None, None)
    assert calls.latencies_ms == [4000.0, 5000.0]


def test_a_tracker_keeps_nothing_of_the_blocks_it_has_left(calls, tracker):
    """Frames, and all that they hold, are let go."""
    with contextlib.suppress(ValueError), tracker, tracker:
        raise ValueError
    assert tracker._running == {}
