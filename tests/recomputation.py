"""The plain recomputation: what each question has to be answered, from the raw events alone.

It is slow and simple, and shares nothing with the daemon but the names of questions and fields: each formula is written
down here once more, from what is promised to users.
"""

import datetime
import math
import statistics
import string
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from skillmeter.events import Event, Execution, Health, Rating

from .comparison import About, Anything, Bins, Parts

SECOND_NS: Final = 1_000_000_000
DAY_NS: Final = 86_400 * SECOND_NS
EPOCH: Final = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)
PERIODS: Final[Mapping[str, int | None]] = {"all": None, "daily": 1, "weekly": 7, "monthly": 30}
STEPS_S: Final = (1, 2, 5, 10, 30, 60, 120, 300, 600, 1800, 3600)
Z: Final = statistics.NormalDist().inv_cdf(0.975)

Answer = Any


class Unknown(Exception):
    """Nothing was recorded of the skill."""


@dataclass(frozen=True)
class History:
    """What was committed, in that order, and what time it is."""

    events: Sequence[Event]
    now_ns: int
    kept: int
    """How many events, from the end, are still there one by one."""
    commit_days: Sequence[int]
    """The day on which each was committed."""

    @property
    def today(self) -> int:
        """A day is a number, from 1970-01-01 UTC on."""
        return self.now_ns // DAY_NS

    @property
    def latest(self) -> Sequence[Event]:
        """The events that are still there one by one."""
        return self.events[len(self.events) - self.kept :]

    def runs(
        self, skill: str | None = None, org: str | None = None, first: int | None = None, last: int | None = None
    ) -> list[Execution]:
        """Executions: of a skill or all, within an org or all, from a day to another."""
        return [e for e in self.events if isinstance(e, Execution) and _is_meant(e, skill, org, first, last)]

    def ratings(self, skill: str | None = None, org: str | None = None, first: int | None = None) -> list[int]:
        """The stars of the same."""
        return [e.rating for e in self.events if isinstance(e, Rating) and _is_meant(e, skill, org, first, None)]

    def last_days(self, days: int) -> int:
        """The first of them; the last is today."""
        return self.today - days + 1

    def told_since_ns(self, first: int) -> int | None:
        """From when on events are told one by one: None from this day on, unless some committed since are deleted."""
        deleted = self.commit_days[: len(self.events) - self.kept]
        if not deleted or max(deleted) < first:
            return None
        not_ahead = [e.recorded_at_ns for e in self.latest if e.recorded_at_ns <= self.now_ns]
        few = (len(self.latest) - 1) // 100 + 1
        return max(first * DAY_NS, max(not_ahead[:few], default=self.now_ns))

    def known(self, skill: str) -> None:
        """Raises Unknown."""
        if all(event.skill_id != skill for event in self.events):
            raise Unknown(skill)


def _is_meant(
    event: Execution | Rating, skill: str | None, org: str | None, first: int | None, last: int | None
) -> bool:
    day = day_of(event)
    return (
        skill in (None, event.skill_id)
        and org in (None, event.org_id)
        and (first is None or first <= day)
        and (last is None or day <= last)
    )


def day_of(event: Event) -> int:
    """In UTC."""
    return event.recorded_at_ns // DAY_NS


# Arithmetic.


def share(part: float, whole: float) -> float | None:
    """None of nothing."""
    return float(part / whole) if whole else None


def mean(values: Sequence[float]) -> float | None:
    """The sum over the count."""
    return share(sum(values), len(values))


def wilson(runs: Sequence[Execution]) -> tuple[float | None, float | None]:
    """The rates p that the observed one is Z standard errors away from: n (rate - p)^2 = Z^2 p (1 - p), solved."""
    n = len(runs)
    if not n:
        return None, None
    rate = successes(runs) / n
    a, b, c = n + Z * Z, -(2 * n * rate + Z * Z), n * rate * rate
    root = math.sqrt(b * b - 4 * a * c)
    return (-b - root) / (2 * a), (-b + root) / (2 * a)


def quantile(values: Sequence[float], q: float) -> float:
    """The value at rank q (n - 1), rounded down."""
    return sorted(values)[math.floor(q * (len(values) - 1))]


def successes(runs: Iterable[Execution]) -> int:
    """How many."""
    return sum(run.success for run in runs)


