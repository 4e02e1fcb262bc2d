"""The daemon away: stopped, restarted, doubled or ended in the middle of the work."""

import contextlib
import os
import sqlite3
from pathlib import Path

import pytest

from tests.support import (
    DaemonProcess,
    assert_exactly,
    complete_lines,
    ledger,
    run_client,
    start_client,
    wait_until,
)


def test_a_stopped_daemon_blocks_no_call_and_no_exit(tmp_path: Path) -> None:
    """SIGSTOP: record calls go on, close() keeps to its bound, and after SIGCONT everything is there once."""
    script = """
    import time
    for number in range(5000):
        assert record(str(number))
    began = time.monotonic()
    client.close(0.5)
    assert time.monotonic() - began < 30, "close has a bound"
    """
    with DaemonProcess(tmp_path) as daemon:
        before = run_client("record('before'); assert client.flush(20)", daemon.env)
        daemon.pause()
        recorded = run_client(script, daemon.env)
        daemon.resume()
        daemon.wait_drained()
        assert len(recorded) == 5000
        assert_exactly([*before, *recorded], daemon.db_path)


def test_connected_clients_reconnect_to_a_daemon_that_was_restarted(tmp_path: Path) -> None:
    """The same process goes on, after a kill and after a clean stop, which leaves no socket behind."""
    script = """
    for round in range(3):
        for number in range(200):
            record(f"{round}-{number}")
        assert client.flush(50)
        print("flushed", flush=True)
        open(sys.argv[1]).readline()
    """
    with DaemonProcess(tmp_path) as daemon:
        os.mkfifo(tmp_path / "go")
        process = start_client(script, daemon.env, tmp_path / "go")
        lines: list[str] = []
        assert process.stdout is not None
        try:
            for turn in range(3):
                while not lines or lines[-1] != "flushed" or lines.count("flushed") <= turn:
                    line = process.stdout.readline().decode()
                    assert line, daemon.log()
                    lines.append(line.strip())
                if turn == 0:
                    daemon.restart()
                if turn == 1:
                    assert daemon.stop() == 0
                    assert not list(daemon.runtime_dir.glob("*.sock"))
                    daemon.start()
                (tmp_path / "go").write_text("\n")
            process.communicate(timeout=60)
        finally:
            process.kill()
            process.communicate()
        daemon.wait_drained()
        assert_exactly([line for line in lines if line != "flushed"], daemon.db_path)


@pytest.mark.parametrize("shared", ["ANALYTICS_RUNTIME_DIR", "ANALYTICS_DB_PATH", "ANALYTICS_SPOOL_DIR"])
def test_a_second_daemon_refuses_and_the_first_is_untouched(tmp_path: Path, shared: str) -> None:
    """Whether it would share the socket, the database or the spool."""
    with DaemonProcess(tmp_path) as daemon:
        (tmp_path / "second").mkdir()
        with DaemonProcess(tmp_path / "second", started=False, env={shared: daemon.env[shared]}) as second:
            assert second.spawn().wait(60) == 1
            assert "already" in second.log()
        assert_exactly(run_client("record('a'); assert client.flush(20)", daemon.env), daemon.db_path)


def test_sigterm_under_load_ends_in_time_and_loses_nothing(tmp_path: Path) -> None:
    """Exit code 0 while clients send; the next daemon goes on where this one stopped."""
    script = """
    for number in range(30_000):
        record(f"{sys.argv[1]}-{number}")
    assert client.flush(50)
    """
    with DaemonProcess(tmp_path) as daemon:
        clients = [start_client(script, daemon.env, name) for name in "ab"]
        try:
            wait_until(lambda: ledger(daemon.db_path)["stored"] > 500)
            assert daemon.stop(20) == 0
            daemon.start()
            results = [client.communicate(timeout=60) for client in clients]
        finally:
            for client in clients:
                client.kill()
                client.communicate()
        assert all(client.returncode == 0 for client in clients), results
        daemon.wait_drained()
        assert_exactly([line for out, _ in results for line in complete_lines(out)], daemon.db_path)


def test_a_database_that_is_locked_for_seconds_is_waited_for(tmp_path: Path) -> None:
    """Another program holds the write lock: no acknowledgement, the daemon says so, and goes on by itself."""
    with DaemonProcess(tmp_path) as daemon:
        recorded = run_client("record('before'); assert client.flush(20)", daemon.env)
        with contextlib.closing(sqlite3.connect(daemon.db_path, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            recorded += run_client("[record(str(n)) for n in range(500)]; assert not client.flush(1)", daemon.env)
            wait_until(lambda: not daemon.ask("health")["ready"])
            assert daemon.process is not None
            assert daemon.process.poll() is None
            other.execute("ROLLBACK")
        wait_until(lambda: daemon.ask("health")["ready"])
        daemon.wait_drained()
        assert_exactly(recorded, daemon.db_path)


def test_a_corrupt_database_is_kept_aside_and_journals_go_into_a_fresh_one(tmp_path: Path) -> None:
    """The daemon starts all the same, says so, and nothing that is in a journal is lost."""
    with DaemonProcess(tmp_path) as daemon:
        run_client("record('old'); assert client.flush(20)", daemon.env)
        daemon.wait_drained()
        daemon.stop()
        recorded = run_client("[record(str(n)) for n in range(500)]", daemon.env)
        damaged = bytearray(daemon.db_path.read_bytes())
        damaged[:200] = b"\xff" * 200
        daemon.db_path.write_bytes(damaged)
        daemon.start()
        daemon.wait_drained()
        assert_exactly(recorded, daemon.db_path)
        (kept,) = tmp_path.glob("*.corrupt-????????T??????Z")
        assert f"kept={kept}" in daemon.log()


def test_a_deleted_database_is_refilled_from_what_clients_still_hold(tmp_path: Path) -> None:
    """The offset goes back to 0: a client that has all of it sends all of it again."""
    script = """
    for number in range(300): record(str(number))
    assert client.flush(20)
    print("flushed", flush=True)
    open(sys.argv[1]).readline()
    record("after")
    assert client.flush(50)
    """
    with DaemonProcess(tmp_path) as daemon:
        os.mkfifo(tmp_path / "go")
        process = start_client(script, daemon.env, tmp_path / "go")
        assert process.stdout is not None
        lines: list[str] = []
        try:
            while not lines or lines[-1] != "flushed":
                lines.append(process.stdout.readline().decode().strip())
            daemon.kill()
            for path in tmp_path.glob("analytics.db*"):
                path.unlink()
            daemon.start()
            (tmp_path / "go").write_text("\n")
            out, err = process.communicate(timeout=60)
        finally:
            process.kill()
            process.communicate()
        assert process.returncode == 0, err.decode()
        daemon.wait_drained()
        assert_exactly([*lines[:-1], *complete_lines(out)], daemon.db_path)


def test_a_client_that_dies_just_before_the_daemon_ends_is_taken_over(tmp_path: Path) -> None:
    """In a pod the spool ends with the daemon, and no other daemon comes for it: what it finds, it takes along."""
    recorded: list[str] = []
    script = "[record(f'{sys.argv[1]}-{n}') for n in range(50)]; os.kill(os.getpid(), 9)"
    with DaemonProcess(tmp_path) as daemon:
        for life in range(4):
            recorded += run_client(script, daemon.env, life, code=-9)
            assert daemon.stop() == 0
            assert daemon.journals() == []
            assert_exactly(recorded, daemon.db_path)
            daemon.start()
