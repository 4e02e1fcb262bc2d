"""History: the events themselves, read in parts so short that nothing waits for them, and summed up.

Events are never changed and their numbers only grow, so parts read one after the other come to what one snapshot would
have had. Retention deletes from the other end meanwhile: parts are read from the newest to the oldest, and whoever sums
them up looks at the end what is left.
"""

import contextlib
import sqlite3
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from ..database import open_reader
from ..rows import BUCKETS_MS, DAY_NS, RATING

PART: Final = 250_000  # events: about 0.2 s

Labels = frozenset[tuple[str, str]]
Advance = Callable[[int, int], None]
"""Is told how many events were read, and how many there are."""

_BY_DAY: Final = f"""
SELECT at_ns / {DAY_NS} AS day, pair_id, kind, CASE WHEN kind = 2 THEN CAST(value AS INTEGER) END AS rating,
    count(*), sum(value)
FROM event_log WHERE id > ? AND id <= ? GROUP BY 1, 2, 3, 4
"""  # noqa: S608 - a number of ours

_WITHIN: Final = ", ".join(f"sum(kind < 2 AND value <= {bound})" for bound in BUCKETS_MS)
_SINCE: Final = f"""
SELECT skill_id, org_id, user_id, sum(kind < 2), sum(kind = 1), sum(CASE WHEN kind < 2 THEN value ELSE 0.0 END),
    {_WITHIN}, {", ".join(f"sum(kind = 2 AND value = {stars})" for stars in range(1, 6))}, sum(kind = 3)
FROM event_log JOIN pair ON pair.id = pair_id LEFT JOIN user ON user.id = user_no
WHERE event_log.id > ? AND event_log.id <= ? GROUP BY pair_id, user_no
"""  # noqa: S608 - numbers of ours

_WHOLE_FROM: Final = "SELECT max(day) + 1 FROM day_mark WHERE first_event_id <= ?"


@dataclass(slots=True)
class Sums:
    """What some events come to: counts, and the sum of their latencies."""

    executions: int = 0
    successes: int = 0
    latency_sum: float = 0.0
    ratings: list[int] = field(default_factory=lambda: [0] * 5)

    def add(self, kind: int, rating: int | None, count: int, value: float) -> None:
        """Events of one kind, and of one rating."""
        if kind < RATING:
            self.executions += count
            self.successes += kind * count
            self.latency_sum += value
        elif rating is not None and 1 <= rating <= 5:
            self.ratings[rating - 1] += count


@dataclass(slots=True)
class Kept:
    """All events that are kept, up to one."""

    count: int = 0
    by_day: dict[int, Sums] = field(default_factory=lambda: defaultdict(Sums))
    by_pair: dict[int, Sums] = field(default_factory=lambda: defaultdict(Sums))
    began_at: int = 1
    """The oldest one's number before all is read; then after it."""
    first_id: int = 1
    whole_from: int | None = 0
    """The first day of whose commits none is deleted; None if no day is known to be so."""


class Since:
    """What was recorded after one event, by the labels that a view has."""

    def __init__(self, labels: tuple[str, ...]) -> None:
        self.used: dict[Labels, list[float]] = {}
        """[executions, successes] with all labels."""
        self.latency: dict[Labels, list[float]] = {}
        """[executions, sum, cumulative buckets ...] without users."""
        self.rated: dict[Labels, list[float]] = {}
        """[1s, 2s, ...] by skill."""
        self.health: set[Labels] = set()
        """Skills whose health was told."""
        self._labels = labels

    def add(self, row: tuple[Any, ...]) -> None:
        """A row of the query."""
        names = dict(zip(("skill_id", "org_id", "user_id"), row[:3], strict=True))
        executions, successes, ms, *buckets = row[3 : 6 + len(BUCKETS_MS)]
        ratings, health = row[6 + len(BUCKETS_MS) : -1], row[-1]
        _add(self.used, labels_of(names, self._labels), [executions, successes])
        _add(self.latency, labels_of(names, without_user(self._labels)), [executions, ms, *buckets])
        _add(self.rated, labels_of(names, ("skill_id",)), ratings)
        if health:
            self.health.add(labels_of(names, ("skill_id",)))


def labels_of(names: dict[str, str | None], wanted: tuple[str, ...]) -> Labels:
    """The labels of a series: those that are wanted and there."""
    return frozenset((name, value) for name in wanted if (value := names[name]) is not None)


def without_user(labels: tuple[str, ...]) -> tuple[str, ...]:
    """Those by which latencies are kept."""
    return tuple(label for label in labels if label != "user_id")


def kept(path: Path, last_id: int, seconds: float, advance: Advance) -> Kept:
    """All events up to one. Raises sqlite3.Error, or TimeoutError."""
    found = Kept()
    with contextlib.closing(open_reader(path)) as db:
        found.began_at = first_id(db, last_id)
    for row in _parts(path, _BY_DAY, 0, last_id, seconds, advance):
        day, pair, kind, rating, count, value = row
        found.count += count
        for sums in (found.by_day[day], found.by_pair[pair]):
            sums.add(kind, rating, count, value)
    with contextlib.closing(open_reader(path)) as db:
        found.first_id = first_id(db, last_id)
        if found.first_id > 1:
            (found.whole_from,) = db.execute(_WHOLE_FROM, (found.first_id,)).fetchone()
    return found


def extend(since: Since, path: Path, after_id: int, last_id: int, seconds: float) -> None:
    """Add what was recorded after one event, up to another. Raises sqlite3.Error, or TimeoutError."""
    for row in _parts(path, _SINCE, after_id, last_id, seconds, lambda *_: None):
        since.add(row)


def first_id(db: sqlite3.Connection, last_id: int) -> int:
    """The number of the oldest event, or of the next one if there is none."""
    (found,) = db.execute("SELECT min(id) FROM event_log").fetchone()
    return last_id + 1 if found is None else int(found)


def _parts(
    path: Path, query: str, after_id: int, last_id: int, seconds: float, advance: Advance
) -> Iterator[tuple[Any, ...]]:
    """The rows of a query over all events after one, in parts, each a short transaction of its own."""
    deadline_s = time.monotonic() + seconds
    with contextlib.closing(open_reader(path)) as db:
        first = max(after_id, first_id(db, last_id) - 1)
        for end in range(last_id, first, -PART):
            if time.monotonic() > deadline_s:
                raise TimeoutError(f"reading the events took longer than {seconds:g} s")
            rows = db.execute(query, (max(first, end - PART), end)).fetchall()
            yield from rows
            advance(min(PART, end - first), last_id - first)


def _add(sums: dict[Labels, list[float]], labels: Labels, values: Any) -> None:
    held = sums.get(labels)
    sums[labels] = list(values) if held is None else [one + other for one, other in zip(held, values, strict=True)]
