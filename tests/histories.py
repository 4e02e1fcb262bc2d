"""Histories: records that tests make - events by hand and by hypothesis - in a database whose clock they move."""

import random
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import msgspec
import pytest
from hypothesis import strategies as st

from skillmeter.errors import QueryError
from skillmeter.events import Event, Execution, Health, Rating
from skillmeterd import levels
from skillmeterd.queries import Queries
from skillmeterd.retention import Retention
from skillmeterd.store import Chunk, Store

from .comparison import check, plain
from .recomputation import ANSWERS, DAY_NS, History, Unknown

TODAY: Final = 20_000
MIDNIGHT_NS: Final = TODAY * DAY_NS
NOW_NS: Final = MIDNIGHT_NS + DAY_NS // 2

# Names that only just differ: by case, by how an umlaut is written, by a NUL.
SKILLS: Final = ("a", "A", "\u00e4", "a\u0308", "a\0")
ORGS: Final = (None, "o1", "O1")
USERS: Final = (None, "u1", "U1", "u2", "u\u0308")


def run(skill: str = "a", ago: float = 0, user: str | None = None, org: str | None = None, **more: Any) -> Execution:
    """An execution so many days before noon."""
    return Execution(
        NOW_NS - int(ago * DAY_NS), skill, user, org, more.get("success", True), more.get("latency_ms", 10.0)
    )


