"""Usage: one skill in a window of days, since ever, and its health."""

from skillmeter.results import SkillMetrics, SkillUsage

from ..seen import OF_SKILL
from . import formulas, rollups
from .params import Skill, SkillDays
from .reader import Snapshot

HEALTH_DAYS = 30


def usage(at: Snapshot, asked: SkillDays) -> SkillUsage:
    """A skill in its last days. Raises QueryError for an unknown one."""
    target = rollups.known_skill(at, asked.skill_id, asked.org_id)
    first_day = at.today - asked.days + 1
    sums = rollups.sums(at, target, first_day)
    p50, p95, p99 = rollups.percentiles(rollups.sketch(at, target, first_day))
    return SkillUsage(
        skill_id=asked.skill_id,
        org_id=asked.org_id,
        period_days=asked.days,
        execution_count=sums.executions,
        success_count=sums.successes,
        failure_count=sums.executions - sums.successes,
        success_rate=sums.success_rate,
        unique_users=rollups.unique_users(at, target.scope, target.no, first_day),
        avg_latency_ms=sums.avg_latency_ms,
        min_latency_ms=sums.latency_min,
        max_latency_ms=sums.latency_max,
        p50_latency_ms=p50,
        p95_latency_ms=p95,
        p99_latency_ms=p99,
        first_used=rollups.time_of(sums.first_ns),
        last_used=rollups.time_of(sums.last_ns),
    )


def metrics(at: Snapshot, asked: Skill) -> SkillMetrics | None:
    """A skill since ever, or None for an unknown one."""
    target = rollups.skill(at, asked.skill_id)
    if target is None:
        return None
    sums = rollups.total(at, target)
    p50, p95, p99 = rollups.percentiles(rollups.total_sketch(at, target))
    one, two, three, four, five = sums.ratings
    return SkillMetrics(
        skill_id=asked.skill_id,
        rating_avg=sums.rating_avg,
        rating_count=sums.rating_count,
        rating_1_count=one,
        rating_2_count=two,
        rating_3_count=three,
        rating_4_count=four,
        rating_5_count=five,
        health_score=at.value("SELECT score FROM skill_health WHERE skill_id = :skill_id", skill_id=asked.skill_id),
        execution_count=sums.executions,
        success_count=sums.successes,
        failure_count=sums.executions - sums.successes,
        success_rate=sums.success_rate,
        unique_users=rollups.unique_users(at, OF_SKILL, target.no),
        avg_latency_ms=sums.avg_latency_ms,
        min_latency_ms=sums.latency_min,
        max_latency_ms=sums.latency_max,
        p50_latency_ms=p50,
        p95_latency_ms=p95,
        p99_latency_ms=p99,
        first_used=rollups.time_of(sums.first_ns),
        last_used=rollups.time_of(sums.last_ns),
        last_rated=rollups.time_of(
            at.value(
                "SELECT max(last_rated_ns) FROM pair JOIN pair_total ON pair_id = pair.id WHERE skill_no = :no",
                no=target.no,
            )
        ),
    )


def health_score(at: Snapshot, asked: Skill) -> float | None:
    """A skill's health from 0 to 100, by `formulas.health`; None for a skill that was never executed nor rated.

    Success rate, rating and latency are those since ever; only the third part looks at 30 days.
    """
    target = rollups.skill(at, asked.skill_id)
    if target is None:
        return None
    ever = rollups.total(at, target)
    recent = rollups.sums(at, target, at.today - HEALTH_DAYS + 1).executions if ever.executions else None
    return formulas.health(ever.success_rate, ever.rating_avg, recent, ever.avg_latency_ms)
