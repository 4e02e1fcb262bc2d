"""Books: SQLite's own accounts held against each other: the ledger, the daily rollups, the totals."""

import sqlite3
from typing import Final

from ..report import ledger
from .comparison import Comparison, Tally, series

RATINGS: Final = ("r1", "r2", "r3", "r4", "r5")

# Each has a row for a key of either side: the key's names, then the two sides of each number.
_PAIRS: Final = """
WITH daily AS (
    SELECT
        pair_id, sum(executions) AS executions, sum(successes) AS successes, sum(latency_sum) AS latency_sum,
        sum(r1) AS r1, sum(r2) AS r2, sum(r3) AS r3, sum(r4) AS r4, sum(r5) AS r5
    FROM pair_daily GROUP BY pair_id
),
by_user AS (
    SELECT
        pair_id, sum(executions) AS executions, sum(successes) AS successes, sum(latency_sum) AS latency_sum
    FROM usage_daily GROUP BY pair_id
)
SELECT
    pair.skill_id, pair.org_id,
    ifnull(total.executions, 0), ifnull(by_user.executions, 0), ifnull(daily.executions, 0),
    ifnull(total.successes, 0), ifnull(by_user.successes, 0), ifnull(daily.successes, 0),
    ifnull(total.latency_sum, 0.0), ifnull(by_user.latency_sum, 0.0), ifnull(daily.latency_sum, 0.0),
    ifnull(total.r1, 0), ifnull(daily.r1, 0), ifnull(total.r2, 0), ifnull(daily.r2, 0), ifnull(total.r3, 0),
    ifnull(daily.r3, 0), ifnull(total.r4, 0), ifnull(daily.r4, 0), ifnull(total.r5, 0), ifnull(daily.r5, 0),
    ifnull(le_10 + le_50 + le_100 + le_200 + le_500 + le_1000 + le_2000 + le_5000, 0)
FROM pair
LEFT JOIN pair_total AS total ON total.pair_id = pair.id
LEFT JOIN daily ON daily.pair_id = pair.id
LEFT JOIN by_user ON by_user.pair_id = pair.id
"""

_SKILLS: Final = """
WITH pairs AS (
    SELECT
        skill_no, sum(executions) AS executions, sum(successes) AS successes, sum(latency_sum) AS latency_sum,
        sum(r1) AS r1, sum(r2) AS r2, sum(r3) AS r3, sum(r4) AS r4, sum(r5) AS r5
    FROM pair_total JOIN pair ON pair.id = pair_id GROUP BY skill_no
),
daily AS (
    SELECT
        skill_no, sum(executions) AS executions, sum(successes) AS successes, sum(latency_sum) AS latency_sum,
        sum(r1) AS r1, sum(r2) AS r2, sum(r3) AS r3, sum(r4) AS r4, sum(r5) AS r5
    FROM skill_daily GROUP BY skill_no
)
SELECT
    skill.skill_id,
    ifnull(pairs.executions, 0), ifnull(total.executions, 0), ifnull(daily.executions, 0),
    ifnull(pairs.successes, 0), ifnull(total.successes, 0), ifnull(daily.successes, 0),
    ifnull(pairs.latency_sum, 0.0), ifnull(total.latency_sum, 0.0), ifnull(daily.latency_sum, 0.0),
    ifnull(pairs.r1 + pairs.r2 + pairs.r3 + pairs.r4 + pairs.r5, 0),
    ifnull(total.r1 + total.r2 + total.r3 + total.r4 + total.r5, 0),
    ifnull(daily.r1 + daily.r2 + daily.r3 + daily.r4 + daily.r5, 0)
FROM skill
LEFT JOIN pairs ON pairs.skill_no = skill.no
LEFT JOIN skill_total AS total ON total.skill_no = skill.no
LEFT JOIN daily ON daily.skill_no = skill.no
"""


def last_event_id(db: sqlite3.Connection) -> int:
    """The newest event's number; it stays when events are deleted."""
    return int(db.execute("SELECT ifnull(max(seq), 0) FROM sqlite_sequence WHERE name = 'event_log'").fetchone()[0])


def of_ledger(db: sqlite3.Connection) -> Comparison:
    """Every attempt has one outcome, and every event that was stored has its number. Raises sqlite3.Error."""
    last = last_event_id(db)
    tally = Tally("ledger", last)
    counts = ledger(db)
    outcomes = sum(counts[name] for name in ("stored", "pending", "dropped", "rejected"))
    tally.counts("attempted, and the sum of its outcomes", counts["attempted"], outcomes)
    tally.counts("stored, and the number of the last event", counts["stored"], last)
    return tally.result()


def of_rollups(db: sqlite3.Connection) -> Comparison:
    """The daily tables add up to the totals. Raises sqlite3.Error."""
    tally = Tally("rollups", last_event_id(db))
    for row in db.execute(_PAIRS):
        _pair(tally, row)
    for row in db.execute(_SKILLS):
        _skill(tally, row)
    return tally.result()


def _pair(tally: Tally, row: tuple[float, ...]) -> None:
    labels = list(zip(("skill_id", "org_id"), row[:2], strict=True))
    executions, by_user, daily, succeeded, succeeded_by_user, succeeded_daily, ms, ms_by_user, ms_daily = row[2:11]
    tally.counts(series("execution_count of skill_usage", labels), executions, by_user)
    tally.counts(series("executions of pair_daily", labels), executions, daily)
    tally.counts(series("success_count of skill_usage", labels), succeeded, succeeded_by_user)
    tally.counts(series("successes of pair_daily", labels), succeeded, succeeded_daily)
    tally.sums(series("latency_sum of skill_usage", labels), ms, ms_by_user)
    tally.sums(series("latency_sum of pair_daily", labels), ms, ms_daily)
    for name, here, there in zip(RATINGS, row[11:21:2], row[12:21:2], strict=True):
        tally.counts(series(f"{name} of pair_daily", labels), here, there)
    tally.at_most(series("latency buckets of pair_total", labels), executions, row[21])


def _skill(tally: Tally, row: tuple[float, ...]) -> None:
    labels = [("skill_id", row[0])]
    for name, at in (("executions", 1), ("successes", 4), ("ratings", 10)):
        tally.counts(series(f"{name} of skill_total", labels), row[at], row[at + 1])
        tally.counts(series(f"{name} of skill_daily", labels), row[at], row[at + 2])
    tally.sums(series("latency_sum of skill_total", labels), row[7], row[8])
    tally.sums(series("latency_sum of skill_daily", labels), row[7], row[9])
