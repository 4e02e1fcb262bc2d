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
from dataclasses import dataclass, field
from operator import mul
from pathlib import Path
from typing import Any, Final

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

# A series' key is the id of the first pair that it counts. Ids ascend in the order in which names were first seen.
_BY_PAIR: Final = "SELECT id, id, skill_id, org_id FROM pair"
_BY_SKILL: Final = """
SELECT pair.id, first.id, pair.skill_id, NULL FROM pair
JOIN (SELECT skill_id, min(id) AS id FROM pair GROUP BY skill_id) AS first ON first.skill_id = pair.skill_id
"""
_SERIES: Final = """
WITH series (pair_id, key, skill_id, org_id) AS ({series}),
own (last_key) AS (SELECT max(key) FROM (SELECT DISTINCT key FROM series ORDER BY key LIMIT :budget))
"""

# Each query's first columns: the key, or NULL for the overflow; the labels; how many label sets; since when.
_EXECUTED: Final = """
SELECT
    CASE WHEN key <= last_key THEN key END AS own_key, skill_id, org_id, NULL, count(DISTINCT key), min(created_ns),
    sum(executions), sum(successes), sum(latency_sum),
    sum(le_10), sum(le_50), sum(le_100), sum(le_200), sum(le_500), sum(le_1000), sum(le_2000), sum(le_5000)
FROM own CROSS JOIN pair_total JOIN series ON series.pair_id = pair_total.pair_id
WHERE executions > 0
GROUP BY own_key
"""

_EXECUTED_BY_USER: Final = """
, used AS (
    SELECT
        key, skill_id, org_id, user_no, min(created_ns) AS created_ns, sum(daily.executions) AS executions,
        sum(daily.successes) AS successes, row_number() OVER (ORDER BY user_no, key) AS place
    FROM usage_daily AS daily
    JOIN series ON series.pair_id = daily.pair_id JOIN pair_total ON pair_total.pair_id = daily.pair_id
    GROUP BY user_no, key
)
SELECT
    CASE WHEN place <= :budget THEN place END AS own_place, skill_id, org_id, user_id, count(*), min(created_ns),
    sum(executions), sum(successes)
FROM used LEFT JOIN user ON user.id = used.user_no
GROUP BY own_place
"""

_RATED: Final = """
SELECT
    CASE WHEN key <= last_key THEN key END AS own_key, skill_id, NULL, NULL, count(DISTINCT key),
    min(rating_created_ns), sum(r1), sum(r2), sum(r3), sum(r4), sum(r5)
FROM own CROSS JOIN pair_total JOIN series ON series.pair_id = pair_total.pair_id
WHERE rating_created_ns IS NOT NULL
GROUP BY own_key
"""

_HEALTH: Final = """
SELECT CASE WHEN key <= last_key THEN key END AS own_key, skill_id, NULL, NULL, count(*), NULL, score
FROM own CROSS JOIN skill_health
JOIN (SELECT DISTINCT key, skill_id FROM series) USING (skill_id)
GROUP BY own_key
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


@dataclass(slots=True)
class _Rows:
    """A metric's rows: those of its series, with their labels, and the one of everything past the budget."""

    own: list[tuple[dict[str, str], tuple[Any, ...]]] = field(default_factory=list)
    overflow: tuple[Any, ...] | None = None
    label_sets_over: int = 0

    @property
    def all(self) -> list[tuple[dict[str, str], tuple[Any, ...]]]:
        return self.own if self.overflow is None else [*self.own, ({"overflow": "true"}, self.overflow)]


def read(path: Path, labels: Sequence[str], max_series: int) -> Totals:
    """Everything as of one commit. Raises sqlite3.Error."""
    with contextlib.closing(open_reader(path)) as db:
        db.execute("BEGIN")
        return _read(db, labels, max_series)


def _read(db: sqlite3.Connection, labels: Sequence[str], max_series: int) -> Totals:
    series = _BY_PAIR if "org_id" in labels else _BY_SKILL
    executed = _rows(db, series, _EXECUTED, max_series)
    used = _rows(db, series, _EXECUTED_BY_USER, max_series) if "user_id" in labels else executed
    rated = _rows(db, _BY_SKILL, _RATED, max_series)
    health = _rows(db, _BY_SKILL, _HEALTH, max_series)
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


def _rows(db: sqlite3.Connection, series: str, query: str, max_series: int) -> _Rows:
    rows = _Rows()
    for key, skill_id, org_id, user_id, label_sets, *values in db.execute(
        _SERIES.format(series=series) + query, {"budget": max_series}
    ):
        if key is None:
            rows.overflow, rows.label_sets_over = tuple(values), label_sets
            continue
        labels = {"skill_id": skill_id}
        if org_id is not None:
            labels["org_id"] = org_id
        if user_id is not None:
            labels["user_id"] = user_id
        rows.own.append((labels, tuple(values)))
    return rows


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
