"""Every step: the client's code is interrupted at each place where Python lets a signal handler run, one run for each.

    python -m tests.every_step FOLDER KIND FIRST STRIDE

A run is a forked process that makes a journal, records, is refused, rolls into a second segment and closes; at one
place something of KIND happens to it. Then its spool is taken over, and what the calls returned is compared with
SQLite. Python lets handlers run where a function begins, after a call and when a loop turns: a tracer stops there, and
what it does there looks to the client as a handler does. Prints what was wrong, and the number of places.
"""

import collections
import dis
import gc
import itertools
import json
import logging
import os
import shutil
import signal
import sqlite3
import sys
import traceback
from contextlib import closing
from pathlib import Path
from types import CodeType, FrameType
from typing import Any, Final

import skillmeter
from skillmeter import create_analytics_client
from skillmeter.journal import Journal
from skillmeterd.orphans import Orphans
from skillmeterd.quarantine import Quarantine
from skillmeterd.store import Store

KINDS: Final = ("record", "storm", "refuse", "raise", "kill", "fork", "close")
SOURCES: Final = str(Path(skillmeter.__file__).parent)
INTERRUPTIBLE: Final = ("RESUME", "CALL", "JUMP_BACKWARD", "POP_JUMP_BACKWARD", "FOR_ITER", "PRECALL", "SEND")
LONG: Final = "o" * 250  # six records of this org fill a segment
RUNS_PER_DATABASE: Final = 200

Told = list[tuple[str, bool | None]]
"""What each call was given as a user and returned, None if it was cut off."""


class TimeIsUp(ValueError, OSError):
    """What a handler raises: everything that the client itself might expect."""


class Run:
    """One life of a client, in a process of its own."""

    def __init__(self, kind: str, place: int | None) -> None:
        self.client: Any = None
        self.places = 0
        self.told: Told = []
        self.where = ""
        self.descriptors = 0
        self.threads = 0
        self._kind = kind
        self._place = place
        self._previous: dict[int, str] = {}
        self._names: dict[CodeType, dict[int, str]] = {}
        self._fresh = itertools.count()

    def live(self) -> None:
        """Record this and that; `places` are counted, and at one of them it happens."""
        self.client = create_analytics_client()
        before = len(os.listdir("/proc/self/fd"))
        sys.settrace(self._trace)
        for number in range(8):
            self._try(f"m{number}")
            if number == 2:
                self._try("")
        sys.settrace(None)
        self.threads = len(os.listdir("/proc/self/task"))
        for number in range(3):
            self._try(f"z{number}")
        self.client.close(0)
        gc.collect()
        self.descriptors = len(os.listdir("/proc/self/fd")) - before

    def report(self) -> None:
        """Tell whoever reads the pipe."""
        said = (self.told, self.places, self.where, self.descriptors, self.threads)
        os.write(tell, json.dumps(said).encode() + b"\n")

    def _try(self, name: str) -> None:
        """A call that may be interrupted; one for an empty name is refused."""
        self.told.append((name, None))
        at = len(self.told) - 1
        try:
            self.told[at] = (
                name,
                self.client.record_skill_execution("s" if name else "", True, 1.0, name or None, LONG),
            )
        except TimeIsUp:
            pass

    def _trace(self, frame: FrameType, event: str, _: object) -> Any:
        if not frame.f_code.co_filename.startswith(SOURCES):
            return None
        frame.f_trace_opcodes, frame.f_trace_lines = True, False
        if event == "opcode":
            before, now = self._previous.get(id(frame), "RESUME"), self._opcode(frame)
            self._previous[id(frame)] = now
            if before.startswith(INTERRUPTIBLE):
                self.places += 1
                if self.places == self._place:
                    name = Path(frame.f_code.co_filename).name
                    self.where = f"{name}:{frame.f_lineno} {frame.f_code.co_name}"
                    self._interrupt(frame)
        elif event == "return":
            self._previous.pop(id(frame), None)
        return self._trace

    def _opcode(self, frame: FrameType) -> str:
        code = frame.f_code
        if code not in self._names:
            self._names[code] = {step.offset: step.opname for step in dis.get_instructions(code)}
        return self._names[code].get(frame.f_lasti, "")

    def _interrupt(self, frame: FrameType) -> None:
        """A handler has the frame that it interrupts among its arguments, by which it is known."""
        kind = self._kind
        if kind == "record":
            self._try("handler")
        elif kind == "storm":
            for number in range(8):
                self._try(f"handler{number}")
        elif kind == "refuse":
            self._try("")
        elif kind == "raise":
            raise TimeIsUp
        elif kind == "close":
            self.client.close(0)
        elif kind == "kill":
            self.report()
            os.kill(os.getpid(), signal.SIGKILL)
        elif kind == "fork":
            child = os.fork()
            if child:
                os.waitpid(child, 0)
                return
            self.told = []
            for number in range(3):
                self._try(f"child{number}")
            self.report()
            os._exit(0)


