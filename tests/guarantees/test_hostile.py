"""Hostile peers: whatever one connection does, the daemon lives, stays small, and serves the others."""

import contextlib
import json
import os
import resource
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import zmq

from skillmeter import wire
from skillmeter.records import LEDGER
from skillmeterd.outcomes import MAX_CLAIMED
from skillmeterd.store import Chunk, Store
from tests.journals import event, write_journal
from tests.support import (
    HTTP,
    DaemonProcess,
    assert_exactly,
    ledger,
    read,
    run_client,
    skillmeter,
    start_client,
    wait_until,
)

MIB = 1024 * 1024
NOBODY = 65534
RECORD_AND_FLUSH = "[record(f'{sys.argv[1]}-{n}') for n in range(200)]; assert client.flush(50)"


@contextlib.contextmanager
def dealers(daemon: DaemonProcess, count: int) -> Iterator[list[Any]]:
    """So many connections, of a client that does as it likes."""
    with zmq.Context() as context:
        context.set(zmq.MAX_SOCKETS, 4096)
        sockets = [context.socket(zmq.DEALER) for _ in range(count)]
        try:
            for one in sockets:
                one.setsockopt(zmq.LINGER, 0)
                one.setsockopt(zmq.SNDHWM, 2)
                one.setsockopt(zmq.RCVHWM, 1)  # what it does not read stays with the daemon
                one.connect(daemon.endpoint)
            yield sockets
        finally:
            for one in sockets:
                one.close()


