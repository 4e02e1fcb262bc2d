"""Remembered: when users were last seen, as far as it is in memory: what is here need not be looked up.

A day is a byte. Users are numbered one after another, so those of a skill lie close together: a block holds the days of
256 of them, at a fraction of what a dict would take. Of a user who was new when this began, all days are here: such a
user is *whole*, and what is not here of them has never been.
"""

from array import array
from collections.abc import Collection, Iterable, Mapping
from typing import Final

MAX_BLOCKS: Final = 45_000
"""Each of up to 256 users of one skill; together about 20 MB. Past it all is looked up again."""
MAX_THERE: Final = 50_000
"""Days of users of several orgs, about 5 MB."""

USER_BITS: Final = 32
"""A key is the user above these bits, and below them the number of what the user was seen with."""
NO_MASK: Final = (1 << USER_BITS) - 1
NEVER: Final = -1
"""Stands for the day of what has not been."""

SEVERAL: Final = 1
FIRST_ORG: Final = 2
NOT_YET: Final = 1 << 32
"""Codes of where a user has been: in several orgs; in one, whose number is added to FIRST_ORG; in none."""

Days = dict[int, int]
"""The last day of each key."""

_BLOCK_BITS: Final = 8
_IN_BLOCK: Final = (1 << _BLOCK_BITS) - 1
_SKILL_SHIFT: Final = USER_BITS - _BLOCK_BITS
_BEHIND: Final = 100  # days before the first one that can be remembered, too
_OTHER: Final = 255  # a day for which there is no byte
_WHOLE: Final = 1


class Remembered:
    """Of users and skills; skill 0 is any. It holds only while nothing is rolled back."""

    def __init__(self) -> None:
        self.in_org: Days = {}
        """Of users of several orgs: when they were last seen in each."""
        self.of_pair: Days = {}
        """Of users of several orgs: when they were last seen with each pair."""
        self._days = _Blocks("B")  # by skill: the days since `_base`; 0 is not known, or never
        self._orgs = _Blocks("I")  # the codes
        self._whole = _Blocks("B")
        self._base = 0

    def clear(self) -> None:
        """Forget all."""
        for remembered in (self.in_org, self.of_pair, self._days, self._orgs, self._whole):
            remembered.clear()

    def trim(self) -> None:
        """Forget all if it is too much."""
        if len(self._days) > MAX_BLOCKS or len(self.in_org) + len(self.of_pair) > MAX_THERE:
            self.clear()

    def turn_to(self, days: Collection[int]) -> None:
        """Begin anew, from these days on, if there is a byte for none of them."""
        if days and all(self._mark(day) == _OTHER for day in days):
            self.clear()
            self._base = min(days) - _BEHIND

    def others(self, day: int, skill: int, org: int, pair: int, users: Iterable[int]) -> list[int]:
        """The users, but for those who are known to have been seen with the pair last on this day. Each as a key."""
        days, orgs, of_pair = self._days, self._orgs, self.of_pair
        mark, block, only = self._mark(day), skill << _SKILL_SHIFT, FIRST_ORG + org
        if mark == _OTHER:
            mark = -1  # which is not what any block has
        return [
            user << USER_BITS
            for user in users
            if user
            and (
                days[block | user >> _BLOCK_BITS][user & _IN_BLOCK] != mark
                if orgs[user >> _BLOCK_BITS][user & _IN_BLOCK] == only
                else of_pair.get(user << USER_BITS | pair) != day
            )
        ]

    def recall(self, keys: Iterable[int], last_days: Days) -> list[int]:
        """Add the last days of (user, skill) as far as they are known; returns the other keys."""
        days, base, whole = self._days, self._base, self._whole
        unknown = []
        for key in keys:
            user = key >> USER_BITS
            mark = days[(key & NO_MASK) << _SKILL_SHIFT | user >> _BLOCK_BITS][user & _IN_BLOCK]
            if 0 < mark < _OTHER:
                last_days[key] = base + mark
            elif not mark and whole[user >> _BLOCK_BITS][user & _IN_BLOCK]:
                last_days[key] = NEVER
            else:
                unknown.append(key)
        return unknown

    def org(self, user: int) -> int:
        """The code of where a user has been; 0: not known."""
        return self._orgs[user >> _BLOCK_BITS][user & _IN_BLOCK]

    def put_orgs(self, orgs: Mapping[int, int]) -> None:
        """Remember the codes of users."""
        for user, code in orgs.items():
            self._orgs.writable(user >> _BLOCK_BITS)[user & _IN_BLOCK] = code

    def put_days(self, last_days: Mapping[int, int]) -> None:
        """Remember the last days of (user, skill)."""
        days, base = self._days, self._base
        for key, day in last_days.items():
            user, mark = key >> USER_BITS, day - base
            number = (key & NO_MASK) << _SKILL_SHIFT | user >> _BLOCK_BITS
            days.writable(number)[user & _IN_BLOCK] = mark if 0 < mark < _OTHER else _OTHER

    def put_whole(self, user: int) -> None:
        """From now on all days of this user are here."""
        self._whole.writable(user >> _BLOCK_BITS)[user & _IN_BLOCK] = _WHOLE

    def _mark(self, day: int) -> int:
        """The byte that stands for a day."""
        mark = day - self._base
        return mark if 0 < mark < _OTHER else _OTHER


class _Blocks(dict[int, "array[int]"]):
    """Numbers by key and user, in blocks by `key << _SKILL_SHIFT | user >> _BLOCK_BITS`. What is not there is 0."""

    def __init__(self, typecode: str) -> None:
        self._zeros = array(typecode, [0] * (1 << _BLOCK_BITS))

    def __missing__(self, number: int) -> "array[int]":
        return self._zeros

    def writable(self, number: int) -> "array[int]":
        """A block to write to, made if it is not there."""
        if number not in self:
            self[number] = self._zeros[:]
        return self[number]
