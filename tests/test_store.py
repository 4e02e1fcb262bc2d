"""The store: a group is committed wholly or not at all, and everything in the file agrees with the events."""

import datetime
import os
import re
import sqlite3
import stat
import subprocess
import sys
import tempfile
import textwrap
from collections import defaultdict
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skillmeter.events import Execution, Health, Rating, encode_execution, encode_health, encode_rating
from skillmeter.records import LEDGER
from skillmeterd import accounts, levels, tables
from skillmeterd.database import open_reader
from skillmeterd.errors import ForeignDatabase, SchemaTooNew, StaleChunks, StoreReplaced, StoreUnavailable
from skillmeterd.migrations import latest
from skillmeterd.rows import BUCKETS_MS, DAY_NS
from skillmeterd.sketch import Sketch
from skillmeterd.store import Chunk, Committed, Store

ONE = bytes(range(16))
TWO = bytes(range(16, 32))
NOON_NS = 20_000 * DAY_NS + DAY_NS // 2


class Clock:
    """The daemon's clock, moved by hand."""

    def __init__(self) -> None:
        self.now_ns = NOON_NS

    def __call__(self) -> int:
        return self.now_ns


@pytest.fixture
def clock() -> Clock:
    """A clock that stands at noon."""
    return Clock()


@pytest.fixture
def store(tmp_path: Path, clock: Clock) -> Iterator[Store]:
    """A fresh store with that clock."""
    store = Store.open(tmp_path / "analytics.db", clock_ns=clock)
    yield store
    store.close()


def chunk(*payloads: bytes, producer: bytes = ONE, start: int = 0, **facts) -> Chunk:
    """Records of 100 bytes each, from `start`."""
    offsets = [start + 100 * index for index in range(len(payloads))]
    return Chunk(producer, start + 100 * len(payloads), offsets, list(payloads), **facts)


def execution(skill: str = "s", *, org: str | None = None, user: str | None = None) -> bytes:
    """A successful execution of a millisecond."""
    return encode_execution(skill, True, 1.0, user, org)


def rows(store_or_path: Store | Path, sql: str, *values: object) -> list[tuple]:
    """What a reader sees."""
    path = store_or_path.path if isinstance(store_or_path, Store) else store_or_path
    with closing(open_reader(path)) as db:
        return db.execute(sql, values).fetchall()


def ledger(store: Store) -> dict[str, int]:
    """Events by outcome, or outcome.reason."""
    return {".".join(filter(None, row[:2])): row[2] for row in rows(store, "SELECT * FROM ledger")}


# One transaction.


def test_an_unknown_producer_has_nothing_committed(store: Store) -> None:
    """And asking does not make it known."""
    assert store.committed(ONE) == Committed(0, 0)
    assert rows(store, "SELECT count(*) FROM producer") == [(0,)]


def test_what_was_committed_is_there_after_a_restart(store: Store, clock: Clock) -> None:
    """Events in their order, the offset, and the number of records."""
    result = store.commit([chunk(execution("a"), execution("b")), chunk(execution("c"), producer=TWO)])
    assert (result.stored, result.malformed, result.last_event_id) == (3, 0, 3)
    store.commit([chunk(execution("d"), start=200)])
    store.close()
    with closing(Store.open(store.path, clock_ns=clock)) as again:
        assert again.committed(ONE) == Committed(300, 3)
        assert again.committed(TWO) == Committed(100, 1)
        assert [skill for (skill,) in rows(again, "SELECT skill_id FROM events")] == ["a", "b", "c", "d"]


def test_two_chunks_of_one_producer_in_one_group_add_up(store: Store) -> None:
    """Batches that arrive together go into one transaction."""
    store.commit([chunk(execution()), chunk(execution(), b"junk", start=100)])
    assert store.committed(ONE) == Committed(300, 3)
    assert rows(store, "SELECT count(*) FROM events") == [(2,)]


def test_the_offset_never_goes_back(store: Store) -> None:
    """A batch that brings only an old ledger names an older offset."""
    store.commit([chunk(execution(), execution())])
    store.commit([chunk(start=100)])
    assert store.committed(ONE) == Committed(200, 2)


def test_chunks_made_for_another_offset_are_refused(store: Store) -> None:
    """Nothing of their group is written: neither a gap nor a duplicate can arise."""
    store.commit([chunk(execution(), continues=0)])
    for continues, start in ((0, 0), (200, 200)):
        with pytest.raises(StaleChunks):
            store.commit([chunk(execution(), producer=TWO), chunk(execution(), start=start, continues=continues)])
    assert store.committed(TWO) == Committed(0, 0)
    assert rows(store, "SELECT count(*) FROM events") == [(1,)]
    store.commit([chunk(execution(), start=100, continues=100)])
    assert store.committed(ONE) == Committed(200, 2)


