"""The database: full, deleted, restored from an older copy, read without end; and clocks that go wrong."""

import contextlib
import os
import shutil
import sqlite3
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import pytest

from skillmeter import wire
from skillmeter.events import encode_execution
from skillmeter.records import frame
from skillmeterd.intake import Intake
from skillmeterd.orphans import Orphans
from skillmeterd.quarantine import Quarantine
from skillmeterd.rows import DAY_NS
from skillmeterd.store import Store
from tests.journals import event, write_journal
from tests.support import (
    HTTP,
    DaemonProcess,
    assert_consistent,
    assert_exactly,
    ledger,
    query,
    recorded_names,
    run_client,
    skillmeter,
    small_disk,
    start_client,
    wait_until,
)

MIB = 1024 * 1024

SMALL_SEGMENTS = """
from skillmeter.journal import Journal
Journal.create.__func__.__kwdefaults__.update(head_bytes=8192, segment_bytes=8192)
"""
ROUNDS = """
for round in range(int(sys.argv[1])):
    for number in range(int(sys.argv[2])):
        record(f"{round}-{number}")
    assert client.flush(50)
    print("flushed", flush=True)
    sys.stdin.readline()
"""


class Rounds:
    """A living client that records and flushes, then waits for the next round."""

    def __init__(self, daemon: DaemonProcess, rounds: int, each: int, *, prelude: str = "") -> None:
        self.recorded: list[str] = []
        self._process = start_client(prelude + ROUNDS, daemon.env, rounds, each, stdin=subprocess.PIPE)

    def wait(self, until: str = "flushed") -> None:
        """Until this round is flushed, or an event of that name is recorded."""
        out = _file(self._process.stdout)
        line = ""
        while line != until:
            line = out.readline().decode().strip()
            assert line, _file(self._process.stderr).read().decode()
            if line != "flushed":
                self.recorded.append(line)

    def go(self) -> None:
        """Let the next round begin."""
        into = _file(self._process.stdin)
        into.write(b"\n")
        into.flush()

    def kill(self) -> None:
        """End it, whatever it does."""
        self._process.kill()
        self._process.communicate()


def _file(file: "IO[bytes] | None") -> "IO[bytes]":
    assert file is not None
    return file


@contextlib.contextmanager
def rounds(daemon: DaemonProcess, count: int, each: int, *, prelude: str = "") -> Iterator[Rounds]:
    """A client for so many rounds."""
    client = Rounds(daemon, count, each, prelude=prelude)
    try:
        yield client
    finally:
        client.kill()


def keep_copy(daemon: DaemonProcess) -> Path:
    """Stop the daemon and copy the database."""
    assert daemon.stop() == 0
    return Path(shutil.copy(daemon.db_path, daemon.folder / "older"))


def put_back(daemon: DaemonProcess, copy: Path) -> None:
    """Stop the daemon, and put the copy in the database's place."""
    assert daemon.stop() == 0
    os.replace(copy, daemon.db_path)


# Full.


def test_a_full_disk_under_the_database_is_waited_for(tmp_path: Path) -> None:
    """Nothing is acknowledged that is not committed; the daemon lives, says that it is not ready and why, and goes on
    by itself when there is room."""
    with (
        small_disk(tmp_path / "disk", "16m") as disk,
        DaemonProcess(tmp_path, env={"ANALYTICS_DB_PATH": str(disk / "analytics.db")}) as daemon,
    ):
        daemon.db_path = disk / "analytics.db"
        recorded = run_client("record('first'); assert client.flush(20)", daemon.env)
        free = shutil.disk_usage(disk).free
        (disk / "ballast").write_bytes(b"x" * (free - 100_000))
        script = "[record(f'{sys.argv[1]}-{n}') for n in range(30_000)]; client.flush(float(sys.argv[2]))"
        recorded += run_client(script, daemon.env, "a", 1)
        wait_until(lambda: not daemon.ask("health")["ready"])
        assert "disk is full" in daemon.ask("health")["problem"]
        recorded += run_client(script, daemon.env, "b", 0.1)
        assert not daemon.ask("health")["ready"]
        (disk / "ballast").unlink()
        wait_until(lambda: daemon.ask("health")["ready"])
        daemon.wait_drained()
        assert_exactly(recorded, daemon.db_path)


def test_a_disk_that_was_full_for_orphans_only_is_noticed_to_have_room(tmp_path: Path) -> None:
    """No client asks any more: the daemon finds out by itself, and becomes ready."""
    with (
        small_disk(tmp_path / "disk", "8m") as disk,
        DaemonProcess(tmp_path, env={"ANALYTICS_DB_PATH": str(disk / "analytics.db")}) as daemon,
    ):
        daemon.db_path = disk / "analytics.db"
        (disk / "ballast").write_bytes(b"x" * shutil.disk_usage(disk).free)
        names = [str(number) for number in range(5000)]
        write_journal(daemon.spool_dir, [[event(name) for name in names]], capacity=MIB)
        wait_until(lambda: not daemon.ask("health")["ready"])
        (disk / "ballast").unlink()
        wait_until(lambda: daemon.ask("health")["ready"])
        daemon.wait_drained()
        assert_exactly(names, daemon.db_path)


