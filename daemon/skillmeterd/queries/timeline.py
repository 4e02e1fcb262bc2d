"""Timeline: calls over time - of one skill with its latencies, or of all skills at once.

A step is a UTC day. While there is no day but today to show, it is a part of today, made from the newest events.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from skillmeter.results import Result

from ..sketch import Sketch
from . import recent, rollups
from .params import Days, Id, Limit, Params, SkillDays
from .reader import DAY_NS, Snapshot
from .rollups import Target

SECOND_NS: Final = 1_000_000_000
DAY_S: Final = 86_400
MAX_DAYS_SHOWN: Final = 366
MAX_STEPS: Final = 60  # in a part of a day
STEPS_S: Final = (1, 2, 5, 10, 30, 60, 120, 300, 600, 1800, 3600)


class Overall(Params, frozen=True):
    """About all skills in the last days; `limit` of them one by one."""

    org_id: Id | None = None
    days: Days = 30
    limit: Limit = 100


class TimelinePoint(Result, frozen=True):
    """One step of a skill."""

    executions: int
    failures: int
    p50_latency_ms: float | None
    p95_latency_ms: float | None
    p99_latency_ms: float | None


class Timeline(Result, frozen=True):
    """A skill over time: equal steps without gaps. The last one holds now."""

    start: datetime
    """Where the first step begins."""
    step_s: int
    """A day, or less while there is none but today."""
    is_complete: bool
    """False if there were more events than are looked at: the first step then begins where the look does."""
    points: list[TimelinePoint]


class SkillActivity(Result, frozen=True):
    """A skill's executions, step by step."""

    skill_id: str
    executions: list[int]


class Activity(Result, frozen=True):
    """All skills over time; `start`, `step_s` and `is_complete` as in Timeline."""

    start: datetime
    step_s: int
    is_complete: bool
    executions: list[int]
    failures: list[int]
    skills: list[SkillActivity]
    """Those with most executions in these steps."""


