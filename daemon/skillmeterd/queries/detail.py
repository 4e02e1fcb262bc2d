"""Detail: what a page shows beside a board and a skill's numbers - totals, parts, the distribution, names to choose."""

import heapq
from collections import Counter
from datetime import datetime
from typing import Final

import msgspec

from skillmeter.results import Result, Time

from ..seen import EVERYWHERE, IN_ORG, OF_SKILL
from ..sketch import GAMMA, SMALLEST, ZERO_BIN
from . import recent, rollups
from .board import Board
from .formulas import share, wilson
from .params import Days, Id, Limit, Params, SkillDays
from .reader import DAY_NS, Snapshot
from .rollups import Target

MAX_BINS: Final = 40
MAX_PARTS: Final = 10
MAX_USES: Final = 3_000  # a use is a user's on a day: they lie apart, and are read in about 15 ms
_NEVER: Final = 2**31  # a day after all others


class InOrg(Params, frozen=True):
    """About everything in the last days, perhaps within an org."""

    org_id: Id | None = None
    days: Days = 30


class Names(Params, frozen=True):
    """Names in their order, from after one on: the last of an answer is where the next begins.

    Those that have `find` in them, where A to Z are the same as a to z.
    """

    after: str = ""
    find: Id | None = None
    limit: Limit = 1000


class Overview(Result, frozen=True):
    """All skills together."""

    executions: int
    failures: int
    success_rate: float | None
    success_rate_low: float | None
    """With the next: where the true rate lies, with 95 % confidence."""
    success_rate_high: float | None
    avg_latency_ms: float | None
    skills: int
    """That were executed."""
    unique_users: int
    rating_avg: float | None
    rating_count: int


class Bin(Result, frozen=True):
    """Executions that took more than `from_ms` and at most `to_ms`."""

    from_ms: float
    to_ms: float
    executions: int


class Part(Result, frozen=True):
    """A user's, an org's or an error type's part. The name is None where none was given."""

    name: str | None
    executions: int
    failures: int


class Breakdown(Result, frozen=True):
    """A skill by its parts, the largest first, at most ten of each."""

    success_rate_low: float | None
    """With the next: where the true rate lies, with 95 % confidence."""
    success_rate_high: float | None
    users: list[Part]
    users_since: Time | None
    """From when on users are counted, if the skill had more than are looked at; None: all of the period."""
    orgs: list[Part]
    errors: list[Part]
    """Failures by their error type."""
    errors_since: Time | None
    """From when on errors are counted, if there were more events than are looked at; None: all of the period."""
    ratings: list[int]
    """How many ones, twos, threes, fours and fives."""


def overview(at: Snapshot, asked: InOrg) -> Overview:
    """All skills, over all orgs or within one."""
    first_day = at.today - asked.days + 1
    counts = Board(at, asked.org_id, first_day).counts.values()
    executions, successes = sum(known.executions for known in counts), sum(known.successes for known in counts)
    ratings = sum(known.rating_count for known in counts)
    low, high = wilson(successes, executions) if executions else (None, None)
    org_no = at.value("SELECT no FROM org WHERE org_id = :org", org=asked.org_id)
    return Overview(
        executions=executions,
        failures=executions - successes,
        success_rate=share(successes, executions),
        success_rate_low=low,
        success_rate_high=high,
        avg_latency_ms=share(sum(known.latency_sum for known in counts), executions),
        skills=sum(1 for known in counts if known.executions),
        unique_users=rollups.unique_users(
            at, EVERYWHERE if asked.org_id is None else IN_ORG, 0 if asked.org_id is None else org_no or -1, first_day
        ),
        rating_avg=share(sum(known.rating_sum for known in counts), ratings),
        rating_count=ratings,
    )