KILLED = textwrap.dedent("""
    import sys
    from pathlib import Path
    from skillmeter.events import encode_execution, encode_rating
    from skillmeterd.store import Chunk, Store

    store = Store.open(Path(sys.argv[1]))
    for group in range(2):
        payloads = [encode_execution(f"s{group}", True, 1.0, "u", None) for _ in range(149)]
        payloads.append(encode_rating(f"s{group}", 5, None, None))
        offsets = list(range(group * 15000, group * 15000 + 15000, 100))
        store.commit([Chunk(bytes(16), group * 15000 + 15000, offsets, payloads, (150 * group + 150,))])
""")


@pytest.mark.parametrize(
    ("point", "groups"),
    [("store.before_rows", 1), ("store.before_rollups", 1), ("store.before_commit", 1), ("store.after_commit", 2)],
)
def test_a_kill_leaves_a_group_wholly_or_not_at_all(tmp_path: Path, point: str, groups: int) -> None:
    """SIGKILL at each point of the second commit: rows, rollups, ledger and offset always agree."""
    path = tmp_path / "analytics.db"
    environment = {**os.environ, "SKILLMETER_FAULTS": f"{point}=2", "PYTHONPATH": os.pathsep.join(sys.path)}
    killed = subprocess.run([sys.executable, "-c", KILLED, str(path)], env=environment, check=False)
    assert killed.returncode == -9
    with closing(Store.open(path)) as store:
        assert store.committed(bytes(16)) == Committed(15000 * groups, 150 * groups)
        assert rows(store, "SELECT count(*), count(DISTINCT event_id) FROM events") == [(150 * groups, 150 * groups)]
        assert rows(store, "SELECT sum(executions), sum(r5) FROM pair_total") == [(149 * groups, groups)]
        assert rows(store, "SELECT sum(execution_count) FROM skill_usage") == [(149 * groups,)]
        assert ledger(store) == {"attempted": 150 * groups, "stored": 150 * groups, "pending": 0}


# Everything agrees with the events.

skills = st.sampled_from(["a", "b", "c"])
people = st.sampled_from(["u", "v", None])
orgs = st.sampled_from(["o", "p", None])
times = st.one_of(
    st.integers(NOON_NS - 2 * DAY_NS, NOON_NS + 2 * DAY_NS), st.sampled_from([0, DAY_NS - 1, DAY_NS, 2**63 - 1])
)
events = st.one_of(
    st.builds(Execution, times, skills, people, orgs, st.booleans(), st.floats(0, 1e4)),
    st.builds(Rating, times, skills, people, orgs, st.integers(1, 5)),
    st.builds(Health, times, skills, st.floats(0, 100)),
)
histories = st.lists(st.lists(events, max_size=12), max_size=4)


@settings(max_examples=60)
@given(histories, st.sampled_from([0, 20, 1000]), st.integers(0, 2))
def test_every_rollup_is_what_the_events_sum_up_to(
    history: list[list[Execution | Rating | Health]], recent_bytes: int, steps: int
) -> None:
    """Per day and user, per day, in all, and as the public views show it - however the events were grouped.

    Between two groups, sketches that are recent are merged: not at all, in part, or all of them.
    """
    with (
        pytest.MonkeyPatch.context() as patch,
        tempfile.TemporaryDirectory() as folder,
        closing(Store.open(Path(folder) / "analytics.db", clock_ns=Clock())) as store,
    ):
        patch.setattr(levels, "MAX_RECENT_BYTES", recent_bytes)
        start = 0
        for group in history:
            payloads = [msgspec.msgpack.encode(event) for event in group]
            store.commit([chunk(*payloads, start=start)])
            start += 100 * len(payloads)
            for _ in range(5 * steps):
                store.settle(1)
        _check_executions(store, [e for group in history for e in group if isinstance(e, Execution)])
        _check_ratings(store, [e for group in history for e in group if isinstance(e, Rating)])
        _check_health(store, [e for group in history for e in group if isinstance(e, Health)])


