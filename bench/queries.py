"""Queries over a large record: how long each takes, and what recording costs upon no rows and upon many.

    python bench/queries.py [--events 500000] [--days 90] [--skills 1000] [--users 10000] [--orgs 20] [--keep FILE]

The target is 50 ms at the 95th percentile with `--events 10000000`, which takes twenty minutes to build; --keep
builds it once. A user belongs to one org. Skills are as unequally popular as words are (Zipf), in the questions too.
"first" is the first answer of a day, when nothing is remembered of the days that are over.

The last days are recorded, in turns, into the large database, an empty one, and one that has as many days already; in
groups as large as those of a daemon that has all it can do. What the tables of two levels put off is done before the
first of these days, and after the last one, on time: so each database pays for what is recorded into it, no more and no
less. Any user may use any skill, and so nearly every event of them is the first of its user with its skill on that day,
which is the dearest that recording can meet. Then the same with as many events, each kind into databases that only it
made: users who keep to 20 skills each, and few users that come back all day (25 skills, 4 orgs, 200 users).
"""

import argparse
import contextlib
import functools
import gc
import itertools
import random
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from unittest import mock

import msgspec

from skillmeter.errors import QueryError
from skillmeterd import levels
from skillmeterd.queries import Queries
from skillmeterd.queries.params import METRICS, PERIODS
from skillmeterd.retention import RECENT
from skillmeterd.rows import DAY_NS
from skillmeterd.store import Chunk, Store

TODAY = 20_000
NOW_NS = TODAY * DAY_NS + DAY_NS // 2
GROUP = 38_000  # INTAKE_BYTES of these events
MEASURED_DAYS = 8
ROUNDS = 40
TARGET_MS = 50
ERRORS = ("TimeoutError", "ValueError", "ConnectionError", "KeyError")
KINDS = {
    "users who keep to 20 skills": {"skills_each": 20},
    "few users that come back": {"skills": 25, "orgs": 4, "users": 200},
}
PAGE_DAYS = (1, 7, 30, 90, 3660)
clock_s = time.perf_counter  # time.thread_time on a machine that does other things too


def main() -> None:
    """Build, ask, print."""
    global clock_s
    args = _arguments()
    clock_s = time.thread_time if args.cpu else time.perf_counter
    with tempfile.TemporaryDirectory() as folder:
        path = args.keep or Path(folder) / "analytics.db"
        if path.exists():
            print(f"{path} is kept from before; recording is not measured")
        else:
            part = path.with_name(path.name + ".part")
            _build(part, "first uses", args)
            part.rename(path)
            for number, (what, kind) in enumerate(KINDS.items()):
                _build(Path(folder) / f"{number}.db", what, argparse.Namespace(**{**vars(args), **kind}))
        print(f"database {path.stat().st_size / 2**20:.0f} MiB")
        _ask(path, args)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    sizes = {"events": 500_000, "days": 90, "skills": 1000, "users": 10_000, "orgs": 20}
    for name, default in sizes.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.set_defaults(skills_each=0)  # any
    parser.add_argument("--keep", type=Path, help="keep the database here, or ask the one that is here")
    parser.add_argument("--cpu", action="store_true", help="time of the processor, for a machine that is not idle")
    parser.add_argument("--only", default="", help="ask only what has this in its name")
    args = parser.parse_args()
    if args.days < 2 * MEASURED_DAYS:
        parser.error(f"--days must be at least {2 * MEASURED_DAYS}: half of them are measured")
    return args


# Recording.