def distribution(at: Snapshot, asked: SkillDays) -> list[Bin]:
    """A skill's latencies in bins of equal ratio, without gaps. Raises QueryError for an unknown skill."""
    target = rollups.known_skill(at, asked.skill_id, asked.org_id)
    counted = dict(rollups.sketch(at, target, at.today - asked.days + 1).bins)
    at_once = counted.pop(ZERO_BIN, 0)
    bins = [Bin(from_ms=0.0, to_ms=SMALLEST, executions=at_once)] if at_once else []
    if counted:
        lowest, highest = min(counted), max(counted)
        width = -(-(highest - lowest + 1) // MAX_BINS)
        joint = Counter[int]()
        for bin_, executions in counted.items():
            joint[(bin_ - lowest) // width] += executions
        for group in range(max(joint) + 1):
            end = lowest + (group + 1) * width - 1
            bins.append(Bin(from_ms=GAMMA ** (end - width), to_ms=GAMMA**end, executions=joint[group]))
    return bins


def breakdown(at: Snapshot, asked: SkillDays) -> Breakdown:
    """A skill by users, orgs, error types and stars. Raises QueryError for an unknown skill."""
    target = rollups.known_skill(at, asked.skill_id, asked.org_id)
    first_day = at.today - asked.days + 1
    sums = rollups.sums(at, target, first_day)
    low, high = wilson(sums.successes, sums.executions) if sums.executions else (None, None)
    users, users_since = _users(at, target, first_day)
    errors, errors_since = _errors(at, target, first_day)
    return Breakdown(
        success_rate_low=low,
        success_rate_high=high,
        users=users,
        users_since=users_since,
        orgs=_orgs(at, target, first_day),
        errors=errors,
        errors_since=errors_since,
        ratings=list(sums.ratings),
    )


def orgs(at: Snapshot, asked: Names) -> list[str]:
    """The orgs there are."""
    return _names(at, "org", "org_id", asked)


def skills(at: Snapshot, asked: Names) -> list[str]:
    """The skills there are."""
    return _names(at, "skill", "skill_id", asked)


def _names(at: Snapshot, table: str, name: str, asked: Names) -> list[str]:
    rows = at.rows(
        f"""SELECT {name} FROM {table}
            WHERE {name} > :after AND (:find IS NULL OR instr(lower({name}), lower(:find)))
            ORDER BY {name} LIMIT :limit""",
        **msgspec.structs.asdict(asked),
    )
    return [found for (found,) in rows]


def _users(at: Snapshot, target: Target, first_day: int) -> tuple[list[Part], datetime | None]:
    """Days that are over are summed up once; of a skill with very many users, only the last ones."""
    from_day = max(first_day, _day_within(at, target, MAX_USES))

    source = rollups.pairs_by_day(at, target.pairs, no=target.no)

    def counted(first: int, last: int) -> list[tuple[int, int, int]]:
        return at.rows(
            f"""SELECT user_no, sum(user_daily.executions), sum(user_daily.executions - user_daily.successes)
                FROM {source} CROSS JOIN user_daily ON pair_daily_id = pair_daily.id
                WHERE pair_id = pair.id AND {target.pairs} AND day BETWEEN :first AND :last GROUP BY user_no""",
            no=target.no,
            first=first,
            last=last,
        )

    over = at.closed(
        ("parts of users", target.scope, target.no), from_day, at.today - 1, lambda: counted(from_day, at.today - 1)
    )
    joint = {user_no: (runs, failed) for user_no, runs, failed in over}
    for user_no, runs, failed in counted(at.today, _NEVER):
        before = joint.get(user_no, (0, 0))
        joint[user_no] = before[0] + runs, before[1] + failed
    most = heapq.nsmallest(MAX_PARTS, joint, key=lambda no: (-joint[no][0], no))
    parts = [
        Part(
            name=at.value("SELECT user_id FROM user WHERE id = :no", no=user_no),
            executions=joint[user_no][0],
            failures=joint[user_no][1],
        )
        for user_no in most
    ]
    return parts, rollups.time_of(from_day * DAY_NS) if from_day > first_day else None


def _day_within(at: Snapshot, target: Target, uses: int) -> int:
    """The first day from which on a skill's users, counted anew each day, are at most `uses`; or today.

    Within an org they are not more than the skill's users, and not more than its executions there.
    """
    table, key = target.daily
    bound = "users" if target.scope == OF_SKILL else "min(pair_daily.executions, skill_daily.users)"
    skills = "" if target.scope == OF_SKILL else "JOIN pair ON pair.id = pair_id JOIN skill_daily USING (day, skill_no)"
    rows: list[tuple[int, int]] = at.rows(
        f"SELECT day, {bound} FROM {table} {skills} WHERE {key} = :no ORDER BY day DESC", no=target.no
    )
    for day, users in rows:
        uses -= users
        if uses < 0:
            return min(day + 1, at.today)
    return 0


def _orgs(at: Snapshot, target: Target, first_day: int) -> list[Part]:
    """A window that holds all days there are is read from the totals; of another, days that are over once."""
    oldest = at.value("SELECT min(day) FROM pair_daily")

    def counted(source: str, when: str, first: int, last: int) -> list[tuple[str | None, int, int]]:
        return at.rows(
            f"""SELECT org_id, sum(executions), sum(executions - successes) FROM {source}
                WHERE pair_id = pair.id AND {target.pairs} {when} GROUP BY org_id""",
            no=target.no,
            first=first,
            last=last,
        )

    def of_days(first: int, last: int) -> list[tuple[str | None, int, int]]:
        return counted(
            rollups.pairs_by_day(at, target.pairs, no=target.no), "AND day BETWEEN :first AND :last", first, last
        )

    joint = Counter[str | None]()
    failures = Counter[str | None]()
    if oldest is None or first_day <= oldest:
        rows = counted("pair JOIN pair_total", "", 0, 0)
    else:
        yesterday = at.today - 1
        over = at.closed(
            ("parts of orgs", target.scope, target.no), first_day, yesterday, lambda: of_days(first_day, yesterday)
        )
        rows = [*over, *of_days(at.today, _NEVER)]
    for name, runs, failed in rows:
        joint[name] += runs
        failures[name] += failed
    most = heapq.nsmallest(MAX_PARTS, +joint, key=lambda name: (-joint[name], name is not None, name or ""))
    return [Part(name=name, executions=joint[name], failures=failures[name]) for name in most]


def _errors(at: Snapshot, target: Target, first_day: int) -> tuple[list[Part], datetime | None]:
    look = recent.since(at, first_day * DAY_NS)
    rows = at.rows(
        f"""SELECT error_type, count(*) AS failures
            FROM event_log JOIN pair ON pair.id = pair_id LEFT JOIN event_extra ON event_extra.id = event_log.id
            WHERE event_log.id > :after AND kind = 0 AND at_ns >= :since AND {target.pairs}
            GROUP BY error_type ORDER BY failures DESC, error_type LIMIT :limit""",
        no=target.no,
        after=look.after_id,
        since=look.since_ns,
        limit=MAX_PARTS,
    )
    parts = [Part(name=name, executions=failures, failures=failures) for name, failures in rows]
    return parts, None if look.is_complete else rollups.time_of(look.since_ns)
