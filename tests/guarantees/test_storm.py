"""The storm: signal handlers, finalizers, threads and forks record into segments that hold a few dozen events each.

Whatever is interrupted by whatever, each call that returned True is one row, and each that returned False is counted.
"""

import threading
from pathlib import Path

import pytest

from tests.support import SCALE, DaemonProcess, assert_exactly, ledger, run_client, wait_until

STORM = """
import atexit, itertools, signal, threading, time
from skillmeter.journal import Journal

Journal.create.__func__.__kwdefaults__.update(head_bytes=8192, segment_bytes=4096)
interval_s, calls, forks = float(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
numbers = itertools.count()

def attempt(context):
    name = f"{context}-{os.getpid()}-{next(numbers)}"
    kept = client.record_skill_execution("storm", True, 1.0, name, "o1")
    os.write(1, f"{'+' if kept else '-'}{name}\\n".encode())

class Finalizer:
    def __init__(self):
        self.cycle = self
    def __del__(self):
        attempt("finalizer")

def on_signal(number, frame):
    attempt("signal")

def storm():
    signal.signal(signal.SIGALRM, on_signal)
    signal.setitimer(signal.ITIMER_REAL, interval_s, interval_s)

def calm():
    signal.setitimer(signal.ITIMER_REAL, 0)

def child():
    attempt("child")
    storm()
    for _ in range(30):
        attempt("child")
        Finalizer()
    calm()
    attempt("child")
    os._exit(0)

def fork_some():
    for _ in range(forks):
        pid = os.fork()
        if not pid:
            try:
                child()
            finally:
                os._exit(1)
        pids.append(pid)

def work():
    for number in range(calls):
        attempt("thread")
        if number % 7 == 0:
            Finalizer()

pids = []
atexit.register(attempt, "atexit")
storm()
threads = [threading.Thread(target=work) for _ in range(3)]
forking = threading.Thread(target=fork_some)
for thread in (*threads, forking):
    thread.start()
work()
fork_some()
for thread in (*threads, forking):
    thread.join()
calm()
codes = [os.waitpid(pid, 0)[1] for pid in pids]
assert not any(codes), codes

def outlive_main():
    threading.main_thread().join()
    for _ in range(100):
        attempt("outliving")

threading.Thread(target=outlive_main).start()
"""


@pytest.mark.parametrize(("interval_s", "calls"), [(0.003, 2000), (0.0002, 600)])
def test_every_call_of_a_storm_has_one_outcome(tmp_path: Path, interval_s: float, calls: int):
    """Handlers every 3 ms and every 0.2 ms, finalizers, four threads and forks from two of them: rows = R, exactly,
    and what was attempted is what was called."""
    with DaemonProcess(tmp_path) as daemon:
        lines = run_client(STORM, daemon.env, interval_s, calls * SCALE, 10 * SCALE)
        daemon.wait_drained()
        kept = [line[1:] for line in lines if line[0] == "+"]
        assert_exactly(kept, daemon.db_path)
        counts = ledger(daemon.db_path)
        assert counts["attempted"] == len(lines)
        assert counts["dropped"] == counts["dropped.busy"] == len(lines) - len(kept) < len(lines) / 10
        assert {line[1:].partition("-")[0] for line in lines} == {
            "atexit", "child", "finalizer", "outliving", "signal", "thread",
        }  # fmt: skip


def test_a_storm_without_a_daemon_fills_the_spool_and_counts_the_rest(tmp_path: Path):
    """With nobody to take them, events beyond the bound are refused and counted; the others are there later."""
    with DaemonProcess(tmp_path, env={"ANALYTICS_SPOOL_MAX_BYTES": "262144"}, started=False) as daemon:
        lines = run_client(STORM, daemon.env, 0.001, 2000 * SCALE, 5)
        daemon.start()
        daemon.wait_drained()
        kept = [line[1:] for line in lines if line[0] == "+"]
        assert_exactly(kept, daemon.db_path)
        counts = ledger(daemon.db_path)
        assert counts["attempted"] == len(lines)
        assert counts["dropped"] == counts["dropped.spool_full"] + counts["dropped.busy"] == len(lines) - len(kept)
        assert counts["dropped.spool_full"] > 0


def test_a_storm_across_daemons_that_are_killed(tmp_path: Path):
    """A storm whose daemon is killed and started again all the while loses and doubles nothing."""
    with DaemonProcess(tmp_path) as daemon:
        done = threading.Event()

        def kill_again_and_again() -> None:
            while not done.is_set():
                daemon.restart()

        killer = threading.Thread(target=kill_again_and_again)
        killer.start()
        try:
            lines = run_client(STORM, daemon.env, 0.003, 2000 * SCALE, 5)
        finally:
            done.set()
            killer.join()
        wait_until(lambda: daemon.ask("health")["ready"])
        daemon.wait_drained()
        assert_exactly([line[1:] for line in lines if line[0] == "+"], daemon.db_path)
        assert ledger(daemon.db_path)["attempted"] == len(lines)