@pytest.mark.parametrize("database", ["new", "known"])
def test_a_daemon_that_starts_on_a_full_disk_waits_for_room(tmp_path: Path, database: str) -> None:
    """It is there, says why it is not ready, and takes what was recorded meanwhile when there is room."""
    with (
        small_disk(tmp_path / "disk", "8m") as disk,
        DaemonProcess(tmp_path, env={"ANALYTICS_DB_PATH": str(disk / "analytics.db"), **HTTP}, started=False) as daemon,
    ):
        daemon.db_path = disk / "analytics.db"
        recorded = []
        if database == "known":
            daemon.start()
            recorded += run_client("record('before'); assert client.flush(20)", daemon.env)
            assert daemon.stop() == 0
        (disk / "ballast").write_bytes(b"x" * shutil.disk_usage(disk).free)
        daemon.start()
        assert "make room" in daemon.ask("health")["problem"]
        assert skillmeter("status", env=daemon.env).returncode == 1
        recorded += run_client("[record(str(n)) for n in range(100)]; assert not client.flush(0.5)", daemon.env)
        (disk / "ballast").unlink()
        wait_until(lambda: daemon.ask("health")["ready"])
        daemon.wait_drained()
        assert_exactly(recorded, daemon.db_path)


# Going back.


def go_back(daemon: DaemonProcess, client: Rounds, deleted: bool) -> None:
    """After the second round, have the database of the first in its place, or none. The daemon is stopped then."""
    client.wait()
    copy = keep_copy(daemon)
    daemon.start()
    client.go()
    client.wait()
    put_back(daemon, copy)
    if deleted:
        daemon.db_path.unlink()


@pytest.mark.parametrize("deleted", [True, False], ids=["deleted", "restored"])
def test_a_living_client_sends_again_what_it_still_has(tmp_path: Path, deleted: bool) -> None:
    """Its journal has not rolled, so all of it is there: rows = R, as if nothing had been."""
    with DaemonProcess(tmp_path) as daemon, rounds(daemon, 3, 200) as client:
        go_back(daemon, client, deleted)
        daemon.start()
        client.go()
        client.wait()
        client.kill()
        daemon.wait_drained()
        assert_exactly(client.recorded, daemon.db_path)


@pytest.mark.parametrize("busy", [True, False], ids=["busy", "idle"])
@pytest.mark.parametrize("deleted", [True, False], ids=["deleted", "restored"])
def test_what_a_living_client_no_longer_has_is_reported_to_the_event(tmp_path: Path, deleted: bool, busy: bool) -> None:
    """It has freed the segments that were acknowledged: it declares them lost, once, however many batches it had on
    the way; everything later arrives."""
    with DaemonProcess(tmp_path) as daemon, rounds(daemon, 3, 2000, prelude=SMALL_SEGMENTS) as client:
        go_back(daemon, client, deleted)
        client.go()
        if busy:
            client.wait(until="2-1999")
        daemon.start()
        client.wait()
        client.kill()
        daemon.wait_drained()
        _assert_lost(client.recorded, daemon)
        stored = set(recorded_names(daemon.db_path))
        assert stored >= set(client.recorded[4000:])
        assert deleted or stored >= set(client.recorded[:2000])


def test_a_copy_that_knows_of_a_loss_can_be_put_back_twice(tmp_path: Path) -> None:
    """Each time what the copy lacks is declared lost, and what it knows to be lost is not declared once more."""
    with DaemonProcess(tmp_path) as daemon, rounds(daemon, 5, 2000, prelude=SMALL_SEGMENTS) as client:
        client.wait()
        assert daemon.stop() == 0
        daemon.db_path.unlink()
        daemon.start()
        client.go()
        client.wait()
        copy = keep_copy(daemon)
        assert ledger(copy)["dropped.lost"] > 0
        for _ in range(2):
            daemon.start()
            client.go()
            client.wait()
            put_back(daemon, Path(shutil.copy(copy, tmp_path / "again")))
        daemon.start()
        client.go()
        client.wait()
        client.kill()
        daemon.wait_drained()
        _assert_lost(client.recorded, daemon)


@pytest.mark.parametrize("then", ["it is idle", "it dies"])
def test_a_loss_is_reported_though_nothing_follows(tmp_path: Path, then: str) -> None:
    """The database is deleted, and the client that knew more records nothing or hardly anything after that."""
    with DaemonProcess(tmp_path) as daemon, rounds(daemon, 2, 2000, prelude=SMALL_SEGMENTS) as client:
        client.wait()
        daemon.kill()
        for path in tmp_path.glob("analytics.db*"):
            path.unlink()
        daemon.start()
        if then == "it is idle":
            client.go()
            client.wait()
        client.kill()
        daemon.wait_drained()
        _assert_lost(client.recorded, daemon)


