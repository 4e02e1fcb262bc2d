"""Periodic: a thread that exports at an interval, at once when asked, and once more at the end."""

import logging
import random
import threading
import time
from collections.abc import Callable
from typing import Final

from .sink import Progress

log = logging.getLogger(__name__)

JITTER: Final = 0.1  # of the interval, so that a fleet started together does not push together
PUSH_WAIT_S: Final = 50.0  # less than a client waits for the answer, more than an export with all its retries takes


class Periodic:
    """Runs `export` on a thread of its own. `start`, `stop` and `push` may be called from any other."""

    def __init__(
        self, name: str, interval_s: float, export: Callable[[], bool], progress: Progress, stopping: threading.Event
    ) -> None:
        """`export` says whether everything committed before it began is exported now, and keeps `progress`.

        `stopping` is set by `stop`; an export that waits should wait for it.
        """
        self._stopping = stopping
        self._interval_s = interval_s
        self._export = export
        self._progress = progress
        self._changed = threading.Condition()
        self._asked = 0  # pushes so far
        self._answered = 0  # of these, the ones that an export began after
        self._worked = False  # the last export
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        """Export now, and then at the interval."""
        self._thread.start()

    def stop(self, timeout_s: float) -> bool:
        """Export once more, without waits between attempts, and end. Whether that was done in time. Idempotent."""
        with self._changed:
            self._stopping.set()
            self._changed.notify_all()
        if self._thread.is_alive():
            self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def push(self) -> bool:
        """Have an export begin after this call, and wait for it. Whether it worked."""
        deadline_s = time.monotonic() + PUSH_WAIT_S
        with self._changed:
            if self._stopping.is_set():
                return False
            self._asked += 1
            mine = self._asked
            self._changed.notify_all()
            while self._answered < mine:
                if not self._thread.is_alive() or not self._changed.wait(max(0.0, deadline_s - time.monotonic())):
                    return False
            return self._worked

    def _run(self) -> None:
        while not self._stopping.is_set():
            self._round()
            with self._changed:
                self._changed.wait_for(self._is_wanted, self._interval_s * random.uniform(1 - JITTER, 1 + JITTER))  # noqa: S311 - no secret
        self._round()

    def _is_wanted(self) -> bool:
        return self._stopping.is_set() or self._asked > self._answered

    def _round(self) -> None:
        asked = self._asked
        worked = False
        try:
            worked = self._export()
        except Exception:  # a fault of ours must not end the thread; the next round tries again
            log.exception("an export failed", extra={"sink": self._thread.name})
            self._progress.failed(time.time_ns(), "a fault of the daemon; its log says which")
        with self._changed:
            self._answered, self._worked = asked, worked
            self._changed.notify_all()
