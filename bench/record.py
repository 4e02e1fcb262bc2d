"""What a record call costs its caller: against prometheus_client's multiprocess mode, in one run.

    python bench/record.py [--calls 200000]

The peer does the same for one execution: two counters and a histogram, each with three labels. Short rounds of both
take turns, so that a slow moment of the machine meets both, and a third does nothing but make up the arguments, whose
time is taken off the other two. Then the 99th percentile of single calls with the daemon up, stopped and away. Target:
at most 1/8 of the peer, and the same p99 in all three.
"""

import argparse
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from skillmeter import AnalyticsClient, create_analytics_client

ROUNDS = 49
SKILLS = [f"skill-{number}" for number in range(20)]
LATENCIES_MS = [3.7, 12.5, 48.0, 61.2, 95.5, 145.5, 230.0, 480.0, 710.0, 1234.5, 2750.0, 4100.0, 9000.0]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calls", type=int, default=140_000)
    calls = parser.parse_args().calls // ROUNDS
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        os.environ["PROMETHEUS_MULTIPROC_DIR"] = folder
        root = Path(folder)
        settings = {"runtime_dir": root / "run", "spool_dir": root / "spool", "spool_max_bytes": "512MiB"}
        client = create_analytics_client(**{key: str(value) for key, value in settings.items()})
        compare(client, calls)
        daemon = start_daemon(root)
        try:
            client.flush(60)
            percentiles(client, daemon)
        finally:
            daemon.kill()
            daemon.wait()
            client.close()


def compare(client: AnalyticsClient, calls: int) -> None:
    """Rounds of both, taking turns."""
    ours, theirs = our_call(client), peer_call()
    rounds = [(timed(arguments, calls), timed(ours, calls), timed(theirs, calls)) for _ in range(ROUNDS)]
    pairs = [(us - nothing, peer - nothing) for nothing, us, peer in rounds]
    ours_us, theirs_us = (statistics.median(side) / calls * 1e6 for side in zip(*pairs, strict=True))
    ratio = statistics.median(peer / us for us, peer in pairs)
    verdict = "met" if ratio >= 8 else "MISSED"
    print(
        f"record call {ours_us:.2f} us   prometheus_client, multiprocess {theirs_us:.2f} us   "
        f"ratio 1/{ratio:.1f}   (target 1/8: {verdict})"
    )


def percentiles(client: AnalyticsClient, daemon: subprocess.Popen[bytes]) -> None:
    """Single calls, at a pace of some 20,000 a second, with the daemon in each state."""
    for state in ("up", "stopped", "away"):
        if state == "stopped":
            daemon.send_signal(signal.SIGSTOP)
        if state == "away":
            daemon.kill()
        samples = sorted(single_calls(client, 20_000))
        p50, p99, p999 = (samples[int(len(samples) * q)] / 1000 for q in (0.5, 0.99, 0.999))
        print(f"daemon {state:8} p50 {p50:6.2f} us   p99 {p99:6.2f} us   p99.9 {p999:6.2f} us")


def single_calls(client: AnalyticsClient, count: int) -> list[int]:
    """Nanoseconds of each call."""
    clock, samples = time.perf_counter_ns, []
    for number in range(count):
        began = clock()
        client.record_skill_execution(SKILLS[number % 20], True, 12.5, "user-1", "org-1")
        samples.append(clock() - began)
        while clock() - began < 50_000:
            pass
    return samples


def arguments(number: int) -> tuple[str, bool, float]:
    """What both calls are given."""
    return SKILLS[number % 20], number % 10 > 0, LATENCIES_MS[number % 13]


def our_call(client: AnalyticsClient) -> Callable[[int], None]:
    """One execution recorded with skillmeter."""

    def call(number: int) -> None:
        latency_ms = LATENCIES_MS[number % 13]
        client.record_skill_execution(SKILLS[number % 20], number % 10 > 0, latency_ms, "user-1", "org-1")

    return call


def peer_call() -> Callable[[int], None]:
    """One execution recorded with prometheus_client, which reads its mode from the environment at import."""
    from prometheus_client import Counter, Histogram

    labels = ["skill_id", "user_id", "org_id"]
    executions = Counter("executions", "Executions", labels)
    successes = Counter("successes", "Successes", labels)
    failures = Counter("failures", "Failures", labels)
    latency = Histogram("latency", "Latency", labels, buckets=(10, 50, 100, 200, 500, 1000, 2000, 5000))

    def call(number: int) -> None:
        skill = SKILLS[number % 20]
        executions.labels(skill, "user-1", "org-1").inc()
        (successes if number % 10 > 0 else failures).labels(skill, "user-1", "org-1").inc()
        latency.labels(skill, "user-1", "org-1").observe(LATENCIES_MS[number % 13])

    return call


def timed(call: Callable[[int], object], calls: int) -> float:
    """Seconds that so many calls take."""
    began = time.perf_counter()
    for number in range(calls):
        call(number)
    return time.perf_counter() - began


def start_daemon(root: Path) -> subprocess.Popen[bytes]:
    """A daemon on files of its own."""
    env = {
        **os.environ,
        "ANALYTICS_RUNTIME_DIR": str(root / "run"),
        "ANALYTICS_SPOOL_DIR": str(root / "spool"),
        "ANALYTICS_DB_PATH": str(root / "bench.db"),
        "PROMETHEUS_ENABLED": "false",
        "ANALYTICS_LOG_LEVEL": "warning",
    }
    return subprocess.Popen([sys.executable, "-m", "skillmeterd", "run"], env=env)


if __name__ == "__main__":
    main()
