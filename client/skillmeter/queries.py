"""Queries: the calls of a client that ask the daemon. Each waits for the answer, at most for a bound.

All of them raise DaemonUnavailable when no daemon answers, and QueryError, a ValueError, when the arguments are wrong.
A period of days means UTC days and ends with today: 1 is today alone, 30 is today and the 29 days before. An `org_id`
narrows the answer to that org; None does not ask about it.
"""

import os
import time
from typing import Any, Final, TypeVar

import msgspec

from .connection import Connection
from .errors import QueryError
from .results import (
    AdoptionMetrics,
    DbStats,
    LeaderboardEntry,
    SkillMetrics,
    SkillRecommendation,
    SkillUsage,
    UsageTrendPoint,
)

TIMEOUT_S: Final = 5.0  # an answer takes milliseconds
PUSH_TIMEOUT_S: Final = 60.0  # the sinks' receivers are on the network
POLL_S: Final = 0.05
MAX_PARAMS_BYTES: Final = 16_384  # of msgpack: ids have 256 characters at most

T = TypeVar("T")


class Asker:
    """The asking half of a client. Any thread may call it."""

    _connection: Connection
    """Supplied by the subclass."""

    def get_skill_usage(self, skill_id: str, days: int = 30, org_id: str | None = None) -> SkillUsage:
        """How a skill was used. An unknown skill is a QueryError."""
        return self._ask("usage", SkillUsage, skill_id=skill_id, days=days, org_id=org_id)

    def get_skill_metrics(self, skill_id: str) -> SkillMetrics | None:
        """Ratings, health and totals of a skill since ever; None for an unknown one."""
        return self._ask("metrics", SkillMetrics | None, skill_id=skill_id)  # type: ignore[arg-type]

    def compute_health_score(self, skill_id: str) -> float | None:
        """A skill's health from 0 to 100, made from what was recorded; None for a skill without record.

        40 % success rate, 30 % average rating x 20, 20 % min(100, executions in 30 days x 10), 10 % max(0, 100 -
        average milliseconds / 10). A part with no data gives its weight to the others.
        """
        return self._ask("health_score", float | None, skill_id=skill_id)  # type: ignore[arg-type]

    def get_leaderboard(
        self, limit: int = 10, metric: str = "usage_count", period: str = "all", org_id: str | None = None
    ) -> list[LeaderboardEntry]:
        """The first `limit` skills, at most 1,000.

        `metric` is usage_count, success_rate, rating, adoption or performance; `period` is all, daily (today, UTC),
        weekly (7 days) or monthly (30 days).
        """
        return self._ask(
            "leaderboard", list[LeaderboardEntry], limit=limit, metric=metric, period=period, org_id=org_id
        )

    def compute_leaderboard(
        self, metric_type: str = "usage_count", period: str = "all", limit: int = 10, org_id: str | None = None
    ) -> list[LeaderboardEntry]:
        """The same as `get_leaderboard`."""
        return self.get_leaderboard(limit, metric_type, period, org_id)

    def get_top_skills(
        self, limit: int = 10, org_id: str | None = None, period_days: int = 30
    ) -> list[LeaderboardEntry]:
        """The most used skills of the last `period_days` days."""
        return self._ask("leaderboard", list[LeaderboardEntry], limit=limit, org_id=org_id, days=period_days)

    def get_usage_trends(
        self, skill_id: str, period_days: int = 30, org_id: str | None = None
    ) -> list[UsageTrendPoint]:
        """A point for each of the last `period_days` days, the oldest first. An unknown skill is a QueryError."""
        return self._ask("trends", list[UsageTrendPoint], skill_id=skill_id, days=period_days, org_id=org_id)

    def recommend_skills(self, user_id: str, limit: int = 5, org_id: str | None = None) -> list[SkillRecommendation]:
        """Skills that a user has not used: those of users like him first, then those whose use grows."""
        return self._ask("recommend", list[SkillRecommendation], user_id=user_id, limit=limit, org_id=org_id)

    def get_adoption_metrics(self, skill_id: str, org_id: str | None = None) -> AdoptionMetrics:
        """Who uses a skill, and whether they come back. An unknown skill is a QueryError."""
        return self._ask("adoption", AdoptionMetrics, skill_id=skill_id, org_id=org_id)

    def get_db_stats(self) -> DbStats:
        """The database's rows and bytes."""
        return self._ask("db_stats", DbStats)

    def cleanup_old_data(self, retention_days: int) -> int:
        """Delete events that were committed more than `retention_days` days ago; returns how many.

        Rollups and totals stay. The daemon deletes in small steps; this waits for the last of them.
        """
        job = os.urandom(8).hex()
        while True:
            deleted, done = self._ask("cleanup", tuple[int, bool], retention_days=retention_days, job=job)
            if done:
                return deleted
            time.sleep(POLL_S)

    def push(self) -> bool:
        """Have the sinks export now. True only when all of them have."""
        answer = self._ask("push", dict[str, dict[str, bool]], timeout_s=PUSH_TIMEOUT_S)
        return all(answer["sinks"].values())

    def _ask(self, method: str, answer: type[T], timeout_s: float | None = None, **params: object) -> T:
        _check(params)
        return msgspec.convert(self._connection.ask(method, params, timeout_s=timeout_s or TIMEOUT_S), answer)


def _check(params: dict[str, Any]) -> None:
    """Raise QueryError for what cannot even be sent; the daemon checks the rest."""
    for name, value in params.items():
        if not isinstance(value, str | int | float | None):
            raise QueryError(f"{name}: {type(value).__name__} is not a value to ask with")
    try:
        size = len(msgspec.msgpack.encode(params))
    except (UnicodeEncodeError, OverflowError) as error:
        raise QueryError(f"the arguments cannot be sent: {error}") from None
    if size > MAX_PARAMS_BYTES:
        raise QueryError(f"the arguments take {size} bytes; ids have at most 256 characters")
