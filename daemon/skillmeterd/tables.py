"""Tables: the statements that bring a group's names, rows and rollups into SQLite.

Every function here runs inside the transaction of its caller.
"""

import sqlite3
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import chain, groupby
from operator import itemgetter
from typing import Final

from .bulk import insert_many
from .levels import Levels
from .outcomes import Totals
from .rows import BUCKETS_MS, DAY_NS, Group, Series, bucket_counts, rating_counts, totals
from .seen import Numbers, Seen, Uses
from .sketch import Sketch

Sums = tuple[int, int, float, float, float, int, int]
"""(executions, successes, latency sum, min, max, first, last)"""

MAX_NAMES: Final = 200_000
"""Of each kind in memory, about 40 MB; past it the cache starts afresh."""

_EVENT: Final = "INSERT INTO event_log (at_ns, pair_id, user_no, producer_no, offset, kind, value) VALUES "
_EVENT_COLUMNS: Final = 7
_EVENTS_PER_STATEMENT: Final = 100  # half the time of one row each; 300 gain nothing more

_EXTRA: Final = "INSERT INTO event_extra (id, error_type, skill_version, attributes) VALUES (?, ?, ?, ?)"

_USAGE: Final = """
INSERT INTO user_daily (pair_daily_id, user_no, executions, successes, latency_sum, latency_min, latency_max)
VALUES """
_USAGE_CONFLICT: Final = """
ON CONFLICT DO UPDATE SET
    executions = executions + excluded.executions,
    successes = successes + excluded.successes,
    latency_sum = latency_sum + excluded.latency_sum,
    latency_min = min(latency_min, excluded.latency_min),
    latency_max = max(latency_max, excluded.latency_max)
"""
_USAGE_COLUMNS: Final = 7
_USAGE_PER_STATEMENT: Final = 20  # half the time of one row each

# A row without executions has no minimum yet: what stands in for it is beyond all that can come.
_PAIR_DAILY: Final = """
UPDATE pair_daily SET
    executions = executions + ?,
    successes = successes + ?,
    latency_sum = latency_sum + ?,
    latency_min = min(ifnull(latency_min, 9e999), ?),
    latency_max = max(ifnull(latency_max, -1), ?),
    first_ns = min(ifnull(first_ns, 9223372036854775807), ?),
    last_ns = max(ifnull(last_ns, -1), ?),
    sketch = counts_add(sketch, ?),
    updated_ns = ?
WHERE id = ?
"""

_BUCKETS: Final = [f"le_{bound}" for bound in BUCKETS_MS]
_PAIR_TOTAL: Final = f"""
INSERT INTO pair_total (pair_id, created_ns, executions, successes, latency_sum, latency_min, latency_max,
                        first_used_ns, last_used_ns, {", ".join(_BUCKETS)})
VALUES ({", ".join("?" * (9 + len(_BUCKETS)))})
ON CONFLICT DO UPDATE SET
    executions = executions + excluded.executions,
    successes = successes + excluded.successes,
    latency_sum = latency_sum + excluded.latency_sum,
    latency_min = min(ifnull(latency_min, excluded.latency_min), excluded.latency_min),
    latency_max = max(ifnull(latency_max, excluded.latency_max), excluded.latency_max),
    first_used_ns = min(ifnull(first_used_ns, excluded.first_used_ns), excluded.first_used_ns),
    last_used_ns = max(ifnull(last_used_ns, excluded.last_used_ns), excluded.last_used_ns),
    {", ".join(f"{name} = {name} + excluded.{name}" for name in _BUCKETS)}
"""  # noqa: S608 - the names are ours

_RATED_DAILY: Final = """
UPDATE pair_daily SET r1 = r1 + ?, r2 = r2 + ?, r3 = r3 + ?, r4 = r4 + ?, r5 = r5 + ? WHERE id = ?
"""

_RATED_TOTAL: Final = """
INSERT INTO pair_total (pair_id, created_ns, rating_created_ns, last_rated_ns, r1, r2, r3, r4, r5)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)
ON CONFLICT DO UPDATE SET
    r1 = r1 + excluded.r1, r2 = r2 + excluded.r2, r3 = r3 + excluded.r3, r4 = r4 + excluded.r4, r5 = r5 + excluded.r5,
    rating_created_ns = ifnull(rating_created_ns, excluded.rating_created_ns),
    last_rated_ns = max(ifnull(last_rated_ns, excluded.last_rated_ns), excluded.last_rated_ns)
"""

