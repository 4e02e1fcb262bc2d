"""Support: a real daemon to test against, scripts that record as processes of their own, and the comparison of what was
recorded with what is in SQLite.

An event is known by its user id: `record(name)` in a script makes each event with a name that nothing else has.
"""

import contextlib
import http.client
import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
import textwrap
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Self, TypeVar

import pytest

from skillmeter.connection import Connection
from skillmeter.errors import DaemonUnavailable
from skillmeter.settings import ClientSettings
from skillmeterd.counts import decode

SCALE: Final = int(os.environ.get("SKILLMETER_TEST_SCALE", "1"))
"""How much larger the tests that kill and fork at random are: 1 in `make test`, more in `make chaos`."""

WAIT_S: Final = 60.0 * SCALE  # how long what takes a second on an idle machine may take on a busy one
POLL_S: Final = 0.01

FORKS_KNOWINGLY: Final = ("-W", "ignore:This process:DeprecationWarning")
"""Python 3.12 and later warn of a fork beside threads, as which each client's own counts."""

T = TypeVar("T")

PRELUDE: Final = """
import os, sys
from skillmeter import create_analytics_client

client = create_analytics_client()

def record(name, skill="parse_json", success=True, latency_ms=12.5):
    if client.record_skill_execution(skill, success, latency_ms, name, "o1"):
        os.write(1, f"{name}\\n".encode())  # at once: the process may be killed after this
        return True
    return False
"""


