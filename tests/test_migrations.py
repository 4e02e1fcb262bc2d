"""Migrations: numbered, each wholly applied or not at all."""

import sqlite3
from collections.abc import Iterator
from contextlib import closing

import pytest

from skillmeterd import migrations
from skillmeterd.migrations import latest, migrate, version


@pytest.fixture
def db() -> Iterator[sqlite3.Connection]:
    """An empty database."""
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as db:
        yield db


def test_an_empty_database_is_brought_to_the_latest_version(db: sqlite3.Connection) -> None:
    """And the time of the migration is kept."""
    assert version(db) == 0
    migrate(db, 123)
    assert version(db) == latest()
    assert db.execute("SELECT * FROM schema_version").fetchall() == [(latest(), 123)]


def test_a_database_of_this_version_is_not_touched(db: sqlite3.Connection) -> None:
    """Every start passes here."""
    migrate(db, 1)
    changes = db.total_changes
    migrate(db, 2)
    assert db.total_changes == changes


def test_an_upgrade_is_said_before_it_takes_its_time(
    db: sqlite3.Connection, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Once, with both versions; neither a new database nor one of this version is worth a line."""
    caplog.set_level("INFO")
    migrate(db, 1)
    migrate(db, 1)
    assert not caplog.records
    before = latest()
    more = [(before + number, f"CREATE TABLE more_{number} (a);") for number in (1, 2)]
    scripts = [*migrations._scripts(), *more]
    monkeypatch.setattr(migrations, "_scripts", lambda: scripts)
    migrate(db, 1)
    (record,) = caplog.records
    assert (vars(record)["version"], vars(record)["to"]) == (before, before + 2)


def test_the_numbers_of_the_files_have_no_gap() -> None:
    """Their order is the order of their numbers."""
    assert [number for number, _ in migrations._scripts()] == list(range(1, latest() + 1))


def test_a_migration_that_fails_leaves_the_version_before_it(
    db: sqlite3.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half of it would be worse than none; the next start tries again."""
    scripts = migrations._scripts()
    broken = (latest() + 1, "CREATE TABLE half (a); INSERT INTO missing VALUES (1);")
    monkeypatch.setattr(migrations, "_scripts", lambda: [*scripts, broken])
    with pytest.raises(sqlite3.OperationalError, match="missing"):
        migrate(db, 1)
    assert not db.in_transaction
    assert version(db) == len(scripts)
    assert db.execute("SELECT name FROM sqlite_master WHERE name = 'half'").fetchall() == []


def test_what_moved_to_tables_of_its_own_is_all_there(db: sqlite3.Connection, monkeypatch: pytest.MonkeyPatch) -> None:
    """From version 8: sketches where there are any, and the users of skills; the rest of the totals stays as it was."""
    every = migrations._scripts()
    monkeypatch.setattr(migrations, "_scripts", lambda: every[:8])
    migrate(db, 1)
    db.executescript(
        """INSERT INTO pair_total (pair_id, created_ns, executions, latency_sum, last_used_ns, le_50, sketch)
           VALUES (7, 70, 2, 2.5, 71, 2, x'81030a'), (2, 20, 1, 1.0, 21, 1, x'810301');
           INSERT INTO pair_total (pair_id, created_ns, rating_created_ns, r4) VALUES (5, 50, 51, 3);
           INSERT INTO skill_total (skill_no, executions, latency_sum, last_ns, sketch)
           VALUES (9, 2, 2.5, 71, x'81030a'), (1, 1, 1.0, 21, x'810301');
           INSERT INTO skill_total (skill_no, r4) VALUES (4, 3);
           INSERT INTO skill_user VALUES (1, -1, 6), (1, 0, 6), (9, -1, 6), (9, 3, 6);
           INSERT INTO skill_user_recent VALUES (1, -1, 8), (1, 3, 8), (9, 0, 6);"""
    )
    totals = {table: _without_sketch(db, table) for table in ("pair_total", "skill_total")}
    monkeypatch.setattr(migrations, "_scripts", lambda: every)
    migrate(db, 2)
    assert {table: _without_sketch(db, table) for table in totals} == totals
    few, more = b"\x81\x03\x01", b"\x81\x03\x0a"
    assert db.execute("SELECT * FROM pair_sketch").fetchall() == [(2, few), (7, more)]
    assert db.execute("SELECT * FROM skill_sketch").fetchall() == [(1, few), (9, more)]
    assert db.execute("SELECT * FROM skill_user").fetchall() == [(1, 0, 6), (9, 3, 6)]
    assert db.execute("SELECT * FROM skill_user_recent").fetchall() == [(1, 3, 8), (9, 0, 6)]


def _without_sketch(db: sqlite3.Connection, table: str) -> list[dict[str, object]]:
    found = db.execute(f"SELECT * FROM {table}")
    names = [name for name, *_ in found.description]
    return [{name: value for name, value in zip(names, row, strict=True) if name != "sketch"} for row in found]
