"""Backup and restore: whole copies while recording goes on, and only those are put back."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from skillmeter import create_analytics_client
from skillmeter.events import encode_execution
from skillmeterd.cli import group
from skillmeterd.store import Chunk, Store

from .support import DaemonProcess, assert_consistent, query, run_client


def skillmeter(*words: object, env: dict[str, str] | None = None) -> Any:
    """Run the command line in this process."""
    return CliRunner().invoke(group, list(map(str, words)), env=env, prog_name="skillmeter")


def recorded(path: Path, count: int) -> Path:
    """A database with so many events."""
    store = Store.open(path)
    payloads = [encode_execution("s", True, 1.0, f"u{n}", None) for n in range(count)]
    store.commit([Chunk(bytes(16), 100 * count, list(range(0, 100 * count, 100)), payloads)])
    store.close()
    return path


def test_online(tmp_path: Path) -> None:
    """A copy taken while events are committed is one moment of them, in a file for its owner only."""
    with DaemonProcess(tmp_path) as daemon:
        client = create_analytics_client(endpoint=daemon.endpoint, spool_dir=str(daemon.spool_dir))
        stop = threading.Event()

        def record() -> None:
            while not stop.is_set():
                client.record_skill_execution("s", True, 1.0, "u")
                client.flush(30)

        thread = threading.Thread(target=record)
        thread.start()
        try:
            for number in range(3):
                copy = tmp_path / f"copy{number}.db"
                result = skillmeter("backup", copy, "--json", env=daemon.env)
                assert json.loads(result.stdout)["bytes"] == copy.stat().st_size
                assert_consistent(copy)
                assert copy.stat().st_mode & 0o777 == 0o600
        finally:
            stop.set()
            thread.join()
            client.close()
    assert not list(tmp_path.glob(".*partial*"))


def test_round_trip(tmp_path: Path) -> None:
    """What was backed up comes back; the database of meanwhile is kept, and the daemon goes on from the backup."""
    with DaemonProcess(tmp_path) as daemon:
        run_client("record('before')", daemon.env)
        daemon.wait_drained()
        copy = tmp_path / "copy.db"
        assert skillmeter("backup", copy, env=daemon.env).exit_code == 0
        run_client("record('after')", daemon.env)
        daemon.wait_drained()
        refused = skillmeter("restore", copy, env=daemon.env)
        assert (refused.exit_code, "another daemon" in refused.stderr) == (1, True)
        daemon.stop()
        kept = json.loads(skillmeter("restore", copy, "--json", env=daemon.env).stdout)["kept"]
        assert query(Path(kept), "SELECT user_id FROM events ORDER BY 1") == [("after",), ("before",)]
        daemon.start()
        run_client("record('later')", daemon.env)
        daemon.wait_drained()
        assert query(daemon.db_path, "SELECT user_id FROM events ORDER BY 1") == [("before",), ("later",)]
        assert_consistent(daemon.db_path)


@pytest.mark.parametrize("bad", ["missing", "empty", "foreign", "letter", "truncated", "damaged"])
def test_only_whole_backups(tmp_path: Path, bad: str) -> None:
    """What is no whole database of ours is refused, and nothing has changed."""
    target, source = recorded(tmp_path / "analytics.db", 3), tmp_path / "copy.db"
    if bad == "empty":
        source.touch()
    elif bad == "letter":
        source.write_text("Dear all, " * 1000)
    elif bad == "foreign":
        import sqlite3

        with sqlite3.connect(source) as db:
            db.execute("CREATE TABLE letters (text)")
        db.close()
    elif bad == "truncated":
        recorded(source, 2000)
        os.truncate(source, source.stat().st_size // 2)
    elif bad == "damaged":
        recorded(source, 2000)
        with source.open("r+b") as file:  # an inner page: nothing notices but a full check
            file.seek(source.stat().st_size - 3 * 4096)
            file.write(b"\xa5" * 4096)
    before = target.read_bytes()
    result = skillmeter("restore", source, "--db-path", target)
    assert result.exit_code == 1, result.output
    assert str(source) in result.stderr or "another program" in result.stderr
    assert target.read_bytes() == before
    assert not list(tmp_path.glob(".*"))


def test_a_log_that_was_left_is_not_played_into_it(tmp_path: Path) -> None:
    """The WAL of a database that somebody has deleted after a crash is set aside, as SQLite would take it for ours."""
    with DaemonProcess(tmp_path) as daemon:
        run_client("record('before')", daemon.env)
        daemon.wait_drained()
        copy = tmp_path / "copy.db"
        assert skillmeter("backup", copy, env=daemon.env).exit_code == 0
        run_client("[record(f'after{n}') for n in range(2000)]", daemon.env)
        daemon.wait_drained()
        daemon.kill()
        daemon.db_path.unlink()
        result = skillmeter("restore", copy, "--json", env=daemon.env)
        assert result.exit_code == 0, result.output
        kept = Path(json.loads(result.stdout)["kept"])
        assert kept.with_name(f"{kept.name}-wal").stat().st_size
        assert query(daemon.db_path, "PRAGMA integrity_check") == [("ok",)]
        assert query(daemon.db_path, "SELECT user_id FROM events") == [("before",)]


def test_who_could_read_the_database_still_can(tmp_path: Path) -> None:
    """What is restored has the mode of what it replaces: a group may have been given the right to read."""
    source, target = recorded(tmp_path / "copy.db", 1), recorded(tmp_path / "analytics.db", 2)
    target.chmod(0o640)
    assert skillmeter("restore", source, "--db-path", target).exit_code == 0
    assert target.stat().st_mode & 0o777 == 0o640


@pytest.mark.parametrize("words", [["backup", "out.db"], ["export", "out.csv"], ["restore", "source.db"]])
def test_a_kill_leaves_nothing_that_looks_whole(tmp_path: Path, words: list[str]) -> None:
    """Killed while it writes, a command leaves the old file as it was; the next run takes away what it left."""
    source = recorded(tmp_path / "source.db", 20_000)
    out = tmp_path / ("target.db" if words[0] == "restore" else words[1])
    other = recorded(out, 1).read_bytes() if words[0] == "restore" else None
    db_path = out if words[0] == "restore" else source
    command = [*words, "--db-path", str(db_path)]

    def partial() -> list[Path]:
        return [path for path in tmp_path.glob(".*.partial") if path.stat().st_size]

    killed = 0
    while killed < 3:
        before = set(partial())
        process = subprocess.Popen([sys.executable, "-m", "skillmeterd", *command], cwd=tmp_path)
        while process.poll() is None and not set(partial()) - before:
            time.sleep(0.001)
        process.kill()
        if process.wait() == -signal.SIGKILL and not (out.exists() if other is None else out.read_bytes() != other):
            killed += 1
            assert len(partial()) <= 1
        elif other is None:
            out.unlink()
    ran = subprocess.run([sys.executable, "-m", "skillmeterd", *command], cwd=tmp_path, check=False)
    assert ran.returncode == 0
    assert out.read_bytes() != other
    assert not list(tmp_path.glob(".*"))


@pytest.mark.parametrize("words", [["backup", "--force"], ["export", "--format", "csv"]])
@pytest.mark.parametrize("kind", ["pipe", "folder"])
def test_only_files_are_replaced(tmp_path: Path, words: list[str], kind: str) -> None:
    """Root that gives a device's name would have taken it away from everybody."""
    source, target = recorded(tmp_path / "analytics.db", 1), tmp_path / "target"
    target.mkdir() if kind == "folder" else os.mkfifo(target)
    before = target.stat()
    result = skillmeter(*words, target, "--db-path", source)
    assert (result.exit_code, "is no regular file" in result.stderr) == (1, True)
    assert target.stat() == before
    assert not list(tmp_path.glob(".*"))


