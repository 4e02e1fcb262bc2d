"""Spool: what waits in it and for whom, what was set aside, what does not belong there, and whether there is room."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from skillmeter.journal import SEGMENT_FILE_BYTES

from .. import backlog
from ..database import network
from .finding import Finding, fail, ok, warn
from .patient import Patient

LEAST_FREE_BYTES: Final = 16 * 1024 * 1024  # below it the next segment may not fit
DRAIN: Final = "start the daemon, or `skillmeter spool drain`"


def check(patient: Patient) -> Iterator[Finding]:
    """Findings `spool.*`."""
    folder = Path(patient.settings.spool_dir)
    yield from _room(folder, patient.settings.spool_max_bytes)
    if not folder.is_dir():
        return
    waiting = backlog.waiting(folder, patient.settings.db_path)
    yield _backlog(waiting)
    yield from _orphans(waiting, is_served=patient.health is not None)
    yield from _bound(waiting, patient.settings.spool_max_bytes)
    yield from _strange(folder, waiting)


def _room(folder: Path, max_bytes: int) -> Iterator[Finding]:
    there = next(path for path in (folder, *folder.parents) if path.is_dir())
    free = shutil.disk_usage(there).free
    if free < LEAST_FREE_BYTES:
        yield fail("spool.room", f"{_mb(free)} are free at {folder}: record calls are refused", "make room there")
    elif free < max_bytes:
        what = f"{_mb(free)} are free at {folder}, less than one process may keep ({_mb(max_bytes)})"
        yield warn("spool.room", what, "make room there, or lower ANALYTICS_SPOOL_MAX_BYTES")
    else:
        yield ok("spool.room", f"{_mb(free)} are free at {folder}")
    kind = network(folder)
    if kind:
        what = f"{folder} is on a network file system ({kind}), where locks and mapped files cannot be relied on"
        yield fail("spool.network", what, "set ANALYTICS_SPOOL_DIR to a local folder, for clients and daemon")


def _backlog(waiting: list[backlog.Waiting]) -> Finding:
    alive = sum(one.owner == "alive" for one in waiting)
    pending = sum(one.pending or 0 for one in waiting)
    size = sum(one.bytes for one in waiting)
    return ok("spool.backlog", f"{alive:,} processes record, {pending:,} events are not stored yet, {_mb(size)}")


def _orphans(waiting: list[backlog.Waiting], *, is_served: bool) -> Iterator[Finding]:
    ended = [one for one in waiting if one.owner == "ended"]
    if not ended:
        return
    what = f"{len(ended):,} journals of ended processes with {sum(one.pending or 0 for one in ended):,} events"
    if is_served:
        yield ok("spool.orphans", f"{what}; the daemon takes them over")
    else:
        yield warn("spool.orphans", f"{what} wait for a daemon", DRAIN)


def _bound(waiting: list[backlog.Waiting], max_bytes: int) -> Iterator[Finding]:
    """A process that has no room for another segment drops what comes when this one is full."""
    nearly = max(max_bytes // 2, max_bytes - SEGMENT_FILE_BYTES)
    full = [one for one in waiting if one.owner == "alive" and one.bytes >= nearly]
    if full:
        what = f"{len(full):,} processes are at the end of their room ({_mb(max_bytes)}), as process {full[0].pid}"
        advice = "see that the daemon runs and commits, or raise ANALYTICS_SPOOL_MAX_BYTES"
        yield warn("spool.bound", f"{what}: events are dropped", advice)


def _strange(folder: Path, waiting: list[backlog.Waiting]) -> Iterator[Finding]:
    unreadable = [one for one in waiting if one.owner == "unreadable"]
    if unreadable:
        what = f"{len(unreadable):,} journals cannot be read, as {unreadable[0].journal}: {unreadable[0].why}"
        yield warn("spool.unreadable", what, "the daemon sets aside what is damaged; check who owns the others")
    headless, foreign = backlog.headless(folder), backlog.foreign(folder)
    if headless:
        what = f"{len(headless):,} segments have lost their head, as {headless[0].name}"
        yield warn("spool.headless", what, "nobody takes them: put the head back beside them, or move them away")
    if foreign:
        what = f"{len(foreign):,} files are not skillmeter's, as {foreign[0].name!r}"
        yield warn("spool.foreign", what, f"move them out of {folder}")
    aside = backlog.set_aside(folder)  # the last, as it is closed to more users than the spool
    if aside:
        what = f"{len(aside):,} damaged files or spans were set aside; their events are in the ledger as dropped"
        yield warn("spool.quarantine", what, "`skillmeter spool repair` says what they are, and which can be put back")


def _mb(size: int) -> str:
    return f"{size / 1_000_000:,.1f} MB"
