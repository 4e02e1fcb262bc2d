"""Instance: one daemon for a socket, a database and a spool, however each is reached."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from skillmeterd.config import DaemonSettings
from skillmeterd.errors import AlreadyRunning, CannotUse
from skillmeterd.instance import Instance


@pytest.fixture
def instance() -> Iterator[Instance]:
    """One that lets go at the end."""
    instance = Instance()
    yield instance
    instance.release()


@pytest.fixture
def second() -> Iterator[Instance]:
    """Another."""
    instance = Instance()
    yield instance
    instance.release()


def settings(folder: Path, **changes: object) -> DaemonSettings:
    """Settings of a daemon in a folder."""
    given: dict[str, object] = {
        "runtime_dir": str(folder / "run"),
        "spool_dir": str(folder / "spool"),
        "db_path": str(folder / "analytics.db"),
    }
    return DaemonSettings.from_environment({"HOME": str(folder)}, **{**given, **changes})


def test_a_second_claim_is_refused_and_says_by_whom(tmp_path: Path, instance: Instance, second: Instance) -> None:
    """The message names the process that serves already; after it lets go, the next one may."""
    instance.claim(tmp_path / "x.lock", "database")
    with pytest.raises(AlreadyRunning, match=rf"pid {os.getpid()}\) already serves this database \(.*x\.lock\)"):
        second.claim(tmp_path / "x.lock", "database")
    instance.release()
    second.claim(tmp_path / "x.lock", "database")


@pytest.mark.parametrize("shared", ["endpoint", "db_path", "spool_dir"])
def test_each_thing_is_one_daemons(tmp_path: Path, instance: Instance, second: Instance, shared: str) -> None:
    """Two daemons may share nothing; the one that is refused holds nothing back."""
    first = settings(tmp_path / "one")
    instance.claim_all(first)
    other = settings(tmp_path / "two", **{shared: str(getattr(first, shared))})
    with pytest.raises(AlreadyRunning):
        second.claim_all(other)
    third = Instance()
    third.claim_all(settings(tmp_path / "two"))
    third.release()


def test_a_database_is_known_through_links(tmp_path: Path, instance: Instance, second: Instance) -> None:
    """Two names of one file are one database."""
    instance.claim_all(settings(tmp_path / "one"))
    (tmp_path / "one/analytics.db").touch()
    (tmp_path / "link.db").symlink_to(tmp_path / "one/analytics.db")
    with pytest.raises(AlreadyRunning, match="database"):
        second.claim_all(settings(tmp_path / "two", db_path=str(tmp_path / "link.db")))


def test_folders_are_made_for_their_owner_alone(tmp_path: Path, instance: Instance) -> None:
    """Spool, runtime folder, the database's, and those above them, whatever the umask: nobody else reads them, or puts
    others in their place."""
    made = settings(tmp_path / "newer/new", db_path=str(tmp_path / "newer/new/db/analytics.db"))
    umask = os.umask(0)
    try:
        instance.claim_all(made)
    finally:
        os.umask(umask)
    for folder in ("newer", "newer/new", "newer/new/run", "newer/new/spool", "newer/new/db"):
        assert (tmp_path / folder).stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize(
    ("place", "setting"),
    [("runtime_dir", "ANALYTICS_RUNTIME_DIR"), ("db_path", "ANALYTICS_DB_PATH"), ("spool_dir", "ANALYTICS_SPOOL_DIR")],
)
def test_a_place_that_cannot_be_used(tmp_path: Path, instance: Instance, place: str, setting: str) -> None:
    """The message names the place, the setting that leads there, and why it cannot be used."""
    (tmp_path / "file").touch()
    there = tmp_path / "file" / "below"
    with pytest.raises(CannotUse, match=rf"cannot use {tmp_path}/file.* \(.*{setting}\): Not a directory; choose"):
        instance.claim_all(settings(tmp_path, **{place: str(there)}))


def test_a_lock_that_is_a_link_is_not_followed(tmp_path: Path, instance: Instance) -> None:
    """Nothing elsewhere is emptied to hold a process id."""
    (tmp_path / "precious").write_text("kept")
    (tmp_path / "x.lock").symlink_to(tmp_path / "precious")
    with pytest.raises(OSError, match="symbolic link"):
        instance.claim(tmp_path / "x.lock", "spool")
    assert (tmp_path / "precious").read_text() == "kept"


def test_a_full_disk_does_not_keep_a_daemon_from_starting(
    tmp_path: Path, instance: Instance, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process id is for people; the lock needs no room."""

    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "pwrite", full)
    instance.claim(tmp_path / "x.lock", "spool")
