"""Seen: last days and counts of different users equal a plain recomputation, in whatever order events come."""

import sqlite3
import tempfile
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skillmeter.errors import QueryError
from skillmeter.events import Execution
from skillmeterd import counts, levels, migrations, remembered, retention, seen, tables
from skillmeterd.errors import StoreUnavailable
from skillmeterd.queries import Queries
from skillmeterd.retention import Retention
from skillmeterd.rows import DAY_NS
from skillmeterd.store import Chunk, Store

DAY = 20_000

NOW_NS = DAY * DAY_NS

runs = st.builds(
    lambda ago, skill, org, user, ms: Execution((DAY - ago) * DAY_NS, skill, user, org, True, ms),
    st.sampled_from([0, 1, 2, 8, 101, -154, -155, 20_000]),  # some are too far apart for the bytes of remembered.py
    st.sampled_from("ab"),
    st.sampled_from([None, "o", "p"]),
    st.sampled_from([None, "u", "v", "w"]),
    st.sampled_from([1.0, 900.0]),
)
group = st.lists(runs, max_size=12)
histories = st.lists(group, max_size=6)


@contextmanager
def opened(clock_ns: Callable[[], int] = lambda: NOW_NS) -> Iterator[Store]:
    """An empty store."""
    with (
        tempfile.TemporaryDirectory() as folder,
        closing(Store.open(Path(folder) / "a.db", clock_ns=clock_ns)) as store,
    ):
        yield store


def commit(store: Store, group: Sequence[Execution], producer: bytes = bytes(16)) -> None:
    """One transaction."""
    start = store.committed(producer).offset
    offsets = list(range(start, start + len(group)))
    store.commit([Chunk(producer, start + len(group), offsets, [msgspec.msgpack.encode(run) for run in group])])


def check(path: Path, events: Sequence[Execution]) -> None:
    """Every row of the tables, by name."""
    last: dict[tuple[object, ...], int] = {}
    of_day: defaultdict[tuple[int, str], set[str]] = defaultdict(set)
    for run in events:
        day = run.recorded_at_ns // DAY_NS
        if run.user_id is not None:
            of_day[day, run.skill_id].add(run.user_id)
            for scope in ((0,), (1, run.org_id), (2, run.skill_id), (3, run.skill_id, run.org_id)):
                last[*scope, run.user_id] = max(day, last.get((*scope, run.user_id), 0))
    with closing(sqlite3.connect(path)) as db:
        skills, orgs, users = (
            dict(db.execute(sql))
            for sql in ("SELECT no, skill_id FROM skill", "SELECT no, org_id FROM org", "SELECT id, user_id FROM user")
        )
        pairs = {no: names for no, *names in db.execute("SELECT id, skill_id, org_id FROM pair")}

        found: dict[tuple[object, ...], int] = {}
        for table in ("seen", "seen_recent"):  # where both have a row, the second holds
            for user, skill, org, day in db.execute(f"SELECT * FROM {table}"):
                place = (1, orgs.get(org)) if skill == seen.ANY_SKILL else (3, skills[skill], orgs.get(org))
                assert found.get((*place, users[user]), 0) <= day
                found[*place, users[user]] = day
        assert found == {key: day for key, day in last.items() if key[0] in (1, 3)}
        both = [row for table in ("skill_user", "skill_user_recent") for row in db.execute(f"SELECT * FROM {table}")]
        named = [(3, skills[skill], orgs.get(org), users[user]) for skill, org, user in both]
        assert sorted(named, key=str) == sorted((key for key in last if key[0] == 3), key=str)

        def name(scope: int, no: int) -> tuple[object, ...]:
            return (scope, *((), (orgs.get(no),), (skills.get(no),), pairs.get(no, ()))[scope])

        counted: Counter[tuple[object, ...]] = Counter()
        for table in ("last_seen", "last_seen_recent"):
            for scope, no, encoded in db.execute(f"SELECT * FROM {table}"):
                counted.update({(*name(scope, no), day): change for day, change in counts.decode(encoded).items()})
        assert {key: count for key, count in counted.items() if count} == Counter(
            (*key[:-1], day) for key, day in last.items()
        )
        daily = db.execute("SELECT day, skill_no, users FROM skill_daily WHERE users")
        assert {(day, skills[no]): n for day, no, n in daily} == {key: len(who) for key, who in of_day.items()}


