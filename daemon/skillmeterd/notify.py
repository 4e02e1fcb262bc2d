"""Notify: what the daemon tells the service manager that started it, as sd_notify(3) describes it.

Without NOTIFY_SOCKET in the environment there is nobody to tell, and every call does nothing.
"""

import contextlib
import math
import os
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Final

STATUS_S: Final = 10.0  # between two status lines: a person reads them
WATCHDOG_SHARE: Final = 3  # beats in one watchdog interval; one may be late by a long commit


class Notifier:
    """Messages to the service manager. One thread."""

    def __init__(self, env: Mapping[str, str] = os.environ) -> None:
        self._address = env.get("NOTIFY_SOCKET", "")
        self.interval_s = _interval_s(env) if self._address else math.inf
        """How often `beat` should be called, at least."""
        self._due_s = 0.0

    @property
    def is_heard(self) -> bool:
        """Whether there is a service manager."""
        return bool(self._address)

    def starting(self, status: str) -> None:
        """The daemon does not serve yet, and what it does instead."""
        self._send(f"STATUS={status}")

    def ready(self, status: str) -> None:
        """The daemon serves."""
        self._send("READY=1", f"STATUS={status}")

    def beat(self, status: Callable[[], str]) -> None:
        """The loop turns. Call it in each turn: it sends no more than is needed, and then asks for the status."""
        now_s = time.monotonic()
        if self._address and now_s >= self._due_s:
            self._due_s = now_s + self.interval_s
            self._send("WATCHDOG=1", f"STATUS={status()}")

    @contextlib.contextmanager
    def reloading(self) -> Iterator[None]:
        """The block reads the configuration again. The time lets the manager tell this reload from an older one."""
        self._send("RELOADING=1", f"MONOTONIC_USEC={time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000}")
        try:
            yield
        finally:
            self._send("READY=1")

    def stopping(self) -> None:
        """The daemon has begun to end."""
        self._send("STOPPING=1", "STATUS=stopping")

    def _send(self, *lines: str) -> None:
        """Send, or let it be: a manager that does not listen must not stop the daemon."""
        if not self._address:
            return
        address = "\0" + self._address[1:] if self._address.startswith("@") else self._address
        message = "\n".join(line.replace("\n", " ") for line in lines).encode("utf-8", "replace")
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as to:
            to.setblocking(False)
            to.sendto(message, address)


def _interval_s(env: Mapping[str, str]) -> float:
    """The watchdog's interval, if it is for this process, in parts."""
    usec, pid = env.get("WATCHDOG_USEC", ""), env.get("WATCHDOG_PID", "")
    if not usec.isdecimal() or pid not in ("", str(os.getpid())):
        return STATUS_S
    return min(STATUS_S, int(usec) / 1e6 / WATCHDOG_SHARE)
