"""The GIL, which makes one C call one step of a journal, and the lock for interpreters without it."""

import functools
import sys
from collections.abc import Callable
from typing import ParamSpec, TypeVar

from .native import original

P = ParamSpec("P")
T = TypeVar("T")


def has_gil() -> bool:
    """Whether one C call at a time runs in this interpreter."""
    return getattr(sys, "_is_gil_enabled", lambda: True)()


def one_at_a_time(call: Callable[P, T]) -> Callable[P, T]:
    """One call at a time, where there is no GIL to see to it. Reentrant, for signal handlers."""
    lock = original("_thread", "RLock")()

    @functools.wraps(call)
    def locked(*args: P.args, **kwargs: P.kwargs) -> T:
        with lock:
            return call(*args, **kwargs)

    return locked
