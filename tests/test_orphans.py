"""Orphans: what a dead process left is committed from its offset, once; what cannot be explained is set aside."""

import contextlib
import fcntl
import os
import resource
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from skillmeter import records
from skillmeter.errors import CorruptJournal
from skillmeterd import database, orphans, spool
from skillmeterd.errors import StoreReplaced, StoreUnavailable
from skillmeterd.orphans import Orphans
from skillmeterd.quarantine import Quarantine
from skillmeterd.store import Chunk, Store

from .journals import HEADER, Written, event, first_byte, flip, write_journal
from .support import assert_consistent, assert_exactly, journals, ledger, recorded_names


class Sweep:
    """A spool, a store and the orphans between them."""

    def __init__(self, folder: Path) -> None:
        self.spool_dir = folder / "spool"
        self.spool_dir.mkdir(mode=0o700)
        self.db = folder / "analytics.db"
        self.store = Store.open(self.db)
        self.quarantine = Quarantine(self.spool_dir)
        self.orphans = Orphans(self.spool_dir, self.store, self.quarantine)

    def run(self) -> None:
        """A whole round."""
        self.orphans.look()
        while self.orphans.step():
            pass

    def close(self) -> None:
        """Let go of everything."""
        self.orphans.release()
        self.store.close()

    def quarantined(self) -> list[str]:
        """What was set aside."""
        return sorted(os.listdir(self.quarantine.folder)) if self.quarantine.folder.exists() else []


@pytest.fixture
def sweep(tmp_path: Path) -> Iterator[Sweep]:
    """An empty spool and a fresh store."""
    sweep = Sweep(tmp_path)
    yield sweep
    sweep.close()


def names(first: int, count: int) -> list[str]:
    """Names of events."""
    return [f"e{number}" for number in range(first, first + count)]


def journal(sweep: Sweep, *sizes: int, **facts) -> tuple[Written, list[str]]:
    """A journal with so many events in each part; and their names."""
    parts = [names(100 * index, size) for index, size in enumerate(sizes)]
    written = write_journal(sweep.spool_dir, [[event(name) for name in part] for part in parts], **facts)
    return written, [name for part in parts for name in part]


def commit_first(sweep: Sweep, written: Written, count: int) -> None:
    """Commit the first records of a journal, as the receiver does."""
    taken = written.records[:count]
    offsets, payloads = [offset for offset, _ in taken], [payload for _, payload in taken]
    sweep.store.commit([Chunk(written.producer, written.end(count), offsets, payloads)])


def open_files(folder: Path) -> list[str]:
    """What this process has open below a folder."""
    fds = Path("/proc/self/fd")
    targets = [os.readlink(fds / name) for name in os.listdir(fds) if (fds / name).is_symlink()]
    return [target for target in targets if target.startswith(str(folder))]


# What is whole.


@pytest.mark.parametrize("sizes", [(0,), (1,), (3, 4), (3, 1, 2, 5)])
def test_a_dead_journal_is_committed_and_deleted(sweep: Sweep, sizes: tuple[int, ...]) -> None:
    """Head and segments, in their order; nothing stays in the spool, and the producer is finished."""
    written, recorded = journal(sweep, *sizes)
    sweep.run()
    assert_exactly(recorded, sweep.db)
    assert recorded_names(sweep.db) == recorded
    assert not journals(sweep.spool_dir)
    assert ledger(sweep.db)["attempted"] == len(recorded)
    assert sweep.orphans.recovered == 1
    assert sweep.store.committed(written.producer).offset == written.end(len(recorded))


def test_a_living_journal_is_left_alone(sweep: Sweep) -> None:
    """Whoever holds the lock lives; when the lock is free, the journal is taken."""
    written, recorded = journal(sweep, 3, 2)
    with written.head.open("rb") as owner:
        fcntl.flock(owner, fcntl.LOCK_EX)
        sweep.run()
        assert recorded_names(sweep.db) == []
        assert len(journals(sweep.spool_dir)) == 2
    sweep.run()
    assert_exactly(recorded, sweep.db)


@pytest.mark.parametrize("committed", range(8))
def test_only_what_is_not_committed_is_taken(sweep: Sweep, committed: int) -> None:
    """The offset in SQLite says where to begin, wherever it lies."""
    written, recorded = journal(sweep, 3, 2, 2)
    commit_first(sweep, written, committed)
    sweep.run()
    assert_exactly(recorded, sweep.db)


