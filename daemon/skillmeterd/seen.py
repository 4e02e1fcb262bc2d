"""Seen: when each user was last seen, and how many different users that makes - anywhere, in an org, with a skill.

Only what happens first on a day can move when a user was last seen. So the days of users that were lately written are
remembered, and what has the same day is passed over; the rest is looked up and written a group at a time. The moves of
a group lie all over these tables, which is why they have two levels.
"""

import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from typing import Final, NamedTuple

from . import counts
from .counts import Counts
from .levels import Levels

MAX_REMEMBERED: Final = 200_000
"""Days of users in memory, about 20 MB; past it they are looked up again."""

SCOPES: Final = 4
EVERYWHERE, IN_ORG, OF_SKILL, OF_PAIR = range(SCOPES)
"""The scopes of `last_seen`."""
ANY_SKILL: Final = 0
ANY_ORG: Final = -1
"""What `seen` has in place of a skill's number and of an org's."""

_USER_BITS: Final = 32
_USER_MASK: Final = (1 << _USER_BITS) - 1

_NO: Final = f"(json_each.value >> {_USER_BITS})"
_USER: Final = f"(json_each.value & {_USER_MASK})"
_LAST_DAYS: Final = (
    f"{{table}} ON skill_no = {ANY_SKILL} AND org_no = {ANY_ORG} AND user_no = {_USER}",
    f"{{table}} ON skill_no = {ANY_SKILL} AND org_no = {_NO} AND user_no = {_USER}",
    f"{{table}} ON skill_no = {_NO} AND org_no = {ANY_ORG} AND user_no = {_USER}",
    f"""pair ON pair.id = {_NO} CROSS JOIN {{table}}
    ON {{table}}.skill_no = pair.skill_no AND {{table}}.org_no = pair.org_no AND user_no = {_USER}""",
)
"""By scope: where the last days of keys are found."""
_LAST_DAY_OF: Final = "SELECT json_each.value, last_day FROM json_each(?) CROSS JOIN "

_LAST_SEEN: Final = """
INSERT INTO last_seen (scope, no, users) VALUES (?, ?, ?)
ON CONFLICT DO UPDATE SET users = counts_add(users, excluded.users)
"""
_USERS_OF_DAY: Final = """
INSERT INTO skill_daily (day, skill_no, users) VALUES (?, ?, ?) ON CONFLICT DO UPDATE SET users = users + excluded.users
"""
_USED_ON: Final = """
SELECT 1 FROM pair JOIN pair_daily ON pair_daily.pair_id = pair.id AND pair_daily.day = ?
JOIN user_daily ON user_daily.pair_daily_id = pair_daily.id AND user_daily.user_no = ?
WHERE pair.skill_no = ? LIMIT 1
"""

Days = dict[int, int]
"""The day on which a user was last seen, by the key of both: the number of the org, skill or pair, and the user's."""


class Numbers(NamedTuple):
    """A pair's skill and org; an org of 0 is none."""

    skill: int
    org: int


class Uses(NamedTuple):
    """Who used a pair on a day."""

    day: int
    pair: int
    users: Iterable[int]


