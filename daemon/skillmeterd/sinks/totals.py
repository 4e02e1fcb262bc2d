"""Totals: what skills came to, read from SQLite in one transaction, as the families that every backend shows.

A skill's counters of success and of failure both exist from its first execution. Which label sets have a series of
their own depends only on the order in which names were first seen, so a series keeps its place. Past the budget
everything is summed up in one more series, whose only label is `overflow`: no other series has that label, so no id can
collide with it. A gauge has no such sum; what is past its budget is only counted.

With user_id among the labels the three counters are told apart by user. Latencies are kept by skill and org alone, so
the histogram is not. Series are then ranked by user: an early user's new skill may send the latest user's series into
the overflow, where its counts go on; out of the overflow none ever comes, so no counter goes down.
"""

import contextlib
import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass
from operator import mul
from pathlib import Path
from typing import Any, Final, NamedTuple

from ..database import open_reader
from ..rows import BUCKETS_MS
from .families import Family, Histogram, Point

EXECUTIONS: Final = "toolweaver_skill_executions"
SUCCESS: Final = "toolweaver_skill_success"
FAILURES: Final = "toolweaver_skill_failures"
LATENCY: Final = "toolweaver_skill_latency_milliseconds"
RATING: Final = "toolweaver_skill_rating"
HEALTH: Final = "toolweaver_skill_health_score"
RATINGS: Final = (1, 2, 3, 4, 5)


class _Level(NamedTuple):
    """What a series is kept for: a skill and org, or a skill. Its key ascends in the order of first appearance."""

    key: str
    org: str
    last_own: str
    """The query for the last key within the budget."""


_BY_PAIR: Final = _Level("pair.id", "org_id", "SELECT max(id) FROM (SELECT id FROM pair ORDER BY id LIMIT ?)")
_BY_SKILL: Final = _Level("skill_no", "NULL", "SELECT max(no) FROM (SELECT no FROM skill ORDER BY no LIMIT ?)")

# Each query is run for the keys within the budget, in groups, and for those past it, all in one.
# The first columns are the labels, then come how many label sets, and since when.
_EXECUTED: Final = """
SELECT
    skill_id, {org}, NULL, count(DISTINCT {key}), min(created_ns), sum(executions), sum(successes), sum(latency_sum),
    sum(le_10), sum(le_50), sum(le_100), sum(le_200), sum(le_500), sum(le_1000), sum(le_2000), sum(le_5000)
FROM pair_total JOIN pair ON pair.id = pair_id
WHERE executions > 0 AND {key} {within}
"""

_RATED: Final = """
SELECT
    skill_id, NULL, NULL, count(DISTINCT {key}), min(rating_created_ns), sum(r1), sum(r2), sum(r3), sum(r4), sum(r5)
FROM pair_total JOIN pair ON pair.id = pair_id
WHERE rating_created_ns IS NOT NULL AND {key} {within}
"""

_HEALTH: Final = """
SELECT skill_id, NULL, NULL, count(*), NULL, score
FROM skill_health JOIN (SELECT skill_id, no AS skill_no FROM skill) USING (skill_id)
WHERE {key} {within}
"""

_EXECUTED_BY_USER: Final = """
WITH used AS (
    SELECT
        {key} AS key, skill_id, {org} AS org_id, user_no, min(created_ns) AS created_ns,
        sum(daily.executions) AS executions, sum(daily.successes) AS successes,
        row_number() OVER (ORDER BY user_no, {key}) AS place
    FROM usage_daily AS daily
    JOIN pair ON pair.id = daily.pair_id JOIN pair_total ON pair_total.pair_id = pair.id
    GROUP BY user_no, {key}
)
SELECT skill_id, org_id, user_id, count(*), min(created_ns), sum(executions), sum(successes)
FROM used LEFT JOIN user ON user.id = used.user_no
WHERE place {within}
"""


@dataclass(frozen=True, slots=True)
class Totals:
    """What one commit left in the database."""

    last_event_id: int
    """The newest event's: who compares two views looks at this first."""
    families: list[Family]
    over_budget: dict[str, int]
    """Label sets without a series of their own, by metric."""
    ledger: dict[tuple[str, str], int]
    """Events by (outcome, reason)."""
    incidents: dict[str, int]
    """What happened to the file, by kind."""


