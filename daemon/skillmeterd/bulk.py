"""Bulk: many rows in one statement, as half the time of a small row goes into the statement around it."""

import sqlite3
from collections.abc import Sequence
from itertools import chain
from typing import Any


def insert_many(
    db: sqlite3.Connection, insert: str, conflict: str, columns: int, per_statement: int, rows: Sequence[Sequence[Any]]
) -> None:
    """Run `insert`, which ends with VALUES, over rows."""
    row = f"({', '.join('?' * columns)})"
    step = per_statement * columns
    whole = len(rows) - len(rows) % per_statement
    flat = list(chain.from_iterable(rows[:whole]))
    many = insert + ", ".join([row] * per_statement) + conflict
    db.executemany(many, [flat[at : at + step] for at in range(0, len(flat), step)])
    db.executemany(insert + row + conflict, rows[whole:])
