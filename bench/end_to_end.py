"""From the first call to the last commit: eight processes and the daemon, against one process that inserts the rows.

    python bench/end_to_end.py [--events 800000] [--processes 8]

The floor is what a program without any of it would do: executemany of the same rows, eight columns of text and
numbers, into a table in WAL mode with synchronous=FULL, in transactions of 10,000. Target: at least 0.35 of its rate,
with rollups, totals, ledger and offsets included. Also prints the bytes of an event, the daemon's memory, and the CPU
of both sides.
"""

import argparse
import multiprocessing
import os
import sqlite3
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

from record import start_daemon

from skillmeter import create_analytics_client
from skillmeter.connection import Connection

SKILLS = [f"skill-{number}" for number in range(20)]
ORGS = [f"org-{number}" for number in range(4)]
USERS = [f"user-{number}" for number in range(200)]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--events", type=int, default=800_000)
    parser.add_argument("--processes", type=int, default=8)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        root = Path(folder)
        daemon = start_daemon(root)
        try:
            rest_kb = memory_kb(daemon, "VmRSS", root)
            began_s = cpu_s(daemon)
            rate, clients_s = run_clients(root, args.events, args.processes)
            daemon_s = cpu_s(daemon) - began_s
            peak_kb = memory_kb(daemon, "VmHWM", root)
        finally:
            daemon.terminate()
            daemon.wait()
        size = (root / "bench.db").stat().st_size
        stored = sqlite3.connect(root / "bench.db").execute("SELECT count(*) FROM event_log").fetchone()[0]
        floor = executemany_rate(root / "floor.db", min(args.events // 2, 400_000))
        print(f"{args.processes} processes to SQLite {rate:,.0f} events/s   executemany {floor:,.0f} rows/s   "
              f"ratio {rate / floor:.2f}")  # fmt: skip
        print(f"{stored:,} stored, {size / stored:.1f} bytes an event   "
              f"daemon {rest_kb / 1024:.1f} MB at rest, {peak_kb / 1024:.1f} MB at most")  # fmt: skip
        print(
            f"CPU of a million events: daemon {daemon_s / stored * 1e6:.1f} s, clients {clients_s / stored * 1e6:.1f} s"
        )


def run_clients(root: Path, events: int, processes: int) -> tuple[float, float]:
    """Events a second, from the moment that warm processes begin until the last one's flush, and their CPU seconds."""
    context = multiprocessing.get_context("spawn")
    begin, ready, computed_s = context.Event(), context.Semaphore(0), context.Value("d", 0.0)
    share = events // processes
    workers = [
        context.Process(target=work, args=(str(root), number, share, begin, ready, computed_s))
        for number in range(processes)
    ]
    for worker in workers:
        worker.start()
    for _ in workers:
        ready.acquire()
    began_s = time.perf_counter()
    begin.set()
    for worker in workers:
        worker.join()
    seconds = time.perf_counter() - began_s
    if any(worker.exitcode for worker in workers):
        raise SystemExit("a worker failed")
    return share * processes / seconds, computed_s.value


def work(root: str, number: int, share: int, begin: Any, ready: Any, computed_s: Any) -> None:
    """One client process."""
    client = create_analytics_client(runtime_dir=f"{root}/run", spool_dir=f"{root}/spool")
    record = client.record_skill_execution
    record("warm", True, 1.0)
    client.flush(30)
    ready.release()
    begin.wait()
    began_s = time.process_time()
    accepted = sum(
        record(SKILLS[n % 20], n % 10 > 0, float((n * 7919) % 5000) / 3, USERS[(n + number) % 200], ORGS[n % 4])
        for n in range(share)
    )
    if accepted != share or not client.flush(120):
        os._exit(1)
    with computed_s.get_lock():
        computed_s.value += time.process_time() - began_s
    os._exit(0)


def executemany_rate(path: Path, count: int) -> float:
    """Rows a second of a plain loop."""
    db = sqlite3.connect(path, isolation_level=None)
    db.execute("PRAGMA journal_mode = WAL")
    db.execute("PRAGMA synchronous = FULL")
    db.execute("CREATE TABLE events (event_id TEXT, at_ns INTEGER, kind TEXT, skill_id TEXT, user_id TEXT, "
               "org_id TEXT, success INTEGER, latency_ms REAL)")  # fmt: skip
    rows = [
        (
            f"{n:032x}",
            time.time_ns(),
            "execution",
            SKILLS[n % 20],
            USERS[n % 200],
            ORGS[n % 4],
            n % 10 > 0,
            n % 5000 / 3,
        )
        for n in range(count)
    ]
    began_s = time.perf_counter()
    for first in range(0, count, 10_000):
        db.execute("BEGIN")
        db.executemany("INSERT INTO events VALUES (?, ?, ?, ?, ?, ?, ?, ?)", rows[first : first + 10_000])
        db.execute("COMMIT")
    seconds = time.perf_counter() - began_s
    db.close()
    return count / seconds


def cpu_s(daemon: "subprocess.Popen[bytes]") -> float:
    """How long the daemon has been computing."""
    fields = Path(f"/proc/{daemon.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def memory_kb(daemon: "subprocess.Popen[bytes]", field: str, root: Path) -> int:
    """A figure of the daemon's /proc status, once it answers."""
    connection = Connection(f"ipc://{root}/run/skillmeter.sock")
    connection.ask("health", timeout_s=20)
    connection.close()
    status = Path(f"/proc/{daemon.pid}/status").read_text()
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith(field))


if __name__ == "__main__":
    main()