def test_a_round_twice_changes_nothing(sweep: Sweep) -> None:
    """Killed after the commit and before the files were deleted: the next round only deletes them."""
    written, recorded = journal(sweep, 3, 2)
    copies = [(path, path.read_bytes()) for path in written.files]
    sweep.run()
    for path, content in copies:
        path.write_bytes(content)
    sweep.run()
    assert_exactly(recorded, sweep.db)
    assert not journals(sweep.spool_dir)


def test_what_the_dead_did_not_finish_is_counted(sweep: Sweep) -> None:
    """An attempt that left no record died inside its call."""
    _, recorded = journal(sweep, 3, attempted=5)
    sweep.run()
    assert_exactly(recorded, sweep.db)
    assert ledger(sweep.db)["dropped.unfinished"] == 2


def test_many_journals_take_bounded_steps(sweep: Sweep, monkeypatch: pytest.MonkeyPatch) -> None:
    """A step takes no more journals than there may be descriptors for, and says how many are left."""
    monkeypatch.setattr(sweep.orphans, "_max_open", 4)
    for number in range(10):
        write_journal(sweep.spool_dir, [[event(f"e{number}")]])
    sweep.orphans.look()
    pending = []
    while sweep.orphans.step():
        pending.append(sweep.orphans.pending)
    assert pending == [6, 2]
    assert_exactly(names(0, 10), sweep.db)


# Races.


def test_segments_that_came_after_the_look_are_taken(sweep: Sweep) -> None:
    """A process that lived when the round began may have written more before it died in the middle of it."""
    written, recorded = journal(sweep, 3, 2, 2)
    contents = [path.read_bytes() for path in written.files]
    for path in written.files[1:]:
        path.unlink()
    sweep.orphans.look()
    for path, content in zip(written.files, contents, strict=True):
        path.write_bytes(content)
    while sweep.orphans.step():
        pass
    assert_exactly(recorded, sweep.db)
    assert not journals(sweep.spool_dir)


@pytest.mark.parametrize("late", range(1, 8))
def test_a_late_batch_between_two_steps_doubles_nothing(
    sweep: Sweep, monkeypatch: pytest.MonkeyPatch, late: int
) -> None:
    """The dead process's last batches may be read from the socket while its journal is half committed."""
    monkeypatch.setattr(orphans, "INTAKE_BYTES", 1)  # a step for each segment
    written, recorded = journal(sweep, 3, 2, 2)
    sweep.orphans.look()
    sweep.orphans.step()
    already = sweep.store.committed(written.producer)
    taken = [record for record in written.records[:late] if record[0] >= already.offset]
    sweep.store.commit(
        [
            Chunk(
                written.producer,
                max(already.offset, written.end(late)),
                [offset for offset, _ in taken],
                [payload for _, payload in taken],
                continues=already.offset,
            )
        ]
    )
    while sweep.orphans.step():
        pass
    sweep.run()
    assert_exactly(recorded, sweep.db)
    assert not journals(sweep.spool_dir)


def test_a_journal_that_is_deleted_meanwhile_is_let_go(sweep: Sweep) -> None:
    """Between the look and the lock another daemon may have finished it: nothing is made of a file without a name."""
    written, _ = journal(sweep, 3)
    sweep.orphans.look()
    written.head.unlink()
    assert not sweep.orphans.step()
    assert sweep.orphans.recovered == 0


