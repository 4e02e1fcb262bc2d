"""Seen: when each user was last seen, and how many different users that makes - anywhere, in an org, with a skill.

Only what happens first on a day can move when a user was last seen. So the days of users that were lately written are
remembered, and what has the same day is passed over; the rest is looked up and written a group at a time. The moves of
a group lie all over these tables, which is why they have two levels.
"""

import sqlite3
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Final, NamedTuple

from . import counts
from .counts import Counts
from .levels import Levels

MAX_REMEMBERED: Final = 200_000
"""Days of users in memory, about 20 MB; past it they are looked up again."""

FEW: Final = 64
"""Pairs of a day all of which are looked at for a late event; where there are more, those of the user's own orgs."""

SCOPES: Final = 4
EVERYWHERE, IN_ORG, OF_SKILL, OF_PAIR = range(SCOPES)
"""The scopes of `last_seen`."""
ANY_SKILL: Final = 0
"""What `seen` has in place of a skill's number."""
ANY_ORG: Final = -1
"""What `skill_user` has in place of an org's number."""

_USER_BITS: Final = 32
_NO_MASK: Final = (1 << _USER_BITS) - 1

_USER: Final = f"user_no = json_each.value >> {_USER_BITS}"
_NO: Final = f"(json_each.value & {_NO_MASK})"
_LAST_DAYS: Final = (
    f"max(last_day) FROM {{table}} WHERE {_USER} AND skill_no = {ANY_SKILL}",
    f"last_day FROM {{table}} WHERE {_USER} AND skill_no = {ANY_SKILL} AND org_no = {_NO}",
    f"max(last_day) FROM {{table}} WHERE {_USER} AND skill_no = {_NO}",
    f"last_day FROM pair JOIN {{table}} USING (skill_no, org_no) WHERE pair.id = {_NO} AND {_USER}",
)
"""By scope: the last day of a key."""
_NEVER: Final = -1
_LAST_DAY_OF: Final = f"""
SELECT value, max(ifnull((SELECT {{large}}), {_NEVER}), ifnull((SELECT {{recent}}), {_NEVER})) FROM json_each(?)
"""  # noqa: S608 - a number of ours

_LAST_SEEN: Final = """
INSERT INTO last_seen (scope, no, users) VALUES (?, ?, ?)
ON CONFLICT DO UPDATE SET users = counts_add(users, excluded.users)
"""
_USERS_OF_DAY: Final = """
INSERT INTO skill_daily (day, skill_no, users) VALUES (?, ?, ?) ON CONFLICT DO UPDATE SET users = users + excluded.users
"""
_FEW_PAIRS: Final = "SELECT count(*) < :few FROM (SELECT 1 FROM pair_daily WHERE day = :day LIMIT :few)"
_OF_DAY: Final = "pair_daily CROSS JOIN pair ON pair.id = pair_daily.pair_id"
_OF_USER: Final = """
(
    SELECT org_no FROM seen WHERE user_no = :user AND skill_no = :skill AND last_day >= :day
    UNION ALL
    SELECT org_no FROM seen_recent WHERE user_no = :user AND skill_no = :skill AND last_day >= :day
) AS org
CROSS JOIN pair USING (org_no)
CROSS JOIN pair_daily ON pair_daily.pair_id = pair.id
"""
_USED_ON: Final = """
SELECT 1 FROM {pairs}
CROSS JOIN user_daily ON user_daily.pair_daily_id = pair_daily.id AND user_daily.user_no = :user
WHERE pair.skill_no = :skill AND pair_daily.day = :day LIMIT 1
"""

