"""Retention: old events go in small steps, rollups and totals stay, the file shrinks, producers are forgotten."""

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from skillmeter import QueryError, create_analytics_client
from skillmeter.events import encode_execution
from skillmeterd import orphans
from skillmeterd import retention as module
from skillmeterd.errors import StoreUnavailable
from skillmeterd.orphans import Orphans
from skillmeterd.quarantine import Quarantine
from skillmeterd.retention import Retention
from skillmeterd.rows import DAY_NS
from skillmeterd.store import Chunk, Store

from .journals import event, write_journal
from .support import DaemonProcess, ledger, query

TODAY = 20_000


class Clock:
    """The daemon's clock, moved by hand."""

    def __init__(self) -> None:
        self.now_ns = TODAY * DAY_NS + 1

    def __call__(self) -> int:
        return self.now_ns

    def pass_days(self, days: int) -> None:
        """Later."""
        self.now_ns += days * DAY_NS


@pytest.fixture
def clock() -> Clock:
    """A clock that stands just after midnight."""
    return Clock()


@pytest.fixture
def store(tmp_path: Path, clock: Clock) -> Iterator[Store]:
    """A fresh store with that clock."""
    store = Store.open(tmp_path / "analytics.db", clock_ns=clock)
    yield store
    store.close()


def commit(store: Store, count: int, *, producer: int = 1, finished: bool = False) -> None:
    """Commit so many events, each with an id of its own to take room."""
    identity = producer.to_bytes(16, "big")
    start = store.committed(identity).offset
    payloads = [
        encode_execution("s", True, 1.0, "u", None, attributes={"note": "x" * 200}, timestamp=TODAY * 86_400)
        for _ in range(count)
    ]
    offsets = [start + 300 * n for n in range(count)]
    store.commit([Chunk(identity, start + 300 * count, offsets, payloads, finished=finished)])


def run(retention: Retention) -> int:
    """Steps until there is nothing to do."""
    steps = 0
    while retention.step():
        steps += 1
    return steps


def events(store: Store) -> int:
    """How many are left."""
    return int(query(store.path, "SELECT count(*) FROM events")[0][0])


@pytest.mark.parametrize(("days_later", "left"), [(0, 10), (90, 10), (91, 0)])
def test_the_last_day(store: Store, clock: Clock, days_later: int, left: int) -> None:
    """90 days keep an event through the 90th day after its commit."""
    commit(store, 10)
    clock.pass_days(days_later)
    run(Retention(store, 90, clock))
    assert events(store) == left
    assert query(store.path, "SELECT count(*) FROM event_extra") == [(left,)]


def test_zero_keeps_all(store: Store, clock: Clock) -> None:
    """ANALYTICS_DB_RETENTION_DAYS=0 deletes nothing, ever."""
    commit(store, 10)
    clock.pass_days(10_000)
    assert run(Retention(store, 0, clock)) == 0
    assert events(store) == 10


def test_only_what_is_old(store: Store, clock: Clock) -> None:
    """Events of later days stay; rollups, totals and the ledger say the same as before."""
    commit(store, 10)
    clock.pass_days(50)
    commit(store, 5)
    clock.pass_days(50)
    tables = ["skill_usage", "skill_metrics", "ledger", "pair_daily", "skill_daily", "skill_total"]
    tables += [f"{table}_recent" for table in ("seen", "skill_user", "last_seen", "pair_sketch", "skill_sketch")]
    before = [query(store.path, f"SELECT * FROM {table}") for table in tables]
    assert all(before), "a table is empty, and says nothing"
    run(Retention(store, 90, clock))
    assert events(store) == 5
    assert [query(store.path, f"SELECT * FROM {table}") for table in tables] == before


def test_age_is_that_of_the_commit(store: Store, clock: Clock) -> None:
    """An event that its client dated back long ago is as young as its commit."""
    clock.pass_days(1000)
    commit(store, 3)
    run(Retention(store, 90, clock))
    assert events(store) == 3