def test_a_journal_that_another_daemon_has_just_deleted_is_let_go(
    sweep: Sweep, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its lock is free because it was finished: what was opened before that is a file without a name."""
    written, _ = journal(sweep, 3)
    lock = spool.lock

    def finish_first(fd: int) -> bool:
        written.head.unlink()
        return lock(fd)

    monkeypatch.setattr(spool, "lock", finish_first)
    sweep.run()
    assert recorded_names(sweep.db) == []
    assert sweep.orphans.recovered == 0


def test_few_descriptors_are_enough(sweep: Sweep) -> None:
    """Where no more files can be opened, the journals that are locked are finished first, and then the others."""
    for number in range(30):
        write_journal(sweep.spool_dir, [[event(f"e{number}")], [event(f"f{number}")]])
    sweep.store.commit([])  # SQLite has its files open
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    with (sweep.spool_dir.parent / "spare").open("wb") as spare:
        resource.setrlimit(resource.RLIMIT_NOFILE, (spare.fileno() + 4, limits[1]))
        try:
            sweep.run()
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert_exactly([f"{letter}{number}" for letter in "ef" for number in range(30)], sweep.db)
    assert not journals(sweep.spool_dir)


def test_one_that_cannot_be_deleted_does_not_keep_the_others(sweep: Sweep, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its events are committed all the same, once however often it is tried; no descriptor is left behind."""
    stuck, _ = journal(sweep, 1)
    for number in range(1, 4):
        write_journal(sweep.spool_dir, [[event(f"e{number}")]])
    delete = Path.unlink

    def refuse(path: Path, missing_ok: bool = False) -> None:
        if path == stuck.head:
            raise PermissionError(13, "not permitted")
        delete(path, missing_ok)

    monkeypatch.setattr(Path, "unlink", refuse)
    for _ in range(3):
        sweep.run()
    assert journals(sweep.spool_dir) == [stuck.head.name]
    assert_exactly(names(0, 4), sweep.db)
    assert not open_files(sweep.spool_dir)


# The store fails.


def test_a_locked_database_leaves_everything_as_it_was(sweep: Sweep, monkeypatch: pytest.MonkeyPatch) -> None:
    """StoreUnavailable in the middle of a journal: locks are let go, and the next round goes on from the offset."""
    monkeypatch.setattr(orphans, "INTAKE_BYTES", 1)
    monkeypatch.setattr(database, "_BUSY_TIMEOUT_S", 0)
    sweep.store.close()
    written, recorded = journal(sweep, 3, 2, 2)
    sweep.orphans.look()
    sweep.orphans.step()
    with contextlib.closing(sqlite3.connect(sweep.db, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        for _ in range(2):
            with pytest.raises(StoreUnavailable):
                sweep.run()
            assert sweep.orphans.pending == 0
        with written.head.open("rb") as owner:
            fcntl.flock(owner, fcntl.LOCK_EX | fcntl.LOCK_NB)
        assert len(journals(sweep.spool_dir)) == 3
    sweep.run()
    assert_exactly(recorded, sweep.db)
    assert not journals(sweep.spool_dir)


def test_a_database_that_is_replaced_in_the_middle_gets_all_of_the_journal(
    sweep: Sweep, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Files are deleted only when all is committed, so a new database is filled from the start."""
    monkeypatch.setattr(orphans, "INTAKE_BYTES", 1)
    _, recorded = journal(sweep, 3, 2, 2)
    sweep.orphans.look()
    sweep.orphans.step()
    sweep.orphans.step()
    for path in sweep.db.parent.glob("analytics.db*"):
        path.unlink()
    with pytest.raises(StoreReplaced):
        sweep.orphans.step()
    sweep.run()
    assert_exactly(recorded, sweep.db)
    assert not journals(sweep.spool_dir)


def test_segments_that_are_gone_before_they_were_committed_are_counted_as_lost(sweep: Sweep) -> None:
    """An older database wants more than the journal still has: the ledger says so, by its name."""
    written, recorded = journal(sweep, 3, 2, 2)
    written.files[1].unlink()
    sweep.run()
    assert_exactly([name for name in recorded if name not in ("e100", "e101")], sweep.db)
    assert ledger(sweep.db)["dropped.lost"] == 2
    assert not journals(sweep.spool_dir)


def test_an_older_database_that_has_a_part_of_what_is_gone_counts_the_rest_as_lost(sweep: Sweep) -> None:
    """It ends within a segment that the journal no longer has, with others that are gone behind it."""
    written, recorded = journal(sweep, 3, 2, 2, 2)
    commit_first(sweep, written, 4)
    for path in written.files[1:3]:
        path.unlink()
    sweep.run()
    assert_exactly([name for name in recorded if name not in ("e101", "e200", "e201")], sweep.db)
    assert ledger(sweep.db)["dropped.lost"] == 3
    assert not ledger(sweep.db)["dropped.unfinished"]


@pytest.mark.parametrize("freed", [1, 2])
def test_segments_that_were_committed_and_freed_are_not_missed(sweep: Sweep, freed: int) -> None:
    """A living client deletes what is acknowledged; that is no loss."""
    written, recorded = journal(sweep, 3, 2, 2, 2)
    commit_first(sweep, written, 3 + 2 * freed)
    for path in written.files[1 : 1 + freed]:
        path.unlink()
    sweep.run()
    assert_exactly(recorded, sweep.db)
    assert ledger(sweep.db)["dropped"] == 0


# Torn ends and damage.


def tear(written: Written) -> None:
    """Half a record behind the fourth, which ends its segment."""
    path, position = first_byte(written, 3)
    with path.open("r+b") as file:
        file.seek(position + HEADER + len(event("e101")))
        file.write(records.frame(event("torn"))[:20])


@pytest.mark.parametrize("prepared", [False, True], ids=["last", "then-an-empty-segment"])
def test_a_torn_end_is_normal(sweep: Sweep, prepared: bool) -> None:
    """Half a record at the end was never accepted: it is dropped, whether or not a next segment was prepared."""
    written, recorded = journal(sweep, 2, 2, *[0] * prepared, attempted=5)
    tear(written)
    sweep.run()
    assert_exactly(recorded, sweep.db)
    assert ledger(sweep.db)["dropped.unfinished"] == 1
    assert not sweep.quarantined()
    assert not journals(sweep.spool_dir)


def test_a_torn_end_of_an_inner_segment_is_damage(sweep: Sweep) -> None:
    """A segment that others follow ended with a whole record; what is behind that is kept for a person to see."""
    written, recorded = journal(sweep, 2, 2, 1)
    tear(written)
    sweep.run()
    assert_exactly(recorded, sweep.db)
    assert ledger(sweep.db)["dropped.corrupt"] == 1
    assert len(sweep.quarantined()) == 1
    assert not journals(sweep.spool_dir)


@pytest.mark.parametrize("number", range(5))
@pytest.mark.parametrize("byte", [0, 4, 6, 9, -1], ids=["crc", "length", "magic", "payload", "last"])
def test_a_flipped_bit_costs_one_record(sweep: Sweep, number: int, byte: int) -> None:
    """That record is counted; it is quarantined unless it looks like the torn end; all others are delivered."""
    written, recorded = journal(sweep, 3, 2)
    path, position = first_byte(written, number)
    flip(path, position + byte % (HEADER + len(written.records[number][1])))
    sweep.run()
    assert_exactly([name for name in recorded if name != recorded[number]], sweep.db)
    at_the_end = number == 4
    assert ledger(sweep.db)["dropped.unfinished" if at_the_end else "dropped.corrupt"] == 1
    assert len(sweep.quarantined()) == (not at_the_end)
    assert not journals(sweep.spool_dir)


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_whatever_the_offset_and_the_damage_each_whole_record_is_stored_once(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    """Any shape of journal, any committed offset, any damaged bytes, steps of any size."""
    folder = tmp_path_factory.mktemp("sweep")
    sweep = Sweep(folder)
    sizes = data.draw(st.lists(st.integers(1, 4), min_size=1, max_size=4), label="sizes")
    written, recorded = journal(sweep, *sizes)
    committed = data.draw(st.integers(0, len(recorded)), label="committed")
    commit_first(sweep, written, committed)
    damaged = data.draw(st.sets(st.integers(0, len(recorded) - 1), max_size=3), label="damaged")
    for number in damaged:
        path, position = first_byte(written, number)
        flip(path, position + data.draw(st.integers(0, HEADER + 20), label="at"), data.draw(st.integers(1, 255)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(orphans, "INTAKE_BYTES", data.draw(st.sampled_from([1, 200, 10**6]), label="step"))
        sweep.run()
    whole = [name for number, name in enumerate(recorded) if number < committed or number not in damaged]
    assert_exactly(whole, sweep.db)
    assert ledger(sweep.db)["dropped"] == len(recorded) - len(whole)
    assert not journals(sweep.spool_dir)
    sweep.close()


def test_damage_in_many_places_is_one_line_in_the_log(sweep: Sweep, caplog: pytest.LogCaptureFixture) -> None:
    """Each place is counted and set aside; who may write into the spool cannot fill the log."""
    written, _ = journal(sweep, 0)
    body = b"".join(records.frame(event(f"e{number}")) + b"!" for number in range(200))
    with written.head.open("r+b") as file:
        file.seek(records.HEAD_BYTES)
        file.write(body + records.frame(event("last")))
    sweep.run()
    assert [line.__dict__["places"] for line in caplog.records] == [200]
    assert ledger(sweep.db)["dropped.corrupt"] == len(sweep.quarantined()) == 200
    assert len(recorded_names(sweep.db)) == 201


# What is no journal.


def strange(spool_dir: Path, kind: str, name: str) -> Path:
    """Something that is not what its name says."""
    path = spool_dir / name
    if kind == "directory":
        path.mkdir()
        (path / "precious").write_text("kept")
    elif kind == "fifo":
        os.mkfifo(path)
    elif kind == "link":
        (spool_dir.parent / "elsewhere").write_text("not to be followed")
        path.symlink_to(spool_dir.parent / "elsewhere")
    elif kind == "dangling":
        path.symlink_to(spool_dir.parent / "nowhere")
    elif kind == "huge":
        with path.open("wb") as file:
            file.truncate(1 << 40)
    else:
        path.write_bytes(b"#!/bin/sh\nrm -rf /\n" * 400)
    return path


KINDS = ["directory", "fifo", "link", "dangling", "huge", "foreign"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "name", ["00112233445566778899aabbccddeeff.journal", "x.journal", "a.b.seg", "..seg", "caf\udce9.journal"]
)
def test_strange_files_are_left_or_set_aside(sweep: Sweep, kind: str, name: str) -> None:
    """Never followed, never read to the end, never deleted, and never in the way of a journal."""
    strange(sweep.spool_dir, kind, name)
    _, recorded = journal(sweep, 2, 2)
    for _ in range(2):
        sweep.run()
    assert_exactly(recorded, sweep.db)
    left = {entry.name for entry in sweep.spool_dir.iterdir()} - {"quarantine"}
    assert left | set(sweep.quarantined()) == {name}
    assert (sweep.spool_dir.parent / "elsewhere").exists() == (kind == "link")


@pytest.mark.parametrize("kind", KINDS)
def test_a_strange_segment_of_a_real_journal_is_set_aside(sweep: Sweep, kind: str) -> None:
    """The rest of the journal is delivered, in one round, and what was in the way is counted as damage."""
    written, recorded = journal(sweep, 2, 2, attempted=6)
    path = strange(sweep.spool_dir, kind, f"{written.producer.hex()}.00000007.seg")
    sweep.run()
    assert_exactly(recorded, sweep.db)
    assert ledger(sweep.db)["dropped.corrupt"] == 2
    assert sweep.quarantined() == [path.name]
    assert not journals(sweep.spool_dir)


@pytest.mark.parametrize(
    "position", [0, 9, 13, 20, 34, 41], ids=["magic", "version", "index", "producer", "base", "crc"]
)
def test_a_segment_whose_header_is_damaged_is_set_aside(sweep: Sweep, position: int) -> None:
    """Nobody can say where its records belong; the others are delivered."""
    written, recorded = journal(sweep, 2, 2, 2)
    flip(written.files[1], position)
    sweep.run()
    assert_exactly([name for name in recorded if name not in ("e100", "e101")], sweep.db)
    assert ledger(sweep.db)["dropped.corrupt"] == 2
    assert sweep.quarantined() == [written.files[1].name]
    assert not journals(sweep.spool_dir)


def test_a_second_segment_of_one_index_is_set_aside(sweep: Sweep) -> None:
    """Two writers may have made one each; the loser's is empty and just goes. Records in it are not explained."""
    written, recorded = journal(sweep, 2, 2)
    other = written.files[1].with_suffix("").with_suffix(".00000009.seg")
    other.write_bytes(written.files[1].read_bytes())
    empty = written.files[1].with_suffix("").with_suffix(".00000000.seg")
    empty.write_bytes(written.files[1].read_bytes()[: records.SEGMENT_HEADER_BYTES].ljust(4096, b"\0"))
    sweep.run()
    assert sorted(recorded_names(sweep.db)) == sorted(recorded)
    assert sweep.quarantined() == [other.name]
    assert not journals(sweep.spool_dir)


def test_a_segment_of_another_producer_is_set_aside(sweep: Sweep) -> None:
    """Its records are that one's, whatever its name says."""
    other, _ = journal(sweep, 1, 2)
    written, recorded = journal(sweep, 2, 0)
    os.replace(other.files[1], written.files[1])
    other.head.unlink()
    sweep.run()
    assert_exactly(recorded, sweep.db)
    assert sweep.quarantined() == [written.files[1].name]


def test_segments_of_a_head_without_a_byte_are_kept(sweep: Sweep) -> None:
    """No client leaves that behind, a power failure may: nothing that holds records is deleted."""
    written, _ = journal(sweep, 2, 2)
    written.head.write_bytes(bytes(4096))
    sweep.run()
    assert sweep.quarantined() == sorted(path.name for path in written.files)


@pytest.mark.parametrize("size", [0, 1, 63, 4096, 65536])
def test_a_head_without_a_byte_just_goes(sweep: Sweep, size: int) -> None:
    """Its writer was killed before it wrote the header, and so before any record."""
    (sweep.spool_dir / f"{os.urandom(16).hex()}.journal").write_bytes(b"\0" * size)
    sweep.run()
    assert not journals(sweep.spool_dir)
    assert not sweep.quarantined()


@pytest.mark.parametrize("size", [1, 20, 63, 64, 4095])
def test_a_head_that_was_cut_short_is_set_aside_with_its_segments(sweep: Sweep, size: int) -> None:
    """Without its header nothing says whose records these are."""
    written, _ = journal(sweep, 2, 2)
    os.truncate(written.head, size)
    sweep.run()
    assert sweep.quarantined() == sorted(path.name for path in written.files)
    assert recorded_names(sweep.db) == []


@pytest.mark.parametrize("size", [0, 1, 63, 64, 70, 4095])
def test_a_segment_that_was_cut_short_gives_what_it_has(sweep: Sweep, size: int) -> None:
    """Records that are not there any more are counted, whatever is left of the file."""
    written, recorded = journal(sweep, 2, 2, capacity=4096)
    os.truncate(written.files[1], size)
    sweep.run()
    kept = recorded if size == 4095 else recorded[:2]
    assert_exactly(kept, sweep.db)
    assert ledger(sweep.db)["dropped"] == len(recorded) - len(kept)
    assert not journals(sweep.spool_dir)


def test_a_journal_of_a_newer_release_is_left_for_it(sweep: Sweep) -> None:
    """Neither read nor moved: the newer daemon will know it."""
    written, _ = journal(sweep, 2, 2)
    flip(written.head, 8, 3)
    before = [path.read_bytes() for path in written.files]
    for _ in range(2):
        sweep.run()
    assert [path.read_bytes() for path in written.files] == before
    assert not sweep.quarantined()


def test_a_head_under_another_name_is_set_aside(sweep: Sweep) -> None:
    """A copy would commit the records of its original again."""
    written, recorded = journal(sweep, 2)
    copy = sweep.spool_dir / f"{os.urandom(16).hex()}.journal"
    copy.write_bytes(written.head.read_bytes())
    sweep.run()
    assert_exactly(recorded, sweep.db)
    assert sweep.quarantined() == [copy.name]


def test_a_record_that_is_no_event_is_rejected(sweep: Sweep) -> None:
    """A foreign client's: counted by its reason, and the others are stored."""
    write_journal(sweep.spool_dir, [[event("a"), b"\xc1 no event", event("b")]])
    sweep.run()
    assert_exactly(["a", "b"], sweep.db)
    assert ledger(sweep.db)["rejected.malformed"] == 1


def test_without_a_spool_there_are_no_orphans(tmp_path: Path) -> None:
    """It is made by whoever comes first."""
    with contextlib.closing(Store.open(tmp_path / "analytics.db")) as store:
        sweeper = Orphans(tmp_path / "nowhere", store, Quarantine(tmp_path / "nowhere"))
        sweeper.look()
        assert not sweeper.step()
    assert_consistent(tmp_path / "analytics.db")


@pytest.mark.parametrize("base", [2**62 + 1, 2**63 - 20, 2**64 - 1])
def test_a_segment_past_every_offset_is_set_aside(sweep: Sweep, base: int) -> None:
    """Whoever may write into the spool cannot make the daemon count past SQLite's integers, and end on every start."""
    written, _ = journal(sweep, 1)
    path = sweep.spool_dir / f"{written.producer.hex()}.00000001.seg"
    header = records.encode_segment_header(records.SegmentHeader(written.producer, 1, base))
    path.write_bytes(header + records.frame(event("far")))
    sweep.run()
    assert_exactly(["e0"], sweep.db)
    assert sweep.quarantined() == [path.name]
    assert not journals(sweep.spool_dir)


def test_a_head_that_grows_while_it_is_adopted_is_set_aside(sweep: Sweep, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who made a file can make it endless after it was opened: no more of it is read than of any file of ours."""
    path = sweep.spool_dir / f"{bytes(16).hex()}.journal"
    path.write_bytes(bytes(records.HEAD_BYTES))
    read: list[int] = []
    pread = os.pread

    def counted(fd: int, size: int, at: int) -> bytes:
        found = pread(fd, size, at)
        read.append(len(found))
        assert sum(read) < 4 * spool.MAX_FILE_BYTES, "reads a file without an end"
        return found

    def locked(fd: int) -> bool:
        os.truncate(path, 2**40)
        return True

    monkeypatch.setattr(spool, "lock", locked)
    monkeypatch.setattr(os, "pread", counted)
    sweep.run()
    assert sweep.quarantined() == [path.name]


def test_a_file_that_grows_while_it_is_read_is_not_read_as_a_whole(
    sweep: Sweep, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The size that counts is the one that was checked."""
    written, _ = journal(sweep, 1)
    open_regular = spool.open_regular

    def grown(path: Path) -> int | None:
        fd = open_regular(path)
        os.truncate(path, 2**40)
        return fd

    monkeypatch.setattr(spool, "open_regular", grown)
    with pytest.raises(CorruptJournal):
        spool.read_file(written.head, 0)


# The quarantine.


def test_the_quarantine_never_overwrites(tmp_path: Path) -> None:
    """A second file of the same name gets another."""
    quarantine = Quarantine(tmp_path)
    for content in ("one", "two", "three"):
        (tmp_path / "x").write_text(content)
        quarantine.move(tmp_path / "x")
    assert sorted(path.read_text() for path in quarantine.folder.iterdir()) == ["one", "three", "two"]
    assert quarantine.count == 3


def test_damaged_bytes_cannot_fill_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Past a number of them, and past a size, they are only counted."""
    monkeypatch.setattr("skillmeterd.quarantine.MAX_SPANS", 5)
    monkeypatch.setattr("skillmeterd.quarantine.MAX_SPAN_BYTES", 1000)
    quarantine = Quarantine(tmp_path)
    for number in range(4):
        quarantine.keep(bytes(16), number, bytes(400))
    assert len(list(quarantine.folder.iterdir())) == 2
    for number in range(10, 20):
        quarantine.keep(bytes(16), number, b"x")
    assert len(list(quarantine.folder.iterdir())) == 5
    assert quarantine.count == 14


def test_a_quarantine_that_somebody_else_made_is_not_used(sweep: Sweep) -> None:
    """Who may write into the spool cannot have journals moved to himself: they stay where they are."""
    theirs = sweep.spool_dir.parent / "theirs"
    theirs.mkdir()
    sweep.quarantine.folder.symlink_to(theirs)
    foreign = strange(sweep.spool_dir, "foreign", f"{bytes(16).hex()}.journal")
    sweep.run()
    assert foreign.exists()
    assert not os.listdir(theirs)
    with pytest.raises(PermissionError, match="delete it"):
        sweep.quarantine.keep(bytes(16), 0, b"x")
    sweep.quarantine.folder.unlink()
    sweep.run()
    assert sweep.quarantined() == [foreign.name]


@pytest.mark.skipif(bool(os.geteuid()), reason="only root can give a folder away")
def test_the_quarantine_is_the_daemons_or_the_spools_owners(sweep: Sweep) -> None:
    """A folder that another user made is theirs to read; the spool's owner may run the command, or root for him."""
    sweep.quarantine.folder.mkdir(mode=0o700)
    os.chown(sweep.quarantine.folder, 65534, 65534)
    with pytest.raises(PermissionError):
        sweep.quarantine.keep(bytes(16), 0, b"x")
    os.chown(sweep.spool_dir, 65534, 65534)
    sweep.quarantine.keep(bytes(16), 0, b"x")
    assert len(sweep.quarantined()) == 1
