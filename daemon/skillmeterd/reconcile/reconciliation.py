"""Reconciliation: the five comparisons, one after the other."""

import contextlib
import http.client
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from ..database import limited, open_reader
from ..sinks.exposition import text
from ..sinks.otlp_state import MAX_REMEMBERED, acknowledged
from . import books, events, view
from .comparison import Comparison, Name, skipped, unknown
from .history import Advance
from .shown import parse

SNAPSHOT_S: Final = 60.0

Fetch = Callable[[], tuple[int, bytes]]
"""Gets /metrics: status and body. Raises OSError or http.client.HTTPException."""


def reconcile(path: Path, labels: tuple[str, ...], fetch: Fetch | None, advance: Advance) -> Iterator[Comparison]:
    """Every comparison. Without `fetch` /metrics is not served; `advance` is told how many events were read.

    Views are fetched first: SQLite has whatever they show, and has it still.
    """
    made: list[tuple[Name, Callable[[], Comparison]]] = [
        ("metrics", lambda: _metrics(path, labels, fetch)),
        ("otlp", lambda: _otlp(path)),
        ("ledger", lambda: _snapshot(path, books.of_ledger)),
        ("rollups", lambda: _snapshot(path, books.of_rollups)),
        ("events", lambda: events.compare(path, advance)),
    ]
    for name, compare in made:
        if not path.exists():
            yield skipped(name, "there is no database yet")
            continue
        try:
            yield compare()
        except (sqlite3.Error, TimeoutError) as error:
            yield unknown(name, str(error))


def _snapshot(path: Path, compare: Callable[[sqlite3.Connection], Comparison]) -> Comparison:
    with contextlib.closing(open_reader(path)) as db, limited(db, SNAPSHOT_S):
        db.execute("BEGIN")
        return compare(db)


def _metrics(path: Path, labels: tuple[str, ...], fetch: Fetch | None) -> Comparison:
    if fetch is None:
        return skipped("metrics", "no daemon serves /metrics")
    try:
        status, body = fetch()
        if status != http.client.OK:
            return unknown("metrics", f"/metrics answers with {status}")
        shown = parse(body.decode())
    except (OSError, http.client.HTTPException, ValueError) as error:
        return unknown("metrics", f"/metrics cannot be read: {error}")
    return view.compare("metrics", path, shown, labels)


def _otlp(path: Path) -> Comparison:
    found = acknowledged(path)
    if found is None:
        return skipped("otlp", "no receiver has acknowledged anything")
    if found.families is None:
        return unknown("otlp", f"more than {MAX_REMEMBERED:,} series are not remembered")
    shown = parse("".join(text(found.families)), found.event_log_id)
    return view.compare("otlp", path, shown, found.labels)
