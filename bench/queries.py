"""Queries over a large record: how long each takes, and what recording costs while the record grows.

    python bench/queries.py [--events 10000000] [--days 90] [--skills 1000] [--users 10000] [--orgs 20] [--keep FILE]

A user belongs to one org. Skills are as unequally popular as words are (Zipf), in the questions too. The first answer
after midnight merges the days that are over; it is reported by itself ("cold").
"""

import argparse
import gc
import itertools
import random
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec

from skillmeterd.queries import Queries
from skillmeterd.queries.params import METRICS, PERIODS
from skillmeterd.rows import DAY_NS
from skillmeterd.store import Chunk, Store

TODAY = 20_000
NOW_NS = TODAY * DAY_NS + DAY_NS // 2
GROUP = 16_000
ROUNDS = 40
clock_s = time.perf_counter  # time.thread_time on a machine that does other things too


def main() -> None:
    """Build, ask, print."""
    global clock_s
    args = _arguments()
    clock_s = time.thread_time if args.cpu else time.perf_counter
    with tempfile.TemporaryDirectory() as folder:
        path = args.keep or Path(folder) / "analytics.db"
        if not path.exists():
            _build(path, args)
        print(f"database {path.stat().st_size / 2**20:.0f} MiB")
        _ask(path, args)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    sizes = {"events": 10_000_000, "days": 90, "skills": 1000, "users": 10_000, "orgs": 20}
    for name, default in sizes.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--keep", type=Path, help="keep the database here, or ask the one that is here")
    parser.add_argument("--cpu", action="store_true", help="time of the processor, for a machine that is not idle")
    return parser.parse_args()


def _build(path: Path, args: argparse.Namespace) -> None:
    """Record day after day, and print what an event cost in the first and in the last tenth."""
    clock = [NOW_NS]
    store = Store.open(path, clock_ns=lambda: clock[0])
    per_event_us = []
    gc.disable()
    groups = list(_days(args))
    for number, (day, count) in enumerate(groups):
        clock[0] = day * DAY_NS + DAY_NS // 2
        chunk = _chunk(number, day, count, args)
        began_s = time.perf_counter()
        store.commit([chunk])
        per_event_us.append((time.perf_counter() - began_s) / count * 1e6)
        gc.collect()
    store.close()
    tenth = max(1, len(groups) // 10)
    print(
        f"recording {args.events:,} events: {_median(per_event_us[:tenth]):.1f} us an event in the first tenth, ",
        end="",
    )


def _days(args: argparse.Namespace) -> Iterator[tuple[int, int]]:
    """(day, number of events) of each group."""
    each = args.events // args.days
    for day in range(TODAY - args.days + 1, TODAY + 1):
        for start in range(0, each, GROUP):
            yield day, min(GROUP, each - start)


def _chunk(number: int, day: int, count: int, args: argparse.Namespace) -> Chunk:
    dice = random.Random(number)
    skills = dice.choices(range(args.skills), cum_weights=_popularity(args.skills), k=count)
    payloads = []
    for skill in skills:
        user = dice.randrange(args.users)
        at_ns = day * DAY_NS + dice.randrange(DAY_NS)
        latency_ms = dice.lognormvariate(4 + skill % 7 / 3, 0.7)
        names = f"skill-{skill}", f"user-{user}", f"org-{user % args.orgs}"
        if dice.random() < 0.02:
            payloads.append(msgspec.msgpack.encode((2, at_ns, *names, dice.randint(1, 5))))
        else:
            payloads.append(msgspec.msgpack.encode((1, at_ns, *names, dice.random() < 0.95, latency_ms)))
    return Chunk(number.to_bytes(16, "big"), 100 * count, list(range(0, 100 * count, 100)), payloads, finished=True)


def _popularity(skills: int) -> list[float]:
    return list(itertools.accumulate(1 / (rank + 1) for rank in range(skills)))


def _ask(path: Path, args: argparse.Namespace) -> None:
    queries = Queries(path, clock_ns=lambda: NOW_NS)
    dice = random.Random(1)

    def skill() -> str:
        return f"skill-{dice.choices(range(args.skills), cum_weights=_popularity(args.skills))[0]}"

    def org() -> str | None:
        return dice.choice([None, f"org-{dice.randrange(args.orgs)}"])

    questions: dict[str, Callable[[], object]] = {
        "usage": lambda: queries.ask("usage", {"skill_id": skill(), "days": dice.choice([1, 7, 30]), "org_id": org()}),
        "usage, all 90 days": lambda: queries.ask("usage", {"skill_id": skill(), "days": 90, "org_id": org()}),
        "metrics": lambda: queries.ask("metrics", {"skill_id": skill()}),
        "health_score": lambda: queries.ask("health_score", {"skill_id": skill()}),
        "trends": lambda: queries.ask("trends", {"skill_id": skill(), "org_id": org()}),
        "adoption": lambda: queries.ask("adoption", {"skill_id": skill(), "org_id": org()}),
        "recommend": lambda: queries.ask(
            "recommend", {"user_id": f"user-{dice.randrange(args.users)}", "org_id": org()}
        ),
        "db_stats": lambda: queries.ask("db_stats"),
    }
    for metric, period, within in itertools.product(METRICS, PERIODS, (None, "org-1")):
        asked = {"metric": metric, "period": period, "org_id": within}
        name = f"leaderboard {metric}, {period}{', one org' if within else ''}"
        questions[name] = lambda asked=asked: queries.ask("leaderboard", asked)  # type: ignore[misc]
    print(f"{'':50}{'cold':>9}{'median':>9}{'p95':>9}{'worst':>9}  ms")
    for name, ask in questions.items():
        times_ms = [_timed_ms(ask) for _ in range(ROUNDS)]
        cold, warm = times_ms[0], sorted(times_ms[1:])
        p95 = warm[int(0.95 * (len(warm) - 1))]
        print(f"{name:50}{cold:9.1f}{_median(warm):9.1f}{p95:9.1f}{warm[-1]:9.1f}", flush=True)
    queries.close()


def _timed_ms(ask: Callable[[], object]) -> float:
    began_s = clock_s()
    ask()
    return (clock_s() - began_s) * 1000


def _median(values: list[float]) -> float:
    return sorted(values)[len(values) // 2]


if __name__ == "__main__":
    main()
