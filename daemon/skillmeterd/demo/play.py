"""The play: start the daemon and the workers, kill the daemon in the middle, wait for every event, read the outcome."""

import contextlib
import shutil
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

import msgspec

from .crew import Crew
from .daemon import DaemonProcess
from .interrupts import Interrupts
from .outcome import Outcome, is_settled, read, stored
from .plan import File, Task, find_files, plan, roots
from .problems import DemoFailed
from .tools import write_catalog
from .worker import CATALOG, PLAN, Progress

WORK_PART: Final = 0.5  # of the time limit: the rest is for starting, committing and reading
KILL_AT: Final = 0.4  # of the calls
AWAY_S: Final = 1.0
LOOK_S: Final = 0.05


@dataclass(frozen=True, slots=True)
class Size:
    """How much the demo does, and how long it may take."""

    calls: int
    processes: int
    limit_s: float


class Screen(Protocol):
    """Where the person looks."""

    def say(self, text: str) -> None:
        """Something has happened."""

    def show(self, done: int, calls: int, committed: int) -> None:
        """So many of the calls are done, so many events are in SQLite."""


@dataclass(frozen=True, slots=True)
class Played:
    """What is left of a demo. With `daemon`, that one still runs."""

    outcome: Outcome
    seconds: float
    folder: Path
    daemon: DaemonProcess | None


def play(screen: Screen, size: Size, *, keep: bool) -> Played:
    """Play the demo. Raises DemoFailed, KeyboardInterrupt or SystemExit, and leaves nothing behind.

    With `keep`, a demo that came to its end leaves the daemon running, and its folder.
    """
    started_s = time.monotonic()
    with Interrupts() as interrupts, contextlib.ExitStack() as cleanup:  # in this order: nothing disturbs the cleanup
        folder = Path(tempfile.mkdtemp(prefix="skillmeter-demo-"))
        cleanup.callback(shutil.rmtree, folder, ignore_errors=True)
        tasks = _prepare(screen, folder, size.calls)
        interrupts.check()
        daemon = cleanup.enter_context(DaemonProcess(folder))
        daemon.start(interrupts.check)
        screen.say(f"The daemon runs as process {daemon.pid}{_page(daemon)}.")
        crew = cleanup.enter_context(Crew(folder, daemon.env, size.processes, size.limit_s * WORK_PART))
        crew.start()
        screen.say(f"{size.processes} processes run {len(tasks):,} tool calls.")
        stage = _Stage(screen, interrupts, daemon, crew, len(tasks), started_s + size.limit_s)
        stage.watch()
        recorded = crew.finish()
        if recorded.tasks < len(tasks):
            screen.say(f"The time for work is over after {recorded.tasks:,} calls.")
        stage.wait_for_commits(recorded)
        outcome = read(daemon.db_path, recorded)
        if keep:
            cleanup.pop_all()
        return Played(outcome, time.monotonic() - started_s, folder, daemon if keep else None)


class _Stage:
    """The part that waits and watches."""

    def __init__(
        self,
        screen: Screen,
        interrupts: Interrupts,
        daemon: DaemonProcess,
        crew: Crew,
        calls: int,
        end_s: float,
    ) -> None:
        self._screen = screen
        self._interrupts = interrupts
        self._daemon = daemon
        self._crew = crew
        self._calls = calls
        self._end_s = end_s

    def watch(self) -> None:
        """Watch the workers; kill the daemon in the middle of their work, and start it again."""
        killed = False
        while self._crew.working:
            self._look()
            if not killed and self._crew.progress.tasks >= self._calls * KILL_AT:
                killed = True
                self._kill_and_restart()
        if not killed:
            self._kill_and_restart()

    def wait_for_commits(self, recorded: Progress) -> None:
        """Wait until SQLite holds all that the workers recorded. Raises DemoFailed at the end of the time limit."""
        while not is_settled(self._daemon.db_path, recorded):
            self._look()
            self._daemon.check()
            if time.monotonic() >= self._end_s:
                kept, committed = sum(recorded.kept.values()), stored(self._daemon.db_path)
                raise DemoFailed(f"the time is over, and {committed:,} of {kept:,} events are committed")
        self._look()

    def _kill_and_restart(self) -> None:
        self._daemon.kill()
        before = self._crew.progress.tasks
        self._screen.say(f"The daemon is killed (SIGKILL) after {before:,} calls. The workers go on.")
        back_at_s = time.monotonic() + AWAY_S
        while time.monotonic() < back_at_s:
            self._look()
        meanwhile = self._crew.progress.tasks - before
        self._daemon.start(self._interrupts.check)
        self._screen.say(f"The daemon is back as process {self._daemon.pid}; meanwhile {meanwhile:,} calls were made.")

    def _look(self) -> None:
        self._interrupts.check()
        self._crew.check()
        self._screen.show(self._crew.progress.tasks, self._calls, stored(self._daemon.db_path))
        time.sleep(LOOK_S)


def _prepare(screen: Screen, folder: Path, calls: int) -> list[Task]:
    """Find files, decide who does what, and write that down for the workers."""
    files: list[File] = []
    for org_id, root in roots().items():
        found = find_files(org_id, root)
        screen.say(f"{len(found):,} files under {root}")
        files += found
    tasks = plan(files, calls)
    (folder / PLAN).write_bytes(msgspec.msgpack.encode(tasks))
    write_catalog(folder / CATALOG, [(Path(file.path), file.bytes) for file in files])
    return tasks


def _page(daemon: DaemonProcess) -> str:
    return f", its page is {daemon.http}" if daemon.http else ""
