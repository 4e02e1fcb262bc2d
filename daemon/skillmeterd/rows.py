"""Rows: turn the payloads of a group commit into rows and rollups. Opens nothing and reads no clock.

An execution's row is filed by its day and pair, and summed up when the group is complete. The events themselves are let
go at once: what is still in the processor's cache when it is needed again decides the speed here.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, pairwise
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

_DECODED_AT_ONCE: Final = 256  # events and their texts stay in the processor's cache and are gone before the next

_UNREADABLE: Final = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
_decode: Callable[[bytes], Event] = event_decoder.decode

EventRow = tuple[int, int, int, int, int, int, float]
"""(at_ns, pair_id, user_no, producer_no, offset, kind, value)"""

UsageRow = list[float]
"""[pair_daily_id, user_no, executions, successes, latency sum, min, max]"""

Usage = tuple[int, tuple[int, int], dict[int, UsageRow]]
"""(pair_daily_id, its day and pair, its rows by user)"""


@dataclass(slots=True)
class Series:
    """Executions of one pair in one group: those of a day, or of all days."""

    day: int
    """Of all days: the first that came."""
    pair: int
    latencies: list[float]
    """Sorted."""
    latency_sum: float
    successes: int
    first_ns: int
    last_ns: int


class Group:
    """The events of one group commit.

    `pairs` and `users` give numbers for names: of a skill and org, and of a user, where None is 0.
    """

    def __init__(self, pairs: Mapping[tuple[str, str | None], int], users: Mapping[str | None, int]) -> None:
        self.rows: list[EventRow] = []
        self.extras: list[tuple[int, str | None, str | None, str | None]] = []
        """(index in `rows`, error_type, skill_version, attributes) of executions that have any of these."""
        self.ratings: list[tuple[int, int, int]] = []
        """(pair, at_ns, rating)"""
        self.health: list[Health] = []
        self._executions: dict[tuple[int, int], list[EventRow]] = {}  # by day and pair
        self._pairs = pairs
        self._users = users

    def add(self, producer_no: int, offsets: Sequence[int], payloads: Sequence[bytes]) -> int:
        """Take the records of a producer; returns how many were no events."""
        parts = range(0, len(payloads), _DECODED_AT_ONCE)
        slices = [slice(at, at + _DECODED_AT_ONCE) for at in parts]
        return sum(self._add_events(producer_no, offsets[part], decode(payloads[part])) for part in slices)

    def _add_events(self, producer_no: int, offsets: Sequence[int], events: Sequence[Event | None]) -> int:
        malformed = 0
        pairs, users, executions, rows = self._pairs, self._users, self._executions, self.rows
        for event, offset in zip(events, offsets, strict=True):
            if type(event) is Execution:
                at_ns = event.recorded_at_ns
                pair = pairs[event.skill_id, event.org_id]
                success = 1 if event.success else 0  # sqlite3 binds exact ints without looking for an adapter
                row = (at_ns, pair, users[event.user_id], producer_no, offset, success, event.latency_ms)
                key = (at_ns // DAY_NS, pair)
                if key in executions:
                    executions[key].append(row)
                else:
                    executions[key] = [row]
                if event.error_type is not None or event.skill_version is not None or event.attributes is not None:
                    self.extras.append((len(rows), event.error_type, event.skill_version, event.attributes))
                rows.append(row)
            elif event is None:
                malformed += 1
            else:
                self._add_rare(event, producer_no, offset)
        return malformed

    def _add_rare(self, event: Event, producer_no: int, offset: int) -> None:
        if isinstance(event, Rating):
            at_ns = event.recorded_at_ns
            pair = self._pairs[event.skill_id, event.org_id]
            user = self._users[event.user_id]
            self.rows.append((at_ns, pair, user, producer_no, offset, RATING, event.rating))
            self.ratings.append((pair, at_ns, event.rating))
        elif isinstance(event, Health):
            pair = self._pairs[event.skill_id, None]
            self.rows.append((event.recorded_at_ns, pair, 0, producer_no, offset, HEALTH, event.score))
            self.health.append(event)

    def series(self) -> list[Series]:
        """The executions of each day and pair."""
        return [_series(key, rows) for key, rows in self._executions.items()]

    def usage(self, numbers: Mapping[tuple[int, int], int]) -> list[Usage]:
        """The sums by user, for the `numbers` of days and pairs; ordered by them, as that halves the time to write."""
        ordered = sorted((numbers[key], key) for key in self._executions)
        return [(number, key, _by_user(number, self._executions[key])) for number, key in ordered]


def _series(key: tuple[int, int], rows: Sequence[EventRow]) -> Series:
    day, pair = key
    times_ns = [row[0] for row in rows]
    latencies = sorted([row[6] for row in rows])
    successes = sum([row[5] for row in rows])
    return Series(day, pair, latencies, sum(latencies), successes, min(times_ns), max(times_ns))


def _by_user(number: int, rows: Iterable[EventRow]) -> dict[int, UsageRow]:
    sums: dict[int, UsageRow] = {}
    for _, _, user, _, _, success, latency in rows:
        if user in sums:
            known = sums[user]
            known[2] += 1
            known[3] += success
            known[4] += latency
            if latency < known[5]:
                known[5] = latency
            elif latency > known[6]:
                known[6] = latency
        else:
            sums[user] = [number, user, 1, success, latency, latency, latency]
    return sums


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


def totals(daily: Iterable[Series]) -> list[Series]:
    """The series of each pair over all days. That of a single day is the day's own, not a copy."""
    by_pair: dict[int, list[Series]] = {}
    for series in daily:
        by_pair.setdefault(series.pair, []).append(series)
    return [parts[0] if len(parts) == 1 else _joined(parts) for parts in by_pair.values()]


def _joined(parts: Sequence[Series]) -> Series:
    return Series(
        parts[0].day,
        parts[0].pair,
        sorted(chain.from_iterable(part.latencies for part in parts)),
        sum(part.latency_sum for part in parts),
        sum(part.successes for part in parts),
        min(part.first_ns for part in parts),
        max(part.last_ns for part in parts),
    )


def bucket_counts(latencies: Sequence[float]) -> list[int]:
    """How many of the sorted latencies lie in each of BUCKETS_MS; those beyond the last are in none."""
    if len(latencies) < len(BUCKETS_MS):
        counts = [0] * (len(BUCKETS_MS) + 1)
        for latency in latencies:
            counts[bisect_left(BUCKETS_MS, latency)] += 1
        return counts[:-1]
    below = [bisect_right(latencies, bound) for bound in BUCKETS_MS]
    return [after - before for before, after in pairwise([0, *below])]


def rating_counts(ratings: Iterable[int]) -> list[int]:
    """How many ones, twos, threes, fours and fives."""
    counts = [0] * 5
    for rating in ratings:
        counts[rating - 1] += 1
    return counts
