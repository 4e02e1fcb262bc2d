"""The store against its floor: the same events by a plain executemany, in one process and one run.

    python bench/store_floor.py [--skills 25] [--orgs 4] [--users 200] [--group 16000] [--groups 20]

The floor is what any program pays that keeps each event as a row of numbers in WAL mode with synchronous=FULL, its
names interned beforehand for nothing. The store does more: it decodes, interns, keeps rollups, ledger and offsets.
Both take the same groups in turns, so that a slow moment of the disk meets both.
"""

import argparse
import gc
import os
import random
import sqlite3
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec

from skillmeter.events import Execution, encode_execution
from skillmeterd.store import Chunk, Store

PRODUCERS = 8


def main() -> None:
    """Measure and print."""
    args = _arguments()
    with tempfile.TemporaryDirectory() as folder:
        store = Store.open(Path(folder) / "store.db")
        floor = _floor_database(Path(folder) / "floor.db")
        gc.disable()  # as in the daemon's ingest thread
        store_s, floor_s = [], []
        for chunks in _groups(args):
            rows = _rows(chunks)
            store_s.append(_timed(store.commit, chunks))
            floor_s.append(_timed(_floor_commit, floor, rows))
            gc.collect()
        store.close()
        floor.close()
        _report(args, store_s, floor_s, os.path.getsize(Path(folder) / "store.db"))


def _report(args: argparse.Namespace, store_s: list[float], floor_s: list[float], size: int) -> None:
    def per_event_us(seconds: list[float]) -> str:
        ordered = sorted(second / args.group * 1e6 for second in seconds[1:])  # the first one fills the caches
        return f"median {ordered[len(ordered) // 2]:.2f} us, best {ordered[0]:.2f}, worst {ordered[-1]:.2f}"

    print(f"{args.groups} groups of {args.group} events, {args.skills * args.orgs} pairs, {args.users} users")
    print(f"store       {per_event_us(store_s)} an event")
    print(f"executemany {per_event_us(floor_s)} an event")
    ratio = sum(floor_s[1:]) / sum(store_s[1:])
    print(f"floor / store {ratio:.2f}; the database takes {size / args.groups / args.group:.1f} bytes an event")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in {"skills": 25, "orgs": 4, "users": 200, "group": 16_000, "groups": 20}.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    return parser.parse_args()


def _groups(args: argparse.Namespace) -> Iterator[list[Chunk]]:
    """What PRODUCERS processes send, with names and latencies of a fixed seed."""
    dice = random.Random(1)
    producers = [dice.randbytes(16) for _ in range(PRODUCERS)]
    each = args.group // PRODUCERS
    for index in range(args.groups):
        chunks = []
        for producer in producers:
            payloads = [
                encode_execution(
                    f"skill-{dice.randrange(args.skills)}",
                    dice.random() < 0.95,
                    dice.lognormvariate(4, 1),
                    f"user-{dice.randrange(args.users)}",
                    f"org-{dice.randrange(args.orgs)}",
                )
                for _ in range(each)
            ]
            start = index * each * 80
            offsets = list(range(start, start + each * 80, 80))
            chunks.append(Chunk(producer, start + each * 80, offsets, payloads, ((index + 1) * each,)))
        yield chunks


def _rows(chunks: list[Chunk]) -> list[tuple[float, ...]]:
    """The rows the store would write, with numbers for names."""
    decode = msgspec.msgpack.Decoder(Execution).decode
    rows: list[tuple[float, ...]] = []
    for number, chunk in enumerate(chunks):
        for offset, event in zip(chunk.offsets, map(decode, chunk.payloads), strict=True):
            pair = hash((event.skill_id, event.org_id)) % 100
            user = hash(event.user_id) % 200
            rows.append((event.recorded_at_ns, pair, user, number, offset, int(event.success), event.latency_ms))
    return rows


def _floor_database(path: Path) -> sqlite3.Connection:
    db = sqlite3.connect(path, isolation_level=None)
    db.execute("PRAGMA journal_mode = WAL")
    db.execute("PRAGMA synchronous = FULL")
    db.execute(
        "CREATE TABLE event (id INTEGER PRIMARY KEY, at_ns INTEGER, pair_id INTEGER, user_no INTEGER, "
        "producer_no INTEGER, offset INTEGER, kind INTEGER, value REAL)"
    )
    return db


def _floor_commit(db: sqlite3.Connection, rows: list[tuple[float, ...]]) -> None:
    db.execute("BEGIN IMMEDIATE")
    db.executemany(
        "INSERT INTO event (at_ns, pair_id, user_no, producer_no, offset, kind, value) VALUES (?, ?, ?, ?, ?, ?, ?)",
        rows,
    )
    db.execute("COMMIT")


def _timed(call: Callable[..., object], *args: object) -> float:
    started = time.perf_counter()
    call(*args)
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
