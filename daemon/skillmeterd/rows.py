"""Rows: turn the payloads of a group commit into rows and rollups. Opens nothing and reads no clock.

Events are first only sorted into cells, one per (day, skill and org, user); what a cell sums up to is computed once,
when the group is complete. That, and one decoder call per record, is what a group costs beside SQLite.
"""

from bisect import bisect_right
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

import msgspec

from skillmeter.events import Event, Execution, Health, Rating, event_decoder

DAY_NS: Final = 86_400 * 1_000_000_000
BUCKETS_MS: Final = (10, 50, 100, 200, 500, 1000, 2000, 5000)
"""Upper bounds, inclusive, of the latency histogram."""

FAILURE: Final = 0
SUCCESS: Final = 1
RATING: Final = 2
HEALTH: Final = 3

_UNREADABLE: Final = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
_decode: Callable[[bytes], Event] = event_decoder.decode

EventRow = tuple[int, int, int, int, int, int, float]
"""(at_ns, pair_id, user_no, producer_no, offset, kind, value)"""


@dataclass(slots=True)
class Series:
    """The executions of one skill and org in one group: of one day, or of all."""

    latencies: list[float]
    successes: int
    first_ns: int
    last_ns: int

    def absorb(self, other: "Series") -> None:
        """Add another's executions. Its list is copied."""
        self.latencies += other.latencies
        self.successes += other.successes
        self.first_ns = min(self.first_ns, other.first_ns)
        self.last_ns = max(self.last_ns, other.last_ns)


class Group:
    """The events of one group commit. `pairs` and `users` give the numbers of names; a user of None is 0."""

    def __init__(self, pairs: Mapping[tuple[str, str | None], int], users: Mapping[str | None, int]) -> None:
        self.rows: list[EventRow] = []
        self.extras: list[tuple[int, Execution]] = []
        """Executions with optional parts, each with its index in `rows`."""
        self.cells: dict[tuple[int, int, int], list[Execution]] = {}
        self.ratings: list[tuple[int, Rating]] = []
        """Each with its pair."""
        self.health: list[Health] = []
        self._pairs = pairs
        self._users = users

    def add(self, producer_no: int, offsets: Sequence[int], payloads: Sequence[bytes]) -> int:
        """Take the records of a producer; returns how many were no events."""
        malformed = 0
        pairs, users, cells, add_row = self._pairs, self._users, self.cells, self.rows.append
        for event, offset in zip(decode(payloads), offsets, strict=True):
            if type(event) is Execution:
                at_ns = event.recorded_at_ns
                pair = pairs[event.skill_id, event.org_id]
                user = users[event.user_id]
                # 1 and not True: sqlite3 binds exact ints without looking for an adapter.
                add_row((at_ns, pair, user, producer_no, offset, 1 if event.success else 0, event.latency_ms))
                key = (at_ns // DAY_NS, pair, user)
                cell = cells.get(key)
                if cell is None:
                    cells[key] = [event]
                else:
                    cell.append(event)
                if event.error_type is not None or event.skill_version is not None or event.attributes is not None:
                    self.extras.append((len(self.rows) - 1, event))
            elif event is None:
                malformed += 1
            else:
                self._add_rare(event, producer_no, offset)
        return malformed

    def _add_rare(self, event: Event, producer_no: int, offset: int) -> None:
        if isinstance(event, Rating):
            pair = self._pairs[event.skill_id, event.org_id]
            user = self._users[event.user_id]
            self.rows.append((event.recorded_at_ns, pair, user, producer_no, offset, RATING, event.rating))
            self.ratings.append((pair, event))
        elif isinstance(event, Health):
            pair = self._pairs[event.skill_id, None]
            self.rows.append((event.recorded_at_ns, pair, 0, producer_no, offset, HEALTH, event.score))
            self.health.append(event)

    def extra_rows(self, first_id: int) -> list[tuple[int, str | None, str | None, str | None]]:
        """(event id, error_type, skill_version, attributes); `first_id` is the id of `rows[0]`."""
        return [(first_id + index, e.error_type, e.skill_version, e.attributes) for index, e in self.extras]

    def usage(self, now_ns: int) -> tuple[list[tuple[float, ...]], dict[tuple[int, int], Series]]:
        """The rows of usage_daily in the order of its key, and the series by (day, pair)."""
        rows: list[tuple[float, ...]] = []
        series: dict[tuple[int, int], Series] = {}
        for key, events in sorted(self.cells.items()):
            day, pair, user = key
            if len(events) == 1:  # with many users, most cells
                event = events[0]
                latency = low = high = event.latency_ms
                latencies = [latency]
                successes = 1 if event.success else 0
                first_ns = last_ns = event.recorded_at_ns
            else:
                latencies = [event.latency_ms for event in events]
                latency, low, high = sum(latencies), min(latencies), max(latencies)
                successes = sum([event.success for event in events])
                times_ns = [event.recorded_at_ns for event in events]
                first_ns, last_ns = min(times_ns), max(times_ns)
            rows.append((day, pair, user, len(events), successes, latency, low, high, first_ns, last_ns, now_ns))
            known = series.get((day, pair))
            if known is None:
                series[day, pair] = Series(latencies, successes, first_ns, last_ns)
            else:
                known.absorb(Series(latencies, successes, first_ns, last_ns))
        return rows, series


def decode(payloads: Iterable[bytes]) -> list[Event | None]:
    """The event in each payload; None for one that is malformed.

    One call per payload costs no more than one for all of them joined, and a hostile payload cannot reach into its
    neighbours.
    """
    try:
        return list(map(_decode, payloads))
    except _UNREADABLE:
        return list(map(_decode_or_none, payloads))


def _decode_or_none(payload: bytes) -> Event | None:
    try:
        return _decode(payload)
    except _UNREADABLE:
        return None


def by_pair(series: Mapping[tuple[int, int], Series]) -> dict[int, Series]:
    """The series of each pair over all days. One that has a single day is that day's, not a copy."""
    days: dict[int, list[Series]] = {}
    for (_, pair), day in series.items():
        days.setdefault(pair, []).append(day)
    return {pair: parts[0] if len(parts) == 1 else _joined(parts) for pair, parts in days.items()}


def _joined(parts: Sequence[Series]) -> Series:
    whole = Series([], 0, parts[0].first_ns, parts[0].last_ns)
    for part in parts:
        whole.absorb(part)
    return whole


def bucket_counts(latencies: Sequence[float]) -> list[int]:
    """How many of the sorted latencies lie in each of BUCKETS_MS; those beyond the last are in none."""
    below = [bisect_right(latencies, bound) for bound in BUCKETS_MS]
    return [after - before for before, after in pairwise([0, *below])]


def rating_counts(ratings: Iterable[int]) -> list[int]:
    """How many ones, twos, threes, fours and fives."""
    counts = [0] * 5
    for rating in ratings:
        counts[rating - 1] += 1
    return counts
