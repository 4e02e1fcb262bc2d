"""Database: whether the file opens, is whole and of this release's schema, its size, its age, and room on its disk."""

import contextlib
import shutil
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from .. import migrations, report
from ..database import WAL_MAX_BYTES, is_corrupt, limited, network, open_reader, unavailable
from ..errors import ForeignDatabase, SchemaTooNew
from ..rows import DAY_NS
from .finding import Finding, fail, ok, warn
from .patient import Patient

QUICK_CHECK_S: Final = 10.0  # about 500 MB from the page cache
LEAST_FREE_BYTES: Final = 64 * 1024 * 1024  # the WAL's usual bound
FREE_SHARE: Final = 20  # of the database, a 20th should be free besides
LATE_DAYS: Final = 2  # retention may be at it
RESTORE: Final = "the daemon sets it aside and starts a fresh one; `skillmeter restore` puts a backup in its place"

_OLDEST: Final = "SELECT max(day) FROM day_mark WHERE first_event_id <= (SELECT min(id) FROM event_log)"
_NEWEST: Final = "SELECT max(day) FROM day_mark"


def check(patient: Patient) -> Iterator[Finding]:
    """Findings `database.*`."""
    path = patient.settings.db_path
    yield from _place(path)
    if not path.exists():
        yield warn("database.opens", f"there is no database {path} yet", "the daemon makes it when it starts")
        return
    try:
        with contextlib.closing(open_reader(path)) as db:
            yield _schema(db, path)
            yield _whole(db, path)
            yield from _content(db, patient.settings.retention_days)
    except (SchemaTooNew, ForeignDatabase) as error:
        yield fail("database.schema", f"{path}: {error.reason}", error.hint)
    except sqlite3.Error as error:
        yield _broken(error, path)
    yield from _sizes(path)
    yield from _aside(path)


def _place(path: Path) -> Iterator[Finding]:
    there = next(folder for folder in path.parents if folder.is_dir())
    kind = network(path)
    if kind:
        what = f"{path} is on a network file system ({kind}), where SQLite's WAL loses data"
        yield fail("database.network", what, "set ANALYTICS_DB_PATH to a local file: the daemon does not start there")
    free = shutil.disk_usage(there).free
    wanted = LEAST_FREE_BYTES + report.database(path)["bytes"] // FREE_SHARE
    if free < LEAST_FREE_BYTES:
        yield fail("database.room", f"{_mb(free)} are free at {path}", "make room there: commits are about to fail")
    elif free < wanted:
        yield warn("database.room", f"{_mb(free)} are free at {path}", f"have {_mb(wanted)} there, or keep fewer days")
    else:
        yield ok("database.room", f"{_mb(free)} are free at {path}")


def _schema(db: sqlite3.Connection, path: Path) -> Finding:
    """Raises SchemaTooNew or ForeignDatabase."""
    migrations.check(db)
    version, latest = migrations.version(db), migrations.latest()
    if version == 0:
        return warn("database.schema", f"{path} is empty", "the daemon makes its tables when it starts")
    if version < latest:
        what = f"{path} has schema version {version}, this release has {latest}"
        return warn("database.schema", what, "start the daemon of this release: it brings the schema up to date")
    return ok("database.schema", f"{path} opens, schema version {version}")


def _whole(db: sqlite3.Connection, path: Path) -> Finding:
    """Raises sqlite3.Error, also for damage that keeps SQLite from looking further."""
    try:
        with limited(db, QUICK_CHECK_S):
            verdicts = [text for (text,) in db.execute("PRAGMA quick_check(3)")]
    except TimeoutError:
        return ok("database.whole", f"no damage found in {QUICK_CHECK_S:g} s; not all of it was looked at")
    if verdicts == ["ok"]:
        return ok("database.whole", "SQLite finds it whole")
    return fail("database.whole", f"{path} is damaged: {'; '.join(verdicts)}", RESTORE)


def _broken(error: sqlite3.Error, path: Path) -> Finding:
    if is_corrupt(error):
        return fail("database.whole", f"{path} is damaged: {error}", RESTORE)
    why = unavailable(error, path)
    return fail("database.opens", why.reason, why.hint)


def _content(db: sqlite3.Connection, retention_days: int) -> Iterator[Finding]:
    """What is kept, and what happened to the file."""
    if not migrations.version(db):
        return
    today = time.time_ns() // DAY_NS
    (newest,) = db.execute(_NEWEST).fetchone()
    if newest is not None and newest > today:
        what = f"events were committed {newest - today} days after today"
        yield warn("database.clock", what, "a clock was wrong, or is now: check this machine's time")
    yield _kept(db, today, retention_days)
    for kind, times, last_ns in db.execute("SELECT kind, count(*), max(at_ns) FROM incident GROUP BY kind"):
        when = time.strftime("%Y-%m-%d %H:%M:%SZ", time.gmtime(last_ns / 1e9))
        what = f"its file was {kind} {times:,} times, last {when}; what was not sent again is in the ledger as lost"
        yield warn("database.incident", what, "SELECT * FROM incident says more; check its disk, and who moves it")


def _kept(db: sqlite3.Connection, today: int, retention_days: int) -> Finding:
    (oldest,) = db.execute(_OLDEST).fetchone()
    if not retention_days:
        return ok("database.retention", "events are kept for ever (ANALYTICS_DB_RETENTION_DAYS=0)")
    age = 0 if oldest is None else today - oldest
    if age > retention_days + LATE_DAYS:
        what = f"events are {age} days old, and should be kept for {retention_days}"
        return warn("database.retention", what, "the daemon deletes them while it runs and can commit: see its log")
    return ok("database.retention", f"events are kept for {retention_days} days; the oldest are {age} days old")


def _sizes(path: Path) -> Iterator[Finding]:
    sizes = report.database(path)
    what = f"{_mb(sizes['bytes'])}, write-ahead log {_mb(sizes['wal_bytes'])}"
    if sizes["wal_bytes"] > 2 * WAL_MAX_BYTES:
        yield warn("database.size", what, "a program keeps a transaction open: end it, and the log is cut back")
    else:
        yield ok("database.size", what)


def _aside(path: Path) -> Iterator[Finding]:
    """Databases that a daemon found corrupt or exchanged, and kept."""
    kept = [*path.parent.glob(f"{path.name}.corrupt-*"), *path.parent.glob(f"{path.name}.exchanged-*")]
    if kept:
        what = f"{len(kept):,} files of a database that was damaged or exchanged are kept, as {kept[0].name}"
        yield warn("database.aside", what, "`sqlite3 FILE .recover` reads what can be read; delete them when done")


def _mb(size: int) -> str:
    return f"{size / 1_000_000:,.1f} MB"
