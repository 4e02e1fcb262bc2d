"""Seen: when each user was last seen, and how many different users that makes - anywhere, in an org, with a skill.

Only what happens first on a day can move when a user was last seen. The rest is passed over, as far as it is in memory
(remembered.py); what is not is looked up, and what moves is written, a group at a time. The moves of a group lie all
over these tables, which is why they have two levels (levels.py).
"""

import sqlite3
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain
from operator import itemgetter
from typing import Any, Final, NamedTuple

from . import counts
from .counts import Counts
from .levels import Levels
from .remembered import FIRST_ORG, NEVER, NO_MASK, NOT_YET, SEVERAL, USER_BITS, Days, Remembered

FEW: Final = 64
"""Pairs of a day all of which are looked at for a late event; where there are more, those of the user's own orgs."""

SCOPES: Final = 4
EVERYWHERE, IN_ORG, OF_SKILL, OF_PAIR = range(SCOPES)
"""The scopes of `last_seen`. Of a scope, the number in a key (remembered.py) is: 0, an org's, a skill's, a pair's."""
ANY_SKILL: Final = 0
"""What `seen` has in place of a skill's number."""

_USER: Final = f"user_no = value >> {USER_BITS}"
_NO: Final = f"(value & {NO_MASK})"
_BOTH_DAYS: Final = f"""
SELECT value, ifnull((SELECT {{seen}}), {NEVER}), ifnull((SELECT {{seen_recent}}), {NEVER}) FROM json_each(?)
"""  # noqa: S608 - a number of ours
_LATER_DAY: Final = f"""
SELECT value, coalesce((SELECT {{seen_recent}}), (SELECT {{seen}}), {NEVER}) FROM json_each(?)
"""  # noqa: S608 - a number of ours


def _of_levels(statement: str, of_key: str) -> str:
    """The statement that looks up keys."""
    return statement.format(seen=of_key.format("seen"), seen_recent=of_key.format("seen_recent"))