class Record:
    """A database, its writer, and questions about it."""

    def __init__(self, folder: Path, now_ns: int = NOW_NS) -> None:
        self.now_ns = now_ns
        self.events: list[Event] = []
        """All that was committed, in that order."""
        self.kept = 0
        """How many of them, from the end, `cleanup` has left."""
        self._commit_days: list[int] = []
        self.store = Store.open(folder / "analytics.db", clock_ns=self._clock_ns)
        self.queries = Queries(self.store.path, self._clock_ns)

    def commit(self, *groups: Sequence[Event], producer: bytes = bytes(16)) -> None:
        """Each group in a transaction, continuing the producer's journal."""
        for group in groups:
            start = self.store.committed(producer).offset
            offsets = [start + 100 * index for index in range(len(group))]
            payloads = [msgspec.msgpack.encode(event) for event in group]
            self.store.commit([Chunk(producer, start + 100 * len(group), offsets, payloads)])
            self.events += group
            self._commit_days += [self.now_ns // DAY_NS] * len(group)
            self.kept += len(group)

    def ask(self, method: str, params: Mapping[str, Any] | None = None, **more: Any) -> Any:
        """The answer to a question."""
        return self.queries.ask(method, params, **more)

    def check(self, method: str, params: Mapping[str, Any]) -> None:
        """The answer, or that there is none, is that of the plain recomputation."""
        try:
            wanted = ANSWERS[method](History(self.events, self.now_ns, self.kept, self._commit_days), **params)
        except Unknown:
            with pytest.raises(QueryError, match="nothing was recorded of a skill"):
                self.ask(method, params)
        else:
            check(plain(self.ask(method, params)), wanted, f"{method} {params}")

    def restart(self) -> None:
        """Writer and reader begin anew, with nothing in memory."""
        self.close()
        self.store = Store.open(self.store.path, clock_ns=self._clock_ns)
        self.queries = Queries(self.store.path, self._clock_ns)

    def cleanup(self, retention_days: int) -> None:
        """Delete the events that were committed more than so many days ago."""
        retention = Retention(self.store, 0, self._clock_ns)
        asked = {"retention_days": retention_days, "job": "test"}
        while not retention.cleanup(asked)[1]:
            retention.step()
        first_day = self.now_ns // DAY_NS - retention_days
        left = [day >= first_day for day in self._commit_days]
        self.kept = min(self.kept, len(left) - left.index(True) if True in left else 0)

    def settle(self, rows: int) -> None:
        """Merge some of what is recent, as the daemon does once there is much of it."""
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(levels, "MAX_RECENT", 0)
            patch.setattr(levels, "MAX_RECENT_BYTES", 0)
            patch.setattr(levels, "COUNTS_COST", 1)
            for _ in range(6):  # of five tables
                self.store.settle(rows)

    def close(self) -> None:
        """Idempotent."""
        self.queries.close()
        self.store.close()

    def _clock_ns(self) -> int:
        return self.now_ns


@contextmanager
def recorded(*groups: Sequence[Event], now_ns: int = NOW_NS) -> Iterator[Record]:
    """A record to which each group was committed, by default at noon."""
    with tempfile.TemporaryDirectory() as folder:
        record = Record(Path(folder), now_ns)
        try:
            record.commit(*groups)
            yield record
        finally:
            record.close()


# What hypothesis makes.


@dataclass(frozen=True)
class Happening:
    """An event so many days ago, at a moment of the day; None: at this one."""

    days_ago: int
    moment: int | None
    event: Event

    def at(self, now_ns: int) -> Event:
        """The event, given what time it is."""
        moment = now_ns % DAY_NS if self.moment is None else self.moment
        at_ns = (now_ns // DAY_NS - self.days_ago) * DAY_NS + moment
        return msgspec.structs.replace(self.event, recorded_at_ns=at_ns)


@dataclass(frozen=True)
class Chapter:
    """A part of a life: time passes, perhaps it restarts, something is deleted or merged, and a group is committed."""

    wait: str
    happenings: Iterable[Happening]
    restart: bool
    cleanup_days: int | None
    settled: int

    def happen(self, record: Record) -> None:
        """To this record."""
        record.now_ns = WAITS[self.wait](record.now_ns)
        if self.restart:
            record.restart()
        if self.cleanup_days is not None:
            record.cleanup(self.cleanup_days)
        if self.settled:
            record.settle(self.settled)
        record.commit([happening.at(record.now_ns) for happening in self.happenings])


def _next_midnight(now_ns: int) -> int:
    return (now_ns // DAY_NS + 1) * DAY_NS


WAITS: Final[Mapping[str, Callable[[int], int]]] = {
    "not at all": lambda now_ns: now_ns,
    "a nanosecond": lambda now_ns: now_ns + 1,
    "until the day's last nanosecond": lambda now_ns: _next_midnight(now_ns) - 1,
    "until midnight": _next_midnight,
    "a day": lambda now_ns: now_ns + DAY_NS,
    "a week": lambda now_ns: now_ns + 7 * DAY_NS,
    "a month": lambda now_ns: now_ns + 30 * DAY_NS,
}

nows = st.sampled_from([MIDNIGHT_NS, MIDNIGHT_NS + 1, NOW_NS, MIDNIGHT_NS + DAY_NS - 1])
_DAYS_AGO: Final = (0, 0, 0, 0, 1, 1, 1, 2, 2, 6, 7, 8, 13, 14, 29, 30, 31, 365, 366, 400, 3659, 3660, -1, -400)
_MOMENTS: Final = (None, None, 0, 1, DAY_NS // 3, DAY_NS - 1)
_LATENCIES: Final = (0.0, 0.0004, *(0.5 * 1.5**step for step in range(30)))  # more than 1 % apart, to be told apart
_ERRORS: Final = (None, "KeyError", "keyerror")


@dataclass(frozen=True)
class Many:
    """More than hypothesis would draw one by one; most are executions, and the first skill has many of them."""

    seed: int
    count: int

    def __iter__(self) -> Iterator[Happening]:
        dice = random.Random(self.seed)
        for _ in range(self.count):
            yield Happening(dice.choice(_DAYS_AGO), dice.choice(_MOMENTS), self._event(dice))

    @staticmethod
    def _event(dice: random.Random) -> Event:
        skill, user, org = dice.choice(("a", "a", *SKILLS)), dice.choice(USERS), dice.choice(ORGS)
        kind = dice.random()
        if kind < 0.1:
            return Rating(0, skill, user, org, dice.randint(1, 5))
        if kind < 0.15:
            return Health(0, skill, dice.uniform(0, 100))
        good = dice.random() < 0.7
        return Execution(0, skill, user, org, good, dice.choice(_LATENCIES), error_type=dice.choice(_ERRORS))


_skills, _users, _orgs = st.sampled_from(SKILLS), st.sampled_from(USERS), st.sampled_from(ORGS)
_executions = st.builds(
    Execution,
    st.just(0),
    _skills,
    _users,
    _orgs,
    st.booleans(),
    st.sampled_from(_LATENCIES),
    error_type=st.sampled_from(_ERRORS),
)
_ratings = st.builds(Rating, st.just(0), _skills, _users, _orgs, st.integers(1, 5))
_healths = st.builds(Health, st.just(0), _skills, st.floats(0, 100))
_happenings = st.builds(
    Happening, st.sampled_from(_DAYS_AGO), st.sampled_from(_MOMENTS), _executions | _ratings | _healths
)
_seeds = st.integers(0, 2**32)
groups = (
    st.lists(_happenings, max_size=5)
    | st.builds(Many, _seeds, st.sampled_from([10, 30]))
    | st.builds(Many, _seeds, st.sampled_from([100, 200]))
)
chapters = st.builds(
    Chapter,
    st.sampled_from([*WAITS]),
    groups,
    restart=st.sampled_from([False, False, True]),
    cleanup_days=st.sampled_from([None, None, None, 1, 7]),
    settled=st.sampled_from([0, 0, 10, 1000]),
)
lives = st.lists(chapters, min_size=1, max_size=4)


def check_life(life: Sequence[Chapter], asked: Sequence[tuple[str, Mapping[str, Any]]], now_ns: int) -> None:
    """After each chapter every question, asked again and again, is answered as by the plain recomputation."""
    with recorded(now_ns=now_ns) as record:
        for chapter in life:
            chapter.happen(record)
            for method, params in asked:
                record.check(method, params)


# What can be asked about them.

_days = st.sampled_from([1, 2, 7, 14, 30, 31, 366, 367, 3660])
_limits = st.sampled_from([1, 2, 1000])
_any_skill = st.sampled_from(["a", "a", "a", *SKILLS, "nobody's"])  # most is known of the first
_any_org = st.sampled_from([None, None, *ORGS, "nobody's"])
_skill = st.fixed_dictionaries({"skill_id": _any_skill})
_skill_in_org = st.fixed_dictionaries({"skill_id": _any_skill, "org_id": _any_org})
_skill_days = st.fixed_dictionaries({"skill_id": _any_skill, "org_id": _any_org}, optional={"days": _days})
_names = st.fixed_dictionaries(
    {},
    optional={
        "after": st.sampled_from(["A", "a", "o1", "b"]),
        "find": st.sampled_from(["A", "o", "1", "\0", "\u00c4", "%", "_"]),
        "limit": _limits,
    },
)
_window = st.sampled_from(["all", "daily", "weekly", "monthly"]).map(lambda period: {"period": period}) | _days.map(
    lambda days: {"days": days}
)

questions: Final[Mapping[str, st.SearchStrategy[dict[str, Any]]]] = {
    "usage": _skill_days,
    "metrics": _skill,
    "health_score": _skill,
    "leaderboard": st.builds(
        lambda window, asked: {**window, **asked},
        _window,
        st.fixed_dictionaries(
            {
                "metric": st.sampled_from(["usage_count", "success_rate", "rating", "adoption", "performance"]),
                "org_id": _any_org,
            },
            optional={"limit": _limits},
        ),
    ),
    "trends": _skill_days,
    "recommend": st.fixed_dictionaries(
        {"user_id": st.sampled_from(["u1", "U1", "u2", "nobody"]), "org_id": _any_org}, optional={"limit": _limits}
    ),
    "adoption": _skill_in_org,
    "db_stats": st.just({}),
    "overview": st.fixed_dictionaries({"org_id": _any_org}, optional={"days": _days}),
    "distribution": _skill_days,
    "breakdown": _skill_days,
    "orgs": _names,
    "skills": _names,
    "timeline": _skill_days,
    "activity": st.fixed_dictionaries({"org_id": _any_org}, optional={"days": _days, "limit": _limits}),
}
"""Parameters of each question, by its name."""