@dataclass(frozen=True, slots=True)
class _Steps:
    """Equal parts of time, the first beginning at `start_ns`."""

    start_ns: int
    step_s: int
    count: int
    is_complete: bool = True

    @classmethod
    def of_days(cls, first_day: int, today: int) -> "_Steps":
        first_day = max(first_day, today - MAX_DAYS_SHOWN + 1)
        return cls(first_day * DAY_NS, DAY_S, today - first_day + 1)

    @classmethod
    def of_span(cls, first_ns: int, now_ns: int, *, is_complete: bool) -> "_Steps":
        """The shortest steps that are not too many."""
        step_s = next(s for s in STEPS_S if (now_ns - first_ns) < s * SECOND_NS * (MAX_STEPS - 1) or s == STEPS_S[-1])
        step_ns = step_s * SECOND_NS
        start_ns = first_ns // step_ns * step_ns
        return cls(start_ns, step_s, (now_ns - start_ns) // step_ns + 1, is_complete)

    @property
    def first_day(self) -> int:
        return self.start_ns // DAY_NS

    def at(self, at_ns: int) -> int:
        """The number of the step that a time is in."""
        return (at_ns - self.start_ns) // (self.step_s * SECOND_NS)

    def answer(self) -> dict[str, Any]:
        """What every answer says of its steps."""
        return {"start": rollups.time_of(self.start_ns), "step_s": self.step_s, "is_complete": self.is_complete}


def timeline(at: Snapshot, asked: SkillDays) -> Timeline:
    """One skill. Raises QueryError for an unknown one."""
    target = rollups.known_skill(at, asked.skill_id, asked.org_id)
    table, key = target.daily
    first_day = at.value(
        f"SELECT min(day) FROM {table} WHERE {key} = :no AND day >= :first AND executions",
        no=target.no,
        first=at.today - asked.days + 1,
    )
    if first_day is not None and first_day < at.today:
        steps = _Steps.of_days(first_day, at.today)
        points = _daily_points(at, target, steps)
    else:
        steps, rows = _today(at, target.pairs, target.no)
        points = _recent_points(steps, rows)
    return Timeline(points=points, **steps.answer())


def activity(at: Snapshot, asked: Overall) -> Activity:
    """All skills, over all orgs or within one."""
    org_no = _org_no(at, asked.org_id)
    calls = _daily_calls(at, org_no, at.today - asked.days + 1)
    if calls is None:
        calls = _calls_of_today(at, org_no)
    names = dict(at.rows("SELECT no, skill_id FROM skill"))
    most = sorted(calls.skills, key=lambda no: (-sum(calls.skills[no]), names[no]))[: asked.limit]
    return Activity(
        executions=calls.executions,
        failures=calls.failures,
        skills=[SkillActivity(skill_id=names[no], executions=calls.skills[no]) for no in most],
        **calls.steps.answer(),
    )


# One skill.


def _daily_points(at: Snapshot, target: Target, steps: _Steps) -> list[TimelinePoint]:
    """Days that are over are summed up once."""
    first, yesterday = steps.first_day, at.today - 1
    over = at.closed(
        ("timeline", target.scope, target.no), first, yesterday, lambda: _days(at, target, first, yesterday)
    )
    return [*over, *_days(at, target, at.today, at.today)]


def _days(at: Snapshot, target: Target, first: int, last: int) -> list[TimelinePoint]:
    table, key = target.daily
    rows = at.rows(
        f"SELECT day, executions, successes, sketch FROM {table} WHERE {key} = :no AND day BETWEEN :first AND :last",
        no=target.no,
        first=first,
        last=last,
    )
    found = {
        day: _point(runs, runs - good, Sketch() if sketch is None else Sketch.decode(sketch))
        for day, runs, good, sketch in rows
    }
    nothing = _point(0, 0, Sketch())
    return [found.get(day, nothing) for day in range(first, last + 1)]


def _recent_points(steps: _Steps, rows: Iterable[tuple[int, int, float, int]]) -> list[TimelinePoint]:
    latencies: defaultdict[int, list[float]] = defaultdict(list)
    failures: Counter[int] = Counter()
    for at_ns, kind, latency_ms, _ in rows:
        latencies[steps.at(at_ns)].append(latency_ms)
        failures[steps.at(at_ns)] += not kind
    return [_point(len(latencies[step]), failures[step], Sketch.of(latencies[step])) for step in range(steps.count)]


def _point(executions: int, failures: int, latencies: Sketch) -> TimelinePoint:
    p50, p95, p99 = rollups.percentiles(latencies)
    return TimelinePoint(
        executions=executions, failures=failures, p50_latency_ms=p50, p95_latency_ms=p95, p99_latency_ms=p99
    )


# All skills.


class _Calls:
    """Calls by step: all, those that failed, and all of each skill by its number."""

    def __init__(self, steps: _Steps) -> None:
        self.steps = steps
        self.executions = [0] * steps.count
        self.failures = [0] * steps.count
        self.skills: dict[int, list[int]] = {}

    def add(self, skill_no: int, step: int, executions: int, failures: int) -> None:
        self.executions[step] += executions
        self.failures[step] += failures
        if skill_no not in self.skills:
            self.skills[skill_no] = [0] * self.steps.count
        self.skills[skill_no][step] += executions

    def since(self, step: int) -> "_Calls":
        """A copy without the steps before one."""
        start_ns = self.steps.start_ns + step * self.steps.step_s * SECOND_NS
        calls = _Calls(_Steps(start_ns, self.steps.step_s, self.steps.count - step))
        calls.executions, calls.failures = self.executions[step:], self.failures[step:]
        calls.skills = {no: runs[step:] for no, runs in self.skills.items()}
        return calls


def _org_no(at: Snapshot, org_id: str | None) -> int:
    """An org's number: 0 stands for all orgs, -1 for one that nobody knows."""
    if org_id is None:
        return 0
    return at.value("SELECT no FROM org WHERE org_id = :org", org=org_id) or -1


def _daily_calls(at: Snapshot, org_no: int, first_day: int) -> _Calls | None:
    """From the first day with a call on; None: there was none before today. Days that are over are read once."""
    steps = _Steps.of_days(first_day, at.today)
    yesterday = at.today - 1

    def over() -> _Calls | None:
        calls = _Calls(steps)
        _count(at, org_no, calls, steps.first_day, yesterday)
        used = next((step for step, runs in enumerate(calls.executions) if runs), None)
        if _was_used(at, org_no, first_day, steps.first_day - 1):
            used = 0
        return None if used is None else calls.since(used)

    found = at.closed(("activity", org_no), first_day, yesterday, over)  # the days before the steps matter too
    if found is None:
        return None
    calls = found.since(0)
    _count(at, org_no, calls, at.today, at.today)
    return calls


def _of_org(org_no: int) -> str:
    return "pair JOIN pair_daily ON pair_id = pair.id WHERE org_no = :org" if org_no else "skill_daily WHERE true"


def _was_used(at: Snapshot, org_no: int, first: int, last: int) -> bool:
    sql = f"SELECT 1 FROM {_of_org(org_no)} AND day BETWEEN :first AND :last AND executions LIMIT 1"
    return at.value(sql, org=org_no, first=first, last=last) is not None


def _count(at: Snapshot, org_no: int, calls: _Calls, first: int, last: int) -> None:
    first_step = calls.steps.first_day
    for skill_no, day, runs, good in at.rows(
        f"SELECT skill_no, day, executions, successes FROM {_of_org(org_no)}"
        " AND day BETWEEN :first AND :last AND executions",
        org=org_no,
        first=first,
        last=last,
    ):
        calls.add(skill_no, day - first_step, runs, runs - good)


def _calls_of_today(at: Snapshot, org_no: int) -> _Calls:
    steps, rows = _today(at, "pair.org_no = :no" if org_no else "true", org_no)
    calls = _Calls(steps)
    for at_ns, kind, _, skill_no in rows:
        calls.add(skill_no, steps.at(at_ns), 1, int(not kind))
    return calls


# Today, from the events themselves.


def _today(at: Snapshot, of_pairs: str, no: int) -> tuple[_Steps, list[tuple[int, int, float, int]]]:
    """Today's executions, as far as the look reaches: (at_ns, kind, latency, skill number), and the steps they fill."""
    look = recent.since(at, at.today * DAY_NS)
    rows = at.rows(
        f"""SELECT at_ns, kind, value, skill_no FROM event_log JOIN pair ON pair.id = pair_id
            WHERE event_log.id > :after AND kind < 2 AND at_ns BETWEEN :since AND :now AND {of_pairs}""",
        after=look.after_id,
        since=look.since_ns,
        now=at.now_ns,
        no=no,
    )
    first_ns = min((row[0] for row in rows), default=at.now_ns)
    return _Steps.of_span(first_ns, at.now_ns, is_complete=look.is_complete), rows
