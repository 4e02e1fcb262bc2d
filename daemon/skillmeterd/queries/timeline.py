"""Timeline: calls over time - of one skill with its latencies, or of all skills at once.

A step is a UTC day. While there is no day but today to show, it is a part of today, made from the newest events.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from skillmeter.results import Result, Time

from ..sketch import Sketch
from . import recent, rollups
from .params import Days, Id, Limit, Params, SkillDays
from .reader import DAY_NS, Snapshot
from .rollups import Target, pairs_by_day

SECOND_NS: Final = 1_000_000_000
DAY_S: Final = 86_400
MAX_DAYS_SHOWN: Final = 366
_OF_ORG: Final = "org_no = :org"
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

    start: Time
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

    start: Time
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
    if calls is not None:
        names = _most_used(at, calls.skills, asked.limit)
        runs = _daily_runs(at, org_no, calls.steps, sorted(names))
    else:
        calls, runs = _calls_of_today(at, org_no)
        names = _most_used(at, calls.skills, asked.limit)
    return Activity(
        executions=calls.executions,
        failures=calls.failures,
        skills=[SkillActivity(skill_id=name, executions=runs[no]) for no, name in names.items()],
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
    """Calls by step: all, and those that failed; and each skill's in all steps together, by its number.

    Not each skill's by step: of a million skills, these would be a billion numbers.
    """

    def __init__(self, steps: _Steps) -> None:
        self.steps = steps
        self.executions = [0] * steps.count
        self.failures = [0] * steps.count
        self.skills: Counter[int] = Counter()

    def add(self, step: int, executions: int, failures: int) -> None:
        self.executions[step] += executions
        self.failures[step] += failures

    def since(self, step: int) -> "_Calls":
        """A copy without the steps before one, in which there were none."""
        start_ns = self.steps.start_ns + step * self.steps.step_s * SECOND_NS
        calls = _Calls(_Steps(start_ns, self.steps.step_s, self.steps.count - step))
        calls.executions, calls.failures = self.executions[step:], self.failures[step:]
        calls.skills = self.skills.copy()
        return calls


Runs = dict[int, list[int]]
"""Executions by step, by the skill's number."""


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


def _of_org(at: Snapshot, org_no: int) -> str:
    if not org_no:
        return "skill_daily WHERE true"
    return f"{pairs_by_day(at, _OF_ORG, org=org_no)} WHERE pair_id = pair.id AND {_OF_ORG}"


def _was_used(at: Snapshot, org_no: int, first: int, last: int) -> bool:
    sql = f"SELECT 1 FROM {_of_org(at, org_no)} AND day BETWEEN :first AND :last AND executions LIMIT 1"
    return at.value(sql, org=org_no, first=first, last=last) is not None


def _count(at: Snapshot, org_no: int, calls: _Calls, first: int, last: int) -> None:
    rows = f"FROM {_of_org(at, org_no)} AND day BETWEEN :first AND :last AND executions"
    window = {"org": org_no, "first": first, "last": last}
    for day, runs, good in at.rows(f"SELECT day, sum(executions), sum(successes) {rows} GROUP BY day", **window):
        calls.add(day - calls.steps.first_day, runs, runs - good)
    calls.skills.update(dict(at.rows(f"SELECT skill_no, sum(executions) {rows} GROUP BY +skill_no", **window)))


def _most_used(at: Snapshot, skills: Counter[int], limit: int) -> dict[int, str]:
    """The names of those with most executions, by number, in that order; of equals the first by name."""
    return rollups.first_by_place(at, {no: -runs for no, runs in skills.items()}, limit, "skill", "no")


def _daily_runs(at: Snapshot, org_no: int, steps: _Steps, numbers: list[int]) -> Runs:
    """Of a few skills. Days that are over are read once."""
    chosen = "skill_no IN (SELECT value FROM json_each(:numbers))"
    if org_no:
        of_org = f"{_OF_ORG} AND {chosen}"
        source = f"{pairs_by_day(at, of_org, org=org_no, numbers=_json(numbers))} WHERE pair_id = pair.id AND {of_org}"
    else:
        source = f"day_change CROSS JOIN skill_daily USING (day) WHERE {chosen}"

    def read(first: int, last: int) -> Runs:
        runs = {no: [0] * (last - first + 1) for no in numbers}
        for no, day, executions in at.rows(
            f"SELECT skill_no, day, executions FROM {source} AND day BETWEEN :first AND :last",
            numbers=_json(numbers),
            org=org_no,
            first=first,
            last=last,
        ):
            runs[no][day - first] = executions
        return runs

    first, yesterday = steps.first_day, at.today - 1
    key = ("activity of", org_no, tuple(numbers))
    over, news = at.closed(key, first, yesterday, lambda: read(first, yesterday)), read(at.today, at.today)
    return {no: [*over[no], *news[no]] for no in numbers}


def _calls_of_today(at: Snapshot, org_no: int) -> tuple[_Calls, Runs]:
    steps, rows = _today(at, "pair.org_no = :no" if org_no else "true", org_no)
    calls, runs = _Calls(steps), defaultdict[int, list[int]](lambda: [0] * steps.count)
    start_ns, step_ns = steps.start_ns, steps.step_s * SECOND_NS
    counted = Counter([((at_ns - start_ns) // step_ns, kind, skill_no) for at_ns, kind, _, skill_no in rows])
    for (step, kind, skill_no), executions in counted.items():  # far fewer than rows
        calls.add(step, executions, 0 if kind else executions)
        calls.skills[skill_no] += executions
        runs[skill_no][step] += executions
    return calls, runs


def _json(numbers: list[int]) -> str:
    return msgspec.json.encode(numbers).decode()


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