def _check_executions(store: Store, executions: list[Execution]) -> None:
    by_user, by_day, by_pair, by_skill = (defaultdict[tuple, list[Execution]](list) for _ in range(4))
    for event in executions:
        day = _iso_day(event.recorded_at_ns)
        by_user[day, event.skill_id, event.user_id, event.org_id].append(event)
        by_day[event.recorded_at_ns // DAY_NS, event.skill_id, event.org_id].append(event)
        by_pair[event.skill_id, event.org_id].append(event)
        by_skill[event.skill_id,].append(event)

    sums = "execution_count, success_count, failure_count, avg_latency_ms, min_latency_ms, max_latency_ms"
    usage = rows(store, f"SELECT day, skill_id, user_id, org_id, {sums}, updated_at FROM skill_usage")
    assert {row[:4]: row[4:] for row in usage} == {key: (*_public_sums(cell), NOON_NS) for key, cell in by_user.items()}
    metrics = rows(store, f"SELECT skill_id, {sums}, last_used FROM skill_metrics WHERE execution_count > 0")
    assert {row[:1]: row[1:] for row in metrics} == {
        key: (*_public_sums(cell), max(e.recorded_at_ns for e in cell)) for key, cell in by_skill.items()
    }
    columns = "executions, successes, latency_min, latency_max, {first}, {last}, latency_sum"
    daily = rows(
        store,
        f"SELECT day, skill_id, org_id, {columns.format(first='first_ns', last='last_ns')}, sketch "
        "FROM pair_daily JOIN pair ON pair.id = pair_id WHERE executions > 0",
    )
    _check_series({row[:3]: row[3:] for row in daily}, by_day)
    buckets = ", ".join(f"le_{bound}" for bound in BUCKETS_MS)
    total = rows(
        store,
        f"SELECT skill_id, org_id, {columns.format(first='first_used_ns', last='last_used_ns')}, {buckets} "
        "FROM pair_total JOIN pair ON pair.id = pair_id WHERE executions > 0",
    )
    sketches = _sketches(store, "pair", "pair_id", "skill_id, org_id", "id")
    _check_series({row[:2]: (*row[2:9], sketches[row[:2]].encode()) for row in total}, by_pair)
    for row in total:
        latencies = [event.latency_ms for event in by_pair[row[:2]]]
        for index, bound in enumerate(BUCKETS_MS):
            assert sum(row[9 : 10 + index]) == sum(latency <= bound for latency in latencies)

    of_skills = _sketches(store, "skill", "skill_no", "skill_id", "no")
    assert {key: sketch.bins for key, sketch in of_skills.items()} == {
        key: Sketch.of(event.latency_ms for event in cell).bins for key, cell in by_skill.items()
    }


def _sketches(store: Store, table: str, no: str, names: str, key: str) -> dict[tuple, Sketch]:
    """Those of all latencies, by name."""
    found: defaultdict[tuple, Sketch] = defaultdict(Sketch)
    for level in (f"{table}_sketch", f"{table}_sketch_recent"):
        for *name, sketch in rows(store, f"SELECT {names}, sketch FROM {level} JOIN {table} ON {no} = {key}"):
            found[tuple(name)].merge(Sketch.decode(sketch))
    return found


def _check_series(found: dict[tuple, tuple], expected: dict[tuple, list[Execution]]) -> None:
    assert set(found) == set(expected)
    for key, cell in expected.items():
        *numbers, latency_sum, sketch = found[key]
        latencies = [event.latency_ms for event in cell]
        times_ns = [event.recorded_at_ns for event in cell]
        successes = sum(event.success for event in cell)
        assert numbers == [len(cell), successes, min(latencies), max(latencies), min(times_ns), max(times_ns)]
        assert latency_sum == pytest.approx(sum(latencies))
        assert Sketch.decode(sketch).bins == Sketch.of(latencies).bins


def _public_sums(cell: list[Execution]) -> tuple:
    latencies = [event.latency_ms for event in cell]
    successes = sum(event.success for event in cell)
    average = pytest.approx(sum(latencies) / len(cell))
    return len(cell), successes, len(cell) - successes, average, min(latencies), max(latencies)


def _check_ratings(store: Store, ratings: list[Rating]) -> None:
    by_skill: dict[str, list[Rating]] = defaultdict(list)
    by_day: dict[tuple, list[int]] = defaultdict(list)
    for event in ratings:
        by_skill[event.skill_id].append(event)
        by_day[event.recorded_at_ns // DAY_NS, event.skill_id, event.org_id].append(event.rating)
    counts = ", ".join(f"rating_{value}_count" for value in range(1, 6))
    metrics = rows(store, f"SELECT skill_id, rating_avg, rating_count, {counts}, last_rated FROM skill_metrics")
    expected = {}
    for skill, cell in by_skill.items():
        values = [event.rating for event in cell]
        last_ns = max(event.recorded_at_ns for event in cell)
        each = [values.count(value) for value in range(1, 6)]
        expected[skill] = (pytest.approx(sum(values) / len(values)), len(values), *each, last_ns)
    assert {row[0]: row[1:] for row in metrics if row[2]} == expected
    assert all(row[1:] == (None, 0, 0, 0, 0, 0, 0, None) for row in metrics if row[0] not in expected)
    daily = rows(
        store,
        "SELECT day, skill_id, org_id, r1, r2, r3, r4, r5 FROM pair_daily JOIN pair ON pair.id = pair_id "
        "WHERE r1 + r2 + r3 + r4 + r5 > 0",
    )
    assert {row[:3]: row[3:] for row in daily} == {
        key: tuple(values.count(value) for value in range(1, 6)) for key, values in by_day.items()
    }


def _check_health(store: Store, scores: list[Health]) -> None:
    latest: dict[str, Health] = {}
    for event in scores:
        if event.skill_id not in latest or event.recorded_at_ns >= latest[event.skill_id].recorded_at_ns:
            latest[event.skill_id] = event
    found = rows(store, "SELECT skill_id, health_score FROM skill_metrics WHERE health_score IS NOT NULL")
    assert dict(found) == {skill: event.score for skill, event in latest.items()}


def _iso_day(at_ns: int) -> str:
    return (datetime.date(1970, 1, 1) + datetime.timedelta(days=at_ns // DAY_NS)).isoformat()


def test_names_seen_before_a_full_cache_keep_their_numbers(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Caches are bounded; what is not remembered is looked up, never made twice."""
    monkeypatch.setattr(tables, "MAX_NAMES", 1)
    monkeypatch.setattr("skillmeterd.store.MAX_NAMES", 1)
    monkeypatch.setattr(accounts, "MAX_ACCOUNTS", 1)
    names = [("a", "o", "u"), ("b", None, "v"), ("a", None, None), ("b", "o", "u")]
    for start in range(0, 400, 100):
        for producer in (ONE, TWO):
            payloads = [execution(skill, org=org, user=user) for skill, org, user in names]
            store.commit([chunk(*payloads, producer=producer, start=start * 4)])
    assert rows(store, "SELECT count(*) FROM pair") == [(4,)]
    assert rows(store, "SELECT count(*) FROM user") == [(2,)]
    assert rows(store, "SELECT DISTINCT execution_count FROM skill_usage") == [(8,)]
    assert store.committed(ONE) == store.committed(TWO) == Committed(1600, 16)
    assert store._session is not None
    assert (len(store._session.pairs), len(store._session.days), len(store._session.users)) == (0, 0, 0)
    store.commit([])
    assert len(store._session.accounts._recent) == 1


# The ledger.

chunks = st.builds(
    lambda number, good, bad, counts, **facts: (number, good, bad, counts, facts),
    st.integers(0, 2),
    st.integers(0, 3),
    st.integers(0, 2),
    st.lists(st.integers(0, 9), max_size=len(LEDGER) + 2),
    lost=st.integers(0, 4),
    corrupt=st.integers(0, 2),
    finished=st.booleans(),
)


@settings(max_examples=60)
@given(st.lists(st.lists(chunks, max_size=4), max_size=4))
def test_the_ledger_balances_after_every_commit(history) -> None:
    """attempted = stored + pending + dropped + rejected; stored is the rows; nothing is pending once all are dead."""
    with tempfile.TemporaryDirectory() as folder, closing(Store.open(Path(folder) / "analytics.db")) as store:
        ends = [0, 0, 0]
        for group in history:
            made = []
            for number, good, bad, counts, facts in group:
                payloads = [execution()] * good + [b"junk"] * bad
                made.append(chunk(*payloads, producer=bytes([number]) * 16, start=ends[number], **facts))
                made[-1].ledger = tuple(counts)
                ends[number] = made[-1].committed
            store.commit(made)
            found = rows(store, "SELECT outcome, sum(events) FROM ledger GROUP BY outcome")
            sums = defaultdict(int, found)
            assert sums["attempted"] == sums["stored"] + sums["pending"] + sums["dropped"] + sums["rejected"]
            assert min(sums.values(), default=0) >= 0
            assert rows(store, "SELECT count(*) FROM events") == [(sums["stored"],)]
        store.commit([Chunk(bytes([number]) * 16, ends[number], [], [], finished=True) for number in range(3)])
        assert ledger(store)["pending"] == 0


def test_what_a_producer_has_not_yet_sent_is_pending(store: Store) -> None:
    """Until it is dead: then it is a call that never returned."""
    store.commit([chunk(execution(), b"junk", ledger=(5,))])
    assert ledger(store) == {"attempted": 5, "stored": 1, "rejected.malformed": 1, "pending": 3}
    store.commit([Chunk(ONE, 200, [], [], finished=True)])
    assert ledger(store)["dropped.unfinished"] == 3
    assert ledger(store)["pending"] == 0
    store.close()
    store.commit([Chunk(ONE, 200, [], [], ledger=(6,))])  # queued before it died: it stays dead
    assert ledger(store)["dropped.unfinished"] == 4
    assert ledger(store)["pending"] == 0


# What readers see.

HOSTILE = [
    "../../x\n",
    "'; DROP TABLE event_log; --",
    '"quoted" \\ {label="x"}',
    "<script>alert(1)</script>",
    "nul\0inside",
    "\u202eright to left",
    "ünï😀" * 64,
    "None",
    "0",
]


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_text_is_carried_literally(store: Store, text: str) -> None:
    """Every id and every extra comes out of the views as it went in."""
    payload = encode_execution(text, True, 1.0, text, text, text, text, {text: text})
    store.commit([chunk(payload, encode_health(text, 50.0))])
    names = "skill_id, user_id, org_id, error_type, skill_version"
    assert rows(store, f"SELECT {names} FROM events WHERE kind = 'execution'") == [(text,) * 5]
    ((attributes,),) = rows(store, "SELECT attributes FROM events WHERE attributes IS NOT NULL")
    assert msgspec.json.decode(attributes) == {text: text}
    assert rows(store, "SELECT skill_id, user_id, org_id FROM skill_usage") == [(text,) * 3]
    assert rows(store, "SELECT health_score FROM skill_metrics WHERE skill_id = ?", text) == [(50.0,)]


def test_an_absent_user_or_org_is_null_and_never_a_real_one(store: Store) -> None:
    """Nor is it merged with an org that happens to be called 0 or None."""
    orgs = [None, "0", "None", " "]
    store.commit([chunk(*[execution(org=org, user=org) for org in orgs])])
    found = rows(store, "SELECT org_id, user_id, execution_count FROM skill_usage")
    assert sorted(found, key=str) == sorted([(org, org, 1) for org in orgs], key=str)


def test_an_events_id_names_its_producer_and_its_place_in_the_journal(store: Store) -> None:
    """So it is the same when the same record is committed to another database."""
    store.commit([chunk(execution(), execution(), start=100)])
    expected = [f"{ONE.hex()}-64", f"{ONE.hex()}-c8"]
    assert [event_id for (event_id,) in rows(store, "SELECT event_id FROM events")] == expected


def test_each_kind_of_event_fills_its_own_columns(store: Store) -> None:
    """What an event does not have is NULL."""
    store.commit([
        chunk(
            encode_execution("s", False, 2.5, "u", "o", "ValueError", "1.2", {"a": 1}),
            encode_rating("s", 4, "u", None),
            encode_health("s", 0.95),
        )
    ])  # fmt: skip
    columns = "kind, user_id, org_id, success, latency_ms, rating, score, error_type, skill_version, attributes"
    assert rows(store, f"SELECT {columns} FROM events") == [
        ("execution", "u", "o", 0, 2.5, None, None, "ValueError", "1.2", '{"a":1}'),
        ("rating", "u", None, None, None, 4, None, None, None, None),
        ("health", None, None, None, None, None, 0.95, None, None, None),
    ]


def test_attributes_that_are_no_json_do_not_break_a_query(store: Store) -> None:
    """A foreign client may send any text; json_extract has to work on every row."""
    texts = ["not json", '{"a": 1}', "", '"']
    events = [Execution(0, "s", None, None, True, 1.0, None, None, text) for text in texts]
    store.commit([chunk(*map(msgspec.msgpack.encode, events))])
    assert rows(store, "SELECT json_extract(attributes, '$.a') FROM events") == [(None,), (1,), (None,), (None,)]
    found = [msgspec.json.decode(text) for (text,) in rows(store, "SELECT attributes FROM events")]
    assert found == ["not json", {"a": 1}, "", '"']


def test_the_query_that_users_start_from_works(store: Store) -> None:
    """In the sqlite3 module of any program, with nothing registered."""
    store.commit([chunk(*[execution(skill, user=user) for skill in "aab" for user in "uv"])])
    sql = """SELECT skill_id, SUM(execution_count) AS total FROM skill_usage
             GROUP BY skill_id ORDER BY total DESC LIMIT 10"""
    with closing(sqlite3.connect(store.path)) as db:
        assert db.execute(sql).fetchall() == [("a", 4), ("b", 2)]
        for (name,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'view'").fetchall():
            db.execute(f"SELECT * FROM {name}").fetchall()
        assert db.execute("SELECT version FROM schema_version").fetchall() == [(latest(),)]


def test_a_reader_sees_commits_and_changes_nothing(store: Store) -> None:
    """Its connection is read-only whatever it is asked."""
    with closing(open_reader(store.path)) as db:
        assert db.execute("SELECT count(*) FROM events").fetchone() == (0,)
        store.commit([chunk(execution())])
        assert db.execute("SELECT count(*) FROM events").fetchone() == (1,)
        with pytest.raises(sqlite3.OperationalError):
            db.execute("DELETE FROM event_log")


def test_a_reader_in_the_middle_of_its_query_does_not_hold_up_a_commit(store: Store) -> None:
    """And it goes on seeing what was there when it began."""
    store.commit([chunk(execution())])
    with closing(open_reader(store.path)) as db:
        db.execute("BEGIN")
        assert db.execute("SELECT count(*) FROM events").fetchone() == (1,)
        store.commit([chunk(execution(), start=100)])
        assert db.execute("SELECT count(*) FROM events").fetchone() == (1,)


def test_the_database_is_its_owners_only(tmp_path: Path) -> None:
    """The file, its WAL, and a folder that had to be made."""
    with closing(Store.open(tmp_path / "new" / "analytics.db")) as store:
        store.commit([chunk(execution())])
        modes = {file.name: stat.S_IMODE(file.stat().st_mode) for file in store.path.parent.iterdir()}
        assert set(modes) == {"analytics.db", "analytics.db-wal", "analytics.db-shm"}
        assert set(modes.values()) == {0o600}
        assert stat.S_IMODE(store.path.parent.stat().st_mode) == 0o700


# When SQLite cannot.


@contextmanager
def full_disk(store: Store) -> Iterator[None]:
    """The database may not grow: SQLite answers as on a full disk."""
    assert store._session is not None
    db = store._session.db
    (pages,) = db.execute("PRAGMA page_count").fetchone()
    db.execute(f"PRAGMA max_page_count = {pages}")
    yield
    db.execute("PRAGMA max_page_count = 1073741823")


def test_a_full_disk_refuses_the_group_and_the_next_one_works(store: Store) -> None:
    """Nothing of the failed group remains, in the file or in memory; the same chunks fit once there is room."""
    store.commit([chunk(execution("a"))])
    payloads = [execution(f"skill-{number}", user=f"user-{number}") for number in range(2000)]
    group = [chunk(*payloads, start=100, ledger=(2001,)), chunk(execution(), producer=TWO)]
    with full_disk(store):
        with pytest.raises(StoreUnavailable, match=r"full.*make room"):
            store.commit(group)
        assert store.committed(ONE) == Committed(100, 1)
        assert store.committed(TWO) == Committed(0, 0)
    assert store.commit(group).stored == 2001
    assert rows(store, "SELECT count(*), count(DISTINCT skill_id), count(DISTINCT user_id) FROM events") == [
        (2002, 2002, 2000)
    ]
    assert rows(store, "SELECT sum(execution_count) FROM skill_usage") == [(2002,)]
    assert ledger(store) == {"attempted": 2002, "stored": 2002, "pending": 0}


LOCKING = """
import sqlite3, sys
db = sqlite3.connect(sys.argv[1])
db.execute("BEGIN IMMEDIATE")
print(1, flush=True)
input()
"""


def test_a_lock_of_another_program_refuses_the_group_until_it_goes(store: Store) -> None:
    """The wait is bounded; afterwards all works as before."""
    assert store._session is not None
    store._session.db.execute("PRAGMA busy_timeout = 50")
    command = [sys.executable, "-c", LOCKING, str(store.path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdin is not None
        assert other.stdout is not None
        assert other.stdout.readline() == b"1\n"
        with pytest.raises(StoreUnavailable, match="lock"):
            store.commit([chunk(execution())])
        assert store.committed(ONE) == Committed(0, 0)
        other.communicate(b"\n")
    store.commit([chunk(execution())])
    assert store.committed(ONE) == Committed(100, 1)


@pytest.mark.parametrize(
    ("failure", "raised"), [(sqlite3.OperationalError("disk I/O error"), StoreUnavailable), (ValueError(), ValueError)]
)
def test_a_failure_after_the_rows_were_written_leaves_nothing_half_done(
    store: Store, monkeypatch: pytest.MonkeyPatch, failure: Exception, raised: type[Exception]
) -> None:
    """Whether it is SQLite's or ours, which is not hidden; afterwards the same chunks fit."""

    def fail(*_: object) -> None:
        raise failure

    store.commit([chunk(execution("a"))])
    group = [chunk(execution("b", org="o", user="u"), producer=TWO), chunk(execution("c"), start=100)]
    with monkeypatch.context() as patch:
        patch.setattr("skillmeterd.store.write_ledger", fail)
        with pytest.raises(raised):
            store.commit(group)
    assert rows(store, "SELECT skill_id FROM events") == [("a",)]
    assert rows(store, "SELECT count(*) FROM producer") == [(1,)]
    store.commit(group)
    assert rows(store, "SELECT skill_id, org_id, user_id FROM events") == [
        ("a", None, None), ("b", "o", "u"), ("c", None, None),
    ]  # fmt: skip


@pytest.mark.parametrize("content", [b"this is not a database" * 1000, b"SQLite format 3\0" + b"\xff" * 8192])
def test_a_file_that_is_no_database_is_kept_aside(tmp_path: Path, content: bytes) -> None:
    """A fresh one is started, and says so to whoever looks."""
    path = tmp_path / "analytics.db"
    path.write_bytes(content)
    with closing(Store.open(path, clock_ns=Clock())) as store:
        store.commit([chunk(execution())])
        aside = tmp_path / "analytics.db.corrupt-20241004T120000Z"
        assert store.replaced_corrupt == aside
        assert aside.read_bytes() == content
        ((at_ns, kind, detail),) = rows(store, "SELECT * FROM incident")
        assert (at_ns, kind) == (NOON_NS, "corrupt")
        assert str(aside) in detail


def test_a_second_corrupt_file_in_the_same_second_does_not_replace_the_first(tmp_path: Path) -> None:
    """What is kept aside is never written over."""
    path = tmp_path / "analytics.db"
    kept: list[Path] = []
    for content in (b"one" * 1000, b"two" * 1000):
        path.unlink(missing_ok=True)
        path.write_bytes(content)
        with closing(Store.open(path, clock_ns=Clock())) as store:
            assert store.replaced_corrupt is not None
            kept.append(store.replaced_corrupt)
    assert [file.read_bytes() for file in kept] == [b"one" * 1000, b"two" * 1000]


def test_corruption_found_at_a_commit_starts_a_fresh_database(tmp_path: Path) -> None:
    """The group is refused as stale: its offsets were those of the old file."""
    path = tmp_path / "analytics.db"
    with closing(Store.open(path)) as store:
        store.commit([chunk(*[execution(f"s{number}", user=f"u{number}") for number in range(3000)])])
    content = bytearray(path.read_bytes())
    for page in range(len(content) // 4096 // 4, len(content) // 4096):
        content[page * 4096 : page * 4096 + 64] = b"\xff" * 64
    path.write_bytes(content)
    with closing(Store.open(path)) as store:
        with pytest.raises(StoreReplaced):
            store.commit([chunk(execution(f"s{number}"), start=300_000 + 100 * number) for number in range(3000)])
        assert store.replaced_corrupt is not None
        assert store.replaced_corrupt.read_bytes() == content
        assert store.committed(ONE) == Committed(0, 0)
        store.commit([chunk(execution())])
        assert rows(store, "SELECT kind FROM incident") == [("corrupt",)]
        assert rows(store, "SELECT count(*) FROM events") == [(1,)]


def test_a_database_deleted_under_the_store_is_noticed(store: Store) -> None:
    """Nothing is ever acknowledged into a file that nobody can open again."""
    store.commit([chunk(execution(), execution())])
    for file in list(store.path.parent.iterdir()):
        file.unlink()
    with pytest.raises(StoreReplaced):
        store.commit([chunk(execution(), start=200)])
    assert store.committed(ONE) == Committed(0, 0)
    store.commit([chunk(execution(), start=200, lost=2)])
    assert rows(store, "SELECT kind FROM incident") == [("exchanged",)]
    assert ledger(store) == {"attempted": 3, "stored": 1, "dropped.lost": 2, "pending": 0}


def test_an_older_copy_put_in_its_place_is_noticed(store: Store, tmp_path: Path) -> None:
    """The offsets go back with it, so that producers send again what it lacks; the old WAL is not played into it."""
    store.commit([chunk(execution())])
    copy = tmp_path / "copy.db"
    with closing(sqlite3.connect(store.path)) as db, closing(sqlite3.connect(copy)) as target:
        db.backup(target)
    store.commit([chunk(execution(), start=100)])
    copy.rename(store.path)
    with pytest.raises(StoreReplaced):
        store.commit([chunk(execution(), start=200)])
    assert store.committed(ONE) == Committed(100, 1)


def test_a_database_of_a_newer_release_is_left_as_it_is(tmp_path: Path) -> None:
    """The error says which version, and what to do."""
    path = tmp_path / "analytics.db"
    Store.open(path).close()
    with closing(sqlite3.connect(path)) as db:
        db.execute("UPDATE schema_version SET version = 999")
        db.commit()
    before = path.read_bytes()
    with pytest.raises(SchemaTooNew, match=r"version 999.*newer release"):
        Store.open(path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_a_database_of_another_program_is_left_as_it_is(tmp_path: Path) -> None:
    """It is neither migrated nor taken for a corrupt one."""
    path = tmp_path / "firefox.db"
    with closing(sqlite3.connect(path)) as db:
        db.execute("CREATE TABLE bookmarks (url TEXT)")
    before = path.read_bytes()
    with pytest.raises(ForeignDatabase):
        Store.open(path)
    assert path.read_bytes() == before


def test_a_folder_that_cannot_be_made_is_said_clearly(tmp_path: Path) -> None:
    """It is the path that is named."""
    (tmp_path / "file").touch()
    with pytest.raises(StoreUnavailable, match=re.escape(str(tmp_path / "file" / "analytics.db"))):
        Store.open(tmp_path / "file" / "analytics.db")


# What goes.


def _commit_days(store: Store, clock: Clock, days: int, each: int = 3) -> None:
    for day in range(days):
        clock.now_ns = NOON_NS + day * DAY_NS
        payload = encode_execution("s", True, 1.0, None, None, "E")
        store.commit([chunk(*[payload] * each, start=store.committed(ONE).offset)])


def test_events_go_by_the_day_of_their_commit_and_rollups_stay(store: Store, clock: Clock) -> None:
    """In steps no larger than was asked for, the oldest first."""
    _commit_days(store, clock, 4)
    deleted: list[int] = []
    while deleted[-1:] != [0]:
        deleted.append(store.delete_events(NOON_NS // DAY_NS + 2, 4))
    assert deleted == [4, 2, 0]
    assert rows(store, "SELECT count(*), min(id) FROM event_log") == [(6, 7)]
    assert rows(store, "SELECT count(*), min(id) FROM event_extra") == [(6, 7)]
    assert rows(store, "SELECT sum(execution_count) FROM skill_usage") == [(12,)]
    assert ledger(store)["stored"] == 12


def test_all_events_go_when_none_was_committed_since(store: Store, clock: Clock) -> None:
    """And an id that was used is never used again."""
    _commit_days(store, clock, 2)
    assert store.delete_events(NOON_NS // DAY_NS + 9, 100) == 6
    assert store.delete_events(NOON_NS // DAY_NS + 9, 100) == 0
    store.commit([chunk(execution(), start=600)])
    assert rows(store, "SELECT id FROM event_log") == [(7,)]


def test_a_clock_that_was_a_year_ahead_does_not_keep_events_for_a_year(store: Store, clock: Clock) -> None:
    """Once the clock is right again, so are the days of commits."""
    clock.now_ns = NOON_NS + 365 * DAY_NS
    store.commit([chunk(execution())])
    clock.now_ns = NOON_NS
    store.commit([chunk(execution(), start=100)])
    clock.now_ns = NOON_NS + DAY_NS
    store.commit([chunk(execution(), start=200)])
    assert store.delete_events(NOON_NS // DAY_NS + 1, 100) == 2


def test_a_dead_producers_row_goes_after_its_events_and_its_time(store: Store, clock: Clock) -> None:
    """Not before: a late batch would be taken for new, and the view would lose the event's id."""
    store.commit([chunk(execution(), finished=True), chunk(execution(), producer=TWO)])
    late = clock.now_ns + 1
    assert store.prune_producers(late) == 0  # it has an event
    store.delete_events(clock.now_ns // DAY_NS + 1, 100)
    assert store.prune_producers(clock.now_ns) == 0  # it was seen just now
    assert store.prune_producers(late) == 1
    assert store.committed(ONE) == Committed(0, 0)
    assert store.committed(TWO) == Committed(100, 1)  # it lives
    assert ledger(store) == {"attempted": 2, "stored": 2, "pending": 0}
