"""Clients on other machines: over tcp with CURVE keys, with folders of their own.

Who has no right key gets nowhere, and loses nothing.
"""

import contextlib
import os
import resource
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from ..support import DaemonProcess, assert_exactly, free_port, journals, query, run_client, start_client, wait_until

RUN: Final = [sys.executable, "-c", "from skillmeter._cli import main; main()"]


def skillmeter(*words: object, env: dict[str, str], code: int = 0) -> str:
    """What a command prints, on stdout and stderr."""
    done = subprocess.run(
        [*RUN, *map(str, words)], env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )
    assert done.returncode == code, done.stdout
    return done.stdout


class Keys:
    """Key pairs, made with `skillmeter keys new` and shown with `skillmeter keys show`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.secrets: list[str] = []
        self.daemon, self.other_daemon = self._make("daemon"), self._make("other-daemon")
        self.listed, self.unlisted = self._make("listed", "--client"), self._make("unlisted", "--client")

    def client(self, name: str, server_key: str) -> dict[str, str]:
        """The settings with which a client shows its key to that daemon."""
        return {
            "ANALYTICS_CURVE_SERVER_KEY": server_key,
            "ANALYTICS_CURVE_CLIENT_SECRET_FILE": str(self.folder / f"{name}.key"),
        }

    def _make(self, name: str, *kind: str) -> str:
        path = self.folder / f"{name}.key"
        said = skillmeter("keys", "new", *kind, path, env=dict(os.environ))
        self.secrets.append(path.read_text().strip())
        public = said.split("The public key is")[1].split()[0]
        assert skillmeter("keys", "show", path, env=dict(os.environ)).strip() == public
        assert self.secrets[-1] not in said
        return public


class Fleet:
    """A daemon behind tcp, and the machines of its clients, which share no folder with it."""

    def __init__(self, folder: Path, keys: Keys) -> None:
        self.folder = folder
        self.keys = keys
        self.daemon = DaemonProcess(
            folder / "daemon-host",
            started=False,
            env={
                **keys.client("listed", keys.daemon),
                "ANALYTICS_ENDPOINT": f"tcp://127.0.0.1:{free_port()}",
                "ANALYTICS_CURVE_SECRET_FILE": str(keys.folder / "daemon.key"),
                "ANALYTICS_CURVE_CLIENT_KEYS": keys.listed,
            },
        )
        self.daemon.folder.mkdir()

    def machine(self, keys: dict[str, str]) -> dict[str, str]:
        """The environment of another machine, that has these keys."""
        home = self.folder / "there"
        home.mkdir()
        clean = {key: value for key, value in os.environ.items() if not key.startswith("ANALYTICS_")}
        return {**clean, "HOME": str(home), "ANALYTICS_ENDPOINT": self.daemon.endpoint, **keys}


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Keys:
    """The same for all tests."""
    return Keys(tmp_path_factory.mktemp("keys"))


@pytest.fixture
def fleet(tmp_path: Path, keys: Keys) -> Iterator[Fleet]:
    """With its daemon running."""
    fleet = Fleet(tmp_path, keys)
    with fleet.daemon:
        fleet.daemon.start()
        yield fleet


def refused(fleet: Fleet) -> int:
    """How many connections the daemon says it has refused."""
    return int(fleet.daemon.ask("status")["vitals"]["refused_connections"])


def stored(fleet: Fleet) -> int:
    """How many events are in SQLite."""
    return int(query(fleet.daemon.db_path, "SELECT count(*) FROM events")[0][0])


RECORD: Final = "[record(f'{sys.argv[1]}-{n}') for n in range(500)]"


def test_a_remote_client_records_and_asks(fleet: Fleet) -> None:
    """What it recorded is in SQLite once, and it gets answers, `skillmeter status` too; no secret is in any of it."""
    env = fleet.machine(fleet.keys.client("listed", fleet.keys.daemon))
    script = RECORD + "\nassert client.flush(60) and client.health_check() and client.get_config_summary()['healthy']"
    script += "\nassert client.get_leaderboard()[0].executions == 500"
    recorded = run_client(script, env, "remote")
    status = skillmeter("status", env=env)
    assert "stored 500" in status
    assert "refused" not in status
    shown = skillmeter("config", "show", env=env) + skillmeter("config", "show", env=fleet.daemon.env)
    assert fleet.keys.daemon in shown
    assert_exactly(recorded, fleet.daemon.db_path)
    for secret in fleet.keys.secrets:
        assert secret not in status + shown + fleet.daemon.log()


def test_the_daemon_is_killed_under_remote_clients(fleet: Fleet) -> None:
    """They connect again, show their keys again, and send again what was not committed."""
    env = fleet.machine(fleet.keys.client("listed", fleet.keys.daemon))
    script = """
        import time
        for number in range(3000):
            record(f"killed-{sys.argv[1]}-{number}")
            time.sleep(0.001)
        assert client.flush(60)
    """
    clients = [start_client(script, env, number) for number in range(3)]
    for _ in range(3):
        before = stored(fleet)
        fleet.daemon.restart()
        wait_until(lambda: stored(fleet) > before)  # noqa: B023 - called in this round
    recorded: list[str] = []
    for process in clients:
        out, err = process.communicate(timeout=60)
        assert (process.returncode, err) == (0, b"")
        recorded += out.decode().splitlines()
    assert_exactly(recorded, fleet.daemon.db_path)


@pytest.mark.parametrize("who", ["without keys", "with a key that is not allowed", "with another daemon's key"])
def test_who_has_no_right_key_is_refused_and_loses_nothing(fleet: Fleet, who: str) -> None:
    """His calls go on, he is counted, no event and no answer passes; his journal waits, and can be brought."""
    keys = {
        "without keys": {},
        "with a key that is not allowed": fleet.keys.client("unlisted", fleet.keys.daemon),
        "with another daemon's key": fleet.keys.client("listed", fleet.keys.other_daemon),
    }[who]
    env = fleet.machine(keys)
    recorded = run_client(RECORD + "\nassert not client.flush(1)\nassert not client.health_check()", env, "refused")
    assert len(recorded) == 500
    said = skillmeter("status", env=env, code=3)
    assert ("ANALYTICS_CURVE_CLIENT_KEYS" in said) is bool(keys)
    assert refused(fleet) > 0
    assert "connections without a key that is allowed" in skillmeter("status", env=fleet.daemon.env)
    assert stored(fleet) == 0
    spool = fleet.folder / "there/.toolweaver/spool"
    heads = [spool / name for name in journals(spool) if name.endswith(".journal")]
    assert len(heads) == 1
    skillmeter("import", *heads, env=fleet.daemon.env)
    fleet.daemon.wait_drained()
    assert_exactly(recorded, fleet.daemon.db_path)


def test_a_client_that_is_let_in_later_delivers(fleet: Fleet) -> None:
    """libzmq stops trying when it is refused. The shipper takes a new socket from time to time, so that a key that was
    added needs no restart of the application."""
    env = fleet.machine(fleet.keys.client("unlisted", fleet.keys.daemon))
    script = "import skillmeter.shipper; skillmeter.shipper.RENEW_S = 0.2\n" + RECORD
    process = start_client(script + "\nsys.stdin.read()\nassert client.flush(60)", env, "late", stdin=subprocess.PIPE)
    try:
        wait_until(lambda: refused(fleet) >= 3, what="a client that tries again and again")
        both = f"{fleet.keys.listed},{fleet.keys.unlisted}"
        fleet.daemon.env["ANALYTICS_CURVE_CLIENT_KEYS"] = both
        fleet.daemon.restart()
        out, err = process.communicate(timeout=60)
    finally:
        process.kill()
        process.wait()
    assert (process.returncode, err) == (0, b"")
    assert_exactly(out.decode().splitlines(), fleet.daemon.db_path)


def test_a_key_that_is_taken_away_is_worth_nothing_after_a_restart(fleet: Fleet) -> None:
    """The restart ends the connection that was allowed."""
    env = fleet.machine(fleet.keys.client("listed", fleet.keys.daemon))
    script = "record('before'); assert client.flush(60); print(flush=True); sys.stdin.read(); record('after')"
    process = start_client(script + "\nassert not client.flush(2)", env, stdin=subprocess.PIPE)
    try:
        assert process.stdout is not None
        assert [process.stdout.readline() for _ in range(2)] == [b"before\n", b"\n"]  # and so it has been flushed
        mine = fleet.keys.client("unlisted", fleet.keys.daemon)
        fleet.daemon.env.update(mine, ANALYTICS_CURVE_CLIENT_KEYS=fleet.keys.unlisted)
        fleet.daemon.restart()
        _, err = process.communicate(timeout=60)
    finally:
        process.kill()
        process.wait()
    assert (process.returncode, err) == (0, b"")
    assert query(fleet.daemon.db_path, "SELECT user_id FROM events") == [("before",)]


def test_many_who_knock_do_not_keep_others_out(fleet: Fleet) -> None:
    """More silent connections than the daemon may have descriptors: it lives, and serves when they have gone."""
    resource.prlimit(fleet.daemon.pid, resource.RLIMIT_NOFILE, (64, 64))
    port = int(fleet.daemon.endpoint.rpartition(":")[2])
    with contextlib.ExitStack() as stack:
        for _ in range(200):
            stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=10))
        assert fleet.daemon.process is not None
        assert fleet.daemon.process.poll() is None
    env = fleet.machine(fleet.keys.client("listed", fleet.keys.daemon))
    recorded = run_client(RECORD + "\nassert client.flush(60)", env, "patient")
    assert_exactly(recorded, fleet.daemon.db_path)


@pytest.mark.parametrize("side", ["daemon", "client"])
def test_beyond_the_host_nothing_starts_without_keys(tmp_path: Path, side: str) -> None:
    """Both sides say which keys are missing; neither listens nor connects."""
    env = {**os.environ, "HOME": str(tmp_path), "ANALYTICS_ENDPOINT": f"tcp://192.0.2.1:{free_port()}"}
    if side == "daemon":
        said = skillmeter("run", env=env, code=1)
        names = ("ANALYTICS_CURVE_SECRET_FILE", "ANALYTICS_CURVE_CLIENT_KEYS")
    else:
        said = skillmeter("status", env=env, code=1)
        names = ("ANALYTICS_CURVE_SERVER_KEY", "ANALYTICS_CURVE_CLIENT_SECRET_FILE")
    assert "tcp beyond this host needs CURVE keys" in said
    assert all(name in said for name in names)
    assert os.listdir(tmp_path) == []
