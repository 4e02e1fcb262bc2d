"""View: what is shown elsewhere, held against SQLite's totals as they were at the event that it was shown at."""

import contextlib
import sqlite3
from collections.abc import Iterable, Sequence
from itertools import accumulate
from operator import add, sub
from pathlib import Path
from typing import Any, Final

from ..database import limited, open_reader
from ..rows import BUCKETS_MS
from ..sinks.totals import EXECUTIONS, FAILURES, HEALTH, LATENCY, RATING, RATINGS, SUCCESS
from .books import last_event_id
from .comparison import Comparison, Name, Tally, series, unknown
from .history import Labels, Since, extend, first_id, labels_of, without_user
from .shown import MISSING, OVERFLOW, Shown, Table

SNAPSHOT_S: Final = 60.0
SINCE_S: Final = 60.0

_USED: Final = """
SELECT skill_id, org_id, NULL, executions, successes FROM pair_total JOIN pair ON pair.id = pair_id
"""
_USED_BY_USER: Final = """
SELECT skill_id, org_id, user_id, sum(executions), sum(successes)
FROM usage_daily JOIN pair ON pair.id = pair_id LEFT JOIN user ON user.id = user_no
GROUP BY pair_id, user_no
"""
_LATENCY: Final = f"""
SELECT skill_id, org_id, NULL, executions, latency_sum, {", ".join(f"le_{bound}" for bound in BUCKETS_MS)}
FROM pair_total JOIN pair ON pair.id = pair_id
"""  # noqa: S608 - names of ours
_RATED: Final = "SELECT skill_id, NULL, NULL, r1, r2, r3, r4, r5 FROM pair_total JOIN pair ON pair.id = pair_id"
_HEALTH: Final = "SELECT skill_id, NULL, NULL, score FROM skill_health"

_USED_NAMES: Final = [f"{name}_total" for name in (EXECUTIONS, SUCCESS, FAILURES)]
_LATENCY_NAMES: Final = [f"{LATENCY}_count", f"{LATENCY}_sum", *(f"{LATENCY}_bucket le {le}" for le in BUCKETS_MS)]
_SUM_AT: Final = 1  # among these; all other numbers are counts
_RATING_NAMES: Final = [f"{RATING}_bucket le {stars}" for stars in RATINGS]


def compare(name: Name, path: Path, shown: Shown, labels: tuple[str, ...]) -> Comparison:
    """Hold a view against the totals at its event. Raises sqlite3.Error, or TimeoutError."""
    since = Since(labels)
    with contextlib.closing(open_reader(path)) as db:
        reached = last_event_id(db)
    # Most of what came since is read before the snapshot is taken, so that that is short.
    extend(since, path, shown.event_id, reached, SINCE_S)
    with contextlib.closing(open_reader(path)) as db, limited(db, SNAPSHOT_S):
        db.execute("BEGIN")
        last = last_event_id(db)
        if shown.event_id > last:
            why = f"it shows event {shown.event_id:,}, and SQLite's last one is {last:,}: another database is in place"
            return unknown(name, why)
        extend(since, path, reached, last, SINCE_S)
        if first_id(db, last) > shown.event_id + 1:
            return unknown(name, f"events that came after event {shown.event_id:,} have been deleted")
        return _compare(Tally(name, shown.event_id), shown, db, since, labels)


def _compare(tally: Tally, shown: Shown, db: sqlite3.Connection, since: Since, labels: tuple[str, ...]) -> Comparison:
    used = _before(_table(db.execute(_USED_BY_USER if "user_id" in labels else _USED), labels), since.used)
    outcomes = {key: [all_, well, all_ - well] for key, (all_, well) in used.items()}
    _hold(tally, _USED_NAMES, outcomes, shown.used)
    _hold(tally, _LATENCY_NAMES, _latency(db, since, labels), shown.latency)
    rated = _before(_table(db.execute(_RATED), ("skill_id",)), since.rated)
    cumulative = {key: list(accumulate(counts)) for key, counts in rated.items()}
    _hold(tally, _RATING_NAMES, {key: counts for key, counts in cumulative.items() if counts[-1]}, shown.rated)
    _hold_health(tally, _table(db.execute(_HEALTH), ("skill_id",)), shown.health, since)
    return tally.result()


def _latency(db: sqlite3.Connection, since: Since, labels: tuple[str, ...]) -> Table:
    """[count, sum, cumulative buckets ..., what the sum was made from]"""
    whole = _table(db.execute(_LATENCY), without_user(labels))
    for numbers in whole.values():
        numbers[2:] = accumulate(numbers[2:])
    return {key: [*numbers, whole[key][_SUM_AT]] for key, numbers in _before(whole, since.latency).items()}


def _table(rows: Iterable[Sequence[Any]], labels: tuple[str, ...]) -> Table:
    table: Table = {}
    for skill_id, org_id, user_id, *numbers in rows:
        key = labels_of({"skill_id": skill_id, "org_id": org_id, "user_id": user_id}, labels)
        table[key] = list(map(add, table[key], numbers)) if key in table else numbers
    return table


def _before(table: Table, since: Table) -> Table:
    """What it was before; without what was not there then: its first number, or all of them, are 0."""
    then = {key: list(map(sub, numbers, since[key])) if key in since else numbers for key, numbers in table.items()}
    return {key: numbers for key, numbers in then.items() if any(number > 0 for number in numbers)}


def _hold(tally: Tally, names: list[str], here: Table, there: Table) -> None:
    """Series by series. What is past the budget of series is in one of its own."""
    over: list[float] | None = None
    for labels, numbers in here.items():
        if labels in there or OVERFLOW not in there:
            _numbers(tally, names, labels, numbers, there.get(labels))
        else:
            over = numbers if over is None else list(map(add, over, numbers))
    for labels in there.keys() - here.keys():
        _numbers(tally, names, labels, over if labels == OVERFLOW else None, there[labels])


def _numbers(
    tally: Tally, names: list[str], labels: Labels, here: list[float] | None, there: list[float] | None
) -> None:
    for at, name in enumerate(names):
        known_as = series(name, sorted(labels, reverse=True))
        if here is not None and there is not None and name == _LATENCY_NAMES[_SUM_AT]:
            tally.sums(known_as, here[at], there[at], scale=here[-1])
        else:
            found = None if there is None or there[at] == MISSING else there[at]
            tally.counts(known_as, None if here is None else here[at], found)


def _hold_health(tally: Tally, here: Table, there: Table, since: Since) -> None:
    """A score holds until the next one: of skills that were told one since, the one before is not known."""
    for labels, (score,) in there.items():
        if labels not in since.health:
            tally.counts(series(HEALTH, labels), here[labels][0] if labels in here else None, score)
