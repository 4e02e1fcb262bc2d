"""Recommendations: skills that a user has not used, and why.

Collaborative first. *Neighbours* are the NEIGHBOURS users who share most skills with this user (ties: who was seen
first). A skill's score is the sum, over the neighbours who use it, of how many skills each shares with the user.
Looking for neighbours begins with the user's least executed skills, which say most about him, and ends after MAX_ROWS
users of an org.
Then trending: skills by how many executions more they had in the last 7 UTC days than in the 7 before.
Ties go to the name, so that the same record always gives the same answer. Within an org only its usage counts.
"""

import heapq
from collections import Counter
from collections.abc import Iterable
from typing import Final

import msgspec

from skillmeter.results import SkillRecommendation

from ..seen import OF_SKILL
from .board import Board
from .params import ForUser
from .reader import Snapshot

NEIGHBOURS: Final = 20
MAX_ROWS: Final = 10_000

_SKILLS_OF: Final = """
SELECT skill_no FROM seen WHERE user_no = :user AND skill_no > 0
UNION
SELECT skill_no FROM seen_recent WHERE user_no = :user AND skill_no > 0
"""
_PAIRS_OF: Final = """
SELECT id FROM pair WHERE org_no = :org AND skill_no IN (
    SELECT skill_no FROM seen WHERE user_no = :user AND org_no = :org
    UNION
    SELECT skill_no FROM seen_recent WHERE user_no = :user AND org_no = :org
)
"""
_USERS_OF: Final = """
SELECT * FROM (
    SELECT org_no, user_no FROM skill_user WHERE {which} ORDER BY org_no, user_no LIMIT :limit
)
UNION ALL
SELECT * FROM (
    SELECT org_no, user_no FROM skill_user_recent WHERE {which} ORDER BY org_no, user_no LIMIT :limit
)
ORDER BY org_no, user_no LIMIT :limit
"""
_LEAST_EXECUTED: Final = """
SELECT {key} FROM json_each(:numbers) JOIN {total} ON {key} = json_each.value ORDER BY executions, {key}
"""


class _Usage:
    """Who used which skills, on a board: skills by the numbers that they have there."""

    def __init__(self, at: Snapshot, board: Board) -> None:
        self._at = at
        self._board = board

    def skills_of(self, user: int) -> set[int]:
        """All of a user."""
        sql = _SKILLS_OF if self._board.scope == OF_SKILL else _PAIRS_OF
        return {no for (no,) in self._at.rows(sql, user=user, org=self._board.org_no)}

    def users_of(self, no: int, limit: int) -> list[int]:
        """At most `limit` of a skill, an org's after another's, those who were seen first; each once for an org."""
        skill, org, which = no, None, "skill_no = :skill"
        if self._board.scope != OF_SKILL:
            skill, org = self._at.row("SELECT skill_no, org_no FROM pair WHERE id = :no", no=no)
            which += " AND org_no = :org"
        return [user for _, user in self._at.rows(_USERS_OF.format(which=which), skill=skill, limit=limit, org=org)]

    def least_executed_first(self, numbers: Iterable[int]) -> list[int]:
        """These skills in that order."""
        sql = _LEAST_EXECUTED.format(total=self._board.total, key=self._board.key)
        return [no for (no,) in self._at.rows(sql, numbers=msgspec.json.encode(list(numbers)).decode())]


def recommend(at: Snapshot, asked: ForUser) -> list[SkillRecommendation]:
    """At most `limit` of them. A user that nobody knows gets what is trending."""
    board = Board(at, asked.org_id)
    usage = _Usage(at, board)
    user = at.value("SELECT id FROM user WHERE user_id = :user_id", user_id=asked.user_id)
    mine = set() if user is None else usage.skills_of(user)
    found = _collaborative(board, usage, user, mine, asked.limit) if mine else {}
    if len(found) < asked.limit:
        found |= _trending(board, {*mine, *found}, asked.limit - len(found))
    return list(found.values())


def _collaborative(
    board: Board, usage: _Usage, user: int, mine: set[int], limit: int
) -> dict[int, SkillRecommendation]:
    scores: Counter[int] = Counter()
    users: Counter[int] = Counter()
    most: dict[int, int] = {}
    for neighbour, shared in _neighbours(usage, user, mine):
        for no in usage.skills_of(neighbour) - mine:
            scores[no] += shared
            users[no] += 1
            most[no] = max(shared, most.get(no, 0))
    best = board.first({no: (-score, -users[no]) for no, score in scores.items()}, limit)
    return {
        no: SkillRecommendation(
            skill_id=skill_id,
            score=float(scores[no]),
            kind="collaborative",
            reason=f"used by {_some(users[no], 'user')} who {'share' if users[no] > 1 else 'shares'}"
            f" {'up to ' if users[no] > 1 and most[no] > 1 else ''}{_some(most[no], 'skill')} with this one",
        )
        for no, skill_id in best.items()
    }


def _neighbours(usage: _Usage, user: int, mine: set[int]) -> list[tuple[int, int]]:
    """(user, how many skills both use), the nearest first."""
    shared: Counter[int] = Counter()
    left = MAX_ROWS
    for no in usage.least_executed_first(mine):
        found = usage.users_of(no, left)
        left -= len(found)
        shared.update(set(found))
        if not left:
            break
    del shared[user]
    return heapq.nsmallest(NEIGHBOURS, shared.items(), key=lambda item: (-item[1], item[0]))


def _trending(board: Board, known: set[int], limit: int) -> dict[int, SkillRecommendation]:
    weeks = {no: of_weeks for no, of_weeks in board.weeks().items() if no not in known}
    growth = {no: last - before for no, (last, before) in weeks.items() if last > before}
    growing = board.first({no: -more for no, more in growth.items()}, limit)
    return {
        no: SkillRecommendation(
            skill_id=skill_id,
            score=float(growth[no]),
            kind="trending",
            reason=f"{_some(weeks[no][0], 'execution')} in the last 7 days, {weeks[no][1]} in the 7 days before",
        )
        for no, skill_id in growing.items()
    }


def _some(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"