def _build(path: Path, what: str, args: argparse.Namespace) -> None:
    """Record day after day; the last ones in turns with an empty database, and with one that is a few days old."""
    gc.disable()  # as in the daemon's ingest thread
    clock_ns = [NOW_NS]
    events = args.events // args.days  # of a day
    ages = {"large": args.days, "young": 2 * MEASURED_DAYS, "empty": MEASURED_DAYS}
    spent_s = dict.fromkeys(ages, 0.0)
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as opened:
        stores = {}
        for name in ages:
            file = path if name == "large" else Path(folder) / name
            stores[name] = opened.enter_context(contextlib.closing(Store.open(file, clock_ns=lambda: clock_ns[0])))
        for day in range(TODAY + 1 - args.days, TODAY + 1):
            clock_ns[0] = day * DAY_NS + DAY_NS // 2
            if day == TODAY + 1 - MEASURED_DAYS:
                for store in stores.values():
                    _put_in_order(store)
                spent_s = dict.fromkeys(ages, 0.0)
            _record_day({name: stores[name] for name in ages if day > TODAY - ages[name]}, spent_s, day, events, args)
        for name, store in stores.items():
            began_s = clock_s()
            _put_in_order(store)
            spent_s[name] += clock_s() - began_s
    large, young, empty = (MEASURED_DAYS * events / seconds for seconds in spent_s.values())
    rows = f"{(args.days - MEASURED_DAYS) * events:,}"
    print(
        f"recording {what}: {empty:,.0f} events/s from no rows on, {young:,.0f} from {MEASURED_DAYS * events:,} on,"
        f" {large:,.0f} from {rows} on; ratio {young / empty:.2f}, {large / empty:.2f}",
        flush=True,
    )


def _record_day(
    stores: dict[str, Store], spent_s: dict[str, float], day: int, events: int, args: argparse.Namespace
) -> None:
    """Record a day into each, in turns, and add what it took."""
    for number, (start, count) in enumerate(_groups(events)):
        chunk = _chunk(day, start, count, args)
        for name in sorted(stores, reverse=number % 2 == 0):
            began_s = clock_s()
            _record(stores[name], chunk)
            spent_s[name] += clock_s() - began_s
        gc.collect()


def _record(store: Store, chunk: Chunk) -> None:
    """Commit, and put in order at once what the daemon would in the time to come."""
    store.commit([chunk])
    while store.settle(RECENT):
        pass


def _put_in_order(store: Store) -> None:
    """Do all that was put off. Else an empty database would end with much to do, and a large one begin with it."""
    with mock.patch.multiple(levels, MAX_RECENT=0, MAX_RECENT_BYTES=0):
        while store.settle(RECENT):
            pass


def _groups(events: int) -> Iterator[tuple[int, int]]:
    """(start, number of events) of each group of a day."""
    return ((start, min(GROUP, events - start)) for start in range(0, events, GROUP))


def _chunk(day: int, start: int, count: int, args: argparse.Namespace) -> Chunk:
    number = (args.users * 2**32 + day) * 2**32 + start
    dice = random.Random(number)
    skills = dice.choices(range(args.skills), cum_weights=_popularity(args.skills), k=count)
    payloads = []
    for skill in skills:
        user = dice.randrange(args.users)
        if args.skills_each:
            own = _own_skills(user, args.skills, args.skills_each)
            (skill,) = dice.choices(own, cum_weights=_popularity(args.skills_each))
        at_ns = day * DAY_NS + dice.randrange(DAY_NS)
        latency_ms = dice.lognormvariate(4 + skill % 7 / 3, 0.7)
        names = f"skill-{skill}", f"user-{user}", f"org-{user % args.orgs}"
        if dice.random() < 0.02:
            payloads.append(msgspec.msgpack.encode((2, at_ns, *names, dice.randint(1, 5))))
        else:
            extra = () if dice.random() < 0.95 else (dice.choice(ERRORS),)
            payloads.append(msgspec.msgpack.encode((1, at_ns, *names, not extra, latency_ms, *extra)))
    return Chunk(number.to_bytes(16, "big"), 100 * count, list(range(0, 100 * count, 100)), payloads, finished=True)


@functools.cache
def _own_skills(user: int, skills: int, number: int) -> list[int]:
    """Those that a user keeps to."""
    return random.Random(user).choices(range(skills), cum_weights=_popularity(skills), k=number)


