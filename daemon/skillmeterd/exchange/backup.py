"""Backup: a copy of the database that is whole, taken while the daemon records; and a copy put back in its place.

What is restored is older than the journals' acknowledgements: producers that live send again what the backup lacks and
they still have; what they no longer have, they declare lost, and the ledger counts it.
"""

import contextlib
import os
import sqlite3
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Final

from .. import migrations
from ..database import open_reader, refuse_network
from ..errors import DaemonError
from ..instance import Instance
from .files import complete, partial

PAGES: Final = 1024  # copied in one go: 4 MiB


class BadBackup(DaemonError):
    """A file is no whole database of ours. Nothing was changed."""


def back_up(source: Path, target: Path, on_progress: Callable[[int, int], None]) -> None:
    """Copy the database to `target`, which appears when the copy is complete and checked.

    One moment of the record, however long it takes; recording goes on. `on_progress` takes pages done and in all.
    Raises sqlite3.Error, BadBackup or OSError.
    """
    with contextlib.closing(open_reader(source)) as db, partial(target) as copied:
        db.execute("BEGIN")
        migrations.check(db)  # reads: from here on this moment is kept
        if not migrations.version(db):
            raise BadBackup(f"{source} is empty")
        with contextlib.closing(sqlite3.connect(copied)) as copy:
            db.backup(copy, pages=PAGES, progress=lambda _, left, total: on_progress(total - left, total))
            copy.execute("PRAGMA journal_mode = DELETE")  # one file, without a WAL beside it
        check(copied, f"the copy of {source}")
        complete(copied, target)


def restore(source: Path, target: Path, on_progress: Callable[[int, int], None]) -> Path | None:
    """Put a backup in the database's place; returns where the old one is kept, or None if there was none.

    Raises BadBackup, AlreadyRunning while a daemon has the database, sqlite3.Error or OSError.
    """
    check(source)
    instance = Instance()
    target = target.resolve()
    instance.claim(target.with_name(target.name + ".lock"), "database")
    try:
        refuse_network(target)
        with partial(target) as copied:
            with contextlib.closing(open_reader(source)) as db, contextlib.closing(sqlite3.connect(copied)) as copy:
                db.backup(copy, pages=PAGES, progress=lambda _, left, total: on_progress(total - left, total))
            check(copied, f"the copy of {source}")
            with contextlib.suppress(FileNotFoundError):
                _let_the_same_read(target.stat(), copied)
            kept = _set_old_aside(target)
            complete(copied, target)
        return kept
    finally:
        instance.release()


def check(path: Path, called: str | None = None) -> None:
    """Raises BadBackup unless the file is a whole database of ours, of a version that this release knows.

    `called` says what the file is to whom reads of it.
    """
    called = called or str(path)
    if not path.is_file():
        raise BadBackup(f"there is no file {called}")
    try:
        with contextlib.closing(open_reader(path)) as db:
            migrations.check(db)
            if not migrations.version(db):
                raise BadBackup(f"{called} is empty")
            (verdict,) = db.execute("PRAGMA integrity_check(1)").fetchone()
    except sqlite3.Error as error:
        raise BadBackup(f"{called} is no whole database: {error}") from error
    if verdict != "ok":
        raise BadBackup(f"{called} is damaged: {verdict}")


def _let_the_same_read(old: os.stat_result, copied: Path) -> None:
    """Give a copy the owner, as far as we may, and the mode of what it replaces."""
    with contextlib.suppress(PermissionError):
        os.chown(copied, old.st_uid, old.st_gid)
    copied.chmod(stat.S_IMODE(old.st_mode))


def _set_old_aside(target: Path) -> Path | None:
    """Rename the database and its WAL, which must not be taken for the new one's; the WAL also if it is alone."""
    present = [suffix for suffix in ("-wal", "-shm", "") if target.with_name(target.name + suffix).exists()]
    if not present:
        return None
    number = 1
    while any(_kept(target, number, suffix).exists() for suffix in present):
        number += 1
    for suffix in present:
        target.with_name(target.name + suffix).rename(_kept(target, number, suffix))
    return _kept(target, number)


def _kept(target: Path, number: int, suffix: str = "") -> Path:
    return target.with_name(f"{target.name}.before-restore-{number}{suffix}")
