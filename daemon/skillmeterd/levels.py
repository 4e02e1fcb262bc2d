"""Levels: a large table with a small one beside it, `<name>_recent`, for rows that come in no order.

Written to the large table, each of them would change a page of its own. So they go to the small one; once that has
grown, it is merged into the large one in the order of the key, when a page takes many rows at once. Whoever reads looks
at both. This is a log-structured merge of two levels (O'Neil, Cheng, Gawlick, O'Neil: The log-structured merge-tree,
Acta Informatica 33, 1996). Neither table has an index besides its key, as that would be written to in no order again.
"""

import sqlite3
from collections.abc import Sequence
from typing import Final

from .bulk import insert_many

MAX_RECENT: Final = 400_000
"""Rows of a small table, about 6 MB; past it they are merged, a step between groups."""
PACE: Final = 2
"""Rows merged for each that is added, past twice MAX_RECENT: a busy daemon's groups add more than a step merges."""

_PER_STATEMENT: Final = 20


class Levels:
    """Both tables of a name. Its first columns are the key, of numbers not below -1. Forget all after a rollback."""

    def __init__(self, db: sqlite3.Connection, name: str, key: Sequence[str], conflict: str, rest: str = "") -> None:
        """`conflict` is what a row does to one of the same key; `rest` is the column that is not of the key."""
        self._db = db
        self._name = name
        self._columns = [*key, rest] if rest else list(key)
        self._key = ", ".join(key)
        self._places = ", ".join("?" * len(key))
        self._conflict = f" ON CONFLICT DO {conflict}"
        self._start = (-2,) * len(key)
        self._merged: Sequence[int] | None = None  # while a merge is under way: up to which key
        self._recent: int | None = None  # rows of the small table, at most; None: not known

    def insert(self, rows: Sequence[Sequence[int]]) -> None:
        """Add rows, which are in the order of their key."""
        into = f"INSERT INTO {self._name}_recent ({', '.join(self._columns)}) VALUES "  # noqa: S608
        insert_many(self._db, into, self._conflict, len(self._columns), _PER_STATEMENT, rows)
        if rows and self._recent is not None:
            self._recent += len(rows)
            if self._recent > 2 * MAX_RECENT:
                self.settle(PACE * len(rows))

    def settle(self, limit: int) -> bool:
        """Merge up to `limit` rows, if there are many or a merge is under way; whether that was so."""
        if self._merged is None and not self._is_much():
            return False
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
        merged = self._db.execute(f"DELETE FROM {recent} WHERE {which}", values).rowcount  # noqa: S608
        assert self._recent is not None  # or it was not much
        self._recent -= merged
        self._merged = last
        return True

    def clear(self) -> None:
        """Forget how far a merge has come: the next one begins anew."""
        self._merged = self._recent = None

    def _is_much(self) -> bool:
        """Whether the small table has grown enough. It is counted only when it may have: a row may come again."""
        if self._recent is None or self._recent > MAX_RECENT:
            (self._recent,) = self._db.execute(f"SELECT count(*) FROM {self._name}_recent").fetchone()  # noqa: S608
        return self._recent > MAX_RECENT
