"""Native threads, waits and imports of the background thread, also in a process that gevent has patched.

gevent replaces the thread functions by ones for greenlets. The shipper waits in C code, which would stall
every greenlet, so it needs a thread of the operating system whatever has been patched.
"""

import contextlib
import importlib
import os
import sys
import threading  # noqa: F401 - takes the thread that first imports it for the main one, and waits for that at exit
from _thread import get_ident
from collections.abc import Callable
from typing import Any

from .errors import came_between


def original(module: str, name: str) -> Any:
    """`module.name` as Python made it, even after gevent's monkey patching."""
    monkey = sys.modules.get("gevent.monkey")
    if monkey is not None:
        return monkey.get_original(module, name)
    return getattr(importlib.import_module(module), name)


def start_thread(run: Callable[[], None]) -> None:
    """Run something in a thread of its own, which does not keep the process alive.

    Raises RuntimeError when the interpreter is shutting down or has no room for a thread.
    """
    original("_thread", "start_new_thread")(run, ())


class Bell:
    """Ends the wait of one thread. Any thread may ring it, signal handlers and finalizers too."""

    def __init__(self) -> None:
        """Takes two descriptors; raises OSError."""
        self._in, self._out = os.pipe()
        try:
            os.set_blocking(self._in, False)
            os.set_blocking(self._out, False)
        except BaseException:
            self.close()
            raise

    def fileno(self) -> int:
        """What becomes readable when it rings."""
        return self._in

    def ring(self) -> None:
        """Never blocks, and raises nothing of its own."""
        try:
            os.write(self._out, b"x")
        except OSError as error:  # the pipe is full, so it is ringing; or it is closed
            if came_between(error):
                raise

    def silence(self) -> None:
        """Forget that it has rung."""
        with contextlib.suppress(BlockingIOError):
            while os.read(self._in, 4096):
                pass

    def wait(self, timeout_s: float) -> None:
        """Wait until it rings, at most `timeout_s` seconds, and silence it."""
        poll = original("select", "poll")()  # select knows only the first 1024 descriptors
        poll.register(self._in, 1)
        poll.poll(timeout_s * 1000)
        self.silence()

    def close(self) -> None:
        """Idempotent. The numbers are forgotten first: others may have them soon."""
        ends, self._in, self._out = (self._in, self._out), -1, -1
        for fd in ends:
            if fd >= 0:
                with contextlib.suppress(OSError):
                    os.close(fd)


class Depth:
    """How deep the calling thread is in something that signal handlers and finalizers may interrupt and begin anew.

    Without a bound, handlers that come faster than it gets done would nest for ever.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._depths: dict[int, int] = {}  # by thread; whoever interrupts leaves its thread's as it was

    def enter(self) -> bool:
        """Whether it is still allowed. `leave` has to follow in either case."""
        me = get_ident()
        self._depths[me] = depth = self._depths.get(me, 0) + 1
        return depth <= self._most

    def leave(self) -> None:
        """Harmless if a handler's exception prevented `enter`."""
        me = get_ident()
        depth = self._depths.pop(me, 0) - 1
        if depth > 0:
            self._depths[me] = depth


importing = original("_thread", "RLock")()
"""Held during an import by `load`. A child that is forked in the middle of one would wait for ever for the rest of it,
so fork.py waits for this. Reentrant, for signal handlers."""

_loaded: dict[str, Any] = {}


def load(name: str) -> Any:
    """A module that is imported at its first use, as one that a short process may never need."""
    if name not in _loaded:
        with importing:
            _loaded[name] = importlib.import_module(name)
    return _loaded[name]
