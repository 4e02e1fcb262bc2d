"""Parameters: what each question takes, checked, with an error that names what was wrong.

A window of `days` begins with a UTC day and is open: `days=1` begins with today, `days=30` with the day 29 days before.
Events that a client's clock has dated after today are in every window.
"""

from collections.abc import Mapping
from typing import Annotated, Any, Final, TypeVar

import msgspec

from skillmeter.errors import QueryError
from skillmeter.events import MAX_ID_CHARS

METRICS: Final = ("usage_count", "success_rate", "rating", "adoption", "performance")
PERIODS: Final = {"all": None, "daily": 1, "weekly": 7, "monthly": 30}
"""Leaderboard periods and their days: daily is today, UTC."""

MAX_LIMIT: Final = 1000
MAX_DAYS: Final = 3660  # ten years

Id = Annotated[str, msgspec.Meta(min_length=1, max_length=MAX_ID_CHARS)]
Days = Annotated[int, msgspec.Meta(ge=1, le=MAX_DAYS)]
Limit = Annotated[int, msgspec.Meta(ge=1, le=MAX_LIMIT)]


class Params(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base: a question without parameters."""


class Skill(Params, frozen=True):
    """About one skill since ever."""

    skill_id: Id


class SkillInOrg(Skill, frozen=True):
    """About one skill, perhaps within an org."""

    org_id: Id | None = None


class SkillDays(SkillInOrg, frozen=True):
    """About one skill in its last days."""

    days: Days = 30


class Ranking(Params, frozen=True):
    """A leaderboard. `days` stands in for `period`."""

    limit: Limit = 10
    metric: str = "usage_count"
    period: str | None = None
    days: Days | None = None
    org_id: Id | None = None

    def __post_init__(self) -> None:
        _one_of("metric", self.metric, METRICS)
        if self.period is not None:
            _one_of("period", self.period, PERIODS)
            if self.days is not None:
                raise ValueError("give period or days, not both")

    @property
    def window(self) -> tuple[str, int | None]:
        """The period's name, and its days, which are None for all."""
        if self.days is not None:
            return f"{self.days}d", self.days
        period = self.period or "all"
        return period, PERIODS[period]


class ForUser(Params, frozen=True):
    """Recommendations for one user."""

    user_id: Id
    limit: Limit = 5
    org_id: Id | None = None


P = TypeVar("P", bound=Params)


def read(kind: type[P], params: Mapping[str, Any], *, strict: bool = True) -> P:
    """The checked parameters; `strict=False` takes numbers as text, as in a URL. Raises QueryError."""
    _check_names(kind, params)
    try:
        return msgspec.convert(dict(params), kind, strict=strict)
    except msgspec.ValidationError as error:
        message, _, path = str(error).partition(" - at `$.")
        name = path.rstrip("`")
        problem = message.replace("`", "")
        if not strict and problem.endswith("got str"):
            problem = f"{params[name][:40]!r} is not a whole number"
        raise QueryError(f"{name}: {problem[0].lower()}{problem[1:]}" if name else problem) from None


def _check_names(kind: type[Params], params: Mapping[str, Any]) -> None:
    """Raises QueryError for a parameter that is not taken, or is not there."""
    fields = msgspec.structs.fields(kind)
    for name in params.keys() - kind.__struct_fields__:
        taken = f"there are {', '.join(kind.__struct_fields__)}" if fields else "none is taken"
        raise QueryError(f"there is no parameter {name[:40]!r}; {taken}")
    for field in fields:
        if field.required and field.name not in params:
            raise QueryError(f"{field.name} is missing")


def _one_of(name: str, value: str, known: Mapping[str, Any] | tuple[str, ...]) -> None:
    if value not in known:
        raise ValueError(f"{name} must be one of {', '.join(known)}, not {value[:40]!r}")
