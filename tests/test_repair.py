"""Repair: what goes back into the spool is stored once; everything else stays where it is, and says what it is."""

import contextlib
from pathlib import Path

import pytest

from skillmeter.errors import CorruptJournal
from skillmeterd import repair
from skillmeterd.orphans import Orphans
from skillmeterd.quarantine import Quarantine
from skillmeterd.store import Chunk, Store

from .journals import Written, event, first_byte, flip, write_journal
from .support import assert_exactly, journals, ledger, recorded_names

NAMES = [f"e{number}" for number in range(6)]


@pytest.fixture
def spool_dir(tmp_path: Path) -> Path:
    """An empty spool."""
    folder = tmp_path / "spool"
    folder.mkdir()
    return folder


def journal(spool_dir: Path) -> Written:
    """A journal of six events in three files."""
    payloads = [event(name) for name in NAMES]
    return write_journal(spool_dir, [payloads[:2], payloads[2:4], payloads[4:]])


def sweep(spool_dir: Path, *, first: Chunk | None = None) -> Path:
    """What a daemon would do with the spool; the database."""
    db = spool_dir.parent / "analytics.db"
    with contextlib.closing(Store.open(db)) as store:
        if first is not None:
            store.commit([first])
        orphans = Orphans(spool_dir, store, Quarantine(spool_dir))
        orphans.look()
        while orphans.step():
            pass
    return db


@pytest.mark.parametrize("committed", [0, 3])
@pytest.mark.parametrize("damage", [3, 9, 20, 40, None], ids=["magic", "version", "producer", "crc", "all zeros"])
def test_a_journal_gets_a_new_header_and_is_stored_once(spool_dir: Path, damage: int | None, committed: int) -> None:
    """Whatever the database had of it before."""
    written = journal(spool_dir)
    if damage is None:
        with written.head.open("r+b") as file:
            file.write(bytes(4096))
    else:
        flip(written.head, damage)
    taken = written.records[:committed]
    chunk = Chunk(written.producer, written.end(committed), [at for at, _ in taken], [event for _, event in taken])
    db = sweep(spool_dir, first=chunk)
    if damage == 9:  # as if a newer release had written it: left for that one
        assert len(journals(spool_dir)) == 3
        return
    assert recorded_names(db) == NAMES[:committed]
    (head,) = [one for one in repair.examine(spool_dir) if one.repairable]
    assert (head.file, head.what, head.records) == (written.head.name, "head", 2)
    assert repair.repair(spool_dir, head.file) == 3
    assert repair.examine(spool_dir) == []
    sweep(spool_dir)
    assert_exactly(NAMES, db)
    assert not journals(spool_dir)
    assert ledger(db)["dropped"] == 0


def test_a_copy_of_a_journal_is_not_repairable(spool_dir: Path) -> None:
    """Its records are another producer's, which may have been stored."""
    written = journal(spool_dir)
    copy = spool_dir / f"{'a' * 32}.journal"
    copy.write_bytes(written.head.read_bytes())
    db = sweep(spool_dir)
    (found,) = repair.examine(spool_dir)
    assert (found.repairable, found.why, found.records) == (False, "the name is another producer's", 2)
    with pytest.raises(CorruptJournal, match="cannot be repaired"):
        repair.repair(spool_dir, copy.name)
    assert_exactly(NAMES, db)


def test_nothing_in_the_spool_is_overwritten(spool_dir: Path) -> None:
    """A journal of that name has come meanwhile: both stay."""
    written = journal(spool_dir)
    flip(written.head, 20)
    sweep(spool_dir)
    again = write_journal(spool_dir, [[event("other")]], producer=written.producer)
    content = again.head.read_bytes()
    with pytest.raises(FileExistsError):
        repair.repair(spool_dir, written.head.name)
    assert again.head.read_bytes() == content
    assert len(repair.examine(spool_dir)) == 3


def test_everything_else_says_what_it_is(spool_dir: Path) -> None:
    """A damaged record, a segment without a header, files that are nobody's: none is repairable, none is touched."""
    written = journal(spool_dir)
    path, position = first_byte(written, 0)
    flip(path, position + 20)
    flip(written.files[1], 20)
    (spool_dir / "notes.journal").write_text("no journal")
    sweep(spool_dir)
    (spool_dir / "quarantine" / "folder").mkdir()
    (spool_dir / "quarantine" / f"{'b' * 32}.journal").symlink_to("/etc/passwd")
    found = {one.what: one for one in repair.examine(spool_dir)}
    assert {what: one.records for what, one in found.items()} == {"damaged bytes": 0, "segment": 2, "no journal": 0}
    assert found["segment"].why == "its header fails its checksum"
    assert not any(one.repairable for one in repair.examine(spool_dir))
    assert len(repair.examine(spool_dir)) == 5


def test_an_empty_quarantine_has_nothing(spool_dir: Path) -> None:
    """Nor has a spool without one."""
    assert repair.examine(spool_dir) == []
