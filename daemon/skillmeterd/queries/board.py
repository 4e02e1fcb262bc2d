"""The board: all skills at once, over all orgs or within one, in a window of days or since ever.

Days that are over are summed up once, and again only after a late event (see Snapshot.closed); today is always read.
What takes longer, percentiles and users, is computed again for the skills that were executed since. A window that holds
all days there are is read from the totals.
"""

from collections.abc import Callable, Collection, Mapping
from functools import cached_property
from typing import Any, Final, TypeVar

import msgspec

from ..counts import since
from ..seen import OF_PAIR, OF_SKILL
from ..sketch import Sketch
from .reader import Snapshot
from .rollups import Percentiles, are_few, first_by_place, merge, pairs_by_day, percentiles

_COUNTS: Final = ("executions", "successes", "latency_sum", "r1 + r2 + r3 + r4 + r5", "r1 + 2*r2 + 3*r3 + 4*r4 + 5*r5")
_SUMS: Final = ", ".join(f"sum({count})" for count in _COUNTS)

_OF_BOTH_LEVELS: Final = """
SELECT {columns} FROM json_each(:numbers) CROSS JOIN {table} ON {key} = json_each.value
UNION ALL
SELECT {columns} FROM json_each(:numbers) CROSS JOIN {table}_recent ON {key} = json_each.value
"""

T = TypeVar("T")


class Counts(msgspec.Struct, frozen=True, gc=False):
    """Executions and ratings of one skill."""

    executions: int
    successes: int
    latency_sum: float
    rating_count: int
    rating_sum: int

    def __add__(self, other: "Counts") -> "Counts":
        return Counts(
            self.executions + other.executions,
            self.successes + other.successes,
            self.latency_sum + other.latency_sum,
            self.rating_count + other.rating_count,
            self.rating_sum + other.rating_sum,
        )


