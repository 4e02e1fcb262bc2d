"""Adoption: who uses a skill, whether more do, and whether they come back."""

from array import array
from collections.abc import Iterator
from typing import Final

from skillmeter.results import AdoptionMetrics

from ..rows import DAY_NS
from ..seen import EVERYWHERE, IN_ORG
from . import rollups
from .formulas import share
from .params import SkillInOrg
from .reader import Snapshot
from .rollups import Target

WEEK: Final = 7
ACTIVE_DAYS: Final = 30
LAST_DAY: Final = 2**63 // DAY_NS
"""The last one that an event can have."""

_USERS_OF_DAYS: Final = """
SELECT DISTINCT user_daily.user_no
FROM {pairs_by_day}
CROSS JOIN user_daily ON user_daily.pair_daily_id = pair_daily.id
WHERE pair_id = pair.id AND {pairs} AND day BETWEEN :first AND :last AND user_daily.user_no > 0
"""


def adoption(at: Snapshot, asked: SkillInOrg) -> AdoptionMetrics:
    """A skill's users. Raises QueryError for an unknown skill."""
    target = rollups.known_skill(at, asked.skill_id, asked.org_id)

    def since(days: int) -> int:
        return rollups.unique_users(at, target.scope, target.no, at.today - days + 1)

    today, this_week, active = since(1), since(WEEK), since(ACTIVE_DAYS)
    yesterday = len(_users_of(at, target, at.today - 1, at.today - 1))
    last_week = set(_users_of(at, target, at.today - 2 * WEEK + 1, at.today - WEEK))
    back = last_week.intersection(_users_of(at, target, at.today - WEEK + 1, at.today - 1))
    back.update(last_week.intersection(_users(at, target, at.today, LAST_DAY)))
    retained = len(back)
    of_any_skill = _active_users(at, asked.org_id)
    return AdoptionMetrics(
        skill_id=asked.skill_id,
        org_id=asked.org_id,
        users=rollups.unique_users(at, target.scope, target.no),
        users_today=today,
        users_yesterday=yesterday,
        users_this_week=this_week,
        users_last_week=len(last_week),
        active_users=active,
        active_users_of_any_skill=of_any_skill,
        share_of_active_users=share(active, of_any_skill),
        growth_daily=share(today - yesterday, yesterday),
        growth_weekly=share(this_week - len(last_week), len(last_week)),
        retained_users=retained,
        retention=share(retained, len(last_week)),
    )


def _active_users(at: Snapshot, org_id: str | None) -> int:
    """Who used any skill in the last ACTIVE_DAYS, in the org if there is one."""
    first_day = at.today - ACTIVE_DAYS + 1
    if org_id is None:
        return rollups.unique_users(at, EVERYWHERE, 0, first_day)
    no = at.value("SELECT no FROM org WHERE org_id = :org_id", org_id=org_id)
    return rollups.unique_users(at, IN_ORG, no or -1, first_day)


def _users_of(at: Snapshot, target: Target, first: int, last: int) -> "array[int]":
    """The numbers of the users of days that are over."""
    return at.closed(("who", target.scope, target.no), first, last, lambda: array("q", _users(at, target, first, last)))


def _users(at: Snapshot, target: Target, first: int, last: int) -> Iterator[int]:
    sql = _USERS_OF_DAYS.format(pairs_by_day=rollups.pairs_by_day(at, target.pairs, no=target.no), pairs=target.pairs)
    return (user for (user,) in at.rows(sql, no=target.no, first=first, last=last))