_HEALTH: Final = """
INSERT INTO skill_health (skill_id, score, at_ns, created_ns) VALUES (?, ?, ?, ?)
ON CONFLICT DO UPDATE SET score = excluded.score, at_ns = excluded.at_ns WHERE excluded.at_ns >= at_ns
"""

# A skill over all orgs, on a day and ever.
_SKILL: Final = """
INSERT INTO {table} ({columns}, executions, successes, latency_sum, latency_min, latency_max, first_ns, last_ns)
VALUES ({places}, ?, ?, ?, ?, ?, ?, ?)
ON CONFLICT DO UPDATE SET
    {sketch}
    executions = executions + excluded.executions,
    successes = successes + excluded.successes,
    latency_sum = latency_sum + excluded.latency_sum,
    latency_min = min(ifnull(latency_min, excluded.latency_min), excluded.latency_min),
    latency_max = max(ifnull(latency_max, excluded.latency_max), excluded.latency_max),
    first_ns = min(ifnull(first_ns, excluded.first_ns), excluded.first_ns),
    last_ns = max(ifnull(last_ns, excluded.last_ns), excluded.last_ns)
"""
_SKILL_DAILY: Final = _SKILL.format(
    table="skill_daily",
    columns="day, skill_no, sketch",
    places="?, ?, ?",
    sketch="sketch = counts_add(sketch, excluded.sketch),",
)
_SKILL_TOTAL: Final = _SKILL.format(table="skill_total", columns="skill_no", places="?", sketch="")

_RATED_SKILL: Final = """
INSERT INTO {table} ({key}, r1, r2, r3, r4, r5) SELECT {values}, ?, ?, ?, ?, ? FROM pair WHERE id = ?
ON CONFLICT DO UPDATE SET
    r1 = r1 + excluded.r1, r2 = r2 + excluded.r2, r3 = r3 + excluded.r3, r4 = r4 + excluded.r4, r5 = r5 + excluded.r5
"""
_RATED_SKILL_DAILY: Final = _RATED_SKILL.format(table="skill_daily", key="day, skill_no", values="?, skill_no")
_RATED_SKILL_TOTAL: Final = _RATED_SKILL.format(table="skill_total", key="skill_no", values="skill_no")

_NEW_DAY: Final = "INSERT INTO pair_daily (day, pair_id) VALUES "
_NEW_DAY_CONFLICT: Final = " ON CONFLICT DO NOTHING"
_DAYS_PER_STATEMENT: Final = 20
_DAYS: Final = "SELECT value, pair_daily.id FROM json_each(?) CROSS JOIN pair_daily ON day = ? AND pair_id = value"

_DAY_CHANGE: Final = "INSERT INTO day_change VALUES (?, 1) ON CONFLICT DO UPDATE SET changes = changes + 1"

_LEDGER: Final = """
INSERT INTO ledger_total (outcome, reason, events) VALUES (?, ?, ?)
ON CONFLICT DO UPDATE SET events = events + excluded.events
"""


class Pairs(dict[tuple[str, str | None], int]):
    """The numbers of (skill, org), made at first sight. Forget them all after a rollback."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db

    def __missing__(self, key: tuple[str, str | None]) -> int:
        found = self._db.execute("SELECT id FROM pair WHERE skill_id = ? AND ifnull(org_id, 0) = ifnull(?, 0)", key)
        number = _first(found) or _inserted(self._db, "INSERT INTO pair (skill_id, org_id) VALUES (?, ?)", key)
        self[key] = number
        return number


class Days(dict[tuple[int, int], int]):
    """The numbers of (day, pair) in pair_daily. Forget them all after a rollback."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db

    def meet(self, keys: Iterable[tuple[int, int]]) -> None:
        """Make or look up the numbers of all these: on a new day they are many at once."""
        new = sorted({key for key in keys if key not in self})
        insert_many(self._db, _NEW_DAY, _NEW_DAY_CONFLICT, 2, _DAYS_PER_STATEMENT, new)
        for day, group in groupby(new, key=itemgetter(0)):
            pairs = f"[{','.join([str(pair) for _, pair in group])}]"
            self.update(((day, pair), number) for pair, number in self._db.execute(_DAYS, (pairs, day)))