steps = st.lists(st.integers(1, 9), max_size=3)
todays = st.sampled_from([DAY, DAY, DAY + 100, 0])


@given(
    st.lists(st.tuples(group, steps, todays), max_size=6),
    st.sampled_from([0, 20, 1000]),
    st.sampled_from([0, 5, 1000]),
    st.sampled_from([0, 4, 1000]),
    st.sampled_from([0, 20, 1000]),
    st.sampled_from([0, 3, 1000]),
    st.sampled_from([0, 1, 8]),
)
def test_users_are_counted_exactly(
    history: list[tuple[list[Execution], list[int], int]],
    most: int,
    most_single: int,
    recent: int,
    recent_bytes: int,
    few: int,
    bits: int,
) -> None:
    """Late days, several orgs, absent users; with much, little and nothing remembered from one group to the next, and
    users of one block or of several, on whatever day of the daemon.

    Between two groups, what is recent is merged in steps: not at all, in part, or all of it.
    """
    now_ns = NOW_NS
    with pytest.MonkeyPatch.context() as patch, opened(lambda: now_ns) as store:
        patch.setattr("skillmeterd.remembered.MAX_BLOCKS", most)
        patch.setattr("skillmeterd.remembered.MAX_SINGLE", most_single)
        patch.setattr("skillmeterd.remembered._BLOCK_BITS", bits)
        patch.setattr("skillmeterd.remembered._IN_BLOCK", (1 << bits) - 1)
        patch.setattr("skillmeterd.remembered._SKILL_SHIFT", remembered.USER_BITS - bits)
        patch.setattr(levels, "MAX_RECENT", recent)
        patch.setattr(levels, "MAX_RECENT_BYTES", recent_bytes)
        patch.setattr(seen, "FEW", few)
        for runs, rows, today in history:
            now_ns = today * DAY_NS
            commit(store, runs)
            for limit in rows:
                store.settle(limit)
        check(store.path, [run for runs, _, _ in history for run in runs])


@given(histories, st.integers(0, 5))
def test_what_was_rolled_back_is_not_remembered(history: list[list[Execution]], failing: int) -> None:
    """A group that failed after its users were written is written wholly when it comes again."""
    with opened() as store:
        for number, group in enumerate(history):
            if number == failing:
                with pytest.MonkeyPatch.context() as patch:
                    patch.setattr("skillmeterd.store.write_ledger", _full)
                    with pytest.raises(StoreUnavailable):
                        commit(store, group)
            commit(store, group)
        check(store.path, [run for group in history for run in group])


def _full(*_: object) -> None:
    raise sqlite3.OperationalError("database or disk is full")


def test_what_is_remembered_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is dropped, and looked up again: skills of users; by itself, what users of several orgs did in each."""
    monkeypatch.setattr(remembered, "MAX_BLOCKS", 8)  # of which five are where the users have been, and who is whole
    monkeypatch.setattr(remembered, "MAX_SINGLE", 3)
    with opened() as store:
        assert store._session is not None
        seen = store._session.seen
        for skill in "abcd":
            commit(store, [Execution(DAY * DAY_NS, skill, "u", None, True, 1.0)])
            assert len(seen._remembered._days) == {"a": 2, "b": 3, "c": 0, "d": 2}[skill]  # and that of any skill
            assert len(seen._remembered._orgs) == (skill != "c")
        for org in "opqr":
            commit(store, [_run(DAY, "u", org)])
            known = seen._remembered
            assert len(known.in_org) + len(known.of_pair) == {"o": 2, "p": 0, "q": 2, "r": 0}[org]
            assert len(known._days) > 0


class _NotWalked(dict[int, int]):
    """May be looked up in, and not walked over."""

    def __iter__(self) -> Iterator[int]:
        raise AssertionError("a commit walks over all users that are remembered")


class _BlocksNotWalked(remembered._Blocks):
    __iter__ = _NotWalked.__iter__


def test_a_small_group_does_not_pay_for_all_who_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whom it looks up depends on the group."""
    with opened() as store:
        assert store._session is not None
        known = store._session.seen._remembered
        for name in ("_days", "_orgs", "_whole"):
            monkeypatch.setattr(known, name, _BlocksNotWalked(getattr(known, name)._zeros.typecode))
        monkeypatch.setattr(known, "in_org", _NotWalked())
        monkeypatch.setattr(known, "of_pair", _NotWalked())
        runs = [_run(DAY, "u", "o"), _run(DAY, "v", "o"), _run(DAY, "v", "p")]
        for run in runs:
            commit(store, [run])
        check(store.path, runs)


