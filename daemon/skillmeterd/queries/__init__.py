"""Queries: everything that can be asked of the record, for the client (over ZeroMQ), the command line and HTTP alike.

    queries = Queries(db_path)
    queries.ask("usage", {"skill_id": "parse_json", "days": 7})

They read rollups, never a scan of all events. `METHODS` says what each takes; the answers are skillmeter.results.
"""

import functools
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from skillmeter.errors import QueryError

from . import adoption, detail, leaderboard, producers, recommend, stats, timeline, trends, usage
from .params import ForUser, Params, Ranking, Skill, SkillDays, SkillInOrg, read
from .reader import Reader
from .rollups import known_skill

__all__ = ["METHODS", "Queries"]

METHODS: Final[Mapping[str, tuple[type[Params], Callable[..., Any]]]] = {
    "usage": (SkillDays, usage.usage),
    "metrics": (Skill, usage.metrics),
    "health_score": (Skill, usage.health_score),
    "leaderboard": (Ranking, leaderboard.leaderboard),
    "trends": (SkillDays, trends.trends),
    "recommend": (ForUser, recommend.recommend),
    "adoption": (SkillInOrg, adoption.adoption),
    "db_stats": (Params, stats.db_stats),
    "committed": (producers.Producers, producers.committed),
    "overview": (detail.InOrg, detail.overview),
    "distribution": (SkillDays, detail.distribution),
    "breakdown": (SkillDays, detail.breakdown),
    "orgs": (detail.Names, detail.orgs),
    "skills": (detail.Names, detail.skills),
    "timeline": (SkillDays, timeline.timeline),
    "activity": (timeline.Overall, timeline.activity),
}
"""By name: what a question takes, and who answers it."""


class Queries:
    """Answers from one database. Any thread may ask."""

    def __init__(self, path: Path, clock_ns: Callable[[], int] = time.time_ns) -> None:
        """`clock_ns` says which day is today."""
        self.reader = Reader(path, clock_ns)

    def ask(self, method: str, params: Mapping[str, Any] | None = None, *, strict: bool = True) -> Any:
        """The answer, a struct of skillmeter.results or a list of them.

        `strict=False` takes numbers as text. Raises QueryError for a wrong question, StoreUnavailable, TookTooLong.
        """
        if method not in METHODS:
            raise QueryError(f"there is no query {method[:40]!r}; there are {', '.join(METHODS)}")
        kind, answer = METHODS[method]
        asked = read(kind, params or {}, strict=strict)
        with self.reader.snapshot() as at:
            return answer(at, asked)

    def check_skill(self, skill_id: str) -> None:
        """Raises UnknownSkill if nothing was ever recorded of it, and as `ask`."""
        with self.reader.snapshot() as at:
            known_skill(at, skill_id)

    def methods(self) -> dict[str, Callable[[dict[str, Any]], Any]]:
        """Each by its name, for Answers."""
        return {name: functools.partial(self.ask, name) for name in METHODS}

    def close(self) -> None:
        """Close idle connections. Idempotent."""
        self.reader.close()
