"""Rollups: the pieces that queries are made of - who is meant, sums of a window, percentiles, unique users."""

import datetime
import difflib
import heapq
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from skillmeter.errors import QueryError

from .. import counts
from ..seen import OF_PAIR, OF_SKILL
from ..sketch import Sketch
from .formulas import rating_sums, share
from .reader import Snapshot

_SUMS: Final = """
    sum(executions), sum(successes), sum(latency_sum), min(latency_min), max(latency_max), min(first_ns), max(last_ns),
    sum(r1), sum(r2), sum(r3), sum(r4), sum(r5)
"""

_NAMES_NEAR: Final = 500  # on either side; comparing one takes 15 us, and a millisecond if it is very long

PAIR_DAYS: Final = "day_change CROSS JOIN pair_daily USING (day)"
"""The days of pairs: they have no index by pair, and so every day there is is looked at."""


class UnknownSkill(QueryError):
    """Nothing was ever recorded of the skill."""


@dataclass(frozen=True, slots=True)
class Target:
    """A skill, over all orgs or within one. `no` numbers it in `scope`; a skill never used in an org has none."""

    skill_id: str
    org_id: str | None
    scope: int
    no: int

    @property
    def daily(self) -> tuple[str, str]:
        """The table of its days, and the column that holds its number."""
        return ("skill_daily", "skill_no") if self.scope == OF_SKILL else (PAIR_DAYS, "pair_id")

    @property
    def pairs(self) -> str:
        """The condition that chooses its rows of `pair`."""
        return "pair.skill_no = :no" if self.scope == OF_SKILL else "pair.id = :no"


@dataclass(frozen=True, slots=True)
class Sums:
    """Executions and ratings of some days."""

    executions: int = 0
    successes: int = 0
    latency_sum: float = 0.0
    latency_min: float | None = None
    latency_max: float | None = None
    first_ns: int | None = None
    last_ns: int | None = None
    ratings: tuple[int, ...] = (0, 0, 0, 0, 0)

    @classmethod
    def of(cls, row: Any) -> "Sums":
        """From the columns of a sum, which are all None over no rows."""
        executions, successes, latency_sum, low, high, first, last, *ratings = row
        if executions is None:
            return cls()
        return cls(executions, successes, latency_sum, low, high, first, last, tuple(ratings))

    @property
    def success_rate(self) -> float | None:
        """Successes of executions."""
        return share(self.successes, self.executions)

    @property
    def avg_latency_ms(self) -> float | None:
        """The sum of all latencies over their count."""
        return share(self.latency_sum, self.executions)

    @property
    def rating_count(self) -> int:
        """How many ratings."""
        return sum(self.ratings)

    @property
    def rating_avg(self) -> float | None:
        """Their mean."""
        count, total = rating_sums(self.ratings)
        return share(total, count)


def skill(at: Snapshot, skill_id: str) -> Target | None:
    """A skill over all orgs, or None if nothing was ever recorded of it."""
    no = at.value("SELECT no FROM skill WHERE skill_id = :skill_id", skill_id=skill_id)
    return None if no is None else Target(skill_id, None, OF_SKILL, no)


def known_skill(at: Snapshot, skill_id: str, org_id: str | None = None) -> Target:
    """A skill, over all orgs or within one. Raises UnknownSkill."""
    found = skill(at, skill_id)
    if found is None:
        raise UnknownSkill(f"nothing was recorded of a skill {skill_id[:80]!r}{_did_you_mean(at, skill_id)}")
    if org_id is None:
        return found
    pair = at.value("SELECT id FROM pair WHERE skill_id = :s AND ifnull(org_id, 0) = :o", s=skill_id, o=org_id)
    return Target(skill_id, org_id, OF_PAIR, pair or 0)


def pairs_by_day(at: Snapshot, chosen: str, **values: object) -> str:
    """The days of the pairs for which `chosen` holds. Wants that, and pair_id = pair.id, among its conditions.

    A day after the other, as they lie: each pair is looked for, or, if that were more, all of the day is looked at.
    """
    pairs = at.value(f"SELECT count(*) FROM pair WHERE {chosen}", **values)
    if are_few(at, pairs):
        return "day_change CROSS JOIN pair CROSS JOIN pair_daily USING (day)"
    return f"{PAIR_DAYS} CROSS JOIN pair"


def are_few(at: Snapshot, numbers: int) -> bool:
    """Whether it costs less to look for so many pairs or skills on each day than to look at all that a day has."""
    rows, days = at.row("SELECT (SELECT max(id) FROM pair_daily), (SELECT count(*) FROM day_change)")
    return bool(numbers * days <= (rows or 0))