def users(runs: Iterable[Execution]) -> set[str]:
    """Who; an absent user is nobody."""
    return {run.user_id for run in runs if run.user_id is not None}


def latencies(runs: Iterable[Execution]) -> list[float]:
    """In milliseconds."""
    return [run.latency_ms for run in runs]


def time_of(at_ns: int | None) -> datetime.datetime | None:
    """To the microsecond."""
    return None if at_ns is None else EPOCH + datetime.timedelta(microseconds=at_ns // 1000)


def _counts(runs: Sequence[Execution]) -> dict[str, Answer]:
    return {
        "execution_count": len(runs),
        "success_count": successes(runs),
        "failure_count": len(runs) - successes(runs),
        "success_rate": share(successes(runs), len(runs)),
        "unique_users": len(users(runs)),
        "avg_latency_ms": mean(latencies(runs)),
    }


def _percentiles(runs: Sequence[Execution]) -> dict[str, Answer]:
    return {
        f"p{percent}_latency_ms": About(quantile(latencies(runs), percent / 100)) if runs else None
        for percent in (50, 95, 99)
    }


def _extremes(runs: Sequence[Execution]) -> dict[str, Answer]:
    times = [run.recorded_at_ns for run in runs]
    return {
        "min_latency_ms": min(latencies(runs), default=None),
        "max_latency_ms": max(latencies(runs), default=None),
        "first_used": time_of(min(times, default=None)),
        "last_used": time_of(max(times, default=None)),
    }


def _interval(runs: Sequence[Execution]) -> dict[str, Answer]:
    low, high = wilson(runs)
    return {"success_rate_low": low, "success_rate_high": high}


def _rated(stars: Sequence[int]) -> dict[str, Answer]:
    return {"rating_avg": mean(stars), "rating_count": len(stars)}


# One skill.


def usage(of: History, skill_id: str, days: int = 30, org_id: str | None = None) -> Answer:
    """A skill in its last days."""
    of.known(skill_id)
    runs = of.runs(skill_id, org_id, of.last_days(days))
    named = {"skill_id": skill_id, "org_id": org_id, "period_days": days}
    return {**named, **_counts(runs), **_percentiles(runs), **_extremes(runs)}


def metrics(of: History, skill_id: str) -> Answer:
    """A skill since ever."""
    try:
        of.known(skill_id)
    except Unknown:
        return None
    runs, stars = of.runs(skill_id), of.ratings(skill_id)
    mine = [event for event in of.events if event.skill_id == skill_id]
    stated = [event for event in mine if isinstance(event, Health)]
    rated = [event.recorded_at_ns for event in mine if isinstance(event, Rating)]
    return {
        "skill_id": skill_id,
        **_rated(stars),
        **{f"rating_{value}_count": stars.count(value) for value in range(1, 6)},
        # The last one; of two of the same time the one that was committed later.
        "health_score": max(reversed(stated), key=lambda event: event.recorded_at_ns).score if stated else None,
        **_counts(runs),
        **_percentiles(runs),
        **_extremes(runs),
        "last_rated": time_of(max(rated, default=None)),
    }


def health_score(of: History, skill_id: str) -> Answer:
    """40 % success, 30 % rating, 20 % use in 30 days, 10 % latency; what is unknown gives its weight to the others."""
    runs, stars = of.runs(skill_id), of.ratings(skill_id)
    parts: list[tuple[int, float]] = []
    if runs:
        recent = len(of.runs(skill_id, None, of.last_days(30)))
        average = sum(latencies(runs)) / len(runs)
        parts.append((40, 100 * successes(runs) / len(runs)))
        parts.append((20, min(100, 10 * recent)))
        parts.append((10, max(0, 100 - average / 10)))
    if stars:
        parts.append((30, 20 * sum(stars) / len(stars)))
    return share(sum(weight * score for weight, score in parts), sum(weight for weight, _ in parts))


def trends(of: History, skill_id: str, days: int = 30, org_id: str | None = None) -> Answer:
    """A point a day, to today."""
    of.known(skill_id)
    runs: dict[int, list[Execution]] = {}
    stars: dict[int, list[int]] = {}
    for event in of.events:
        if isinstance(event, Execution) and _is_meant(event, skill_id, org_id, None, None):
            runs.setdefault(day_of(event), []).append(event)
        elif isinstance(event, Rating) and _is_meant(event, skill_id, org_id, None, None):
            stars.setdefault(day_of(event), []).append(event.rating)
    return [
        {
            "day": datetime.date(1970, 1, 1) + datetime.timedelta(days=day),
            **_counts(runs.get(day, [])),
            **_percentiles(runs.get(day, [])),
            **_rated(stars.get(day, [])),
        }
        for day in range(of.last_days(days), of.today + 1)
    ]


def adoption(of: History, skill_id: str, org_id: str | None = None) -> Answer:
    """Who uses a skill: a week is the last 7 days, a user is active if he was there in the last 30."""
    of.known(skill_id)

    def who(first: int, last: int | None = None) -> set[str]:
        return users(of.runs(skill_id, org_id, of.today - first, None if last is None else of.today - last))

    today, yesterday, this_week, last_week, active = who(0), who(1, 1), who(6), who(13, 7), who(29)
    anywhere = users(of.runs(None, org_id, of.last_days(30)))
    return {
        "skill_id": skill_id,
        "org_id": org_id,
        "users": len(users(of.runs(skill_id, org_id))),
        "users_today": len(today),
        "users_yesterday": len(yesterday),
        "users_this_week": len(this_week),
        "users_last_week": len(last_week),
        "active_users": len(active),
        "active_users_of_any_skill": len(anywhere),
        "share_of_active_users": share(len(active), len(anywhere)),
        "growth_daily": share(len(today) - len(yesterday), len(yesterday)),
        "growth_weekly": share(len(this_week) - len(last_week), len(last_week)),
        "retained_users": len(this_week & last_week),
        "retention": share(len(this_week & last_week), len(last_week)),
    }


def distribution(of: History, skill_id: str, days: int = 30, org_id: str | None = None) -> Answer:
    """Latencies in bins."""
    of.known(skill_id)
    return Bins(latencies(of.runs(skill_id, org_id, of.last_days(days))))


def breakdown(of: History, skill_id: str, days: int = 30, org_id: str | None = None) -> Answer:
    """A skill by users, orgs, error types and stars."""
    of.known(skill_id)
    first = of.last_days(days)
    runs, stars = of.runs(skill_id, org_id, first), of.ratings(skill_id, org_id, first)
    since_ns = of.told_since_ns(first)
    failed = Counter(
        run.error_type
        for run in of.latest
        if isinstance(run, Execution)
        and _is_meant(run, skill_id, org_id, first, None)
        and not run.success
        and run.recorded_at_ns >= (since_ns or 0)
    )
    return {
        **_interval(runs),
        "users": _parts(runs, lambda run: run.user_id),
        "users_since": None,
        "orgs": _parts(runs, lambda run: run.org_id),
        "errors": Parts({name: (count, count) for name, count in failed.items()}),
        "errors_since": time_of(since_ns),
        "ratings": [stars.count(value) for value in range(1, 6)],
    }


def _parts(runs: Sequence[Execution], name: Callable[[Execution], str | None]) -> Parts:
    every = Counter(map(name, runs))
    failed = Counter(name(run) for run in runs if not run.success)
    return Parts({key: (count, failed[key]) for key, count in every.items()})


def timeline(of: History, skill_id: str, days: int = 30, org_id: str | None = None) -> Answer:
    """A skill over time."""
    of.known(skill_id)
    steps, shown = _steps(of, skill_id, org_id, days)
    points = []
    for step in steps:
        runs = [run for run in shown if run.recorded_at_ns in step]
        points.append({"executions": len(runs), "failures": len(runs) - successes(runs), **_percentiles(runs)})
    return {**_said_of(steps), "points": points}


# All skills.


def leaderboard(
    of: History,
    metric: str = "usage_count",
    period: str | None = None,
    days: int | None = None,
    org_id: str | None = None,
    limit: int = 10,
) -> Answer:
    """Skills in the order of a metric; ties go to more executions, then to the name."""
    asked_days = PERIODS[period or "all"] if days is None else days
    first = None if asked_days is None else of.last_days(asked_days)
    every = of.ratings(None, org_id, first)

    def score(skill: str) -> float | None:
        runs, stars = of.runs(skill, org_id, first), of.ratings(skill, org_id, first)
        if metric == "rating":  # drawn towards the mean of all, as if there were ten more ratings of that
            return (10 * sum(every) / len(every) + sum(stars)) / (10 + len(stars)) if stars else None
        if not runs:
            return None
        return {
            "usage_count": float(len(runs)),
            "success_rate": wilson(runs)[0],
            "adoption": float(len(users(runs))) or None,
            "performance": quantile(latencies(runs), 0.95),
        }[metric]

    def place(skill: str) -> tuple[object, ...]:
        runs, score = of.runs(skill, org_id, first), scores[skill]
        if metric == "performance":  # less than a microsecond is nothing; few runs come last
            return len(runs) < 20, score if score >= 0.001 else 0, -len(runs), skill
        return round(-score, 9), -len(runs), skill

    found = {skill: score(skill) for skill in {event.skill_id for event in of.events}}
    scores = {skill: score for skill, score in found.items() if score is not None}
    entries = []
    for rank, skill in enumerate(sorted(scores, key=place)[:limit], 1):
        runs, stars = of.runs(skill, org_id, first), of.ratings(skill, org_id, first)
        counts = _counts(runs)
        entries.append(
            {
                "rank": rank,
                "skill_id": skill,
                "score": About(scores[skill]) if metric == "performance" else scores[skill],
                "executions": len(runs),
                "metric": metric,
                "period": (period or "all") if days is None else f"{days}d",
                **{name: counts[name] for name in ("unique_users", "success_rate", "avg_latency_ms")},
                **_interval(runs),
                **_percentiles(runs),
                **_rated(stars),
            }
        )
    return entries


def recommend(of: History, user_id: str, limit: int = 5, org_id: str | None = None) -> Answer:
    """Skills of the 20 users who share most with this one, by what they share; then those whose use grows."""
    used: dict[str, set[str]] = {}
    for event in of.events:
        if not isinstance(event, Health) and event.user_id is not None:
            used.setdefault(event.user_id, set())  # in the order of who was seen first, if only with a rating
    for run in of.runs(None, org_id):
        if run.user_id is not None:
            used[run.user_id].add(run.skill_id)
    mine = used.get(user_id, set())
    shared = {other: len(mine & skills) for other, skills in used.items() if other != user_id and mine & skills}
    neighbours = sorted(shared, key=lambda other: -shared[other])[:20]
    theirs: dict[str, list[int]] = {}
    for other in neighbours:
        for skill in used[other] - mine:
            theirs.setdefault(skill, []).append(shared[other])
    week = Counter(run.skill_id for run in of.runs(None, org_id, of.last_days(7)))
    before = Counter(run.skill_id for run in of.runs(None, org_id, of.last_days(14), of.today - 7))
    growth = {skill: week[skill] - before[skill] for skill in week if skill not in mine and skill not in theirs}
    collaborative = [
        {"skill_id": skill, "score": float(sum(theirs[skill])), "kind": "collaborative", "reason": _why(theirs[skill])}
        for skill in sorted(theirs, key=lambda skill: (-sum(theirs[skill]), -len(theirs[skill]), skill))
    ]
    trending = [
        {
            "skill_id": skill,
            "score": float(growth[skill]),
            "kind": "trending",
            "reason": f"{week[skill]} execution{'s' * (week[skill] != 1)} in the last 7 days, {before[skill]} in the 7"
            " days before",
        }
        for skill in sorted(growth, key=lambda skill: (-growth[skill], skill))
        if growth[skill] > 0
    ]
    return [*collaborative, *trending][:limit]


def _why(shared: Sequence[int]) -> str:
    most = f"{max(shared)} skill{'s' * (max(shared) != 1)} with this one"
    if len(shared) == 1:
        return f"used by 1 user who shares {most}"
    return f"used by {len(shared)} users who share {'up to ' * (max(shared) > 1)}{most}"


def overview(of: History, days: int = 30, org_id: str | None = None) -> Answer:
    """All skills together."""
    first = of.last_days(days)
    runs = of.runs(None, org_id, first)
    return {
        "executions": len(runs),
        "failures": len(runs) - successes(runs),
        "success_rate": share(successes(runs), len(runs)),
        **_interval(runs),
        "avg_latency_ms": mean(latencies(runs)),
        "skills": len({run.skill_id for run in runs}),
        "unique_users": len(users(runs)),
        **_rated(of.ratings(None, org_id, first)),
    }


def activity(of: History, days: int = 30, org_id: str | None = None, limit: int = 100) -> Answer:
    """All skills over time, and the most used ones."""
    steps, shown = _steps(of, None, org_id, days)

    def by_step(runs: Sequence[Execution]) -> list[int]:
        return [sum(run.recorded_at_ns in step for run in runs) for step in steps]

    total = Counter(run.skill_id for run in shown)
    return {
        **_said_of(steps),
        "executions": by_step(shown),
        "failures": by_step([run for run in shown if not run.success]),
        "skills": [
            {"skill_id": skill, "executions": by_step([run for run in shown if run.skill_id == skill])}
            for skill in sorted(total, key=lambda skill: (-total[skill], skill))[:limit]
        ],
    }


def _steps(of: History, skill: str | None, org: str | None, days: int) -> tuple[list[range], list[Execution]]:
    """Parts of time, in nanoseconds, and the executions in them.

    Days, from the first one with an execution on, at most 366 of them. If that is today, the shortest parts of an hour
    that are not more than 60, from the first execution until now.
    """
    past = of.runs(skill, org, of.last_days(days), of.today - 1)
    if past:
        first = max(min(map(day_of, past)), of.today - 365)
        steps = [range(day * DAY_NS, (day + 1) * DAY_NS) for day in range(first, of.today + 1)]
    else:
        begin = min((run.recorded_at_ns for run in _of_today(of, skill, org)), default=of.now_ns)
        length = next(s * SECOND_NS for s in STEPS_S if of.now_ns - begin < 59 * s * SECOND_NS or s == STEPS_S[-1])
        steps = [range(at, at + length) for at in range(begin // length * length, of.now_ns + 1, length)]
        return steps, _of_today(of, skill, org)
    return steps, [run for run in of.runs(skill, org) if steps[0][0] <= run.recorded_at_ns <= steps[-1][-1]]


def _of_today(of: History, skill: str | None, org: str | None) -> list[Execution]:
    return [run for run in of.runs(skill, org, of.today) if run.recorded_at_ns <= of.now_ns]


def _said_of(steps: Sequence[range]) -> dict[str, Answer]:
    return {"start": time_of(steps[0][0]), "step_s": len(steps[0]) // SECOND_NS, "is_complete": True}


def db_stats(of: History) -> Answer:
    """Rows, and names that were ever seen."""
    named = [event for event in of.events if not isinstance(event, Health)]
    return {
        "path": Anything(),
        "schema_version": Anything(),
        "events": of.kept,
        "skills": len({event.skill_id for event in of.events}),
        "orgs": len({event.org_id for event in named} - {None}),
        "users": len({event.user_id for event in named} - {None}),
        "producers": Anything(),
        "database_bytes": Anything(),
        "wal_bytes": Anything(),
        "free_bytes": Anything(),
        "oldest": time_of(of.latest[0].recorded_at_ns if of.kept else None),
        "newest": time_of(of.latest[-1].recorded_at_ns if of.kept else None),
    }


def orgs(of: History, after: str = "", find: str = "", limit: int = 1000) -> Answer:
    """Those that were named, in order."""
    named = {event.org_id for event in of.events if not isinstance(event, Health)}
    return _names({org for org in named if org is not None}, after, find, limit)


def skills(of: History, after: str = "", find: str = "", limit: int = 1000) -> Answer:
    """Those that were named, in order."""
    return _names({event.skill_id for event in of.events}, after, find, limit)


def _names(named: Iterable[str], after: str, find: str, limit: int) -> Answer:
    return sorted(name for name in named if name > after and _lower(find) in _lower(name))[:limit]


def _lower(text: str) -> str:
    return text.translate({ord(letter): letter.lower() for letter in string.ascii_uppercase})


ANSWERS: Final[Mapping[str, Callable[..., Answer]]] = {
    answer.__name__: answer
    for answer in (
        *(usage, metrics, health_score, leaderboard, trends, recommend, adoption, db_stats),
        *(overview, distribution, breakdown, orgs, skills, timeline, activity),
    )
}
"""By the name of the question."""