class Seen:
    """The tables `seen`, `used` and `last_seen`, and the users of `skill_daily`. Forget all after a rollback."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db
        self._remembered: tuple[Days, ...] = tuple({} for _ in range(SCOPES))
        self._seen = Levels(
            db, "seen", ("skill_no", "org_no", "user_no"), "UPDATE SET last_day = excluded.last_day", rest="last_day"
        )
        self._used = Levels(db, "used", ("user_no", "skill_no", "org_no"), "NOTHING")

    def add(self, group: Iterable[Uses], numbers: Mapping[int, Numbers]) -> None:
        """Bring the tables up to date. Called before the group is in `user_daily`."""
        of_pair = self._remembered[OF_PAIR]
        moved: tuple[Days, ...] = tuple({} for _ in range(SCOPES))
        with_skill: dict[int, set[int]] = {}  # by day: the keys
        for day, pair, users in group:
            key = pair << _USER_BITS
            new = [user for user in users if user and of_pair.get(key | user) != day]
            if new:
                skill, org = numbers[pair]
                for scope, no in enumerate((0, org, skill, pair)):
                    _raise(moved[scope], self._remembered[scope], no << _USER_BITS, new, day)
                with_skill.setdefault(day, set()).update([skill << _USER_BITS | user for user in new])
        if with_skill:
            self._look_up(moved, with_skill)
            self._count_users(with_skill)
            for scope in range(SCOPES):
                self._write(scope, moved[scope], numbers)

    def settle(self, limit: int) -> bool:
        """Merge up to `limit` rows of a table whose recent part has grown; whether there was one."""
        return self._used.settle(limit) or self._seen.settle(limit)  # the second grows faster

    def clear(self) -> None:
        """Forget all."""
        self._seen.clear()
        self._used.clear()
        for days in self._remembered:
            days.clear()

    def trim(self) -> None:
        """Forget the users if they are too many."""
        if sum(map(len, self._remembered)) > MAX_REMEMBERED:
            for days in self._remembered:
                days.clear()

    def _look_up(self, moved: Sequence[Days], with_skill: Mapping[int, set[int]]) -> None:
        """Remember the days of those that are about to move, and of a skill's users also if they do not."""
        wanted = [set(days) for days in moved]
        wanted[OF_SKILL].update(*with_skill.values())
        for days, keys, source in zip(self._remembered, wanted, _LAST_DAYS, strict=True):
            days.update(self._seen.find(_LAST_DAY_OF + source, keys.difference(days)))  # the recent one holds

    def _count_users(self, with_skill: Mapping[int, set[int]]) -> None:
        """A user who was last seen with the skill before this day is new on it; one who was last seen on it is not.

        Only a late event, of a day before, needs a look at what there is of that day.
        """
        before = self._remembered[OF_SKILL]
        new: dict[tuple[int, int], int] = {}
        for day, keys in with_skill.items():
            for key in keys:
                if before.get(key, -1) < day or (before[key] > day and not self._used_on(day, key)):
                    at = day, key >> _USER_BITS
                    new[at] = new.get(at, 0) + 1
        self._db.executemany(_USERS_OF_DAY, [(*at, users) for at, users in sorted(new.items())])

    def _used_on(self, day: int, key: int) -> bool:
        found = self._db.execute(_USED_ON, (day, key & _USER_MASK, key >> _USER_BITS)).fetchone()
        return found is not None

    def _write(self, scope: int, moved: Days, numbers: Mapping[int, Numbers]) -> None:
        before = self._remembered[scope]
        moves = [(key, day) for key, day in sorted(moved.items()) if before.get(key, -1) < day]
        changes: dict[int, Counts] = {}
        for key, day in moves:
            no = key >> _USER_BITS
            if no not in changes:
                changes[no] = {}
            days = changes[no]
            days[day] = days.get(day, 0) + 1
            if key in before:
                was = before[key]
                days[was] = days.get(was, 0) - 1
        self._db.executemany(_LAST_SEEN, [(scope, no, counts.encode(days)) for no, days in changes.items()])
        places = {no: _place(scope, no, numbers) for no in changes}
        self._seen.insert(sorted([(*places[key >> _USER_BITS], key & _USER_MASK, day) for key, day in moves]))
        if scope == OF_PAIR:
            new = [(key & _USER_MASK, *numbers[key >> _USER_BITS]) for key, _ in moves if key not in before]
            self._used.insert(sorted(new))
        before.update(moves)


def _place(scope: int, no: int, numbers: Mapping[int, Numbers]) -> Numbers:
    """Where `seen` has the users of a scope's number."""
    if scope == OF_PAIR:
        return numbers[no]
    return Numbers(no if scope == OF_SKILL else ANY_SKILL, no if scope == IN_ORG else ANY_ORG)


def _raise(moved: Days, remembered: Days, of_no: int, users: Iterable[int], day: int) -> None:
    """Note the day of each user whose last one is not known to be as late."""
    for user in users:
        key = of_no | user
        if remembered.get(key, -1) < day and moved.get(key, -1) < day:
            moved[key] = day
