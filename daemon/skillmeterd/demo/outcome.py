"""The outcome: what the database holds, and whether that is what the workers recorded."""

import contextlib
import sqlite3
from pathlib import Path
from typing import Any

import msgspec

from ..database import open_reader
from ..report import ledger
from ..sketch import Sketch
from .worker import Progress

_SKILLS = """
SELECT skill_metrics.skill_id, execution_count, 100.0 * success_count / execution_count, users, rating_avg
FROM skill_metrics
JOIN (SELECT skill_id, count(DISTINCT user_id) AS users FROM skill_usage GROUP BY skill_id) USING (skill_id)
ORDER BY execution_count DESC, skill_id
"""
_SKETCHES = """
SELECT skill_id, sketch
FROM (SELECT * FROM skill_sketch UNION ALL SELECT * FROM skill_sketch_recent) JOIN skill ON no = skill_no
"""
_EVENTS = "SELECT skill_id, count(*) FROM events GROUP BY skill_id"
_DISTINCT = "SELECT count(DISTINCT event_id) FROM events"


class Skill(msgspec.Struct, frozen=True):
    """A line of the leaderboard. Times are milliseconds."""

    skill_id: str
    calls: int
    success_percent: float
    p50_ms: float | None
    p95_ms: float | None
    p99_ms: float | None
    users: int
    rating: float | None


class Outcome(msgspec.Struct, frozen=True):
    """The leaderboard, the ledger, and what is wrong with them."""

    skills: list[Skill]
    ledger: dict[str, Any]
    lost: int
    """Record calls that returned True less rows in SQLite."""
    problems: list[str]
    """Empty when every event is stored, each once, and the books balance."""


def stored(db_path: Path) -> int:
    """How many events are committed; 0 while there is no database to ask."""
    try:
        with contextlib.closing(open_reader(db_path)) as db:
            return int(db.execute("SELECT ifnull(sum(events), 0) FROM ledger WHERE outcome = 'stored'").fetchone()[0])
    except sqlite3.OperationalError:
        return 0


def is_settled(db_path: Path, recorded: Progress) -> bool:
    """Whether the daemon has taken over all that there is."""
    with contextlib.closing(open_reader(db_path)) as db:
        books = ledger(db)
    return not books["pending"] and bool(books["stored"] >= sum(recorded.kept.values()))


def read(db_path: Path, recorded: Progress) -> Outcome:
    """Read the database, and compare it with what the workers say that they recorded."""
    with contextlib.closing(open_reader(db_path)) as db:
        percentiles = _percentiles(db)
        skills = [
            Skill(skill_id, calls, success, *percentiles[skill_id], users, rating)
            for skill_id, calls, success, users, rating in db.execute(_SKILLS)
        ]
        rows = dict(db.execute(_EVENTS))
        (distinct,) = db.execute(_DISTINCT).fetchone()
        books = ledger(db)
    lost = sum(recorded.kept.values()) - sum(rows.values())
    return Outcome(skills, books, lost, list(_problems(recorded, rows, distinct, books)))


def _percentiles(db: sqlite3.Connection) -> dict[str, tuple[float | None, float | None, float | None]]:
    merged: dict[str, Sketch] = {}
    for skill_id, sketch in db.execute(_SKETCHES):
        merged.setdefault(skill_id, Sketch()).merge(Sketch.decode(sketch))
    return {
        skill_id: (sketch.quantile(0.5), sketch.quantile(0.95), sketch.quantile(0.99))
        for skill_id, sketch in merged.items()
    }


def _problems(recorded: Progress, rows: dict[str, int], distinct: int, books: dict[str, Any]) -> list[str]:
    kept = sum(recorded.kept.values())
    expected = {
        "attempted": kept + recorded.refused,
        "stored": kept,
        "pending": 0,
        "balance": 0,
    }
    problems = [
        f"the ledger's {name} is {books[name]:,}, expected {value:,}"
        for name, value in expected.items()
        if books[name] != value
    ]
    for skill_id in sorted(recorded.kept.keys() | rows.keys()):
        if recorded.kept.get(skill_id, 0) != rows.get(skill_id, 0):
            problems.append(
                f"{skill_id}: {recorded.kept.get(skill_id, 0):,} recorded, {rows.get(skill_id, 0):,} in SQLite"
            )
    if distinct != sum(rows.values()):
        problems.append(f"{sum(rows.values()) - distinct:,} events are in SQLite twice")
    return problems