tell = -1  # the pipe that a run reports to


def one_run(kind: str, place: int | None, spool: Path) -> list[Any]:
    """What the child that it may have forked told, and the run itself."""
    global tell
    os.environ["ANALYTICS_SPOOL_DIR"] = str(spool)
    hear, tell = os.pipe()
    pid = os.fork()
    if not pid:
        try:
            run = Run(kind, place)
            run.live()
            run.report()
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(0)
    os.close(tell)
    with os.fdopen(hear, "rb") as pipe:  # until the last of them has ended
        reports = [json.loads(line) for line in pipe]
    os.waitpid(pid, 0)
    return reports


def take_over(spool: Path, store: Store) -> None:
    """Bring what the run left behind into the database."""
    orphans = Orphans(spool, store, Quarantine(spool))
    orphans.look()
    while orphans.step():
        pass


def events_and_ledger(path: Path) -> tuple[collections.Counter[str], collections.Counter[str]]:
    """The names of all events, and the ledger."""
    with closing(sqlite3.connect(path)) as db:
        names = collections.Counter(name for (name,) in db.execute("SELECT user_id FROM events"))
        counts: collections.Counter[str] = collections.Counter()
        for outcome, reason, events in db.execute("SELECT * FROM ledger"):
            counts[f"{outcome}.{reason}"] += events
    return names, counts


def problems(
    kind: str, reports: list[Any], stored: "collections.Counter[str]", new: "collections.Counter[str]"
) -> list[str]:
    """What is wrong with a run: `stored` are its events, `new` is what it added to the ledger."""
    if len(reports) != (2 if kind == "fork" else 1):
        return [f"{len(reports)} reports: it hung or died"]
    told = [(name, answer) for report in reports for name, answer in report[0]]
    known = {name for name, _ in told}
    wrong = [f"{name!r} answered {answer}, stored {stored[name]} times" for name, answer in told if name and (
        stored[name] > 1 or (answer is True and not stored[name]) or (answer is False and stored[name]))]  # fmt: skip
    wrong += [f"{name!r} was never recorded" for name in stored if name not in known]
    cut_off = sum(answer is None for _, answer in told)
    refused = sum(events for slot, events in new.items() if slot.startswith(("dropped", "rejected")))
    if kind != "close":  # what is refused after that has no journal to be counted in
        if not 0 <= refused - sum(answer is False for _, answer in told) <= cut_off:
            wrong.append(f"refused {refused}: {told}")
        if not 0 <= len(told) - new["attempted."] <= cut_off:
            wrong.append(f"attempted {new['attempted.']} of {len(told)}")
    if kind != "kill" and new["dropped.unfinished"]:
        wrong.append("an attempt is pending for ever")
    wrong += [slot for slot in ("dropped.internal", "dropped.lost", "dropped.corrupt") if new[slot]]
    return wrong


def main(folder: Path, kind: str, first: int, stride: int) -> None:
    """Every place from the `first` on, in steps of `stride`."""
    Journal.create.__func__.__kwdefaults__.update(head_bytes=8192, segment_bytes=4096)  # type: ignore[attr-defined]
    logging.disable(logging.CRITICAL)
    spool = folder / "spool"
    ((_, places, *_),) = one_run("nothing", None, spool)
    leaks = deaf = runs = 0
    for number, place in enumerate(range(first, places + 1, stride)):
        if number % RUNS_PER_DATABASE == 0:
            path = folder / f"{number}.db"
            store = Store.open(path)
            seen: tuple[collections.Counter[str], collections.Counter[str]] = (
                collections.Counter(),
                collections.Counter(),
            )
        shutil.rmtree(spool, ignore_errors=True)
        spool.mkdir(exist_ok=True)
        reports = one_run(kind, place, spool)
        take_over(spool, store)
        now = events_and_ledger(path)
        wrong = problems(kind, reports, now[0] - seen[0], now[1] - seen[1])
        wrong += [f"{entry} is left in the spool" for entry in os.listdir(spool)]
        seen = now
        runs += 1
        if wrong:
            print(f"{kind} at {reports[-1][2] if reports else '?'} ({place}): {'; '.join(wrong)}")
        if kind != "kill" and reports:
            leaks += reports[-1][3] > 0
            deaf += kind != "close" and reports[-1][4] < 2
    print(json.dumps({"places": places, "runs": runs, "leaks": leaks, "deaf": deaf}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