def test_who_was_new_is_not_looked_up_again() -> None:
    """Neither with a skill that they had, nor with another; not in another org either, but for the first time there."""
    with opened() as store:
        assert store._session is not None
        asked: list[str] = []
        runs = [_run(DAY, "u", "o"), _run(DAY, "v", "p")]
        commit(store, runs)
        store._session.db.set_trace_callback(lambda sql: asked.append(sql) if "FROM json_each('[" in sql else None)
        more = [_run(DAY + 1, "u", "o"), Execution(DAY * DAY_NS, "b", "v", "p", True, 1.0)]
        commit(store, more)
        assert [sql for sql in asked if "seen" in sql] == []
        moving = [_run(DAY + 2, "u", "p"), _run(DAY + 3, "u", "p")]
        commit(store, moving[:1])
        commit(store, moving[1:])
        assert [sql for sql in asked if "seen" in sql] == []
        store._session.db.set_trace_callback(None)
        check(store.path, [*runs, *more, *moving])


def test_a_clock_that_is_wrong_makes_nobody_else_be_looked_up() -> None:
    """Whichever came first; nor, unless there are very many, who comes again from the wrong day."""
    wrong, right = _run(10, "wrong", "o"), _run(DAY, "u", "o")
    with opened() as store:
        assert store._session is not None
        asked: list[str] = []
        for run in (wrong, right):
            commit(store, [run])
        store._session.db.set_trace_callback(lambda sql: asked.append(sql) if "FROM json_each('[" in sql else None)
        for run in (wrong, right, right):
            commit(store, [wrong, run])
        assert [sql for sql in asked if "seen" in sql] == []
        store._session.db.set_trace_callback(None)
        check(store.path, [wrong, right])


def test_a_user_of_very_many_orgs_costs_no_more_than_another() -> None:
    """Whose last day is far from the daemon's, too. Counted in steps of SQLite."""

    def steps(orgs: int) -> int:
        counted = 0

        def count() -> None:
            nonlocal counted
            counted += 1

        runs = [_run(DAY + 5000, "in all", f"o{number}") for number in range(orgs)]
        with opened() as store:
            assert store._session is not None
            commit(store, runs)
            commit(store, [_run(DAY, "u", "o0")])
            store._session.db.set_progress_handler(count, 10)
            commit(store, [_run(DAY, "u", "o0"), _run(DAY + 5001, "in all", "o0")])
        return counted

    assert steps(1000) < 2 * steps(10)


def test_looking_for_a_late_event_does_not_depend_on_the_number_of_orgs() -> None:
    """Nor for one of a user in very many orgs, on days on which there is little. Counted in steps of SQLite."""

    def steps(orgs: int, late: Sequence[Execution]) -> int:
        counted = 0

        def count() -> None:
            nonlocal counted
            counted += 1

        with opened() as store:
            assert store._session is not None
            commit(store, [_run(DAY - 1, f"x{number}", f"o{number}") for number in range(orgs)])
            commit(store, [_run(DAY, f"u{number}", "o0") for number in range(50)])
            commit(store, [_run(DAY, "in all", f"o{number}") for number in range(orgs)])
            store._session.db.set_progress_handler(count, 10)
            commit(store, late)
        return counted

    for late in (  # as of a daemon that was away; and as of a clock that is wrong
        [_run(DAY - 1, f"u{number}", "o0") for number in range(50)],
        [_run(DAY - 100 - number, "in all", "o0") for number in range(50)],
    ):
        assert steps(1000, late) < 2 * steps(10, late)


