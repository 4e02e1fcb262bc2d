"""Seen: when each user was last seen, and how many different users that makes - anywhere, in an org, with a skill.

Only what happens first on a day can move when a user was last seen. So the days of users that were lately written are
remembered, and what has the same day is passed over; the rest is looked up and written a group at a time. The moves of
a group lie all over these tables, which is why they have two levels.
"""

import sqlite3
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain
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

_NO_BITS: Final = 32
_NO_MASK: Final = (1 << _NO_BITS) - 1
_NEVER: Final = -1
_SEVERAL: Final = 0

_USER: Final = f"user_no = value >> {_NO_BITS}"
_NO: Final = f"(value & {_NO_MASK})"
_LAST_DAYS: Final = f"""
SELECT value, ifnull((SELECT {{seen}}), {_NEVER}), ifnull((SELECT {{seen_recent}}), {_NEVER}) FROM json_each(?)
"""  # noqa: S608 - a number of ours


def _last_days(of_key: str) -> str:
    """The statement that looks up keys in both tables."""
    return _LAST_DAYS.format(seen=of_key.format("seen"), seen_recent=of_key.format("seen_recent"))


_IN_ANY_ORG: Final = _last_days(
    f"max(last_day) << {_NO_BITS} | iif(min(org_no) = max(org_no), min(org_no) + 1, {_SEVERAL})"
    f" FROM {{}} WHERE {_USER} AND skill_no = {_NO}"
)
"""The last day; in the lower bits 1 + the number of the org, if it is only one."""
_IN_ONE_ORG: Final = {
    IN_ORG: _last_days(f"last_day FROM {{}} WHERE {_USER} AND skill_no = {ANY_SKILL} AND org_no = {_NO}"),
    OF_PAIR: _last_days(f"last_day FROM pair JOIN {{}} USING (skill_no, org_no) WHERE pair.id = {_NO} AND {_USER}"),
}

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
        self._seen = Levels(db, "seen", ("user_no", "skill_no", "org_no"), rest="last_day")
        self._users = Levels(db, "skill_user", ("skill_no", "org_no", "user_no"))
        self._counts = Levels(db, "last_seen", ("scope", "no"), rest="users", counts=True)
        self._levels = self._users, self._seen, self._counts

    def add(self, group: Iterable[Uses], numbers: Mapping[int, Numbers]) -> None:
        """Bring the tables up to date. Called before the group is in `user_daily`."""
        of_pair = self._remembered[OF_PAIR]
        by_day: dict[int, tuple[set[int], ...]] = {}  # the keys of each scope
        for day, pair, users in group:
            new = [key for user in users if user and of_pair.get(key := user << _NO_BITS | pair) != day]
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
            self._look_up(EVERYWHERE, IN_ORG, moved, _of_any_skill(moved[IN_ORG]))
            self._look_up(OF_SKILL, OF_PAIR, moved, numbers)
            self._count_users({day: scopes[OF_SKILL] for day, scopes in by_day.items()})
            changed = [self._write(scope, moved[scope], numbers) for scope in range(SCOPES)]
            self._counts.insert(list(chain.from_iterable(changed)))

    def settle(self, limit: int) -> bool:
        """Merge up to `limit` rows of a table whose recent part has grown; whether there was one."""
        return any(levels.settle(limit) for levels in self._levels)

    def clear(self) -> None:
        """Forget all."""
        for levels in self._levels:
            levels.clear()
        for days in self._remembered:
            days.clear()

    def trim(self) -> None:
        """Forget the users if they are too many."""
        if sum(map(len, self._remembered)) > MAX_REMEMBERED:
            for days in self._remembered:
                days.clear()

    def _look_up(self, in_any: int, in_one: int, moved: Sequence[Days], places: Mapping[int, Numbers]) -> None:
        """Remember the last days of all keys of two scopes: in any org, and in one org.

        Most users are of one org only. Then when they were last seen says when they were last seen there, too.
        """
        days, days_there = self._remembered[in_any], self._remembered[in_one]
        unknown = [key for key in moved[in_any] if key not in days]  # a set less a dict would pass over all of the dict
        only: dict[int, int] = {}  # 1 + the org's number
        for key, large, recent in self._ask(_IN_ANY_ORG, unknown):
            last = max(large, recent)  # of both the lower bits are set if it is _NEVER, as they are of no org
            days[key] = last >> _NO_BITS
            one = _NEVER in (large, recent) or not (large ^ recent) & _NO_MASK
            only[key] = last & _NO_MASK if one else _SEVERAL
        asked: list[int] = []
        for key in moved[in_one]:
            if key not in days_there:
                no = key & _NO_MASK
                skill, org = places[no]
                in_any_org = key - no + skill
                where = only.get(in_any_org, _SEVERAL)
                if where == _SEVERAL:
                    asked.append(key)
                else:
                    days_there[key] = days[in_any_org] if where == org + 1 else _NEVER
        days_there.update((key, max(large, recent)) for key, large, recent in self._ask(_IN_ONE_ORG[in_one], asked))

    def _ask(self, sql: str, keys: Sequence[int]) -> Iterable[tuple[int, int, int]]:
        """(key, what the large table has of it, what the small one has)"""
        return self._db.execute(sql, (f"[{','.join(map(str, sorted(keys)))}]",)) if keys else ()

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
            user, skill = key >> _NO_BITS, key & _NO_MASK
            if self._db.execute(used_on, {"day": day, "user": user, "skill": skill}).fetchone() is None:
                yield skill

    def _write(self, scope: int, moved: Days, numbers: Mapping[int, Numbers]) -> list[tuple[int, int, bytes]]:
        """Write the moves of a scope; returns what they change in `last_seen`."""
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
        if scope in (IN_ORG, OF_PAIR):
            places = numbers if scope == OF_PAIR else _of_any_skill(moved)
            self._seen.insert(sorted([(key >> _NO_BITS, *places[key & _NO_MASK], day) for key, day in moves]))
        if scope == OF_PAIR:
            new = [key for key, _ in moves if before[key] == _NEVER]
            self._users.insert(sorted([(*numbers[key & _NO_MASK], key >> _NO_BITS) for key in new]))
        before.update(moves)
        return [(scope, no, counts.encode(days)) for no, days in sorted(changes.items())]


def _of_any_skill(keys: Iterable[int]) -> dict[int, Numbers]:
    """The places of keys that have an org."""
    orgs = {key & _NO_MASK for key in keys}
    return {org: Numbers(ANY_SKILL, org) for org in orgs}
