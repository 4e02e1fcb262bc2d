"""Levels: both tables together hold what was added, wherever a merge stands, also after one that was rolled back."""

import sqlite3
from collections import Counter, defaultdict
from contextlib import closing

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skillmeterd import counts, levels
from skillmeterd.levels import Levels

keys = st.tuples(st.integers(-1, 3), st.integers(0, 3))
limits = st.integers(1, 9)
rollbacks = st.booleans()
sizes = st.sampled_from([0, 3, 1000])


def added(values: st.SearchStrategy) -> st.SearchStrategy:
    """What happens to a table: rows by key, or the limit of a step; and whether it is rolled back."""
    return st.lists(st.tuples(st.one_of(st.dictionaries(keys, values, max_size=6), limits), rollbacks), max_size=12)


class Tables:
    """Both tables in memory."""

    def __init__(self, rest: str, *, is_counts: bool) -> None:
        self.db = sqlite3.connect(":memory:", isolation_level=None)
        self.db.create_function("counts_add", 2, counts.add_encoded)
        for name in ("a", "a_recent"):
            self.db.execute(f"CREATE TABLE {name} (x, y, {rest} PRIMARY KEY (x, y)) WITHOUT ROWID")
        self.levels = Levels(self.db, "a", ("x", "y"), rest.rstrip(", "), counts=is_counts)

    def happen(self, what: dict | int, *, rolled_back: bool) -> None:
        """A transaction."""
        self.db.execute("BEGIN")
        if isinstance(what, int):
            self.levels.settle(what)
        else:
            self.levels.insert(sorted((*key, *rest) for key, rest in what.items()))
        if rolled_back:
            self.levels.clear()
        self.db.execute("ROLLBACK" if rolled_back else "COMMIT")

    def rows(self) -> list[tuple]:
        """Of the large table, then of the small one."""
        return [row for name in ("a", "a_recent") for row in self.db.execute(f"SELECT * FROM {name}")]


@given(added(st.tuples(st.integers(0, 9))), sizes)
def test_the_later_row_holds(history: list[tuple[dict | int, bool]], most: int) -> None:
    """Whether it is still in the small table or not."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(levels, "MAX_RECENT", most)
        tables = Tables("z, ", is_counts=False)
        plain: dict[tuple[int, int], int] = {}
        with closing(tables.db):
            for what, rolled_back in history:
                tables.happen(what, rolled_back=rolled_back)
                if isinstance(what, dict) and not rolled_back:
                    plain.update((key, z) for key, (z,) in what.items())
                assert {(x, y): z for x, y, z in tables.rows()} == plain


@given(added(st.tuples()), sizes)
def test_keys_without_more_are_in_one_of_both(history: list[tuple[dict | int, bool]], most: int) -> None:
    """As long as nobody adds one that is in the large table already."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(levels, "MAX_RECENT", most)
        tables = Tables("", is_counts=False)
        plain: set[tuple[int, int]] = set()
        with closing(tables.db):
            for what, rolled_back in history:
                new = what if isinstance(what, int) else {key: () for key in what if key not in plain}
                tables.happen(new, rolled_back=rolled_back)
                if isinstance(new, dict) and not rolled_back:
                    plain.update(new)
                assert sorted(tables.rows()) == sorted(plain)


few = st.dictionaries(st.integers(0, 40), st.integers(-3, 3).filter(bool), min_size=1, max_size=12)


@given(added(few.map(lambda part: (counts.encode(part),))), sizes.map(lambda size: 10 * size), st.sampled_from([1, 4]))
def test_counts_are_added(history: list[tuple[dict | int, bool]], most: int, cost: int) -> None:
    """In either table, and when they are merged; what is taken away, too."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(levels, "MAX_RECENT_BYTES", most)
        patch.setattr(levels, "COUNTS_COST", cost)
        tables = Tables("z, ", is_counts=True)
        plain: defaultdict[tuple[int, int], Counter[int]] = defaultdict(Counter)
        with closing(tables.db):
            for what, rolled_back in history:
                tables.happen(what, rolled_back=rolled_back)
                if isinstance(what, dict) and not rolled_back:
                    for key, (z,) in what.items():
                        plain[key].update(counts.decode(z))
                found: defaultdict[tuple[int, int], Counter[int]] = defaultdict(Counter)
                for x, y, z in tables.rows():
                    found[x, y].update(counts.decode(z))
                assert found == plain  # of a Counter, a count of zero is one that is missing


@pytest.mark.parametrize("is_counts", [False, True])
def test_its_size_is_known_at_most(is_counts: bool) -> None:
    """What is remembered is never less than what there is: then a merge that is due would wait."""
    tables = Tables("z, ", is_counts=is_counts)
    with closing(tables.db):
        tables.levels.settle(1)  # which makes it look
        for day in range(1000):
            tables.levels.insert([(day % 3, 0, counts.encode({day // 2: day}))] if is_counts else [(day % 3, 0, day)])
            size = "sum(length(z))" if is_counts else "count(*)"
            assert tables.levels._recent is not None
            assert tables.levels._recent >= tables.db.execute(f"SELECT {size} FROM a_recent").fetchone()[0]


@pytest.mark.parametrize("is_counts", [False, True])
def test_what_comes_again_is_not_merged(is_counts: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """However often it does, between two looks at how much there is."""
    monkeypatch.setattr(levels, "MAX_RECENT", 5)
    monkeypatch.setattr(levels, "MAX_RECENT_BYTES", 100)
    tables = Tables("z, ", is_counts=is_counts)
    with closing(tables.db):
        tables.levels.settle(1)
        for _ in range(100):
            tables.levels.insert([(0, 0, counts.encode({1: 1}) if is_counts else 1)])
        assert tables.db.execute("SELECT * FROM a").fetchall() == []
