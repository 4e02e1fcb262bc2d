"""A worker: runs its part of the plan, records each call, and says on stdout how far it is.

python -m skillmeterd.demo.worker FOLDER NUMBER PROCESSES SECONDS
"""

import sys
import time
import zlib
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import msgspec

from skillmeter import create_analytics_client
from skillmeter.recording import Recorder
from skillmeter.track import Tracker

from .plan import Task
from .tools import toolbox

PLAN: Final = "plan.msgpack"
CATALOG: Final = "catalog.db"

SAY_EVERY_S: Final = 0.1
RATE_ONE_FILE_IN: Final = 6
STARS: Final = ((0.5, 5), (2.0, 4), (8.0, 3), (32.0, 2))
"""Up to so many milliseconds, so many stars: those who wait rate by how long."""

_clock_s: Final = time.perf_counter


class Progress(msgspec.Struct):
    """What a worker says of itself: tasks done, record calls that returned True, by skill, and False."""

    tasks: int
    kept: dict[str, int]
    refused: int


class Worker:
    """Runs tasks and counts what the client answers."""

    def __init__(self, client: Recorder, tools: dict[str, Callable[[Path], object]]) -> None:
        self._client = client
        self._tools = tools
        self._tasks = 0
        self._kept: Counter[str] = Counter()
        self._refused = 0

    @property
    def progress(self) -> Progress:
        """How far it is."""
        return Progress(self._tasks, self._kept, self._refused)

    def do(self, task: Task) -> None:
        """Run one tool on one file. A tool that fails is what the record is for."""
        file = task.file
        started_s = _clock_s()
        try:
            with Tracker(self._execution, task.skill, file.user_id, file.org_id):
                self._tools[task.skill](Path(file.path))
        except Exception:
            pass
        else:
            if zlib.crc32(file.path.encode()) % RATE_ONE_FILE_IN == 0:
                self._rate(task, (_clock_s() - started_s) * 1000)
        self._tasks += 1

    def _rate(self, task: Task, latency_ms: float) -> None:
        stars = next((stars for up_to_ms, stars in STARS if latency_ms <= up_to_ms), 1)
        kept = self._client.record_skill_rating(task.skill, stars, task.file.user_id, task.file.org_id)
        self._count(task.skill, kept)

    def _execution(self, skill_id: str, success: bool, latency_ms: float, *ids: str | None, **extras: Any) -> bool:
        """`record_skill_execution`, and a note of its answer."""
        kept = self._client.record_skill_execution(skill_id, success, latency_ms, *ids, **extras)
        self._count(skill_id, kept)
        return kept

    def _count(self, skill_id: str, kept: bool) -> None:
        if kept:
            self._kept[skill_id] += 1
        else:
            self._refused += 1


def main(folder: Path, number: int, processes: int, seconds: float) -> None:
    """Work until the plan or the time is at its end. The client is not closed: nothing is lost by that."""
    tasks = msgspec.msgpack.decode((folder / PLAN).read_bytes(), type=list[Task])
    worker = Worker(create_analytics_client(), toolbox(folder / CATALOG))
    now_s = time.monotonic()
    end_s, say_at_s = now_s + seconds, now_s
    for task in tasks[number::processes]:
        now_s = time.monotonic()
        if now_s >= end_s:
            break
        if now_s >= say_at_s:
            say_at_s = now_s + SAY_EVERY_S
            _say(worker.progress)
        worker.do(task)
    _say(worker.progress)


def _say(progress: Progress) -> None:
    sys.stdout.buffer.write(msgspec.json.encode(progress) + b"\n")
    sys.stdout.buffer.flush()


if __name__ == "__main__":
    try:
        main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4]))
    except BrokenPipeError:  # the demo is gone: so is the worker, without a word
        sys.exit(1)
