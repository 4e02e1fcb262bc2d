"""Events: those that are kept, held against their numbers, the rollups of their days and the totals."""

import contextlib
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from ..database import limited, open_reader
from ..rows import DAY_NS
from .books import RATINGS, last_event_id
from .comparison import Comparison, Tally, series
from .history import Advance, Kept, Sums, kept

SNAPSHOT_S: Final = 60.0
READ_S: Final = 300.0

_DAYS: Final = f"""
SELECT day, min(updated_ns) / {DAY_NS}, count(*) = count(updated_ns), sum(executions), sum(successes), sum(latency_sum),
    sum(r1), sum(r2), sum(r3), sum(r4), sum(r5)
FROM pair_daily GROUP BY day
"""  # noqa: S608 - a number of ours
_PAIRS: Final = """
SELECT pair.id, skill_id, org_id, executions, successes, latency_sum, r1, r2, r3, r4, r5
FROM pair_total JOIN pair ON pair.id = pair_id
"""


@dataclass(slots=True)
class _Rollups:
    """Of one snapshot."""

    last_id: int
    days: list[tuple[Any, ...]]
    pairs: list[tuple[Any, ...]]


def compare(path: Path, advance: Advance) -> Comparison:
    """Read the rollups at one commit, then the events up to it. Raises sqlite3.Error, or TimeoutError."""
    with contextlib.closing(open_reader(path)) as db, limited(db, SNAPSHOT_S):
        db.execute("BEGIN")
        rollups = _Rollups(last_event_id(db), db.execute(_DAYS).fetchall(), db.execute(_PAIRS).fetchall())
    found = kept(path, rollups.last_id, READ_S, advance)
    tally = Tally("events", rollups.last_id)
    if found.first_id == found.began_at:  # else retention was at them meanwhile
        tally.counts("numbers from the oldest event to the last", rollups.last_id - found.first_id + 1, found.count)
    for day, updated_day, all_executed, *numbers in rollups.days:
        sums, whole = found.by_day.pop(day, Sums()), _is_whole(day, updated_day, found)
        _hold_executions(tally, f"of {_date(day)}", numbers, sums, whole=whole)
        # Of ratings alone it is not known when they came.
        _hold_ratings(tally, f"of {_date(day)}", numbers, sums, whole=whole and (found.first_id == 1 or all_executed))
    for day, sums in found.by_day.items():
        _hold_executions(tally, f"of {_date(day)}", [0] * 8, sums, whole=True)
        _hold_ratings(tally, f"of {_date(day)}", [0] * 8, sums, whole=True)
    if found.first_id == 1:
        _hold_pairs(tally, rollups, found)
    return tally.result()


def _is_whole(day: int, updated_day: int | None, found: Kept) -> bool:
    """Whether every event of a day is kept. One that was dated ahead may have been deleted before its day."""
    if found.first_id == 1:
        return True
    if found.whole_from is None or day < found.whole_from:
        return False
    return updated_day is not None and updated_day >= found.whole_from


def _hold_pairs(tally: Tally, rollups: _Rollups, found: Kept) -> None:
    """Nothing was ever deleted: the events come to the totals."""
    for pair, skill_id, org_id, *numbers in rollups.pairs:
        labels = series("", [("skill_id", skill_id), ("org_id", org_id)])
        sums = found.by_pair.get(pair, Sums())
        _hold_executions(tally, f"since ever {labels}", numbers, sums, whole=True)
        _hold_ratings(tally, f"since ever {labels}", numbers, sums, whole=True)


def _hold_executions(tally: Tally, what: str, rollup: list[Any], sums: Sums, *, whole: bool) -> None:
    hold = tally.counts if whole else tally.at_most
    hold(f"executions {what}", rollup[0], sums.executions)
    hold(f"successes {what}", rollup[1], sums.successes)
    if whole:
        tally.sums(f"latency_sum {what}", rollup[2], sums.latency_sum)


def _hold_ratings(tally: Tally, what: str, rollup: list[Any], sums: Sums, *, whole: bool) -> None:
    hold = tally.counts if whole else tally.at_most
    for name, here, there in zip(RATINGS, rollup[3:], sums.ratings, strict=True):
        hold(f"{name} {what}", here, there)


def _date(day: int) -> str:
    return time.strftime("%Y-%m-%d", time.gmtime(day * DAY_NS // 1_000_000_000))