def test_an_existing_file_is_kept(tmp_path: Path) -> None:
    """A backup replaces a file only with --force, and never the database itself."""
    source = recorded(tmp_path / "analytics.db", 1)
    copy = tmp_path / "copy.db"
    copy.write_text("before")
    assert skillmeter("backup", copy, "--db-path", source).exit_code == 1
    assert copy.read_text() == "before"
    assert skillmeter("backup", source, "--force", "--db-path", source).exit_code == 1
    assert skillmeter("backup", copy, "--force", "--db-path", source).exit_code == 0
    assert query(copy, "SELECT count(*) FROM events") == [(1,)]


def test_nothing_to_back_up(tmp_path: Path) -> None:
    """Without a database there is a message and no file."""
    assert "there is no database" in skillmeter("backup", tmp_path / "x", "--db-path", tmp_path / "none").stderr
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(("bad", "message"), [("empty", "{source} is empty"), ("damaged", "the copy of {source} is ")])
def test_only_a_whole_database_is_copied(tmp_path: Path, bad: str, message: str) -> None:
    """A damaged database is not taken for a backup of it: the message names it, and an older copy stays."""
    source, copy = tmp_path / "analytics.db", tmp_path / "copy.db"
    copy.write_text("before")
    if bad == "empty":
        source.touch()
    else:
        recorded(source, 2000)
        with source.open("r+b") as file:
            file.seek(source.stat().st_size - 3 * 4096)
            file.write(b"\xa5" * 4096)
    result = skillmeter("backup", copy, "--force", "--db-path", source)
    assert (result.exit_code, message.format(source=source) in result.stderr) == (1, True)
    assert copy.read_text() == "before"


def test_completion() -> None:
    """bash completes commands with what `completion bash` prints."""
    script = skillmeter("completion", "bash").stdout
    assert "_SKILLMETER_COMPLETE=bash_complete" in script
    subprocess.run(["bash", "-n"], input=script, text=True, check=True)
    env = {"_SKILLMETER_COMPLETE": "bash_complete", "COMP_WORDS": "skillmeter lead", "COMP_CWORD": "1"}
    assert "plain,leaderboard" in skillmeter(env=env).output