@pytest.mark.parametrize("few", [0, 1000])
@pytest.mark.parametrize("merged", [False, True])
def test_a_late_event_counts_no_user_again(monkeypatch: pytest.MonkeyPatch, few: int, merged: bool) -> None:
    """One who was last seen in another org on that very day, whichever way it is looked for."""
    monkeypatch.setattr(seen, "FEW", few)
    monkeypatch.setattr(levels, "MAX_RECENT", 0 if merged else 1000)
    runs = [_run(DAY - 1, "u", "o"), _run(DAY, "u", "p"), _run(DAY - 1, "u", "q"), _run(DAY - 1, "v", "q")]
    with opened() as store:
        for run in runs:
            store.settle(1000)
            store.settle(1000)
            commit(store, [run])
        check(store.path, runs)


def _run(day: int, user: str, org: str | None) -> Execution:
    return Execution(day * DAY_NS, "a", user, org, True, 1.0)


def test_what_is_recent_is_bounded_without_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each group adds more than a step between groups merges: then the groups merge, too."""
    monkeypatch.setattr(levels, "MAX_RECENT", 50)
    most = 0
    with opened() as store:
        assert store._session is not None
        groups = [[_run(DAY, f"{group} {user}", "o") for user in range(20)] for group in range(30)]
        for runs in groups:
            store.settle(1)
            commit(store, runs)
            for table in ("seen_recent", "skill_user_recent"):
                (rows,) = store._session.db.execute(f"SELECT count(*) FROM {table}").fetchone()
                most = max(most, rows)
        assert most <= 2 * 50 + 2 * 20
        check(store.path, [run for runs in groups for run in runs])


@pytest.mark.parametrize("org", ["o", "p", None])
def test_an_org_in_each_level_is_two(monkeypatch: pytest.MonkeyPatch, org: str | None) -> None:
    """A user of one org in the large table and of another in the small one is known in both, and in no third."""
    monkeypatch.setattr(remembered, "MAX_BLOCKS", 0)
    monkeypatch.setattr(remembered, "MAX_SINGLE", 0)
    runs = [_run(DAY, "u", "o"), _run(DAY + 1, "u", "p"), _run(DAY + 2, "u", org)]
    with opened() as store:
        commit(store, runs[:1])
        with monkeypatch.context() as patch:
            patch.setattr(levels, "MAX_RECENT", 0)
            while store.settle(1000):
                pass
        commit(store, runs[1:2])
        commit(store, runs[2:])
        check(store.path, runs)


@pytest.mark.parametrize("several", [False, True])
def test_the_day_in_the_small_table_is_the_later_one(monkeypatch: pytest.MonkeyPatch, several: bool) -> None:
    """Of a user of one org and of one of several, when nothing is remembered."""
    monkeypatch.setattr(remembered, "MAX_BLOCKS", 0)
    monkeypatch.setattr(remembered, "MAX_SINGLE", 0)
    runs = [_run(DAY, "u", "o"), _run(DAY + 1, "u", "o"), _run(DAY + 2, "u", "o")]
    with opened() as store:
        if several:
            runs.insert(0, _run(DAY - 1, "u", "p"))
            commit(store, runs[:1])
        commit(store, runs[-3:-2])
        with monkeypatch.context() as patch:
            patch.setattr(levels, "MAX_RECENT", 0)
            while store.settle(1000):
                pass
        commit(store, runs[-2:-1])
        commit(store, runs[-1:])
        check(store.path, runs)


def test_recent_counts_are_bounded_without_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of users and those of latencies, however many skills each group brings."""
    monkeypatch.setattr(levels, "MAX_RECENT_BYTES", 500)
    columns = {"last_seen_recent": "users", "pair_sketch_recent": "sketch", "skill_sketch_recent": "sketch"}
    most = 0
    with opened() as store:
        assert store._session is not None
        for group in range(30):
            store.settle(1)
            commit(store, [Execution(DAY * DAY_NS, f"{group} {no}", "u", "o", True, 1.0) for no in range(20)])
            for table, column in columns.items():
                (size,) = store._session.db.execute(f"SELECT sum(length({column})) FROM {table}").fetchone()
                most = max(most, size)
    assert most <= 2 * 500 + 2 * 20 * len(counts.encode_one(DAY, 1))