class Users(dict[str | None, int]):
    """The numbers of users, made at first sight; None is 0. Forget them all after a rollback."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db

    def __missing__(self, user_id: str | None) -> int:
        number = 0
        if user_id is not None:
            found = self._db.execute("SELECT id FROM user WHERE user_id = ?", (user_id,))
            number = _first(found) or _inserted(self._db, "INSERT INTO user (user_id) VALUES (?)", (user_id,))
        self[user_id] = number
        return number


class Sketches:
    """The sketches of all latencies there ever were, of each pair and of each skill over all orgs.

    They are tables of their own, in two levels: in the totals, which most commits touch all over, they would be most of
    what is written. Forget all after a rollback.
    """

    def __init__(self, db: sqlite3.Connection) -> None:
        self.of_pairs = Levels(db, "pair_sketch", ("pair_id",), "sketch", counts=True)
        self.of_skills = Levels(db, "skill_sketch", ("skill_no",), "sketch", counts=True)

    def settle(self, limit: int) -> bool:
        """Merge up to `limit` rows of a table whose recent part has grown; whether there was one."""
        return self.of_pairs.settle(limit) or self.of_skills.settle(limit)

    def clear(self) -> None:
        """Forget all."""
        self.of_pairs.clear()
        self.of_skills.clear()


def write_events(db: sqlite3.Connection, group: Group) -> int:
    """Insert the group's events; returns the id of the last one, or 0 when there are none."""
    if not group.rows:
        return 0
    insert_many(db, _EVENT, "", _EVENT_COLUMNS, _EVENTS_PER_STATEMENT, group.rows)
    last_id = int(db.execute("SELECT seq FROM sqlite_sequence WHERE name = 'event_log'").fetchone()[0])
    if group.extras:
        first_id = last_id - len(group.rows) + 1
        db.executemany(_EXTRA, [(first_id + index, *texts) for index, *texts in group.extras])
    return last_id