class Board:
    """Skills by number: their own over all orgs, that of their pair within an org. An unknown org has none."""

    def __init__(self, at: Snapshot, org_id: str | None, first_day: int | None = None) -> None:
        """A window that is open from `first_day` on; None: since ever."""
        self._at = at
        self.scope = OF_SKILL if org_id is None else OF_PAIR
        self.org_no = at.value("SELECT no FROM org WHERE org_id = :org", org=org_id) or -1 if org_id else 0
        if org_id is None:
            self.total, self._daily, self.key = "skill_total", "skill_daily", "skill_no"
            self._sketches = "skill_sketch"
            self._from = "skill_daily WHERE true"
        else:
            self.total, self._daily, self.key = "pair_total", "pair_daily", "pair_id"
            self._sketches = "pair_sketch"
            of_org = "org_no = :org"
            self._from = f"{pairs_by_day(at, of_org, org=self.org_no)} WHERE pair_id = pair.id AND {of_org}"
        oldest = at.value(f"SELECT min(day) FROM {self._daily}")
        self._first_day = None if first_day is None or oldest is None or first_day <= oldest else first_day

    def first(self, places: Mapping[int, Any], limit: int) -> dict[int, str]:
        """Names by number of those with the least places, in that order; of equals the first by name."""
        table, key = ("skill", "no") if self.scope == OF_SKILL else ("pair", "id")
        return first_by_place(self._at, places, limit, table, key)

    @cached_property
    def counts(self) -> dict[int, Counts]:
        """By number."""
        if self._first_day is None:
            return self._news
        first_day, yesterday = self._first_day, self._at.today - 1
        over = self._at.closed(
            ("counts", self.org_no), first_day, yesterday, lambda: self._window(first_day, "AND day < :today")
        )
        joint = dict(over)
        for no, counts in self._news.items():
            joint[no] = joint[no] + counts if no in joint else counts
        return joint

    def users(self, numbers: Collection[int]) -> dict[int, int]:
        """How many different ones some skills had."""
        return self._standings("users", numbers, self._users)

    def percentiles(self, numbers: Collection[int]) -> dict[int, Percentiles]:
        """Those of some skills' latencies."""
        return self._standings("percentiles", numbers, self._percentiles)

    def _standings(
        self, what: str, numbers: Collection[int], find: Callable[[Collection[int]], dict[int, T]]
    ) -> dict[int, T]:
        """What was known of a skill holds until it is executed again."""
        executions = {no: self._news[no].executions if no in self._news else 0 for no in numbers}
        known: dict[int, tuple[int, T]] = self._kept(what)
        changed = [no for no in numbers if no not in known or known[no][0] != executions[no]]
        if changed:
            known.update((no, (executions[no], found)) for no, found in find(changed).items())
        return {no: known[no][1] for no in numbers}

    def weeks(self) -> dict[int, tuple[int, int]]:
        """Executions of each in the last seven days, and in the seven before; whatever the window."""
        at, first_day = self._at, self._at.today - 13
        over: dict[int, tuple[int, int]] = at.closed(
            ("weeks", self.org_no),
            first_day,
            at.today - 1,
            lambda: {
                no: (last, before)
                for no, last, before in at.rows(
                    f"""SELECT {self.key}, sum(iif(day >= :week, executions, 0)), sum(iif(day < :week, executions, 0))
                        FROM {self._from} AND day >= :first AND day < :today GROUP BY +{self.key}""",
                    week=at.today - 6,
                    first=first_day,
                    today=at.today,
                    org=self.org_no,
                )
            },
        )
        joint = dict(over)
        for no, counts in self._window(at.today, "").items():
            last, before = joint.get(no, (0, 0))
            joint[no] = last + counts.executions, before
        return joint

    @cached_property
    def _news(self) -> dict[int, Counts]:
        """Today's counts, or those since ever: what was remembered of a skill holds while these have not changed."""
        if self._first_day is not None:
            return self._window(self._at.today, "")
        wanted = "" if self.scope == OF_SKILL else "WHERE pair_id IN (SELECT id FROM pair WHERE org_no = :org)"
        columns = ", ".join(_COUNTS)
        return _by_number(self._at.rows(f"SELECT {self.key}, {columns} FROM {self.total} {wanted}", org=self.org_no))

    def _kept(self, what: str) -> dict[int, Any]:
        """What is remembered of this window's skills, by number, while no late event comes."""
        first_day, yesterday = self._first_day, self._at.today - 1
        if first_day is None or first_day > yesterday:
            return self._at.memo.get((what, self.org_no, first_day), None, dict)
        return self._at.closed((what, self.org_no), first_day, yesterday, dict)

    def _users(self, numbers: Collection[int]) -> dict[int, int]:
        found = self._at.rows(
            _OF_BOTH_LEVELS.format(columns="no, users", table="last_seen", key="scope = :scope AND no"),
            numbers=_json(numbers),
            scope=self.scope,
        )
        users = dict.fromkeys(numbers, 0)
        for no, counts in found:
            users[no] += since(counts, self._first_day or 0)
        return users

    def _percentiles(self, numbers: Collection[int]) -> dict[int, Percentiles]:
        return {no: percentiles(latencies) for no, latencies in self._latencies(numbers).items()}

    def _latencies(self, numbers: Collection[int]) -> dict[int, Sketch]:
        if self._first_day is None:
            columns = f"{self.key}, sketch"
            sql = _OF_BOTH_LEVELS.format(columns=columns, table=self._sketches, key=self.key)
            total = _by_key(self._at.rows(sql, numbers=_json(numbers)))
            return {no: merge(total.get(no, ())) for no in numbers}
        by_day = f"day_change CROSS JOIN {self._daily} USING (day)"
        over: dict[int, bytes] = self._kept("sketches")
        missing = [no for no in numbers if no not in over]
        if missing:
            days = self._read(by_day, missing, "AND day BETWEEN :first AND :today - 1", self._first_day)
            over.update((no, merge(days.get(no, ())).encode()) for no in missing)
        today = self._read(by_day, numbers, "AND day >= :first", self._at.today)
        return {no: merge([over[no], *today.get(no, ())]) for no in numbers}

    def _window(self, first_day: int, until: str) -> dict[int, Counts]:
        # The + keeps SQLite from passing over all days in the order of this column, to spare itself the sorting.
        return _by_number(
            self._at.rows(
                f"SELECT {self.key}, {_SUMS} FROM {self._from} AND day >= :first {until} GROUP BY +{self.key}",
                first=first_day,
                today=self._at.today,
                org=self.org_no,
            )
        )

    def _read(self, source: str, numbers: Collection[int], when: str, first_day: int) -> dict[int, list[bytes]]:
        """The sketches of each."""
        looked_up = "" if are_few(self._at, len(numbers)) else "+"  # which keeps SQLite from looking for each number
        return _by_key(
            self._at.rows(
                f"""SELECT {self.key}, sketch FROM {source}
                    WHERE {looked_up}{self.key} IN (SELECT value FROM json_each(:numbers))
                        AND sketch IS NOT NULL {when}""",
                numbers=_json(numbers),
                first=first_day,
                today=self._at.today,
            )
        )


def _by_key(rows: list[Any]) -> dict[int, list[bytes]]:
    found: dict[int, list[bytes]] = {}
    for no, sketch in rows:
        found.setdefault(no, []).append(sketch)
    return found


def _by_number(rows: list[Any]) -> dict[int, Counts]:
    return {no: Counts(*counts) for no, *counts in rows}


def _json(numbers: Collection[int]) -> str:
    return msgspec.json.encode(list(numbers)).decode()
