"""Recommendations: skills that a user has not used, and why.

Collaborative first. *Neighbours* are the NEIGHBOURS users who share most skills with this user (ties: who was seen
first). A skill's score is the sum, over the neighbours who use it, of how many skills each shares with the user.
Looking for neighbours begins with the user's least executed skills, which say most about him, and ends after MAX_ROWS
users.
Then trending: skills by how many executions more they had in the last 7 UTC days than in the 7 before.
Ties go to the name, so that the same record always gives the same answer. Within an org only its usage counts.
"""

from typing import Final

import msgspec

from skillmeter.results import SkillRecommendation

from .board import Board
from .params import ForUser
from .reader import Snapshot

NEIGHBOURS: Final = 20
MAX_ROWS: Final = 10_000

_USED: Final = """
SELECT seen.no FROM seen JOIN {total} ON {key} = seen.no
WHERE user_no = :user AND scope = :scope AND scope >= 2 ORDER BY executions, seen.no
"""
_NEIGHBOURS: Final = """
SELECT user_no, count(*) AS shared
FROM (
    SELECT user_no FROM json_each(:skills) CROSS JOIN seen ON scope = :scope AND no = json_each.value
    WHERE user_no <> :user LIMIT :max_rows
)
GROUP BY user_no ORDER BY shared DESC, user_no LIMIT :neighbours
"""
_SKILLS_OF: Final = """
SELECT seen.no, sum(json_each.value), count(*), max(json_each.value)
FROM json_each(:neighbours) CROSS JOIN seen
ON seen.user_no = CAST(json_each.key AS INTEGER) AND seen.scope = :scope AND seen.scope >= 2
GROUP BY seen.no
"""


def recommend(at: Snapshot, asked: ForUser) -> list[SkillRecommendation]:
    """At most `limit` of them. A user that nobody knows gets what is trending."""
    board = Board(at, asked.org_id)
    user = at.value("SELECT id FROM user WHERE user_id = :user_id", user_id=asked.user_id)
    sql = _USED.format(total=board.total, key=board.key)
    used = [] if user is None else at.rows(sql, user=user, scope=board.scope)
    mine = [no for (no,) in used if no in board.names]
    found = _collaborative(at, board, user, mine, asked.limit) if mine else {}
    if len(found) < asked.limit:
        found |= _trending(board, {*mine, *found}, asked.limit - len(found))
    return list(found.values())


def _collaborative(
    at: Snapshot, board: Board, user: int, mine: list[int], limit: int
) -> dict[int, SkillRecommendation]:
    neighbours = at.rows(
        _NEIGHBOURS, skills=_json(mine), scope=board.scope, user=user, max_rows=MAX_ROWS, neighbours=NEIGHBOURS
    )
    rows = at.rows(_SKILLS_OF, neighbours=_json(dict(neighbours)), scope=board.scope)
    not_new = set(mine)
    theirs = [row for row in rows if row[0] in board.names and row[0] not in not_new]
    theirs.sort(key=lambda row: (-row[1], -row[2], board.names[row[0]]))
    return {
        no: SkillRecommendation(
            skill_id=board.names[no],
            score=float(score),
            kind="collaborative",
            reason=f"used by {_some(users, 'user')} who {'share' if users > 1 else 'shares'}"
            f" {'up to ' if users > 1 and most > 1 else ''}{_some(most, 'skill')} with this one",
        )
        for no, score, users, most in theirs[:limit]
    }


def _trending(board: Board, known: set[int], limit: int) -> dict[int, SkillRecommendation]:
    weeks = {no: of_weeks for no, of_weeks in board.weeks().items() if no not in known}
    growth = {no: last - before for no, (last, before) in weeks.items() if last > before}
    growing = sorted(growth, key=lambda no: (-growth[no], board.names[no]))
    return {
        no: SkillRecommendation(
            skill_id=board.names[no],
            score=float(growth[no]),
            kind="trending",
            reason=f"{_some(weeks[no][0], 'execution')} in the last 7 days, {weeks[no][1]} in the 7 days before",
        )
        for no in growing[:limit]
    }


def _some(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def _json(value: object) -> str:
    return msgspec.json.encode(value).decode()