def write_rollups(
    db: sqlite3.Connection, group: Group, days: Days, seen: Seen, sketches: Sketches, now_ns: int
) -> None:
    """Add the group to every rollup; `now_ns` is the daemon's clock."""
    series = group.series()
    days.meet({(part.day, part.pair) for part in series}.union((at // DAY_NS, pair) for pair, at, _ in group.ratings))
    numbers = _numbers(db, {part.pair for part in series})
    usage = group.usage(days)
    seen.add((Uses(*key, by_user) for _, key, by_user in usage), numbers, now_ns // DAY_NS)
    usage_rows = [by_user[user] for _, _, by_user in usage for user in sorted(by_user)]
    insert_many(db, _USAGE, _USAGE_CONFLICT, _USAGE_COLUMNS, _USAGE_PER_STATEMENT, usage_rows)
    _write_series(db, series, numbers, days, sketches, now_ns)
    changed = {part.day for part in series} | {at_ns // DAY_NS for _, at_ns, _ in group.ratings}
    db.executemany(_DAY_CHANGE, [(day,) for day in changed])
    if group.ratings:
        _write_ratings(db, group.ratings, days, now_ns)
    if group.health:
        db.executemany(_HEALTH, [(e.skill_id, e.score, e.recorded_at_ns, now_ns) for e in group.health])


def write_ledger(db: sqlite3.Connection, totals: Totals) -> None:
    """Add a group's counts to the ledger."""
    db.executemany(_LEDGER, [(*slot, events) for slot, events in totals.items() if events])


def mark_day(db: sqlite3.Connection, day: int, first_event_id: int) -> None:
    """Remember a day's first event. Later days are forgotten: a clock that was wrong made them."""
    db.execute("DELETE FROM day_mark WHERE day > ?", (day,))
    db.execute("INSERT INTO day_mark (day, first_event_id) VALUES (?, ?) ON CONFLICT DO NOTHING", (day, first_event_id))


def delete_events(db: sqlite3.Connection, before_day: int, limit: int) -> int:
    """Delete up to `limit` of the events committed before a day, the oldest first; returns how many."""
    (end,) = db.execute("SELECT min(first_event_id) FROM day_mark WHERE day >= ?", (before_day,)).fetchone()
    (first,) = db.execute("SELECT min(id) FROM event_log").fetchone()
    if first is None:
        return 0
    stop = first + limit if end is None else min(first + limit, end)
    db.execute("DELETE FROM event_extra WHERE id < ?", (stop,))
    return db.execute("DELETE FROM event_log WHERE id < ?", (stop,)).rowcount


def _write_series(
    db: sqlite3.Connection,
    daily: Sequence[Series],
    numbers: Mapping[int, Numbers],
    days: Days,
    sketches: Sketches,
    now_ns: int,
) -> None:
    total = totals(daily)
    every = {id(series): series for series in chain(daily, total)}  # that of a pair with a single day is in both
    made = {number: Sketch.of(series.latencies) for number, series in every.items()}
    encoded = {number: sketch.encode() for number, sketch in made.items()}
    db.executemany(_PAIR_DAILY, [(*_sums(s), encoded[id(s)], now_ns, days[s.day, s.pair]) for s in daily])
    db.executemany(_PAIR_TOTAL, [(s.pair, now_ns, *_sums(s), *bucket_counts(s.latencies)) for s in total])
    sketches.of_pairs.insert(sorted((s.pair, encoded[id(s)]) for s in total))

    def joint(part: Sequence[Series]) -> bytes:
        return _joint_sketch([made[id(s)] for s in part])

    by_day = _by(daily, lambda s: (s.day, numbers[s.pair].skill))
    db.executemany(_SKILL_DAILY, [(*key, joint(part), *_joint_sums(part)) for key, part in by_day])
    by_skill = _by(total, lambda s: (numbers[s.pair].skill,))
    db.executemany(_SKILL_TOTAL, [(*key, *_joint_sums(part)) for key, part in by_skill])
    sketches.of_skills.insert([(*key, joint(part)) for key, part in by_skill])


def _by(
    parts: Iterable[Series], key: Callable[[Series], tuple[int, ...]]
) -> list[tuple[tuple[int, ...], list[Series]]]:
    """Those of each key together, in the order of the keys."""
    found: dict[tuple[int, ...], list[Series]] = {}
    for series in parts:
        found.setdefault(key(series), []).append(series)
    return sorted(found.items())


def _numbers(db: sqlite3.Connection, pairs: Iterable[int]) -> dict[int, Numbers]:
    """The numbers of each pair's skill and org."""
    wanted = f"[{','.join(map(str, pairs))}]"
    found = db.execute("SELECT id, skill_no, org_no FROM pair WHERE id IN (SELECT value FROM json_each(?))", (wanted,))
    return {pair: Numbers(skill, org) for pair, skill, org in found}


def _sums(series: Series) -> Sums:
    latencies = series.latencies
    low, high = latencies[0], latencies[-1]
    return len(latencies), series.successes, series.latency_sum, low, high, series.first_ns, series.last_ns


def _joint_sums(parts: Sequence[Series]) -> Sums:
    executions, successes, sums, lows, highs, firsts, lasts = zip(*map(_sums, parts), strict=True)
    return sum(executions), sum(successes), sum(sums), min(lows), max(highs), min(firsts), max(lasts)


def _joint_sketch(parts: Sequence[Sketch]) -> bytes:
    if len(parts) == 1:
        return parts[0].encode()
    joint = Sketch()
    for part in parts:
        joint.merge(part)
    return joint.encode()


def _write_ratings(db: sqlite3.Connection, rated: Iterable[tuple[int, int, int]], days: Days, now_ns: int) -> None:
    daily: dict[tuple[int, int], list[int]] = {}
    total: dict[int, list[int]] = {}
    last_ns: dict[int, int] = {}
    for pair, at_ns, rating in rated:
        daily.setdefault((at_ns // DAY_NS, pair), []).append(rating)
        total.setdefault(pair, []).append(rating)
        last_ns[pair] = max(at_ns, last_ns.get(pair, 0))
    by_day = [(day, pair, rating_counts(ratings)) for (day, pair), ratings in daily.items()]
    by_pair = [(pair, rating_counts(ratings)) for pair, ratings in total.items()]
    db.executemany(_RATED_DAILY, [(*counts, days[day, pair]) for day, pair, counts in by_day])
    db.executemany(_RATED_TOTAL, [(pair, now_ns, now_ns, last_ns[pair], *counts) for pair, counts in by_pair])
    db.executemany(_RATED_SKILL_DAILY, [(day, *counts, pair) for day, pair, counts in by_day])
    db.executemany(_RATED_SKILL_TOTAL, [(*counts, pair) for pair, counts in by_pair])


def _first(found: Iterable[tuple[int]]) -> int | None:
    return next((number for (number,) in found), None)


def _inserted(db: sqlite3.Connection, sql: str, values: tuple[str | int | None, ...]) -> int:
    number = db.execute(sql, values).lastrowid
    assert number is not None
    return number
