"""Seen: last days and counts of different users equal a plain recomputation, in whatever order events come."""

import sqlite3
import tempfile
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from skillmeter.events import Execution
from skillmeterd import migrations, seen
from skillmeterd.errors import StoreUnavailable
from skillmeterd.rows import DAY_NS
from skillmeterd.store import Chunk, Store

DAY = 20_000

runs = st.builds(
    lambda ago, skill, org, user: Execution((DAY - ago) * DAY_NS, skill, user, org, True, 1.0),
    st.integers(0, 3),
    st.sampled_from("ab"),
    st.sampled_from([None, "o", "p"]),
    st.sampled_from([None, "u", "v", "w"]),
)
histories = st.lists(st.lists(runs, max_size=12), max_size=6)


@contextmanager
def opened() -> Iterator[Store]:
    """An empty store."""
    with (
        tempfile.TemporaryDirectory() as folder,
        closing(Store.open(Path(folder) / "a.db", clock_ns=lambda: 1)) as store,
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

        def name(scope: int, no: int) -> tuple[object, ...]:
            return (scope, *((), (orgs.get(no),), (skills.get(no),), pairs.get(no, ()))[scope])

        found = {(*name(s, no), users[user]): day for s, no, user, day in db.execute("SELECT * FROM seen")}
        assert found == last
        counts = {(*name(s, no), day): n for s, no, day, n in db.execute("SELECT * FROM last_seen WHERE users")}
        assert counts == Counter((*key[:-1], day) for key, day in last.items())
        daily = db.execute("SELECT day, skill_no, users FROM skill_daily WHERE users")
        assert {(day, skills[no]): n for day, no, n in daily} == {key: len(who) for key, who in of_day.items()}


@given(histories, st.sampled_from([0, 5, 1000]))
def test_users_are_counted_exactly(history: list[list[Execution]], remembered: int) -> None:
    """Late days, several orgs, absent users; with much, little and nothing remembered from one group to the next."""
    with pytest.MonkeyPatch.context() as patch, opened() as store:
        patch.setattr(seen, "MAX_REMEMBERED", remembered)
        for group in history:
            commit(store, group)
        check(store.path, [run for group in history for run in group])


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
    """It is dropped as a whole, and looked up again."""
    monkeypatch.setattr(seen, "MAX_REMEMBERED", 3)
    with opened() as store:
        assert store._session is not None
        commit(store, [Execution(DAY * DAY_NS, "a", "u", None, True, 1.0)])
        assert sum(map(len, store._session.seen._remembered)) == 0  # one user in four scopes was too much


def test_a_database_that_kept_it_by_triggers_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What version 4 has written is continued, by days before, on and after those that are there."""
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
    check(tmp_path / "a.db", old)
    monkeypatch.setattr(migrations, "_scripts", lambda: every)
    new = [
        Execution((DAY - ago) * DAY_NS, "a", user, org, True, 1.0)
        for ago in (2, 1, 0, -1)
        for user in ("u", "v", "w")
        for org in ("o", None)
    ]
    with closing(Store.open(tmp_path / "a.db", clock_ns=lambda: 1)) as store:
        commit(store, new)
    check(tmp_path / "a.db", [*old, *new])
