"""What a scrape costs: against prometheus_client's renderer, and what commits notice of it.

    python bench/scrape.py [--skills 10000] [--seconds 5]

The peer renders the same families from memory, ready-made; ours reads them from SQLite first. Rounds of both take
turns. Target: at most twice the peer. Then a daemon with some 10,000 series commits what two processes record, in turns
undisturbed, and scraped every second and pushed to an OTLP receiver every 5 s. Target: no difference.
"""

import argparse
import http.client
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from prometheus_client import CollectorRegistry, Metric
from prometheus_client.openmetrics.exposition import generate_latest
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from skillmeter.connection import Connection
from skillmeter.errors import DaemonUnavailable
from skillmeter.events import encode_execution
from skillmeterd.config import DaemonSettings
from skillmeterd.sinks import Sinks, Source, exposition
from skillmeterd.store import Chunk, Store
from skillmeterd.vitals import Vitals

ROUNDS = 5
SKILLS = 700  # of some 18 series each
PUSH_EVERY_S = 5
RECORDERS = 2
RECORDER = """
import itertools, sys
from skillmeter import create_analytics_client
client, skills = create_analytics_client(), int(sys.argv[1])
for number in itertools.count():
    if number % 5000 == 0:
        client.flush(60)
    client.record_skill_execution(f"skill-{number % 500 if number % 10 else number % skills}", True, number % 900, "u")
"""


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--skills", type=int, default=10_000)
    parser.add_argument("--seconds", type=float, default=5.0, help="of each round with the daemon")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        settings = DaemonSettings.from_environment({"HOME": folder}, backend="prometheus")
        for skills in sorted({min(SKILLS, args.skills), args.skills}):
            fill(settings, skills)
            compare(settings)
        disturb(Path(folder, "daemon"), min(SKILLS, args.skills), args.seconds)


def fill(settings: DaemonSettings, skills: int) -> None:
    """Two executions of each skill."""
    payloads = [encode_execution(f"skill-{number}", True, number % 900, None, None) for number in range(skills)] * 2
    store = Store.open(settings.db_path)
    offsets = [4096 + 100 * number for number in range(len(payloads))]
    store.commit([Chunk(skills.to_bytes(16, "big"), offsets[-1] + 100, offsets, payloads)])
    store.close()


def compare(settings: DaemonSettings) -> None:
    """Rounds of both, taking turns."""
    scrape = Sinks.build(settings, Source(settings, Vitals(time.time_ns()))).scrape
    assert scrape is not None

    def ours() -> bytes:
        return "".join(exposition.openmetrics(scrape())).encode()

    registry = _Registry(list(text_string_to_metric_families(ours().decode())))  # type: ignore[no-untyped-call]
    our_s, peer_s = [], []
    for _ in range(ROUNDS):
        began_s = time.perf_counter()
        page = ours()
        between_s = time.perf_counter()
        generate_latest(registry)  # type: ignore[no-untyped-call]
        our_s.append(between_s - began_s)
        peer_s.append(time.perf_counter() - between_s)
    series = page.count(b"\n") - page.count(b"\n#")
    our, peer = statistics.median(our_s), statistics.median(peer_s)
    print(f"{series} series, {len(page) / 2**20:.1f} MiB: scrape {our * 1e3:.0f} ms, peer {peer * 1e3:.0f} ms")
    print(f"ratio {our / peer:.2f} (target: at most 2)")


class _Registry(CollectorRegistry):
    """What prometheus_client renders: families that are ready."""

    def __init__(self, families: list[Metric]) -> None:
        super().__init__()
        self._families = families

    def collect(self) -> Iterator[Metric]:
        return iter(self._families)


def disturb(folder: Path, skills: int, seconds: float) -> None:
    """What is committed in a second, undisturbed and while scrapes and pushes go on."""
    receiver = ThreadingHTTPServer(("127.0.0.1", 0), _Receiver)
    threading.Thread(target=receiver.serve_forever, daemon=True).start()
    env = {
        **os.environ,
        "HOME": str(folder),
        "ANALYTICS_RUNTIME_DIR": str(folder / "run"),
        "ANALYTICS_SPOOL_DIR": str(folder / "spool"),
        "ANALYTICS_BACKEND": "prometheus,otlp",
        "PROMETHEUS_PORT": "0",
        "OTLP_ENDPOINT": f"http://127.0.0.1:{receiver.server_address[1]}",
        "OTLP_PUSH_INTERVAL": "3600",  # it is told when
    }
    processes = [subprocess.Popen([sys.executable, "-m", "skillmeterd", "run"], env=env, stderr=subprocess.DEVNULL)]
    connection = Connection(f"ipc://{folder}/run/skillmeter.sock")
    try:
        address = _address(connection)
        for _ in range(RECORDERS):
            processes.append(subprocess.Popen([sys.executable, "-c", RECORDER, str(skills)], env=env))
        rates: dict[bool, list[float]] = {False: [], True: []}
        for number in range(2 * ROUNDS + 1):
            rate = _rate(connection, address if number % 2 else None, seconds)
            if number:  # the first round warms up
                rates[bool(number % 2)].append(rate)
    finally:
        for process in reversed(processes):
            process.send_signal(signal.SIGKILL)
            process.wait()
        connection.close()
        receiver.shutdown()
        receiver.server_close()
    quiet, disturbed = statistics.median(rates[False]), statistics.median(rates[True])
    how = f"scraped every second and pushed every {PUSH_EVERY_S} s"
    print(f"commits: {quiet:,.0f} events/s undisturbed, {disturbed:,.0f} events/s {how}")
    print(f"ratio {disturbed / quiet:.2f} (target: 1)")


def _rate(connection: Connection, address: str | None, seconds: float) -> float:
    before, began_s = _events(connection), time.monotonic()
    push_at_s = began_s
    while time.monotonic() - began_s < seconds:
        if address is not None and time.monotonic() >= push_at_s:
            push_at_s += PUSH_EVERY_S
            connection.ask("push", timeout_s=60)
        if address is not None:
            client = http.client.HTTPConnection(address)
            client.request("GET", "/metrics", headers={"Accept-Encoding": "gzip"})
            client.getresponse().read()
            client.close()
        time.sleep(max(0.0, 1 - (time.monotonic() - began_s) % 1))
    return (_events(connection) - before) / (time.monotonic() - began_s)


class _Receiver(BaseHTTPRequestHandler):
    """Takes whatever is pushed."""

    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.send_header("Content-Type", "application/x-protobuf")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Nothing."""


def _events(connection: Connection) -> int:
    return int(connection.ask("status", timeout_s=60)["vitals"]["events"])


def _address(connection: Connection) -> str:
    for _ in range(100):
        try:
            return str(connection.ask("status", timeout_s=1)["http"]).removeprefix("http://")
        except DaemonUnavailable:
            time.sleep(0.1)
    raise SystemExit("the daemon did not start")


if __name__ == "__main__":
    main()
