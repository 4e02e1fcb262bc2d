"""Levels: a large table with a small one beside it, `<name>_recent`, for rows that come in no order.

Written to the large table, each of them would change a page of its own. So they go to the small one; once that has
grown, it is merged into the large one in the order of the key, when a page takes many rows at once. Whoever reads looks
at both: of the same key the small table's row holds or, if rows are counts (counts.py), the sum of both. This is a
log-structured merge of two levels (O'Neil, Cheng, Gawlick, O'Neil: The log-structured merge-tree, Acta Informatica 33,
1996). Neither table has an index besides its key, as that would be written to in no order again.
"""

import sqlite3
from collections.abc import Sequence
from typing import Any, Final

from .bulk import insert_many

MAX_RECENT: Final = 400_000
"""Rows of a small table, about 6 MB; past it they are merged, a step between groups."""
PACE: Final = 2
"""Rows merged for each that is added, past twice as much: a busy daemon's groups add more than a step merges."""

MAX_RECENT_BYTES: Final = 2_000_000
"""Of counts in a small table. With more, so many of its pages are written that few are spared in the large one."""
COUNTS_COST: Final = 16
"""Rows without counts that are merged in the time of one with them."""

_PER_STATEMENT: Final = 20


class Levels:
    """Both tables of a name. Its first columns are the key, of numbers not below -1. Forget all after a rollback."""

    def __init__(
        self, db: sqlite3.Connection, name: str, key: Sequence[str], rest: str = "", *, counts: bool = False
    ) -> None:
        """`rest` is the column that is not of the key: of two rows of the same key the later one holds, or their sum if
        they are `counts`."""
        self._db = db
        self._name = name
        self._columns = [*key, rest] if rest else list(key)
        self._counts = counts
        self._size = f"ifnull(sum(length({rest})), 0)" if counts else "count(*)"
        self._key = ", ".join(key)
        self._places = ", ".join("?" * len(key))
        both = f"counts_add({rest}, excluded.{rest})" if counts else f"excluded.{rest}"
        self._conflict = f" ON CONFLICT DO UPDATE SET {rest} = {both}" if rest else " ON CONFLICT DO NOTHING"
        self._start = (-2,) * len(key)
        self._merged: Sequence[int] | None = None  # while a merge is under way: up to which key
        self._recent: int | None = None  # the small table's rows, or bytes of counts, at most; None: not known

    def insert(self, rows: Sequence[Sequence[Any]]) -> None:
        """Add rows, which are in the order of their key."""
        if not rows:
            return
        into = f"INSERT INTO {self._name}_recent ({', '.join(self._columns)}) VALUES "  # noqa: S608
        insert_many(self._db, into, self._conflict, len(self._columns), _PER_STATEMENT, rows)
        if self._recent is not None:
            self._recent += len(rows)  # of counts, this many bytes are around them once they are added
            if self._counts:
                self._recent += sum([len(row[-1]) for row in rows])
            if self._recent > 2 * self._most and self._is_due():
                self._merge(PACE * len(rows))

    def settle(self, limit: int) -> bool:
        """Merge up to `limit` rows, or fewer counts, if there is much or a merge is under way; whether that was so."""
        if not self._is_due():
            return False
        self._merge(max(1, limit // COUNTS_COST) if self._counts else limit)
        return True

    def clear(self) -> None:
        """Forget how far a merge has come: the next one begins anew."""
        self._merged = self._recent = None

    def _merge(self, limit: int) -> None:
        after = self._merged or self._start
        recent, columns, which = f"{self._name}_recent", ", ".join(self._columns), f"({self._key}) > ({self._places})"
        last = self._db.execute(
            f"SELECT {self._key} FROM {recent} WHERE {which} ORDER BY {self._key} LIMIT 1 OFFSET ?",  # noqa: S608
            (*after, limit - 1),
        ).fetchone()
        if last is not None:
            which += f" AND ({self._key}) <= ({self._places})"
        values = (*after, *(last or ()))
        self._db.execute(
            f"INSERT INTO {self._name} ({columns}) SELECT {columns} FROM {recent} WHERE {which}"  # noqa: S608
            f" ORDER BY {self._key}{self._conflict}",
            values,
        )
        (merged,) = self._db.execute(f"SELECT {self._size} FROM {recent} WHERE {which}", values).fetchone()  # noqa: S608
        self._db.execute(f"DELETE FROM {recent} WHERE {which}", values)  # noqa: S608
        assert self._recent is not None  # or no merge was due
        self._recent -= merged
        self._merged = last

    @property
    def _most(self) -> int:
        return MAX_RECENT_BYTES if self._counts else MAX_RECENT

    def _is_due(self) -> bool:
        """Whether a merge is under way, or the small table has grown enough for one.

        Its size is only looked at when it may be: a row may come again.
        """
        if self._merged is not None:
            return True
        if self._recent is None or self._recent > self._most:
            (self._recent,) = self._db.execute(f"SELECT {self._size} FROM {self._name}_recent").fetchone()  # noqa: S608
        return self._recent > self._most
