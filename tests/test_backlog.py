"""The backlog: what is listed of a spool is what is in it, whoever holds the locks, and looking changes nothing."""

import contextlib
import fcntl
import os
from pathlib import Path

import pytest

from skillmeterd import backlog
from skillmeterd.store import Chunk, Store

from .journals import Written, event, flip, write_journal

NOW_NS = 100 * 10**9


@pytest.fixture
def spool_dir(tmp_path: Path) -> Path:
    """An empty spool."""
    folder = tmp_path / "spool"
    folder.mkdir()
    return folder


def commit_first(db: Path, written: Written, count: int) -> None:
    """What a daemon has of a journal."""
    with contextlib.closing(Store.open(db)) as store:
        taken = written.records[:count]
        offsets = [offset for offset, _ in taken]
        store.commit([Chunk(written.producer, written.end(count), offsets, [payload for _, payload in taken])])


def listed(spool_dir: Path) -> dict[str, backlog.Waiting]:
    """What is listed, by the journal's name."""
    return {one.journal: one for one in backlog.waiting(spool_dir, spool_dir.parent / "a.db", NOW_NS)}


def test_each_journal_says_whose_it_is_and_what_is_missing(spool_dir: Path) -> None:
    """Alive is who holds the lock; pending is what the database does not have."""
    names = [event(str(number)) for number in range(5)]
    ended = write_journal(spool_dir, [names[:3], names[3:]], attempted=5, pid=77)
    living = write_journal(spool_dir, [names], attempted=5)
    commit_first(spool_dir.parent / "a.db", ended, 2)
    with living.head.open("rb") as owner:
        fcntl.flock(owner, fcntl.LOCK_EX)
        found = listed(spool_dir)
    one = found[ended.head.stem]
    assert (one.owner, one.pid, one.attempted, one.refused, one.stored, one.pending) == ("ended", 77, 5, 0, 2, 3)
    assert one.age_s == 99
    assert one.bytes == sum(path.stat().st_blocks * 512 for path in ended.files)
    assert (found[living.head.stem].owner, found[living.head.stem].pending) == ("alive", 5)
    assert backlog.ended(spool_dir) == 2


def test_without_a_database_everything_is_pending(spool_dir: Path) -> None:
    """None says that nobody could be asked."""
    written = write_journal(spool_dir, [[event("a")]], attempted=3)
    one = listed(spool_dir)[written.head.stem]
    assert (one.stored, one.pending) == (None, 3)
    assert not (spool_dir.parent / "a.db").exists()


def test_looking_lets_go_of_every_lock(spool_dir: Path) -> None:
    """The daemon, or a writer who begins, finds it free."""
    written = write_journal(spool_dir, [[event("a")]])
    listed(spool_dir)
    assert backlog.ended(spool_dir) == 1
    with written.head.open("rb") as owner:
        fcntl.flock(owner, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_what_is_strange_is_listed_with_why(spool_dir: Path) -> None:
    """A folder, a link, a cut or damaged head: nothing is followed, nothing fails."""
    (spool_dir / "folder.journal").mkdir()
    (spool_dir / "link.journal").symlink_to("/etc/passwd")
    (spool_dir / "cut.journal").write_bytes(b"SKM")
    damaged = write_journal(spool_dir, [[event("a")]])
    flip(damaged.head, 20)
    found = listed(spool_dir)
    assert {one.owner for one in found.values()} == {"unreadable"}
    assert found["folder"].why == found["link"].why == "not a regular file, or too large to be one of ours"
    assert found["cut"].why == "3 bytes are too few for a header of 4096"
    assert found[damaged.head.stem].why == "its header fails its checksum"


def test_segments_without_a_head_and_what_was_set_aside(spool_dir: Path) -> None:
    """Both are named, neither is taken for a journal."""
    written = write_journal(spool_dir, [[event("a")], [event("b")]])
    written.head.unlink()
    (spool_dir / "quarantine").mkdir()
    (spool_dir / "quarantine" / "x").touch()
    assert listed(spool_dir) == {}
    assert backlog.headless(spool_dir) == [written.files[1]]
    assert backlog.set_aside(spool_dir) == [spool_dir / "quarantine" / "x"]


def test_a_spool_that_is_not_there_is_empty(tmp_path: Path) -> None:
    """Nobody has recorded anything yet."""
    nowhere = tmp_path / "nowhere"
    assert backlog.waiting(nowhere, tmp_path / "a.db") == []
    assert backlog.ended(nowhere) == 0
    assert backlog.set_aside(nowhere) == []


def test_a_thousand_journals_take_one_listing(spool_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The time grows with the spool, not with its square."""
    for number in range(300):
        write_journal(spool_dir, [[event(str(number))]])
    listings = 0
    scandir = os.scandir

    def counted(path: Path) -> object:
        nonlocal listings
        listings += 1
        return scandir(path)

    monkeypatch.setattr(os, "scandir", counted)
    assert len(listed(spool_dir)) == 300
    assert listings == 1