def test_rows_that_come_again_are_not_more_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """A user who comes every day is no reason to merge."""
    monkeypatch.setattr(levels, "MAX_RECENT", 5)
    with opened() as store:
        for day in range(10):
            assert not store.settle(100)
            commit(store, [_run(DAY + day, "u", "o")])


@pytest.mark.parametrize("limit", [4, 100])
def test_a_merge_that_was_rolled_back_begins_anew(monkeypatch: pytest.MonkeyPatch, limit: int) -> None:
    """What it had taken, a part or all, is still in the small table, and is merged the next time: of all tables."""
    monkeypatch.setattr(levels, "MAX_RECENT", 0)
    monkeypatch.setattr(levels, "MAX_RECENT_BYTES", 0)
    monkeypatch.setattr(levels, "COUNTS_COST", 2)
    runs = [_run(DAY, f"u{number}", "o") for number in range(10)]
    of_users = [f"{table}_recent" for table in ("skill_user", "seen", "last_seen")]
    of_latencies = [f"{table}_recent" for table in ("pair_sketch", "skill_sketch")]
    with opened() as store:
        assert store._session is not None
        db = store._session.db
        commit(store, runs)
        for table in (*of_users, *of_latencies):  # in the order in which they are merged
            owner: type[seen.Seen | tables.Sketches] = seen.Seen if table in of_users else tables.Sketches
            settle = owner.settle
            with monkeypatch.context() as patch:
                patch.setattr(owner, "settle", lambda *args, settle=settle: _full(settle(*args)))
                with pytest.raises(StoreUnavailable):
                    store.settle(limit)
            while db.execute(f"SELECT count(*) FROM {table}").fetchone() != (0,):
                assert store.settle(100), f"{table} is merged only in part"
        check(store.path, runs)