def test_a_flood_is_refused_and_holds_up_nobody(tmp_path: Path) -> None:
    """Connections that send rubbish as fast as they can, of every size, while another client's events arrive."""
    batch = wire.encode(wire.Batch(bytes(16), 0, 0, []), b"")
    rubbish = [
        [os.urandom(20)],
        [wire.PROTOCOL, os.urandom(60_000), b""],
        [wire.PROTOCOL, b"\x91" * 60_000, b""],
        [*batch[:2], os.urandom(wire.MAX_BATCH_BYTES // 2)],
        [*batch[:2], bytes(wire.MAX_BATCH_BYTES)],
        [*batch[:2], bytes(wire.MAX_BATCH_BYTES + 1)],
        [wire.PROTOCOL, *[b"x"] * 500],
        wire.encode(wire.Request(1, "x" * 60)),
    ]
    with DaemonProcess(tmp_path) as daemon, dealers(daemon, len(rubbish)) as hostile:
        client = start_client(RECORD_AND_FLUSH, daemon.env, "a")
        try:
            refused = 0
            while client.poll() is None or refused < 500:
                refused = daemon.ask("status")["vitals"]["refused_messages"]
                for one, frames in zip(hostile, rubbish, strict=True):
                    with contextlib.suppress(zmq.Again):
                        one.send_multipart(frames, zmq.NOBLOCK, copy=False)
            out, err = client.communicate(timeout=60)
        finally:
            client.kill()
            client.communicate()
        assert client.returncode == 0, err.decode()
        assert len(out.splitlines()) == 200
        assert daemon.peak_bytes() < 256 * MIB
        daemon.wait_drained()
        stored = run_client(RECORD_AND_FLUSH, daemon.env, "b")
        daemon.wait_drained()
        assert_exactly([*out.decode().split(), *stored], daemon.db_path)


def test_no_number_of_false_counts_breaks_the_ledger(tmp_path: Path) -> None:
    """Forty thousand producers claim as much as one is believed: the ledger still adds up, every view of it is there,
    and others are served and counted."""
    with contextlib.closing(Store.open(tmp_path / "analytics.db")) as store:
        for first in range(0, 40_000, 10_000):
            claims = [(2**62,) * (1 + number % len(LEDGER)) for number in range(first, first + 10_000)]
            store.commit([Chunk(os.urandom(16), 0, [], [], claim, lost=2**62) for claim in claims])
    with DaemonProcess(tmp_path, env={**HTTP, "ANALYTICS_BACKEND": "prometheus"}) as daemon:
        recorded = run_client(RECORD_AND_FLUSH, daemon.env, "a")
        daemon.wait_drained()
        assert_exactly(recorded, daemon.db_path)
        assert ledger(daemon.db_path)["attempted"] <= MAX_CLAIMED + len(recorded)
        status, page = read(daemon.ask("status")["http"].removeprefix("http://"), "/metrics")
        assert status == 200
        assert b'skillmeter_events_total{outcome="stored"} 200' in page
        assert skillmeter("status", env=daemon.env).returncode == 0
        assert "0 fail" in skillmeter("doctor", "--reconcile", env=daemon.env).stdout


def test_answers_that_nobody_reads_do_not_pile_up(tmp_path: Path) -> None:
    """A connection that asks for long answers and reads none costs a few of them; others are served."""
    name = "x" * 250
    record = f"[client.record_skill_execution(f'{{n:05}}{name}', True, 1.0) for n in range(1000)]; client.flush(50)"
    with DaemonProcess(tmp_path) as daemon, dealers(daemon, 1) as (deaf,):
        run_client(record, daemon.env)
        question = wire.encode(wire.Request(1, "leaderboard", {"limit": 1000}))
        answer = wire.encode(wire.Response(1, daemon.ask("leaderboard", {"limit": 1000})))
        before = daemon.peak_bytes()
        for _ in range(150):
            assert deaf.poll(60_000, zmq.POLLOUT)
            deaf.send_multipart(question)
            daemon.ask("status")  # is answered after it, by the same thread
        assert 150 * len(answer[1]) > 64 * MIB
        assert daemon.peak_bytes() - before < 32 * MIB
        recorded = run_client(RECORD_AND_FLUSH, daemon.env, "a")
        assert len(recorded) == 200


def test_bytes_that_are_no_zeromq_are_none_of_our_business(tmp_path: Path) -> None:
    """HTTP, silence, a greeting cut short and a huge frame before the handshake, on the daemon's own socket."""
    greeting = b"\xff" + bytes(8) + b"\x7f\x03\x00NULL".ljust(55, b"\0")
    words = [
        b"GET / HTTP/1.1\r\n\r\n",
        b"",
        greeting[:11],
        greeting,
        greeting + b"\x06" + b"\xff" * 8,
        os.urandom(4096),
    ]
    path = "/skillmeter.sock"
    with DaemonProcess(tmp_path) as daemon, contextlib.ExitStack() as open_sockets:
        for word in words * 5:
            peer = open_sockets.enter_context(socket.socket(socket.AF_UNIX))
            peer.connect(f"{daemon.runtime_dir}{path}")
            with contextlib.suppress(OSError):
                peer.sendall(word)
        recorded = run_client(RECORD_AND_FLUSH, daemon.env, "a")
        daemon.wait_drained()
        assert_exactly(recorded, daemon.db_path)


def test_frames_that_never_end_take_little(tmp_path: Path) -> None:
    """Connections that each send all of a large frame but its last bytes, before they have said who they are, and that
    would keep it in the daemon's memory until their time to do so is over."""
    greeting = b"\xff" + bytes(8) + b"\x7f\x03\x00NULL".ljust(55, b"\0")
    size = 4 * MIB
    with DaemonProcess(tmp_path) as daemon, contextlib.ExitStack() as open_sockets:
        before = daemon.peak_bytes()
        for _ in range(50):
            peer = open_sockets.enter_context(socket.socket(socket.AF_UNIX))
            peer.settimeout(60)
            peer.connect(f"{daemon.runtime_dir}/skillmeter.sock")
            with contextlib.suppress(ConnectionError):
                peer.sendall(greeting + b"\x02" + size.to_bytes(8, "big") + bytes(size - 10))
        daemon.ask("status")
        assert daemon.peak_bytes() - before < 50 * wire.MAX_BATCH_BYTES + 16 * MIB


def test_more_connections_than_descriptors_do_not_end_the_daemon(tmp_path: Path) -> None:
    """libzmq would abort: the daemon lets in as many as it can, lives, and serves all when the crowd has gone."""
    with DaemonProcess(tmp_path, started=False) as daemon:
        daemon.spawn()
        resource.prlimit(daemon.pid, resource.RLIMIT_NOFILE, (64, 64))
        wait_until(lambda: "ready" in daemon.log())
        with dealers(daemon, 200) as crowd:
            for one in crowd:
                with contextlib.suppress(zmq.Again):
                    one.send_multipart(wire.encode(wire.Request(1, "health")), zmq.NOBLOCK)
            wait_until(lambda: sum(one.poll(0) > 0 for one in crowd) >= 10)
            written = [write_journal(daemon.spool_dir, [[event(str(number))]]) for number in range(20)]
            recorded = run_client("[record(f'a{n}') for n in range(200)]; client.flush(0.5)", daemon.env)
            assert daemon.process is not None
            assert daemon.process.poll() is None, daemon.log()
        for name in "bcd":
            recorded += run_client(RECORD_AND_FLUSH, daemon.env, name)
        daemon.wait_drained()
        assert len(os.listdir(f"/proc/{daemon.pid}/fd")) < 40
        assert_exactly([*recorded, *map(str, range(len(written)))], daemon.db_path)
        assert daemon.stop() == 0
        assert sorted(path.name for path in daemon.runtime_dir.iterdir()) == ["skillmeter.sock.lock"]


INTRUDER = """
import json, os, socket, sys
os.setgroups([])
os.setgid(int(sys.argv[1]))
os.setuid(int(sys.argv[1]))

def outcome(attempt):
    try:
        attempt()
    except OSError as error:
        return type(error).__name__
    return "let in"

peer = socket.socket(socket.AF_UNIX)
runtime, spool, db, head = sys.argv[2:]
print(json.dumps({
    "connect": outcome(lambda: peer.connect(runtime + "/skillmeter.sock")),
    "replace the socket": outcome(lambda: os.unlink(runtime + "/skillmeter.sock")),
    "take the lock": outcome(lambda: open(runtime + "/skillmeter.sock.lock")),
    "list": outcome(lambda: os.listdir(spool)),
    "read a journal": outcome(lambda: open(head)),
    "read the database": outcome(lambda: open(db)),
    "read its log": outcome(lambda: open(db + "-wal")),
}))
"""


@pytest.mark.parametrize("folders", ["as they are made", "open to everybody"])
def test_another_user_is_denied(folders: str) -> None:
    """Files and the socket are their owner's alone, even where somebody has opened the folders."""
    if os.geteuid():
        if os.environ.get("CI"):
            pytest.fail("CI has to run this as root")
        pytest.skip("only root can become another user")
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        os.chmod(folder, 0o755)
        with DaemonProcess(Path(folder)) as daemon:
            run_client("record('a'); assert client.flush(20)", daemon.env)
            daemon.pause()  # so that the journal stays
            run_client("record('b')", daemon.env)
            head = next(daemon.spool_dir.glob("*.journal"))
            if folders != "as they are made":
                daemon.runtime_dir.chmod(0o755)
                daemon.spool_dir.chmod(0o755)
            arguments = [str(NOBODY), daemon.runtime_dir, daemon.spool_dir, daemon.db_path, head]
            script = subprocess.run(
                [sys.executable, "-c", INTRUDER, *map(str, arguments)], capture_output=True, check=True, timeout=60
            )
            attempts = json.loads(script.stdout)
            allowed = {"list"} if folders != "as they are made" else set()
            assert {name for name, how in attempts.items() if how == "let in"} == allowed
            assert {how for name, how in attempts.items() if name not in allowed} == {"PermissionError"}
            daemon.resume()
            daemon.wait_drained()
