"""Results: what queries answer, as typed structs. The daemon fills them in, and they travel as they are.

Unless its name says otherwise, a count is of executions, a latency is in milliseconds, a rate is a share from 0 to 1,
a time is UTC, and None means that there is nothing to say it from.
"""

import datetime
from typing import Annotated, Any

import msgspec

Time = Annotated[datetime.datetime, msgspec.Meta(tz=True)]
"""A datetime that knows its time zone."""


class Result(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=False):
    """Base of all results."""

    def to_dict(self) -> dict[str, Any]:
        """Plain data: what `json.dumps` takes, times as ISO 8601."""
        plain: dict[str, Any] = msgspec.to_builtins(self)
        return plain


class SkillUsage(Result, frozen=True):
    """How a skill was used in the last `period_days` UTC days, today included."""

    skill_id: str
    org_id: str | None
    """The org that was asked for; None: over all of them."""
    period_days: int
    execution_count: int
    success_count: int
    failure_count: int
    success_rate: float | None
    unique_users: int
    avg_latency_ms: float | None
    min_latency_ms: float | None
    max_latency_ms: float | None
    p50_latency_ms: float | None
    """This and the next two are within 1 %: see skillmeterd.sketch."""
    p95_latency_ms: float | None
    p99_latency_ms: float | None
    first_used: Time | None
    """In the period, as is the next."""
    last_used: Time | None


class SkillMetrics(Result, frozen=True):
    """What is known of a skill since it was first seen, over all orgs."""

    skill_id: str
    rating_avg: float | None
    rating_count: int
    rating_1_count: int
    rating_2_count: int
    rating_3_count: int
    rating_4_count: int
    rating_5_count: int
    health_score: float | None
    """What `update_health_score` said last, 0 to 100; `compute_health_score` says what the record says."""
    execution_count: int
    success_count: int
    failure_count: int
    success_rate: float | None
    unique_users: int
    avg_latency_ms: float | None
    min_latency_ms: float | None
    max_latency_ms: float | None
    p50_latency_ms: float | None
    p95_latency_ms: float | None
    p99_latency_ms: float | None
    first_used: Time | None
    last_used: Time | None
    last_rated: Time | None


class LeaderboardEntry(Result, frozen=True):
    """A skill's place. `score` is what it was ranked by; see skillmeterd.queries.leaderboard for each metric's."""

    rank: int
    skill_id: str
    score: float
    executions: int
    unique_users: int
    metric: str
    period: str
    """"all", "daily", "weekly", "monthly", or a number of days: "14d"."""
    success_rate: float | None
    success_rate_low: float | None
    """With the next: where the true rate lies, with 95 % confidence."""
    success_rate_high: float | None
    avg_latency_ms: float | None
    p50_latency_ms: float | None
    p95_latency_ms: float | None
    p99_latency_ms: float | None
    rating_avg: float | None
    rating_count: int


class UsageTrendPoint(Result, frozen=True):
    """One UTC day of a skill; a day without use is all zeros."""

    day: datetime.date
    execution_count: int
    success_count: int
    failure_count: int
    success_rate: float | None
    unique_users: int
    avg_latency_ms: float | None
    p50_latency_ms: float | None
    p95_latency_ms: float | None
    p99_latency_ms: float | None
    rating_avg: float | None
    rating_count: int


class SkillRecommendation(Result, frozen=True):
    """A skill that a user has not used yet, and why it may suit. Scores compare within one kind."""

    skill_id: str
    score: float
    kind: str
    """"collaborative" or "trending"."""
    reason: str


class AdoptionMetrics(Result, frozen=True):
    """Who uses a skill. Days are UTC, weeks the last 7 of them, today included."""

    skill_id: str
    org_id: str | None
    users: int
    """Since ever."""
    users_today: int
    users_yesterday: int
    users_this_week: int
    users_last_week: int
    """In the 7 days before this week."""
    active_users: int
    """Who used this skill in the last 30 days."""
    active_users_of_any_skill: int
    share_of_active_users: float | None
    growth_daily: float | None
    """(today - yesterday) / yesterday; None without users yesterday."""
    growth_weekly: float | None
    retained_users: int
    """Of last week's users, those who came back this week."""
    retention: float | None


class DbStats(Result, frozen=True):
    """The database's size. Times are those of events, rows those of tables."""

    path: str
    schema_version: int
    events: int
    skills: int
    orgs: int
    users: int
    producers: int
    database_bytes: int
    wal_bytes: int
    free_bytes: int
    """In the database file, for reuse."""
    oldest: Time | None
    """When the first event that is still kept was recorded; the next: the last one, in the order of commits."""
    newest: Time | None
