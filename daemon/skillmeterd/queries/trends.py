"""Trends: a skill day by day."""

from typing import Final

import msgspec

from skillmeter.results import UsageTrendPoint

from ..seen import OF_SKILL
from ..sketch import Sketch
from . import rollups
from .params import SkillDays
from .reader import Snapshot
from .rollups import PAIR_DAYS, Sums, Target

_USERS_IN_ORG: Final = f"""
SELECT day, (SELECT count(*) FROM user_daily WHERE pair_daily_id = pair_daily.id AND user_no > 0)
FROM {PAIR_DAYS} WHERE pair_id = :no AND day BETWEEN :first AND :last
"""
_USERS: Final = "SELECT day, users FROM skill_daily WHERE skill_no = :no AND day BETWEEN :first AND :last"


def trends(at: Snapshot, asked: SkillDays) -> list[UsageTrendPoint]:
    """A point for each of the last days, the oldest first. Raises QueryError for an unknown skill."""
    target = rollups.known_skill(at, asked.skill_id, asked.org_id)
    first, yesterday = at.today - asked.days + 1, at.today - 1
    over = at.closed(
        ("trend", target.scope, target.no), first, yesterday, lambda: _points(at, target, first, yesterday)
    )
    return [*over, *_points(at, target, at.today, at.today)]


def _points(at: Snapshot, target: Target, first: int, last: int) -> list[UsageTrendPoint]:
    table, key = target.daily
    rows = at.rows(
        f"""SELECT day, executions, successes, latency_sum, latency_min, latency_max, first_ns, last_ns,
            r1, r2, r3, r4, r5, sketch FROM {table} WHERE {key} = :no AND day BETWEEN :first AND :last""",
        no=target.no,
        first=first,
        last=last,
    )
    users = _users(at, target, first, last)
    by_day = {day: _point(day, Sums.of(sums), sketch, users.get(day, 0)) for day, *sums, sketch in rows}
    return [by_day[day] if day in by_day else _day_without_use(day) for day in range(first, last + 1)]


def _users(at: Snapshot, target: Target, first: int, last: int) -> dict[int, int]:
    sql = _USERS if target.scope == OF_SKILL else _USERS_IN_ORG
    return dict(at.rows(sql, no=target.no, first=first, last=last))


def _day_without_use(day: int) -> UsageTrendPoint:
    """Of ten years, most."""
    return msgspec.structs.replace(_NOTHING, day=rollups.date_of(day))


def _point(day: int, sums: Sums, sketch: bytes | None, users: int) -> UsageTrendPoint:
    p50, p95, p99 = (None, None, None) if sketch is None else rollups.percentiles(Sketch.decode(sketch))
    return UsageTrendPoint(
        day=rollups.date_of(day),
        execution_count=sums.executions,
        success_count=sums.successes,
        failure_count=sums.executions - sums.successes,
        success_rate=sums.success_rate,
        unique_users=users,
        avg_latency_ms=sums.avg_latency_ms,
        p50_latency_ms=p50,
        p95_latency_ms=p95,
        p99_latency_ms=p99,
        rating_avg=sums.rating_avg,
        rating_count=sums.rating_count,
    )


_NOTHING: Final = _point(0, Sums(), None, 0)