class DaemonProcess:
    """`python -m skillmeterd run` with folders of its own. Leaving the `with` block kills it and what it left behind.

    with DaemonProcess(tmp_path) as daemon:                # running, and it answers
    with DaemonProcess(tmp_path, started=False) as daemon:  # not yet: daemon.start()
    """

    def __init__(self, folder: Path, *, env: Mapping[str, str] | None = None, started: bool = True) -> None:
        """Database, spool and log are in `folder`. `env` is added to the environment, the clients' too."""
        self.folder = folder
        self.spool_dir = folder / "spool"
        self.db_path = folder / "analytics.db"
        self.log_path = folder / "daemon.log"
        self.runtime_dir = Path(tempfile.mkdtemp(prefix="skm-", dir="/tmp"))  # a socket's path has 107 bytes at most
        self.endpoint = f"ipc://{self.runtime_dir}/skillmeter.sock"
        self.process: subprocess.Popen[bytes] | None = None
        self.env = {
            **os.environ,
            "ANALYTICS_RUNTIME_DIR": str(self.runtime_dir),
            "ANALYTICS_SPOOL_DIR": str(self.spool_dir),
            "ANALYTICS_DB_PATH": str(self.db_path),
            "PROMETHEUS_ENABLED": "false",
            **(env or {}),
        }
        self.endpoint = self.env.get("ANALYTICS_ENDPOINT", self.endpoint)
        self._started = started

    def __enter__(self) -> Self:
        try:
            if self._started:
                self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def pid(self) -> int:
        """Of the running daemon."""
        assert self.process is not None
        return self.process.pid

    def start(self, env: Mapping[str, str] | None = None) -> None:
        """Start it, and wait until it answers; `env` is for this run alone."""
        self.spawn(env)
        wait_until(self._is_up, what=f"a daemon that answers; its log: {self.log_path}")

    def spawn(self, env: Mapping[str, str] | None = None) -> "subprocess.Popen[bytes]":
        """Start it, and do not wait: it may be meant to fail."""
        with self.log_path.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "skillmeterd", "run"],
                env={**self.env, **(env or {})},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        return self.process

    def kill(self) -> None:
        """SIGKILL it."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None

    def stop(self, timeout_s: float = WAIT_S) -> int:
        """SIGTERM it, and wait; its exit code."""
        assert self.process is not None
        self.process.terminate()
        code = self.process.wait(timeout_s)
        self.process = None
        return code

    def restart(self, env: Mapping[str, str] | None = None) -> None:
        """SIGKILL it and start it again."""
        self.kill()
        self.start(env)

    def pause(self) -> None:
        """SIGSTOP it, and wait until it has stopped."""
        os.kill(self.pid, signal.SIGSTOP)
        os.waitid(os.P_PID, self.pid, os.WSTOPPED)

    def resume(self) -> None:
        """SIGCONT it."""
        os.kill(self.pid, signal.SIGCONT)

    def ask(self, method: str, params: dict[str, Any] | None = None, *, timeout_s: float = 10.0) -> Any:
        """The daemon's answer to a question."""
        connection = Connection.to(ClientSettings.from_environment(self.env))
        try:
            return connection.ask(method, params, timeout_s=timeout_s)
        finally:
            connection.close()

    def log(self) -> str:
        """What it has logged, in all its runs."""
        return self.log_path.read_text() if self.log_path.exists() else ""

    def journals(self) -> list[str]:
        """The names of the journal files that are in the spool."""
        return journals(self.spool_dir)

    def wait_drained(self, timeout_s: float = WAIT_S) -> None:
        """Wait until all journals are in SQLite and gone. Their owners must have ended or closed."""
        wait_until(lambda: not self.journals(), timeout_s, what=lambda: f"an empty spool, not {self.journals()[:5]}")

    def peak_bytes(self) -> int:
        """The most memory that the running daemon ever had."""
        lines = Path(f"/proc/{self.pid}/status").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))

    def cpu_s(self) -> float:
        """How long the running daemon has been computing, in seconds."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def close(self) -> None:
        """Kill it, and delete its runtime folder. Idempotent."""
        self.kill()
        shutil.rmtree(self.runtime_dir, ignore_errors=True)

    def _is_up(self) -> bool:
        assert self.process is not None
        if self.process.poll() is not None:
            raise AssertionError(f"the daemon ended with code {self.process.returncode}:\n{self.log()}")
        try:
            self.ask("health", timeout_s=0.5)
        except DaemonUnavailable:
            return False
        return True


def journals(spool_dir: Path) -> list[str]:
    """The names of the journal files in a spool."""
    if not spool_dir.exists():
        return []
    return sorted(name for name in os.listdir(spool_dir) if name.endswith((".journal", ".seg")))


HTTP: Final = {"PROMETHEUS_ENABLED": "1", "PROMETHEUS_PORT": "0"}
"""Environment of a daemon with the HTTP listener, which those of tests do without."""


def read(address: str, path: str) -> tuple[int, bytes]:
    """Status and body of a path of a running daemon."""
    client = http.client.HTTPConnection(address, timeout=30)
    with contextlib.closing(client):
        client.request("GET", path)
        answer = client.getresponse()
        return answer.status, answer.read()


# Scripts.


def start_client(
    script: str, env: Mapping[str, str], *args: object, stdin: int = subprocess.DEVNULL
) -> "subprocess.Popen[bytes]":
    """A process that runs PRELUDE and then `script`; `record(name)` writes each accepted name to stdout at once."""
    return subprocess.Popen(
        [sys.executable, *FORKS_KNOWINGLY, "-c", PRELUDE + textwrap.dedent(script), *map(str, args)],
        env=dict(env),
        stdin=stdin,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def run_client(script: str, env: Mapping[str, str], *args: object, code: int | None = 0) -> list[str]:
    """Run a script as `start_client` does; the lines it printed: R, if it prints nothing but what `record` does.

    `code` is the expected exit code, -9 for one that is killed, None for any. A script that is expected to end
    well must print nothing on stderr.
    """
    process = start_client(script, env, *args)
    try:
        out, err = process.communicate(timeout=WAIT_S)
    finally:
        process.kill()
        process.wait()
    assert code is None or process.returncode == code, f"exit code {process.returncode}:\n{err.decode()}"
    assert code != 0 or not err, err.decode()
    return complete_lines(out)


def skillmeter(*words: str, env: Mapping[str, str], **more: Any) -> "subprocess.CompletedProcess[str]":
    """The command line, as a person runs it."""
    command = [sys.executable, "-m", "skillmeterd", *words]
    return subprocess.run(command, env=dict(env), capture_output=True, text=True, timeout=60, check=False, **more)


def complete_lines(out: bytes) -> list[str]:
    """The lines, without a last one that a killed process did not finish."""
    return out.decode().split("\n")[:-1]


# What is in SQLite.


def query(db: Path, sql: str, params: Sequence[object] = ()) -> list[tuple[Any, ...]]:
    """The rows of a query, over a connection of its own that cannot write."""
    with contextlib.closing(sqlite3.connect(f"file:{db}?mode=ro", uri=True, timeout=10)) as connection:
        return connection.execute(sql, params).fetchall()


def rows(db: Path) -> list[dict[str, Any]]:
    """The public `events`, in the order of their commit."""
    with contextlib.closing(sqlite3.connect(f"file:{db}?mode=ro", uri=True, timeout=10)) as connection:
        connection.row_factory = sqlite3.Row
        return [dict(row) for row in connection.execute("SELECT * FROM events")]


def recorded_names(db: Path) -> list[str]:
    """The name of each stored event, in the order of their commit."""
    return [name for (name,) in query(db, "SELECT user_id FROM events")]


def ledger(db: Path) -> Counter[str]:
    """The ledger: each outcome's sum ("stored"), and each reason's ("dropped.spool_full")."""
    counts: Counter[str] = Counter()
    for outcome, reason, events in query(db, "SELECT outcome, reason, events FROM ledger"):
        counts[outcome] += events
        if reason:
            counts[f"{outcome}.{reason}"] += events
    return counts


def assert_exactly(recorded: Iterable[str], db: Path, *, perhaps: Iterable[str] = ()) -> None:
    """Each recorded name is in SQLite once, nothing else is, and rollups and ledger agree with the rows.

    `perhaps` are names whose record call was begun but may not have returned: each may be there, once.
    """
    wanted, stored = Counter(recorded), Counter(recorded_names(db))
    assert max(wanted.values(), default=1) == 1, "the test itself used a name twice"
    missing = wanted - stored
    twice = sorted(name for name, times in stored.items() if times > 1)
    strange = sorted(set(stored) - set(wanted) - set(perhaps), key=str)
    assert not missing, f"{len(missing)} of {len(wanted)} are missing: {sorted(missing)[:5]}"
    assert not twice, f"{len(twice)} of {len(wanted)} are there more than once: {twice[:5]}"
    assert not strange, f"{len(strange)} were never recorded: {strange[:5]}"
    assert_consistent(db)


def assert_consistent(db: Path) -> None:
    """Rollups and totals equal the rows, and attempted = stored + pending + dropped + rejected."""
    for table, keys in _ROLLUPS.items():
        assert query(db, _of_events(keys)) == query(db, _of_rollup(table, keys)), f"{table} is not what the events say"
    for (table, column, key), expected in _COUNTED.items():
        counted: Counter[int] = Counter()
        for level in (table, f"{table}_recent"):
            for no, data in query(db, f"SELECT {key}, {column} FROM {level}"):
                counted[no] += sum(decode(data).values())
        assert counted == Counter(dict(query(db, expected))), f"{table} is not what the days say"
    assert not query(db, "SELECT event_id FROM events GROUP BY event_id HAVING count(*) > 1"), "an event id came twice"
    counts = ledger(db)
    outcomes = counts["stored"] + counts["pending"] + counts["dropped"] + counts["rejected"]
    assert counts["attempted"] == outcomes, f"the ledger does not balance: {dict(counts)}"
    assert counts["stored"] == query(db, "SELECT count(*) FROM events")[0][0], f"stored is not what is there: {counts}"


_ROLLUPS: Final = {"usage_daily": "day, pair_id, user_no", "pair_daily": "day, pair_id", "pair_total": "pair_id"}
_COUNTED: Final = {
    ("pair_sketch", "sketch", "pair_id"): "SELECT pair_id, sum(executions) FROM pair_daily WHERE executions GROUP BY 1",
    ("skill_sketch", "sketch", "skill_no"): """
        SELECT skill_no, sum(executions) FROM pair_daily JOIN pair ON pair.id = pair_id WHERE executions GROUP BY 1
    """,
    ("last_seen", "users", "scope || ' ' || no"): """
        WITH uses AS (
            SELECT user_no, pair_id, skill_no, org_no
            FROM user_daily JOIN pair_daily ON pair_daily.id = pair_daily_id JOIN pair ON pair.id = pair_id
            WHERE user_no > 0
        )
        SELECT '0 0', count(DISTINCT user_no) FROM uses GROUP BY 1
        UNION ALL SELECT '1 ' || org_no, count(DISTINCT user_no) FROM uses GROUP BY 1
        UNION ALL SELECT '2 ' || skill_no, count(DISTINCT user_no) FROM uses GROUP BY 1
        UNION ALL SELECT '3 ' || pair_id, count(DISTINCT user_no) FROM uses GROUP BY 1
    """,
}
"""Counts in two levels: what all of a key's together come to."""
_SUMS: Final = "sum(executions), sum(successes), round(sum(latency_sum), 3), min(latency_min), max(latency_max)"