Days = dict[int, int]
"""The day on which a user was last seen, by the key of both: the user's number, and that of the org, skill or pair."""


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
    """The tables `seen`, `skill_user` and `last_seen`, and the users of `skill_daily`. Forget all after a rollback."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db
        self._remembered: tuple[Days, ...] = tuple({} for _ in range(SCOPES))
        key = ("user_no", "skill_no", "org_no")
        self._seen = Levels(db, "seen", key, "UPDATE SET last_day = excluded.last_day", rest="last_day")
        self._users = Levels(db, "skill_user", ("skill_no", "org_no", "user_no"), "NOTHING")

    def add(self, group: Iterable[Uses], numbers: Mapping[int, Numbers]) -> None:
        """Bring the tables up to date. Called before the group is in `user_daily`."""
        of_pair = self._remembered[OF_PAIR]
        by_day: dict[int, tuple[set[int], ...]] = {}  # the keys of each scope
        for day, pair, users in group:
            new = [key for user in users if user and of_pair.get(key := user << _USER_BITS | pair) != day]
            if new:
                skill, org = numbers[pair]
                if day not in by_day:
                    by_day[day] = tuple(set() for _ in range(SCOPES))
                for keys, no in zip(by_day[day], (0, org, skill, pair), strict=True):
                    keys.update([key + no - pair for key in new])
        if by_day:
            moved: tuple[Days, ...] = tuple({} for _ in range(SCOPES))
            for day in sorted(by_day):  # so that the last day stays
                for days, keys in zip(moved, by_day[day], strict=True):
                    days.update(dict.fromkeys(keys, day))
            self._look_up(moved)
            self._count_users({day: scopes[OF_SKILL] for day, scopes in by_day.items()})
            for scope in range(SCOPES):
                self._write(scope, moved[scope], numbers)

    def settle(self, limit: int) -> bool:
        """Merge up to `limit` rows of a table whose recent part has grown; whether there was one."""
        return self._users.settle(limit) or self._seen.settle(limit)

    def clear(self) -> None:
        """Forget all."""
        self._users.clear()
        self._seen.clear()
        for days in self._remembered:
            days.clear()

    def trim(self) -> None:
        """Forget the users if they are too many."""
        if sum(map(len, self._remembered)) > MAX_REMEMBERED:
            for days in self._remembered:
                days.clear()

    def _look_up(self, moved: Sequence[Days]) -> None:
        """Remember the last days of all these keys."""
        for days, keys, last_day in zip(self._remembered, moved, _LAST_DAYS, strict=True):
            unknown = [key for key in keys if key not in days]  # a set less a dict would pass over all of the dict
            if unknown:
                large, recent = last_day.format(table="seen"), last_day.format(table="seen_recent")
                wanted = f"[{','.join(map(str, sorted(unknown)))}]"
                days.update(self._db.execute(_LAST_DAY_OF.format(large=large, recent=recent), (wanted,)))

    def _count_users(self, with_skill: Mapping[int, set[int]]) -> None:
        """A user who was last seen with the skill before this day is new on it; one who was last seen on it is not.

        Only a late event, of a day before, needs a look at what there is of that day.
        """
        before = self._remembered[OF_SKILL]
        for day, keys in with_skill.items():
            new = [key & _NO_MASK for key in keys if before[key] < day]
            late = [key for key in keys if before[key] > day]
            if late:
                new += self._skills_of_new(day, late)
            self._db.executemany(_USERS_OF_DAY, [(day, no, users) for no, users in sorted(Counter(new).items())])

    def _skills_of_new(self, day: int, late: Iterable[int]) -> Iterator[int]:
        """The skill of each key that has nothing on this day yet.

        A skill may be used in very many orgs; a user may be in as many, and have a clock that is wrong, which makes any
        number of days with little on each.
        """
        (few,) = self._db.execute(_FEW_PAIRS, {"day": day, "few": FEW}).fetchone()
        used_on = _USED_ON.format(pairs=_OF_DAY if few else _OF_USER)
        for key in late:
            user, skill = key >> _USER_BITS, key & _NO_MASK
            if self._db.execute(used_on, {"day": day, "user": user, "skill": skill}).fetchone() is None:
                yield skill

    def _write(self, scope: int, moved: Days, numbers: Mapping[int, Numbers]) -> None:
        before = self._remembered[scope]
        moves = [(key, day) for key, day in moved.items() if before[key] < day]
        changes: dict[int, Counts] = {}
        for key, day in moves:
            no = key & _NO_MASK
            if no not in changes:
                changes[no] = {}
            days = changes[no]
            days[day] = days.get(day, 0) + 1
            was = before[key]
            if was != _NEVER:
                days[was] = days.get(was, 0) - 1
        self._db.executemany(_LAST_SEEN, [(scope, no, counts.encode(days)) for no, days in sorted(changes.items())])
        if scope in (IN_ORG, OF_PAIR):
            places = {no: numbers[no] if scope == OF_PAIR else Numbers(ANY_SKILL, no) for no in changes}
            self._seen.insert(sorted([(key >> _USER_BITS, *places[key & _NO_MASK], day) for key, day in moves]))
        if scope in (OF_SKILL, OF_PAIR):
            new = [(key & _NO_MASK, key >> _USER_BITS) for key, _ in moves if before[key] == _NEVER]
            of_org = numbers.__getitem__ if scope == OF_PAIR else _in_any_org
            self._users.insert(sorted([(*of_org(no), user) for no, user in new]))
        before.update(moves)


def _in_any_org(skill: int) -> Numbers:
    return Numbers(skill, ANY_ORG)
