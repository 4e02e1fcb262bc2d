"""Remembered: when users were last seen, as far as it is in memory: what is here need not be looked up.

A day is a byte. Users are numbered one after another, so those of a skill lie close together: a block holds the days of
256 of them, at a fraction of what a dict would take. A user of whom there was nothing when they were first met is
*whole*: all their days are here, and what is not here of them has never been.

The bytes stand for the days around the daemon's own, so that no client's clock decides which these are. A day far from
it is in a dict; were it looked up each time, one event of a user of very many orgs would cost as much as all of them.
"""

from array import array
from collections.abc import Iterable, Mapping
from typing import Final

MAX_BLOCKS: Final = 50_000
"""Each of 256 bytes, such as the days of as many users of one skill; about 20 MB. Past it all is looked up again."""
MAX_SINGLE: Final = 150_000
"""Days that are no bytes, about 15 MB. Past it these are looked up again."""

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
_BEHIND: Final = 100  # days before the daemon's own that have a byte, too
_OTHER: Final = 255  # a day for which there is no byte
_WHOLE: Final = 1


class Remembered:
    """Of users and skills; skill 0 is any. It holds only while nothing is rolled back.

    Of a user whose day in a block is `_OTHER`, `_far` has it, or it is not known; of another, what is in `_far` is old.
    """

    def __init__(self) -> None:
        self.in_org: Days = {}
        """Of users of several orgs: when they were last seen in each."""
        self.of_pair: Days = {}
        """Of users of several orgs: when they were last seen with each pair."""
        self._far: Days = {}  # by skill: the days for which there is no byte
        self._days = _Blocks("B")  # by skill: the days since `_base`; 0 is not known, or never
        self._orgs = _Blocks("I")  # the codes
        self._whole = _Blocks("B")
        self._base = 0

    def clear(self) -> None:
        """Forget all."""
        self._clear_blocks()
        self._clear_dicts()

    def trim(self) -> None:
        """Forget what is too much: the blocks, or the dicts, of which few users may take very much."""
        if self._days.size + self._orgs.size + self._whole.size > MAX_BLOCKS:
            self._clear_blocks()
        if len(self.in_org) + len(self.of_pair) + len(self._far) > MAX_SINGLE:
            self._clear_dicts()

    def turn_to(self, today: int) -> None:
        """Begin anew, from the daemon's day on, if there is no byte for it."""
        if self._mark(today) == _OTHER:
            self.clear()
            self._base = today - _BEHIND

    def others(self, day: int, skill: int, org: int, pair: int, users: Iterable[int]) -> list[int]:
        """The users, but for those who are known to have been seen with the pair last on this day. Each as a key."""
        days, orgs, of_pair, far = self._days, self._orgs, self.of_pair, self._far
        mark, block, only = self._mark(day), skill << _SKILL_SHIFT, FIRST_ORG + org
        return [
            user << USER_BITS
            for user in users
            if user
            and (
                days[block | user >> _BLOCK_BITS][user & _IN_BLOCK] != mark
                or (mark == _OTHER and far.get(user << USER_BITS | skill) != day)
                if orgs[user >> _BLOCK_BITS][user & _IN_BLOCK] == only
                else of_pair.get(user << USER_BITS | pair) != day
            )
        ]

    def recall(self, keys: Iterable[int], last_days: Days) -> list[int]:
        """Add the last days of (user, skill) as far as they are known; returns the other keys."""
        days, base, whole, far = self._days, self._base, self._whole, self._far
        unknown = []
        for key in keys:
            user = key >> USER_BITS
            mark = days[(key & NO_MASK) << _SKILL_SHIFT | user >> _BLOCK_BITS][user & _IN_BLOCK]
            if 0 < mark < _OTHER:
                last_days[key] = base + mark
            elif mark and key in far:
                last_days[key] = far[key]
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
            if not 0 < mark < _OTHER:
                mark = _OTHER
                self._far[key] = day
            days.writable(number)[user & _IN_BLOCK] = mark

    def put_whole(self, user: int) -> None:
        """From now on all days of this user are here."""
        self._whole.writable(user >> _BLOCK_BITS)[user & _IN_BLOCK] = _WHOLE

    def _clear_blocks(self) -> None:
        self._days.clear()
        self._orgs.clear()
        self._whole.clear()

    def _clear_dicts(self) -> None:
        self.in_org.clear()
        self.of_pair.clear()
        self._far.clear()

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

    @property
    def size(self) -> int:
        """As many blocks of bytes."""
        return len(self) * self._zeros.itemsize

    def writable(self, number: int) -> "array[int]":
        """A block to write to, made if it is not there."""
        if number not in self:
            self[number] = self._zeros[:]
        return self[number]
