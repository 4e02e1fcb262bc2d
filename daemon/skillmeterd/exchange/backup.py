"""Backup: a copy of the database that is whole, taken while the daemon records; and a copy put back in its place.

What is restored is older than the journals' acknowledgements: producers that live send again what the backup lacks and
they still have; what they no longer have, they declare lost, and the ledger counts it.
"""

import contextlib
import os
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from .. import migrations
from ..database import open_reader, refuse_network
from ..errors import DaemonError
from ..instance import Instance

PAGES: Final = 1024  # copied in one go: 4 MiB


class BadBackup(DaemonError):
    """A file is no whole database of ours. Nothing was changed."""


def back_up(source: Path, target: Path, on_progress: Callable[[int, int], None]) -> None:
    """Copy the database to `target`, which appears when the copy is complete and checked.

    One moment of the record, however long it takes; recording goes on. `on_progress` takes pages done and in all.
    Raises sqlite3.Error, BadBackup or OSError.
    """
    with contextlib.closing(open_reader(source)) as db, _partial(target) as partial:
        db.execute("BEGIN")
        db.execute("SELECT count(*) FROM schema_version").fetchone()  # from here on this moment is kept
        with contextlib.closing(sqlite3.connect(partial)) as copy:
            db.backup(copy, pages=PAGES, progress=lambda _, left, total: on_progress(total - left, total))
            copy.execute("PRAGMA journal_mode = DELETE")  # one file, without a WAL beside it
        check(partial)
        _sync(partial)
        partial.replace(target)


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
        with _partial(target) as partial:
            with contextlib.closing(open_reader(source)) as db, contextlib.closing(sqlite3.connect(partial)) as copy:
                db.backup(copy, pages=PAGES, progress=lambda _, left, total: on_progress(total - left, total))
            check(partial)
            _sync(partial)
            kept = _set_old_aside(target)
            partial.replace(target)
        return kept
    finally:
        instance.release()


def check(path: Path) -> None:
    """Raises BadBackup unless the file is a whole database of ours, of a version that this release knows."""
    if not path.is_file():
        raise BadBackup(f"there is no file {path}")
    try:
        with contextlib.closing(open_reader(path)) as db:
            migrations.check(db)
            if not migrations.version(db):
                raise BadBackup(f"{path} is empty")
            (verdict,) = db.execute("PRAGMA integrity_check(1)").fetchone()
    except sqlite3.Error as error:
        raise BadBackup(f"{path} is no whole database: {error}") from error
    if verdict != "ok":
        raise BadBackup(f"{path} is damaged: {verdict}")


def _set_old_aside(target: Path) -> Path | None:
    """Rename the database and its WAL, which must not be taken for the new one's."""
    if not target.exists():
        return None
    number = 1
    while (kept := target.with_name(f"{target.name}.before-restore-{number}")).exists():
        number += 1
    for suffix in ("-wal", "-shm", ""):
        old = target.with_name(target.name + suffix)
        if old.exists():
            old.rename(kept.with_name(kept.name + suffix))
    return kept


@contextlib.contextmanager
def _partial(target: Path) -> Iterator[Path]:
    """A path beside `target` for what is not complete yet; whatever is there at the end goes."""
    partial = target.with_name(f".{target.name}.{os.getpid()}.partial")
    os.close(os.open(partial, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    try:
        yield partial
    finally:
        for suffix in ("", "-wal", "-shm", "-journal"):
            partial.with_name(partial.name + suffix).unlink(missing_ok=True)


def _sync(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