@dataclass(frozen=True, slots=True)
class _Rows:
    """A metric's rows: those of its series, with their labels, and the one of everything past the budget."""

    own: list[tuple[dict[str, str], tuple[Any, ...]]]
    overflow: tuple[Any, ...] | None
    label_sets_over: int

    @property
    def all(self) -> list[tuple[dict[str, str], tuple[Any, ...]]]:
        return self.own if self.overflow is None else [*self.own, ({"overflow": "true"}, self.overflow)]


def read(path: Path, labels: Sequence[str], max_series: int) -> Totals:
    """Everything as of one commit. Raises sqlite3.Error."""
    with contextlib.closing(open_reader(path)) as db:
        db.execute("BEGIN")
        return _read(db, labels, max_series)


def _read(db: sqlite3.Connection, labels: Sequence[str], max_series: int) -> Totals:
    level = _BY_PAIR if "org_id" in labels else _BY_SKILL
    (last_own,) = db.execute(level.last_own, (max_series,)).fetchone()
    (last_skill,) = db.execute(_BY_SKILL.last_own, (max_series,)).fetchone()
    executed = _rows(db, _EXECUTED, level, level.key, last_own)
    used = _rows(db, _EXECUTED_BY_USER, level, "place", max_series) if "user_id" in labels else executed
    rated = _rows(db, _RATED, _BY_SKILL, "skill_no", last_skill)
    health = _rows(db, _HEALTH, _BY_SKILL, "skill_no", last_skill)
    (last_event_id,) = db.execute("SELECT ifnull(max(seq), 0) FROM sqlite_sequence").fetchone()
    return Totals(
        last_event_id,
        [*_counters(used), _latency(executed), _rating(rated), _health(health)],
        {
            EXECUTIONS: used.label_sets_over,
            LATENCY: executed.label_sets_over,
            RATING: rated.label_sets_over,
            HEALTH: health.label_sets_over,
        },
        {(outcome, reason): events for outcome, reason, events in db.execute("SELECT * FROM ledger")},
        dict(db.execute("SELECT kind, count(*) FROM incident GROUP BY kind")),
    )


def _rows(db: sqlite3.Connection, query: str, level: _Level, key: str, last_own: int | None) -> _Rows:
    def run(within: str) -> sqlite3.Cursor:
        return db.execute(query.format(key=level.key, org=level.org, within=within), (last_own,))

    own = [(_labels(*row[:3]), row[4:]) for row in run(f"<= ? GROUP BY {key}")]
    _, _, _, label_sets, *values = run("> ?").fetchone()
    return _Rows(own, tuple(values) if label_sets else None, label_sets)


def _labels(skill_id: str, org_id: str | None, user_id: str | None) -> dict[str, str]:
    labels = {"skill_id": skill_id}
    if org_id is not None:
        labels["org_id"] = org_id
    if user_id is not None:
        labels["user_id"] = user_id
    return labels


def _counters(rows: _Rows) -> list[Family]:
    executions, success, failures = [], [], []
    for labels, (created_ns, executed, succeeded, *_) in rows.all:
        executions.append(Point(labels, executed, created_ns))
        success.append(Point(labels, succeeded, created_ns))
        failures.append(Point(labels, executed - succeeded, created_ns))
    return [
        Family(EXECUTIONS, "counter", "Executions of skills.", executions),
        Family(SUCCESS, "counter", "Executions that succeeded.", success),
        Family(FAILURES, "counter", "Executions that failed.", failures),
    ]


def _latency(rows: _Rows) -> Family:
    points = [
        Histogram(labels, (*buckets, executed - sum(buckets)), latency_sum, created_ns)
        for labels, (created_ns, executed, _, latency_sum, *buckets) in rows.all
    ]
    return Family(LATENCY, "histogram", "How long executions took, in milliseconds.", points, "ms", BUCKETS_MS)


def _rating(rows: _Rows) -> Family:
    points = [
        Histogram(labels, (*counts, 0), sum(map(mul, RATINGS, counts)), created_ns)
        for labels, (created_ns, *counts) in rows.all
    ]
    return Family(RATING, "histogram", "Ratings of skills, 1 to 5.", points, bounds=RATINGS)


def _health(rows: _Rows) -> Family:
    points = [Point(labels, score) for labels, (_, score) in rows.own]
    return Family(HEALTH, "gauge", "The health score last given to a skill, 0 to 100.", points)
