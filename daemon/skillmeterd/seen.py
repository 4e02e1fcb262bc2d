"""Seen: when each user was last seen, and how many different users that makes - anywhere, in an org, with a skill.

Only what happens first on a day can move when a user was last seen. So the days of users that were lately written are
remembered, and what has the same day is passed over; the rest is looked up and written a group at a time. A trigger for
every row took two thirds of a commit in which all users are new to the day.
"""

import sqlite3
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Final, NamedTuple

from .bulk import insert_many

MAX_REMEMBERED: Final = 200_000
"""Days of users in memory, about 20 MB; past it they are looked up again."""

SCOPES: Final = 4
OF_SKILL: Final = 2
OF_PAIR: Final = 3
"""Of the scopes in the table `seen`."""

_USER_BITS: Final = 32
_USER_MASK: Final = (1 << _USER_BITS) - 1

_LAST_DAYS: Final = f"""
SELECT json_each.value, seen.last_day FROM json_each(:keys)
CROSS JOIN seen ON seen.scope = :scope
    AND seen.no = json_each.value >> {_USER_BITS} AND seen.user_no = json_each.value & {_USER_MASK}
"""  # noqa: S608 - the numbers are ours
_SEEN: Final = "INSERT INTO seen (scope, no, user_no, last_day) VALUES "
_SEEN_CONFLICT: Final = " ON CONFLICT DO UPDATE SET last_day = excluded.last_day"
_SEEN_COLUMNS: Final = 4
_SEEN_PER_STATEMENT: Final = 20

_LAST_SEEN: Final = """
INSERT INTO last_seen (scope, no, day, users) VALUES (?, ?, ?, ?)
ON CONFLICT DO UPDATE SET users = users + excluded.users
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
    """The tables `seen` and `last_seen`, and the users of `skill_daily`. Forget all after a rollback."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db
        self._remembered: tuple[Days, ...] = tuple({} for _ in range(SCOPES))

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
                self._write(scope, moved[scope])

    def clear(self) -> None:
        """Forget all."""
        for days in self._remembered:
            days.clear()

    def trim(self) -> None:
        """Forget all if that is too much."""
        if sum(map(len, self._remembered)) > MAX_REMEMBERED:
            self.clear()

    def _look_up(self, moved: Iterable[Days], with_skill: Mapping[int, set[int]]) -> None:
        """Remember the days of those that are about to move, and of a skill's users also if they do not."""
        wanted = [set(days) for days in moved]
        wanted[OF_SKILL].update(*with_skill.values())
        for scope, days in enumerate(self._remembered):
            missing = wanted[scope].difference(days)
            if missing:
                keys = f"[{','.join(map(str, missing))}]"
                days.update(self._db.execute(_LAST_DAYS, {"scope": scope, "keys": keys}).fetchall())

    def _count_users(self, with_skill: Mapping[int, set[int]]) -> None:
        """A user who was last seen with the skill before this day is new on it; one who was last seen on it is not.

        Only a late event, of a day before, needs a look at what there is of that day.
        """
        before = self._remembered[OF_SKILL]
        new = Counter(
            (day, key >> _USER_BITS)
            for day, keys in with_skill.items()
            for key in keys
            if before.get(key, -1) < day or (before[key] > day and not self._used_on(day, key))
        )
        self._db.executemany(_USERS_OF_DAY, [(*at, users) for at, users in sorted(new.items())])

    def _used_on(self, day: int, key: int) -> bool:
        found = self._db.execute(_USED_ON, (day, key & _USER_MASK, key >> _USER_BITS)).fetchone()
        return found is not None

    def _write(self, scope: int, moved: Days) -> None:
        before = self._remembered[scope]
        moves = [(key, day) for key, day in sorted(moved.items()) if before.get(key, -1) < day]
        rows = [(scope, key >> _USER_BITS, key & _USER_MASK, day) for key, day in moves]
        insert_many(self._db, _SEEN, _SEEN_CONFLICT, _SEEN_COLUMNS, _SEEN_PER_STATEMENT, rows)
        users = Counter([(no, day) for _, no, _, day in rows])
        users.subtract([(key >> _USER_BITS, before[key]) for key, _ in moves if key in before])
        self._db.executemany(_LAST_SEEN, [(scope, *at, change) for at, change in sorted(users.items()) if change])
        before.update(moves)


def _raise(moved: Days, remembered: Days, of_no: int, users: Iterable[int], day: int) -> None:
    """Note the day of each user whose last one is not known to be as late."""
    for user in users:
        key = of_no | user
        if remembered.get(key, -1) < day and moved.get(key, -1) < day:
            moved[key] = day