def test_an_old_database_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What version 4 has written, by triggers, is continued, by days before, on and after those that are there.

    Version 7 had rows in two levels: some in both, some only in the recent one.
    """
    every = migrations._scripts()
    monkeypatch.setattr(migrations, "_scripts", lambda: every[:4])
    old = [Execution(DAY * DAY_NS, "a", "u", "o", True, 1.0), Execution((DAY - 2) * DAY_NS, "a", "v", None, True, 1.0)]
    with closing(sqlite3.connect(tmp_path / "a.db", isolation_level=None)) as db:
        migrations.migrate(db, 1)
        db.executescript(
            f"""INSERT INTO pair (skill_id, org_id) VALUES ('a', 'o'), ('a', NULL);
                INSERT INTO user (user_id) VALUES ('u'), ('v');
                INSERT INTO pair_daily (id, day, pair_id) VALUES (1, {DAY}, 1), (2, {DAY - 2}, 2);
                INSERT INTO user_daily VALUES (1, 1, 1, 1, 1.0, 1.0, 1.0), (2, 2, 1, 1, 1.0, 1.0, 1.0);"""
        )
        monkeypatch.setattr(migrations, "_scripts", lambda: every[:7])
        migrations.migrate(db, 1)
        db.executescript(
            """INSERT INTO seen_recent SELECT * FROM seen WHERE user_no = 1 OR org_no > 0;
               UPDATE seen SET last_day = last_day - 1 WHERE user_no = 1 AND skill_no = 0;
               DELETE FROM seen WHERE user_no = 1 AND skill_no > 0;"""
        )
    monkeypatch.setattr(migrations, "_scripts", lambda: every)
    new = [
        Execution((DAY - ago) * DAY_NS, "a", user, org, True, 1.0)
        for ago in (2, 1, 0, -1)
        for user in ("u", "v", "w")
        for org in ("o", None)
    ]
    with closing(Store.open(tmp_path / "a.db", clock_ns=lambda: 1)) as store:
        assert store._session is not None
        assert store._session.db.execute("SELECT day FROM day_change").fetchall() == [(DAY - 2,), (DAY,)]
        commit(store, new)
    check(tmp_path / "a.db", [*old, *new])


@settings(max_examples=30)  # each opens two databases
@given(histories, st.lists(st.sampled_from([1, 4, 100]), min_size=1, max_size=9))
def test_merging_what_is_recent_changes_no_answer(history: list[list[Execution]], limits: list[int]) -> None:
    """Not in part, nor as a whole, nor with more commits after it: compared with a record that is never merged."""
    questions: list[tuple[str, dict[str, object]]] = [
        (method, {**who, "org_id": org})
        for org in (None, "o", "p")
        for method, whos in (
            ("adoption", ({"skill_id": "a"},)),
            ("recommend", ({"user_id": "u"}, {"user_id": "w"})),
            ("leaderboard", ({"metric": "adoption"}, {"metric": "performance"})),
        )
        for who in whos
    ]
    questions.append(("metrics", {"skill_id": "a"}))

    def answers(store: Store) -> list[object]:
        with closing(Queries(store.path, clock_ns=lambda: DAY * DAY_NS + 1)) as queries:
            return [_answer(queries, *question) for question in questions]

    def settle(store: Store, limits: Sequence[int]) -> None:
        """Only here there is much: else a commit would merge, and after it no key had a row in both tables."""
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(levels, "MAX_RECENT", 0)
            patch.setattr(levels, "MAX_RECENT_BYTES", 0)
            patch.setattr(levels, "COUNTS_COST", 1)
            for limit in limits:
                store.settle(limit)

    with opened() as merged, opened() as plain:
        for runs in history:
            for store in (plain, merged):
                commit(store, runs)
            assert answers(merged) == answers(plain)
            settle(merged, limits)
        settle(merged, [1000] * 10)
        assert merged._session is not None
        for table in ("seen", "skill_user", "last_seen", "pair_sketch", "skill_sketch"):
            assert merged._session.db.execute(f"SELECT count(*) FROM {table}_recent").fetchone() == (0,)
        assert answers(merged) == answers(plain)


def _answer(queries: Queries, method: str, params: dict[str, object]) -> object:
    try:
        return queries.ask(method, params)
    except QueryError as error:  # a skill that is not there yet
        return str(error)


def test_the_daemon_merges_what_is_recent_between_groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A step at a time, and only once it has grown."""
    monkeypatch.setattr(levels, "MAX_RECENT", 5)
    monkeypatch.setattr(retention, "RECENT", 4)
    with closing(Store.open(tmp_path / "a.db", clock_ns=lambda: DAY * DAY_NS)) as store:
        assert store._session is not None
        turns = Retention(store, 0, lambda: DAY * DAY_NS)
        users = ["u", "v", "w"]
        left = []
        for user in users:  # each is seen with any skill, and with this one
            commit(store, [Execution(DAY * DAY_NS, "a", user, None, True, 1.0)])
            steps = 0
            while turns.step():
                steps += 1
            left.append((steps, store._session.db.execute("SELECT count(*) FROM seen_recent").fetchone()[0]))
        assert left == [(0, 2), (0, 4), (2, 0)]


def test_the_daemon_merges_counts_between_groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Once they have grown, and fewer of them in a step, as each takes longer than a row without."""
    monkeypatch.setattr(levels, "MAX_RECENT_BYTES", 40)
    monkeypatch.setattr(retention, "RECENT", levels.COUNTS_COST)
    with closing(Store.open(tmp_path / "a.db", clock_ns=lambda: DAY * DAY_NS)) as store:
        assert store._session is not None
        turns = Retention(store, 0, lambda: DAY * DAY_NS)
        left = []
        for user in ("u", "v"):  # a count has five bytes, in each of four scopes
            commit(store, [Execution(DAY * DAY_NS, "a", user, None, True, 1.0)])
            steps = 0
            while turns.step():
                steps += 1
            left.append((steps, store._session.db.execute("SELECT count(*) FROM last_seen_recent").fetchone()[0]))
        assert left == [(0, 4), (5, 0)]
