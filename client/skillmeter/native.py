"""Native threads and waits, also in a process that gevent has patched.

gevent replaces the thread functions by ones for greenlets. The shipper waits in C code, which would stall
every greenlet, so it needs a thread of the operating system whatever has been patched.
"""

import importlib
import sys
from collections.abc import Callable
from typing import Any


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
