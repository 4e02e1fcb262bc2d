"""W&B: the sink of backend `wandb`. A run for each life of the daemon, a row for each window of a minute.

W&B's library lives in a worker process: it takes 80 MB, starts processes and threads of its own, and may hang with its
network. A row is handed over and acknowledged over pipes. While that does not work the window stays open, so that the
next row covers it; and each row carries the totals besides, which are those of SQLite.
"""

import contextlib
import dataclasses
import importlib.util
import json
import logging
import os
import select
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from typing import Any, Final

from ..config import DaemonSettings
from .periodic import Periodic
from .sink import Progress, Sink
from .source import Source
from .wandb_window import Window

log = logging.getLogger(__name__)

WINDOW_S: Final = 60.0
LATE: Final = 3  # windows without a row until the sink counts as not healthy
ANSWER_S: Final = 120.0  # beginning a run asks W&B's servers, and retries by itself for 90 s
LAST_ANSWER_S: Final = 2.0  # when the daemon is about to stop
_POLL_S: Final = 0.1


class Wandb:
    """The sink. One thread starts and stops it; the rest may be called from any."""

    name = "wandb"

    def __init__(self, source: Source) -> None:
        self.progress = Progress()
        self._stopping = threading.Event()
        self._window = Window(source.settings.db_path)
        self._worker = _Worker(source.settings, self._stopping)
        self._thread = Periodic("wandb", WINDOW_S, self._export, self.progress, self._stopping)

    @property
    def healthy(self) -> bool:
        """Whether the last row was taken, and that is not long ago."""
        last_ns = self.progress.last_success_ns
        if self.progress.problem or last_ns is None:
            return False
        return time.time_ns() - last_ns < LATE * WINDOW_S * 1e9

    def start(self) -> None:
        """Begin a run, and the first window."""
        self._thread.start()

    def stop(self, timeout_s: float) -> None:
        """Log the last row and end the run, within the time."""
        deadline_s = time.monotonic() + timeout_s
        self._thread.stop(timeout_s)
        self._worker.finish(max(0.0, deadline_s - time.monotonic()))

    def push(self) -> bool:
        """End the window now. Whether W&B's library has taken the row: it sends it, and keeps it, by itself."""
        return self._thread.push()

    def status(self) -> dict[str, Any]:
        """Its account of rows, where the run's files are, and the skills that are shown."""
        return {
            "healthy": self.healthy,
            **dataclasses.asdict(self.progress),
            "folder": self._worker.folder,
            "skills": self._window.shown,
            "skills_left_out": self._window.left_out,
        }

    def _export(self) -> bool:
        try:
            self._worker.ask(self._window.row(time.time()))
        except (OSError, sqlite3.Error, ValueError) as error:
            self._worker.kill()
            self.progress.failed(time.time_ns(), str(error))
            log.warning("cannot log a row to W&B", extra={"problem": str(error)})
            return False
        self._window.next()
        self.progress.succeeded(time.time_ns())
        return True


class _Worker:
    """The process with W&B's library: begun when it is needed, and again after it ended."""

    def __init__(self, settings: DaemonSettings, stopping: threading.Event) -> None:
        self.folder = os.environ.get("WANDB_DIR") or str(settings.db_path.parent)
        self._settings = settings
        self._stopping = stopping
        self._process: subprocess.Popen[bytes] | None = None

    def ask(self, row: dict[str, Any]) -> None:
        """Have a row logged. Raises OSError or ValueError with what W&B said."""
        if self._process is None:
            self._begin()
            self._exchange(self._run())
        self._exchange(row)

    def finish(self, timeout_s: float) -> None:
        """End the run; kill the process if that takes longer."""
        if self._process is not None:
            assert self._process.stdin is not None
            with contextlib.suppress(OSError):
                self._process.stdin.close()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(timeout_s)
        self.kill()

    def kill(self) -> None:
        """End it and what it started, at once."""
        process, self._process = self._process, None
        if process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        for pipe in (process.stdin, process.stdout):
            assert pipe is not None
            with contextlib.suppress(OSError):
                pipe.close()

    def _begin(self) -> None:
        env = dict(os.environ)
        if self._settings.wandb_api_key is not None:
            env["WANDB_API_KEY"] = self._settings.wandb_api_key.reveal()  # not an argument: those everybody can see
        self._process = subprocess.Popen(
            [sys.executable, "-m", "skillmeterd.sinks.wandb_worker"],
            env=env,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # a Ctrl-C for the daemon is not for it, and it can be killed with its children
        )

    def _run(self) -> dict[str, Any]:
        settings = self._settings
        return {
            "project": settings.wandb_project or "skillmeter",
            "entity": settings.wandb_entity,
            "mode": settings.wandb_mode,
            "dir": self.folder,
        }

    def _exchange(self, message: dict[str, Any]) -> None:
        process = self._process
        assert process is not None
        assert process.stdin is not None
        process.stdin.write(json.dumps(message).encode() + b"\n")
        process.stdin.flush()
        problem = json.loads(self._answer(process))["problem"]
        if problem:
            key = self._settings.wandb_api_key
            raise ValueError(problem if key is None else problem.replace(key.reveal(), "[REDACTED]"))

    def _answer(self, process: subprocess.Popen[bytes]) -> bytes:
        """One line. Raises OSError when it ends or takes too long."""
        assert process.stdout is not None
        began_s = time.monotonic()
        answer = b""
        while not answer.endswith(b"\n"):
            if time.monotonic() - began_s > (LAST_ANSWER_S if self._stopping.is_set() else ANSWER_S):
                raise TimeoutError("W&B's library takes too long")
            if select.select([process.stdout], [], [], _POLL_S)[0]:
                piece = os.read(process.stdout.fileno(), 65536)
                if not piece:
                    raise BrokenPipeError("the process with W&B's library ended")
                answer += piece
        return answer


def create(source: Source) -> Sink:
    """The sink of backend `wandb`. Raises ModuleNotFoundError if W&B's library is not installed."""
    if importlib.util.find_spec("wandb") is None:
        raise ModuleNotFoundError("there is no wandb", name="wandb")
    return Wandb(source)