def sums(at: Snapshot, target: Target, first_day: int) -> Sums:
    """What was recorded of a skill from a day on."""
    table, key = target.daily
    return Sums.of(
        at.row(f"SELECT {_SUMS} FROM {table} WHERE {key} = :no AND day >= :first", no=target.no, first=first_day)
    )


def total(at: Snapshot, target: Target) -> Sums:
    """What was ever recorded of a skill over all orgs."""
    return Sums.of(at.row(f"SELECT {_SUMS} FROM skill_total WHERE skill_no = :no", no=target.no))


def total_sketch(at: Snapshot, target: Target) -> Sketch:
    """All latencies of a skill over all orgs."""
    which = "WHERE skill_no = :no"
    sql = f"SELECT sketch FROM skill_sketch {which} UNION ALL SELECT sketch FROM skill_sketch_recent {which}"
    return merge(data for (data,) in at.rows(sql, no=target.no))


def sketch(at: Snapshot, target: Target, first_day: int) -> Sketch:
    """The latencies of a skill from a day on. Days that are over are merged once, not for every question."""
    table, key = target.daily

    def merged(first: int, last: int | None) -> Sketch:
        until = "" if last is None else "AND day <= :last"
        rows = at.rows(
            f"SELECT sketch FROM {table} WHERE {key} = :no AND day >= :first {until} AND sketch IS NOT NULL",
            no=target.no,
            first=first,
            last=last,
        )
        return merge(data for (data,) in rows)

    yesterday = at.today - 1
    if first_day > yesterday:
        return merged(first_day, None)
    over = at.closed(
        ("sketch", target.scope, target.no), first_day, yesterday, lambda: merged(first_day, yesterday).encode()
    )
    joint = Sketch.decode(over)
    joint.merge(merged(at.today, None))
    return joint


def merge(encoded: Iterable[bytes]) -> Sketch:
    """Sketches as one."""
    joint = Sketch()
    for data in encoded:
        joint.merge(Sketch.decode(data))
    return joint


Percentiles = tuple[float | None, ...]
"""p50, p95 and p99 in milliseconds."""


def percentiles(latencies: Sketch) -> Percentiles:
    """Those of a sketch."""
    return latencies.quantiles(0.5, 0.95, 0.99)


def unique_users(at: Snapshot, scope: int, no: int, first_day: int = 0) -> int:
    """How many different users there were from a day on: those who were last seen then or later."""
    which = "WHERE scope = :scope AND no = :no"
    rows = at.rows(
        f"SELECT users FROM last_seen {which} UNION ALL SELECT users FROM last_seen_recent {which}", scope=scope, no=no
    )
    return sum(counts.since(users, first_day) for (users,) in rows)


def first_by_place(at: Snapshot, places: Mapping[int, Any], limit: int, table: str, key: str) -> dict[int, str]:
    """Names by number of those with the least places, in that order; of equals the first by name.

    Of many skills, few names are read. `table` has them by `key`.
    """
    last = max(heapq.nsmallest(limit, places.values()), default=None)
    less = [no for no, place in places.items() if place < last]
    equal = [no for no, place in places.items() if place == last]
    names: dict[int, str] = {}
    for numbers in (less, equal):
        names |= at.rows(
            f"""SELECT {table}.{key}, skill_id
                FROM json_each(:numbers) CROSS JOIN {table} ON {table}.{key} = json_each.value
                ORDER BY skill_id LIMIT :room""",
            numbers=msgspec.json.encode(numbers).decode(),
            room=limit - len(names),
        )
    return {no: names[no] for no in sorted(names, key=lambda no: (places[no], names[no]))}


def time_of(at_ns: int | None) -> datetime.datetime | None:
    """A time of the database for people, to the microsecond."""
    if at_ns is None:
        return None
    return datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC) + datetime.timedelta(microseconds=at_ns // 1000)


def date_of(day: int) -> datetime.date:
    """The date of a UTC day."""
    return datetime.date(1970, 1, 1) + datetime.timedelta(days=day)


def _did_you_mean(at: Snapshot, skill_id: str) -> str:
    """Looks at the names that lie next to it in their order: a mistake is seldom in the first letters."""
    names = at.rows(
        """SELECT * FROM (SELECT skill_id FROM skill WHERE skill_id < :name ORDER BY skill_id DESC LIMIT :near)
           UNION ALL SELECT * FROM (SELECT skill_id FROM skill WHERE skill_id > :name ORDER BY skill_id LIMIT :near)""",
        name=skill_id,
        near=_NAMES_NEAR,
    )
    close = difflib.get_close_matches(skill_id, [name for (name,) in names], n=1)
    return f"; did you mean {close[0]!r}?" if close else ""
