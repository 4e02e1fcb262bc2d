"""The crew: the worker processes, seen from the demo."""

import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import IO, Final, Self

import msgspec

from .problems import DemoFailed, last_lines
from .worker import Progress

_JOIN_S: Final = 5.0


class Crew:
    """All workers. Leaving the context kills those that still work."""

    def __init__(self, folder: Path, env: Mapping[str, str], processes: int, seconds: float) -> None:
        self._crew = [_Member(folder, env, number, processes, seconds) for number in range(processes)]

    @property
    def working(self) -> bool:
        """Whether any is not yet at its end."""
        return any(member.working for member in self._crew)

    @property
    def progress(self) -> Progress:
        """What they have done together, as far as they have said."""
        said = [member.progress for member in self._crew]
        kept: Counter[str] = Counter()
        for progress in said:
            kept.update(progress.kept)
        return Progress(sum(progress.tasks for progress in said), kept, sum(progress.refused for progress in said))

    def check(self) -> None:
        """Raises DemoFailed if one broke down."""
        for member in self._crew:
            member.check()

    def finish(self) -> Progress:
        """What they did, when all are at their end. Raises DemoFailed if one broke down."""
        for member in self._crew:
            member.finish()
        self.check()
        return self.progress

    def start(self) -> None:
        """Set all to work."""
        for member in self._crew:
            member.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for member in self._crew:
            member.kill()


class _Member:
    """One worker process, and the thread that listens to it."""

    def __init__(self, folder: Path, env: Mapping[str, str], number: int, processes: int, seconds: float) -> None:
        # -W ignore: old files have escapes that Python warns of when it compiles them
        self._command = [sys.executable, "-W", "ignore", "-m", "skillmeterd.demo.worker"]
        self._command += [str(folder), str(number), str(processes), str(seconds)]
        self._env = env
        self._log = folder / f"worker-{number}.log"
        self._process: subprocess.Popen[bytes] | None = None
        self._listener: threading.Thread | None = None
        self.progress = Progress(0, {}, 0)

    def start(self) -> None:
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                self._command,
                env=self._env,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                start_new_session=True,
            )
        assert self._process.stdout is not None
        self._listener = threading.Thread(target=self._listen, args=(self._process.stdout,), daemon=True)
        self._listener.start()

    @property
    def working(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def finish(self) -> None:
        if self._process is not None:
            self._process.wait()
        if self._listener is not None:
            self._listener.join(_JOIN_S)  # it ends with the pipe, and the pipe with the process

    def check(self) -> None:
        if self._process is not None and self._process.poll():
            raise DemoFailed(f"a worker ended with exit code {self._process.returncode}:\n{last_lines(self._log)}")

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
        self.finish()

    def _listen(self, stdout: IO[bytes]) -> None:
        with stdout:
            for line in stdout:
                self.progress = msgspec.json.decode(line, type=Progress)