_IN_ANY_ORG: Final = _of_levels(
    _BOTH_DAYS,
    f"max(last_day) << {USER_BITS} | iif(min(org_no) = max(org_no), min(org_no) + {FIRST_ORG}, {SEVERAL})"
    f" FROM {{}} WHERE {_USER} AND skill_no = {_NO}",
)
"""The last day in each level, with the code of the orgs (remembered.py) in the lower bits."""
_IN_THE_ONLY_ORG: Final = _of_levels(_LATER_DAY, f"last_day FROM {{}} WHERE {_USER} AND skill_no = {_NO}")
_IN_ONE_ORG: Final = {
    IN_ORG: _of_levels(_LATER_DAY, f"last_day FROM {{}} WHERE {_USER} AND skill_no = {ANY_SKILL} AND org_no = {_NO}"),
    OF_PAIR: _of_levels(
        _LATER_DAY, f"last_day FROM pair JOIN {{}} USING (skill_no, org_no) WHERE pair.id = {_NO} AND {_USER}"
    ),
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
        self._remembered = Remembered()
        self._seen = Levels(db, "seen", ("user_no", "skill_no", "org_no"), rest="last_day")
        self._users = Levels(db, "skill_user", ("skill_no", "org_no", "user_no"))
        self._counts = Levels(db, "last_seen", ("scope", "no"), rest="users", counts=True)
        self._levels = self._users, self._seen, self._counts

    def add(self, group: Iterable[Uses], numbers: Mapping[int, Numbers], today: int) -> None:
        """Bring the tables up to date. Called before the group is in `user_daily`; `today` is by the daemon's clock."""
        self._remembered.turn_to(today)
        moved: tuple[Days, ...] = tuple({} for _ in range(SCOPES))
        with_skill: dict[int, set[int]] = {}  # by day
        for day, pair, users in sorted(group, key=itemgetter(0)):  # so that the last day stays
            skill, org = numbers[pair]
            new = self._remembered.others(day, skill, org, pair, users)
            if new:
                for days, no in zip(moved, (0, org, skill, pair), strict=True):
                    days.update(dict.fromkeys([key | no for key in new], day))
                with_skill.setdefault(day, set()).update([key | skill for key in new])
        if with_skill:
            places = {IN_ORG: _of_any_skill(moved[IN_ORG]), OF_PAIR: numbers}
            orgs, last_days = self._look_up(moved, places)
            self._count_users(with_skill, last_days[OF_SKILL])
            scopes = zip(range(SCOPES), moved, last_days, strict=True)
            changed = [self._write(scope, new, last, places.get(scope)) for scope, new, last in scopes]
            self._counts.insert(list(chain.from_iterable(changed)))
            self._remember(orgs, last_days)

    def settle(self, limit: int) -> bool:
        """Merge up to `limit` rows of a table whose recent part has grown; whether there was one."""
        return any(levels.settle(limit) for levels in self._levels)

    def clear(self) -> None:
        """Forget all."""
        for levels in self._levels:
            levels.clear()
        self._remembered.clear()

    def trim(self) -> None:
        """Forget the users if they are too many."""
        self._remembered.trim()

    def _look_up(
        self, moved: Sequence[Days], places: Mapping[int, Mapping[int, Numbers]]
    ) -> tuple[dict[int, int], tuple[Days, ...]]:
        """(the code of where each user has been, the days on which they were last seen by the keys of each scope)"""
        known = self._remembered
        orgs, everywhere = self._look_up_users(moved[EVERYWHERE])
        of_skill = self._look_up_skills(moved[OF_SKILL], orgs)
        in_org = self._look_up_in_org(IN_ORG, moved[IN_ORG], places[IN_ORG], orgs, everywhere, known.in_org)
        of_pair = self._look_up_in_org(OF_PAIR, moved[OF_PAIR], places[OF_PAIR], orgs, of_skill, known.of_pair)
        return orgs, (everywhere, in_org, of_skill, of_pair)

    def _look_up_users(self, keys: Iterable[int]) -> tuple[dict[int, int], Days]:
        last_days: Days = {}
        unknown = self._remembered.recall(keys, last_days)
        orgs = {key >> USER_BITS: self._remembered.org(key >> USER_BITS) for key in last_days}
        for key, large, recent in self._ask(_IN_ANY_ORG, unknown):
            user, last = key >> USER_BITS, max(large, recent)
            last_days[key] = last >> USER_BITS
            if last == NEVER:
                orgs[user] = NOT_YET
                self._remembered.put_whole(user)
            else:
                same = NEVER in (large, recent) or not (large ^ recent) & NO_MASK
                orgs[user] = last & NO_MASK if same else SEVERAL
        return orgs, last_days

    def _look_up_skills(self, keys: Iterable[int], orgs: Mapping[int, int]) -> Days:
        last_days: Days = {}
        unknown = self._remembered.recall(keys, last_days)
        of_several = [key for key in unknown if orgs[key >> USER_BITS] == SEVERAL]
        of_one = [key for key in unknown if orgs[key >> USER_BITS] != SEVERAL]
        last_days.update((key, max(levels) >> USER_BITS) for key, *levels in self._ask(_IN_ANY_ORG, of_several))
        last_days.update(self._ask(_IN_THE_ONLY_ORG, of_one))
        return last_days

    def _look_up_in_org(
        self,
        scope: int,
        keys: Iterable[int],
        places: Mapping[int, Numbers],
        orgs: Mapping[int, int],
        in_any_org: Days,
        of_several: Days,
    ) -> Days:
        """A user of one org was last seen there when last seen `in_any_org`; of others, `of_several` is remembered."""
        last_days: Days = {}
        unknown: list[int] = []
        for key in keys:
            no = key & NO_MASK
            skill, org = places[no]
            code = orgs[key >> USER_BITS]
            if code == FIRST_ORG + org:
                last_days[key] = in_any_org[key - no + skill]
            elif code != SEVERAL:
                last_days[key] = NEVER
            elif key in of_several:
                last_days[key] = of_several[key]
            else:
                unknown.append(key)
        last_days.update(self._ask(_IN_ONE_ORG[scope], unknown))
        return last_days

    def _ask(self, sql: str, keys: Sequence[int]) -> Iterable[Any]:
        """What the tables have of each key: (key, ...)"""
        return self._db.execute(sql, (f"[{','.join(map(str, sorted(keys)))}]",)) if keys else ()

    def _remember(self, orgs: dict[int, int], last_days: Sequence[Days]) -> None:
        several = set()
        for key in last_days[IN_ORG]:
            user, code = key >> USER_BITS, FIRST_ORG + (key & NO_MASK)
            if orgs[user] == NOT_YET:
                orgs[user] = code
            elif orgs[user] != code:
                orgs[user] = SEVERAL
                several.add(user)
        self._remembered.put_orgs(orgs)
        self._remembered.put_days(last_days[EVERYWHERE])
        self._remembered.put_days(last_days[OF_SKILL])
        if several:
            for there, scope in ((self._remembered.in_org, IN_ORG), (self._remembered.of_pair, OF_PAIR)):
                there.update((key, day) for key, day in last_days[scope].items() if key >> USER_BITS in several)

    def _count_users(self, with_skill: Mapping[int, set[int]], before: Days) -> None:
        """A user who was last seen with the skill before this day is new on it; one who was last seen on it is not.

        Only a late event, of a day before, needs a look at what there is of that day.
        """
        for day, keys in with_skill.items():
            new = [key & NO_MASK for key in keys if before[key] < day]
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
            user, skill = key >> USER_BITS, key & NO_MASK
            if self._db.execute(used_on, {"day": day, "user": user, "skill": skill}).fetchone() is None:
                yield skill

    def _write(
        self, scope: int, moved: Days, last_days: Days, places: Mapping[int, Numbers] | None
    ) -> list[tuple[int, int, bytes]]:
        """Write the moves of a scope, into `last_days` as well; returns what they change in `last_seen`.

        `places` are those of a scope of one org.
        """
        moves = [(key, day) for key, day in moved.items() if last_days[key] < day]
        changes: dict[int, Counts] = {}
        for key, day in moves:
            no = key & NO_MASK
            if no not in changes:
                changes[no] = {}
            days = changes[no]
            days[day] = days.get(day, 0) + 1
            was = last_days[key]
            if was != NEVER:
                days[was] = days.get(was, 0) - 1
        if places is not None:
            self._seen.insert(sorted([(key >> USER_BITS, *places[key & NO_MASK], day) for key, day in moves]))
            if scope == OF_PAIR:
                new = [key for key, _ in moves if last_days[key] == NEVER]
                self._users.insert(sorted([(*places[key & NO_MASK], key >> USER_BITS) for key in new]))
        last_days.update(moves)
        return [(scope, no, counts.encode(days)) for no, days in sorted(changes.items())]


def _of_any_skill(keys: Iterable[int]) -> dict[int, Numbers]:
    """The places of keys that have an org."""
    orgs = {key & NO_MASK for key in keys}
    return {org: Numbers(ANY_SKILL, org) for org in orgs}
