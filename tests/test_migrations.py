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