def _of_events(keys: str) -> str:
    return f"""
        SELECT {keys}, count(*), sum(kind), round(sum(value), 3), min(value), max(value)
        FROM (SELECT *, at_ns / 86400000000000 AS day FROM event_log) WHERE kind < 2 GROUP BY {keys} ORDER BY {keys}
    """


def _of_rollup(table: str, keys: str) -> str:
    return f"SELECT {keys}, {_SUMS} FROM {table} WHERE executions GROUP BY {keys} ORDER BY {keys}"


@contextlib.contextmanager
def small_disk(folder: Path, size: str) -> Iterator[Path]:
    """A file system of that size, mounted for the time of the `with` block."""
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size},mode=700", "tmpfs", str(folder)], capture_output=True, check=False
    )
    if mounted.returncode:
        if os.environ.get("CI"):
            pytest.fail(f"CI has to let the tests mount a small disk: {mounted.stderr.decode()}")
        pytest.skip("this user may not mount a small disk")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def free_port() -> int:
    """A port of loopback that nobody has now."""
    with contextlib.closing(socket.create_server(("127.0.0.1", 0))) as taken:
        return int(taken.getsockname()[1])


# Waiting.


def wait_until(
    condition: Callable[[], T], timeout_s: float = WAIT_S, *, what: str | Callable[[], str] = "the condition"
) -> T:
    """Wait until `condition` returns something true, and return that. AssertionError after `timeout_s`."""
    deadline_s = time.monotonic() + timeout_s
    while not (result := condition()):
        if time.monotonic() >= deadline_s:
            raise AssertionError(f"waited {timeout_s:g} s for {what if isinstance(what, str) else what()}")
        time.sleep(POLL_S)
    return result
