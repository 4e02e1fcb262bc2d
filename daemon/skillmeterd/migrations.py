"""Migrations: bring a database to this release's schema, one numbered .sql file and one transaction at a time.

The connection has the functions counts_add and counts_of from then on: what writes to the tables needs them, too.
"""

import functools
import logging
import sqlite3
from importlib import resources
from typing import Final

from . import counts
from .errors import ForeignDatabase, SchemaTooNew

log = logging.getLogger(__name__)

APPLICATION_ID: Final = 0x534B4D31  # "SKM1", set by the first migration


def latest() -> int:
    """The version of this release's schema."""
    return max(number for number, _ in _scripts())


def version(db: sqlite3.Connection) -> int:
    """The version of a database's schema, 0 when it is empty. Raises ForeignDatabase."""
    (application_id,) = db.execute("PRAGMA application_id").fetchone()
    if application_id == APPLICATION_ID:
        return int(db.execute("SELECT version FROM schema_version").fetchone()[0])
    if db.execute("SELECT 1 FROM sqlite_master LIMIT 1").fetchone() is not None:
        raise ForeignDatabase("the file is a database of another program", "choose another path")
    return 0


def check(db: sqlite3.Connection) -> None:
    """Raises SchemaTooNew or ForeignDatabase if this release must not touch the database. Only reads."""
    current = version(db)
    if current > latest():
        raise SchemaTooNew(
            f"the database has schema version {current}, this release knows up to {latest()}",
            "install the newer release again, or restore a backup made before it",
        )


def migrate(db: sqlite3.Connection, now_ns: int) -> None:
    """Apply what is missing. `check` came before."""
    db.create_function("counts_add", 2, counts.add_encoded, deterministic=True)
    db.create_function("counts_of", 2, counts.encode_one, deterministic=True)
    current = version(db)
    if 0 < current < latest():  # said before, as it takes minutes for a large one, in which nothing else is heard
        log.info("bringing the database up to date", extra={"version": current, "to": latest()})
    for number, sql in _scripts():
        if number > current:
            _apply(db, number, sql, now_ns)


def _apply(db: sqlite3.Connection, number: int, sql: str, now_ns: int) -> None:
    stamp = f"UPDATE schema_version SET version = {number:d}, migrated_ns = {now_ns:d};"  # noqa: S608 - two integers
    try:
        db.executescript(f"BEGIN IMMEDIATE;\n{sql}\n{stamp}\nCOMMIT;")
    except sqlite3.Error:
        if db.in_transaction:
            db.execute("ROLLBACK")
        raise


@functools.cache
def _scripts() -> list[tuple[int, str]]:
    """The migrations in their order: their numbers begin their names."""
    folder = resources.files(__package__) / "schema"
    names = sorted(entry.name for entry in folder.iterdir() if entry.name.endswith(".sql"))
    return [(int(name[:4]), (folder / name).read_text("utf-8")) for name in names]
