"""The board: all skills at once, over all orgs or within one, in a window of days or since ever.

Days that are over are summed up once, and again only after a late event (see Snapshot.closed); today is always read.
"""

from collections.abc import Collection
from typing import Any, Final

import msgspec

from ..sketch import Sketch
from .formulas import rating_sums
from .reader import Snapshot
from .rollups import OF_PAIR, OF_SKILL

_COUNTS: Final = "sum(executions), sum(successes), sum(latency_sum), sum(r1), sum(r2), sum(r3), sum(r4), sum(r5)"


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

    def __init__(self, at: Snapshot, org_id: str | None) -> None:
        self._at = at
        self.scope = OF_SKILL if org_id is None else OF_PAIR
        self._org_no = at.value("SELECT no FROM org WHERE org_id = :org", org=org_id) or -1 if org_id else 0
        if org_id is None:
            self.total, self._daily, self.key = "skill_total", "skill_daily", "skill_no"
            self._from = "skill_daily WHERE true"
            names = at.rows("SELECT no, skill_id FROM skill")
        else:
            self.total, self._daily, self.key = "pair_total", "pair_daily", "pair_id"
            self._from = "pair JOIN pair_daily ON pair_daily.pair_id = pair.id WHERE pair.org_no = :org"
            names = at.rows("SELECT id, skill_id FROM pair WHERE org_no = :org", org=self._org_no)
        self.names: dict[int, str] = dict(names)

    def counts(self, first_day: int | None) -> dict[int, Counts]:
        """By number, from a day on; None: since ever."""
        at = self._at
        if first_day is None:
            wanted = "" if self.scope == OF_SKILL else "WHERE pair_id IN (SELECT id FROM pair WHERE org_no = :org)"
            return _by_number(
                at.rows(f"SELECT {self.key}, {_COUNTS} FROM {self.total} {wanted} GROUP BY 1", org=self._org_no)
            )
        yesterday = at.today - 1
        over = at.closed(
            ("counts", self._org_no), first_day, yesterday, lambda: self._window(first_day, "AND day < :today")
        )
        joint = dict(over)
        for no, counts in self._window(at.today, "").items():
            joint[no] = joint[no] + counts if no in joint else counts
        return joint

    def users(self, first_day: int | None) -> dict[int, int]:
        """How many different users each had from a day on; None: since ever."""
        source = "last_seen WHERE scope = 2"
        if self.scope == OF_PAIR:  # the other orgs' pairs are many: do not pass over them
            source = "pair CROSS JOIN last_seen ON scope = 3 AND no = pair.id WHERE org_no = :org"
        found = self._at.rows(
            f"SELECT no, sum(users) FROM {source} AND day >= :first GROUP BY no",
            org=self._org_no,
            first=first_day or 0,
        )
        return dict(found)

    def sketches(self, numbers: Collection[int], first_day: int | None) -> dict[int, Sketch]:
        """The latencies of some skills from a day on; None: since ever."""
        if first_day is None:
            return _sketches(self._read(self.total, numbers, ""))
        at = self._at
        yesterday = at.today - 1
        kept: dict[int, bytes] = at.closed(("sketches", self._org_no), first_day, yesterday, dict)
        missing = [no for no in numbers if no not in kept]
        if missing:
            over = _sketches(self._read(self._daily, missing, "AND day BETWEEN :first AND :today - 1", first_day))
            kept.update((no, over[no].encode() if no in over else b"\x80") for no in missing)
        joint = {no: Sketch.decode(kept[no]) for no in numbers if no in kept}
        for no, today in _sketches(self._read(self._daily, numbers, "AND day >= :first", at.today)).items():
            if no in joint:
                joint[no].merge(today)
            else:
                joint[no] = today
        return joint

    def _window(self, first_day: int, until: str) -> dict[int, Counts]:
        # The + keeps SQLite from passing over all days in the order of this column, to spare itself the sorting.
        return _by_number(
            self._at.rows(
                f"SELECT {self.key}, {_COUNTS} FROM {self._from} AND day >= :first {until} GROUP BY +{self.key}",
                first=first_day,
                today=self._at.today,
                org=self._org_no,
            )
        )

    def _read(self, table: str, numbers: Collection[int], when: str, first_day: int = 0) -> list[Any]:
        return self._at.rows(
            f"""SELECT {self.key}, sketch FROM json_each(:numbers)
                JOIN {table} ON {self.key} = json_each.value WHERE sketch IS NOT NULL {when}""",
            numbers=msgspec.json.encode(list(numbers)).decode(),
            first=first_day,
            today=self._at.today,
        )


def _by_number(rows: list[Any]) -> dict[int, Counts]:
    return {no: Counts(n, good, latency, *rating_sums(ratings)) for no, n, good, latency, *ratings in rows}


def _sketches(rows: list[tuple[int, bytes]]) -> dict[int, Sketch]:
    found: dict[int, Sketch] = {}
    for no, data in rows:
        if no in found:
            found[no].merge(Sketch.decode(data))
        else:
            found[no] = Sketch.decode(data)
    return found