@functools.cache
def _popularity(skills: int) -> list[float]:
    return list(itertools.accumulate(1 / (rank + 1) for rank in range(skills)))


# Asking.


def _ask(path: Path, args: argparse.Namespace) -> None:
    queries = Queries(path, clock_ns=lambda: NOW_NS)
    dice = random.Random(1)
    too_slow = []
    print(f"{'':56}{'first':>8}{'p50':>8}{'p95':>8}{'worst':>8}  ms")
    for name, method, params in _questions(args, dice):
        if args.only not in name:
            continue
        times_ms = [_timed_ms(queries, method, params()) for _ in range(ROUNDS)]
        ordered = sorted(times_ms)
        p95 = ordered[int(0.95 * (ROUNDS - 1))]
        if p95 > TARGET_MS:
            too_slow.append(name)
        mark = f"  more than {TARGET_MS}" if p95 > TARGET_MS else ""
        print(f"{name:56}{times_ms[0]:8.1f}{ordered[ROUNDS // 2]:8.1f}{p95:8.1f}{ordered[-1]:8.1f}{mark}", flush=True)
    queries.close()
    print(f"p95 within {TARGET_MS} ms: {'all' if not too_slow else f'all but {len(too_slow)}: ' + '; '.join(too_slow)}")


Question = tuple[str, str, Callable[[], dict[str, object]]]
"""(name, method, parameters: other ones each time)"""


def _questions(args: argparse.Namespace, dice: random.Random) -> Iterator[Question]:
    """All that clients, the command line and the page ask."""

    def skill() -> str:
        return f"skill-{dice.choices(range(args.skills), cum_weights=_popularity(args.skills))[0]}"

    def org() -> str | None:
        return dice.choice([None, f"org-{dice.randrange(args.orgs)}"])

    def of_skill(**more: object) -> Callable[[], dict[str, object]]:
        return lambda: {"skill_id": skill(), **more}

    def of_org(**more: object) -> Callable[[], dict[str, object]]:
        return lambda: {"skill_id": skill(), "org_id": org(), **more}

    def always(**params: object) -> Callable[[], dict[str, object]]:
        return lambda: params

    yield "metrics", "metrics", of_skill()
    yield "health_score", "health_score", of_skill()
    yield "adoption", "adoption", of_org()

    def of_user() -> dict[str, object]:
        user = dice.randrange(args.users)
        return {"user_id": f"user-{user}", "org_id": dice.choice([None, f"org-{user % args.orgs}"])}

    yield "recommend", "recommend", of_user
    yield "recommend to a new user", "recommend", always(user_id="nobody", org_id="org-1")
    for method in ("db_stats", "orgs", "skills"):
        yield method, method, always()
    for method, days in itertools.product(("usage", "trends", "timeline", "distribution", "breakdown"), PAGE_DAYS):
        yield f"{method}, {days} days", method, of_org(days=days)
        yield f"{method}, {days} days, most used skill", method, always(days=days, skill_id="skill-0")
    for within, note in ((None, ""), ("org-1", ", one org")):
        for days in PAGE_DAYS:
            yield f"overview, {days} days{note}", "overview", always(days=days, org_id=within)
            yield f"activity, {days} days{note}", "activity", always(days=days, org_id=within, limit=1000)
            for metric, limit in itertools.product(METRICS, (100, 1000)):
                asked = always(metric=metric, days=days, limit=limit, org_id=within)
                yield f"board of {limit} by {metric}, {days} days{note}", "leaderboard", asked
        for metric, period in itertools.product(METRICS, PERIODS):
            yield f"{metric}, {period}{note}", "leaderboard", always(metric=metric, period=period, org_id=within)


def _timed_ms(queries: Queries, method: str, params: dict[str, object]) -> float:
    began_s = clock_s()
    with contextlib.suppress(QueryError):  # in a small record some skill was never used
        queries.ask(method, params)
    return (clock_s() - began_s) * 1000


if __name__ == "__main__":
    main()