def _assert_lost(recorded: list[str], daemon: DaemonProcess) -> None:
    """What is not stored is in the ledger, by its name and number."""
    stored = recorded_names(daemon.db_path)
    assert len(set(stored)) == len(stored)
    assert set(stored) < set(recorded)
    assert_consistent(daemon.db_path)
    counts = ledger(daemon.db_path)
    assert counts["dropped.lost"] == len(recorded) - len(stored)
    assert counts["attempted"] == len(recorded)
    assert counts["pending"] == 0


# Read.


def test_a_reader_that_never_ends_holds_up_nobody_and_is_seen(tmp_path: Path) -> None:
    """The write-ahead log cannot be taken over while it reads: commits go on, and its size is reported."""
    with DaemonProcess(tmp_path) as daemon:
        recorded = run_client("record('first'); assert client.flush(20)", daemon.env)
        with contextlib.closing(sqlite3.connect(daemon.db_path, isolation_level=None)) as reader:
            reader.execute("BEGIN")
            assert reader.execute("SELECT count(*) FROM events").fetchone() == (1,)
            script = "[record(f'{sys.argv[1]}-{n}') for n in range(20_000)]; assert client.flush(50)"
            recorded += [name for label in "abc" for name in run_client(script, daemon.env, label)]
            assert daemon.ask("status")["database"]["wal_bytes"] > 3 * MIB
            assert daemon.ask("health")["ready"]
            assert reader.execute("SELECT count(*) FROM events").fetchone() == (1,)
        daemon.wait_drained()
        assert_exactly(recorded, daemon.db_path)


# Clocks.


def test_a_daemons_clock_that_jumps_changes_no_order_and_doubles_nothing(tmp_path: Path) -> None:
    """Back by an hour, forward by a year: batches, duplicates and orphans are told by offsets, never by time."""
    now_ns = [20_000 * DAY_NS]
    (tmp_path / "spool").mkdir()
    with contextlib.closing(Store.open(tmp_path / "analytics.db", clock_ns=lambda: now_ns[0])) as store:
        names = [f"{number:03}" for number in range(40)]
        producer = bytes(16)
        written = write_journal(tmp_path / "spool", [[event(name) for name in names]], producer=producer)
        for index, (offset, payload) in enumerate(written.records[:30]):
            now_ns[0] += (-3600 * 10**9, 365 * DAY_NS, 0)[index % 3]
            for _ in range(2):
                intake = Intake(store.committed)
                intake.add(b"me", wire.Batch(producer, offset, offset, [index + 1]), frame(payload))
                store.commit(intake.chunks)
        now_ns[0] = 0
        orphans = Orphans(tmp_path / "spool", store, Quarantine(tmp_path / "spool"))
        orphans.look()
        while orphans.step():
            pass
        assert recorded_names(store.path) == names
        assert_exactly(names, store.path)


def test_rollups_take_the_events_time_and_retention_the_daemons(tmp_path: Path) -> None:
    """An event of long ago, or of a clock that is years ahead, is filed under its own day; how long it is kept counts
    from when it came."""
    today = 20_000
    now_ns = [today * DAY_NS]
    days = [today - 7000, today - 1, today, today + 5000]
    with contextlib.closing(Store.open(tmp_path / "analytics.db", clock_ns=lambda: now_ns[0])) as store:
        intake = Intake(store.committed)
        body = b"".join(
            frame(encode_execution("s", True, 1.0, str(day), None, timestamp=day * 86_400 + 60)) for day in days
        )
        intake.add(b"me", wire.Batch(bytes(16), 0, 0, []), body)
        store.commit(intake.chunks)
        assert [day for (day,) in query(store.path, "SELECT day FROM usage_daily ORDER BY day")] == days
        assert store.delete_events(before_day=today, limit=100) == 0
        assert_exactly(map(str, days), store.path)
        now_ns[0] += DAY_NS
        assert store.delete_events(before_day=today + 1, limit=100) == len(days)
        assert [day for (day,) in query(store.path, "SELECT day FROM usage_daily ORDER BY day")] == days


def test_a_clients_clock_that_jumps_changes_no_order(tmp_path: Path) -> None:
    """Events arrive in the order of their calls, whatever time they say it is."""
    script = """
    for number in range(300):
        stamp = (number * 7919) % 1000 * 86400.0
        assert client.record_skill_execution("s", True, 1.0, str(number), timestamp=stamp)
    assert client.flush(20)
    """
    with DaemonProcess(tmp_path) as daemon:
        run_client(script, daemon.env)
        daemon.wait_drained()
        assert recorded_names(daemon.db_path) == [str(number) for number in range(300)]
        assert_exactly(map(str, range(300)), daemon.db_path)
        assert time.time_ns() > query(daemon.db_path, "SELECT max(recorded_at) FROM events")[0][0]