def test_small_steps(store: Store, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    """No step deletes more than its bound, and commits come in between."""
    monkeypatch.setattr(module, "EVENTS", 3)
    commit(store, 10)
    clock.pass_days(91)
    retention = Retention(store, 90, clock)
    left = []
    for _ in range(4):
        assert retention.step()
        commit(store, 1)
        left.append(events(store))
    assert left == [8, 6, 4, 4]


def test_it_leaves_the_thread_to_commits(store: Store, clock: Clock) -> None:
    """After a step of 10 ms it is not due for 40 ms; with nothing to do, for a minute."""
    now_s = [0.0]

    class Slow(Retention):
        more = True

        def step(self) -> bool:
            now_s[0] += 0.01
            return self.more

    retention = Slow(store, 90, clock, lambda: now_s[0])
    retention.turn()
    assert retention.due_in_s == pytest.approx(0.04)
    retention.turn()
    assert now_s[0] == 0.01
    now_s[0], Slow.more = 1.0, False
    retention.turn()
    assert retention.due_in_s == pytest.approx(60)


def test_the_file_shrinks(store: Store, clock: Clock) -> None:
    """After the events the file's room goes back, all but a 16th, a MiB at a step."""
    for _ in range(5):
        commit(store, 4000)
    store.close()
    before = store.path.stat().st_size
    clock.pass_days(91)
    steps = run(Retention(store, 90, clock))
    assert steps <= 5 + 1 + before // (module.PAGES * 4096)  # of events, of producers, of pages
    store.close()
    assert store.path.stat().st_size < before / 4
    assert query(store.path, "PRAGMA integrity_check") == [("ok",)]


def test_producers_are_forgotten(store: Store, clock: Clock) -> None:
    """A producer goes when it has ended, has no event left, and was silent for a week; one that lives stays."""
    commit(store, 1, producer=1, finished=True)
    commit(store, 1, producer=2)
    clock.pass_days(6)
    run(Retention(store, 5, clock))
    assert events(store) == 0
    assert query(store.path, "SELECT count(*) FROM producer") == [(2,)]
    clock.pass_days(2)
    run(Retention(store, 5, clock))
    assert query(store.path, "SELECT producer FROM producer") == [((2).to_bytes(16, "big"),)]


def test_a_database_that_cannot_be_written_is_tried_again(store: Store, clock: Clock) -> None:
    """A failing step raises nothing, and is due again soon."""

    class Failing(Retention):
        def step(self) -> bool:
            raise StoreUnavailable("disk full", "make room")

    retention = Failing(store, 90, clock)
    retention.turn()
    assert 0 < retention.due_in_s <= module.RETRY_S


class TestCleanup:
    """Deleting on request."""

    def test_a_job(self, store: Store, clock: Clock) -> None:
        """It begins with the first question, later ones say how far it is, and asking again repeats nothing."""
        commit(store, 10)
        clock.pass_days(2)
        retention = Retention(store, 0, clock)
        asked = {"retention_days": 1, "job": "a"}
        assert retention.cleanup(asked) == (0, False)
        assert retention.due_in_s == 0
        run(retention)
        assert retention.cleanup(asked) == (10, True)
        assert events(store) == 0

    @pytest.mark.parametrize("days", [0, -1, 1.5, "7", None])
    def test_wrong_days(self, store: Store, clock: Clock, days: Any) -> None:
        """Less than a day, or no number, deletes nothing."""
        with pytest.raises(QueryError, match="retention_days: expected int"):
            Retention(store, 90, clock).cleanup({"retention_days": days, "job": "a"})

    def test_by_a_client(self, tmp_path: Path) -> None:
        """cleanup_old_data through a running daemon: nothing of today is older than a day."""
        with DaemonProcess(tmp_path) as daemon:
            client = create_analytics_client(endpoint=daemon.endpoint, spool_dir=str(daemon.spool_dir))
            client.record_skill_execution("s", True, 1.0)
            assert client.flush(30)
            assert client.cleanup_old_data(1) == 0
            assert client.get_db_stats().events == 1
            client.close()


def test_no_producer_is_forgotten_while_its_journal_may_be_in_the_spool(
    tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A daemon was killed between commit and deletion, and the next one comes when all of that is old: it looks through
    the spool before it forgets anybody, or it would take the journals for new ones."""
    count = 3 * orphans.MAX_OPEN
    with DaemonProcess(tmp_path, started=False) as daemon:
        for number in range(count):
            write_journal(daemon.spool_dir, [[event(str(number))]])
        with closing(Store.open(daemon.db_path, clock_ns=clock)) as store:
            monkeypatch.setattr(orphans, "_delete", lambda _: None)
            former = Orphans(daemon.spool_dir, store, Quarantine(daemon.spool_dir))
            former.look()
            while former.step():
                pass
            assert store.delete_events(TODAY + 1, 2 * count) == count
        daemon.start()
        daemon.wait_drained()
        assert query(daemon.db_path, "SELECT sum(executions) FROM pair_total") == [(count,)]
        assert ledger(daemon.db_path)["stored"] == count
