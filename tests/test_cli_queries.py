"""The commands that look at the record: tables for people, JSON for programs, clear errors, clean ends."""

import contextlib
import io
import json
import os
import pty
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from click.testing import CliRunner
from rich.console import Console

from skillmeter.events import Execution, Health, Rating
from skillmeterd.cli import group
from skillmeterd.cli.frame import percent, table
from skillmeterd.cli.leaderboard import HEADINGS, SPARE
from skillmeterd.rows import DAY_NS
from skillmeterd.store import Chunk, Store

from .support import DaemonProcess, free_port, wait_until

RUN = [sys.executable, "-c", "from skillmeter._cli import main; main()"]


@pytest.fixture(autouse=True)
def db(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A database with ten events of now, which the commands find by the environment."""
    path = tmp_path / "analytics.db"
    monkeypatch.setenv("ANALYTICS_DB_PATH", str(path))
    store = Store.open(path)
    now_ns = store._clock_ns()
    commit(
        store,
        *[
            Execution(now_ns, "parse_json", f"u{n % 3}", "o1", n > 0, 10.0, None if n else "ValueError")
            for n in range(7)
        ],
        Execution(now_ns - 40 * DAY_NS, "=1+1", None, None, True, 1.5),
        Rating(now_ns, "parse_json", None, None, 4),
        Health(now_ns, "parse_json", 90.0),
    )
    yield path
    store.close()


def commit(store: Store, *events: Any) -> None:
    """Commit events of one producer after what it has."""
    start = store.committed(bytes(16)).offset
    offsets = [start + 100 * n for n in range(len(events))]
    store.commit([Chunk(bytes(16), start + 100 * len(events), offsets, list(map(msgspec.msgpack.encode, events)))])


def skillmeter(*words: str) -> Any:
    """Run the command line in this process."""
    return CliRunner().invoke(group, list(words), prog_name="skillmeter")


def lines(*words: str) -> list[list[str]]:
    """The words of each line that a command prints."""
    result = skillmeter(*words)
    assert result.exit_code == 0, result.output
    return [line.split() for line in result.stdout.splitlines()]


def test_leaderboard() -> None:
    """Places, scores and rates; literal names."""
    printed = lines("leaderboard")
    assert ["1", "parse_json", "7", "7", "3"] in [words[:5] for words in printed]
    assert ["2", "=1+1", "1", "1", "0"] in [words[:5] for words in printed]
    assert json.loads(skillmeter("leaderboard", "--period", "weekly", "--json").output)[0]["skill_id"] == "parse_json"


def test_usage() -> None:
    """Counts, health and adoption of one skill."""
    printed = lines("usage", "parse_json")
    assert ["execution_count", "7"] in printed
    assert ["success_rate", "85.71", "%"] in printed
    assert ["users_today", "3"] in printed
    assert json.loads(skillmeter("usage", "parse_json", "--json").output)["failure_count"] == 1


@pytest.mark.parametrize(
    ("share", "shown"),
    [
        (0.99999, 99.99),
        (1.0, 100.0),
        (0.0, 0.0),
        (1e-9, 0.01),
        (0.8973, 89.73),
        (-0.5, -50.0),
        (2.5, 250.0),
        (None, None),
    ],
)
def test_a_share_is_whole_only_if_it_is(share: float | None, shown: float | None) -> None:
    """One failure among a million is not 100 %."""
    assert percent(share) == shown


def test_nothing_to_rank() -> None:
    """An empty table would not say whether that is a mistake; JSON is a list in any case."""
    result = skillmeter("leaderboard", "--org", "nobody")
    assert (result.exit_code, result.stdout, "Nothing to rank" in result.stderr) == (0, "", True)
    assert json.loads(skillmeter("leaderboard", "--org", "nobody", "--json").stdout) == []


def test_nothing_to_rank_in_a_period(db: Path) -> None:
    """Only who asked for a shorter one is told of the longest."""
    store = Store.open(db.with_name("empty.db"))
    store.close()
    for period, told in (("daily", True), ("all", False)):
        result = skillmeter("leaderboard", "--period", period, "--db-path", str(store.path))
        assert result.exit_code == 0
        assert ("--period all" in result.stderr) == told


def test_trends() -> None:
    """A line a day, and a bar of how busy it was."""
    printed = lines("trends", "parse_json", "--days", "2")
    assert "#" * 30 in [words[-1] for words in printed if words]
    assert len(json.loads(skillmeter("trends", "parse_json", "--days", "2", "--json").output)) == 2


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["usage", "parse_jsn"],
            "skillmeter: nothing was recorded of a skill 'parse_jsn'; did you mean 'parse_json'?\n",
        ),
        (["trends", "parse_json", "--days", "-1"], "skillmeter: days: expected int >= 1\n"),
        (["leaderboard", "--limit", "0"], "skillmeter: limit: expected int >= 1\n"),
    ],
)
def test_errors(words: list[str], message: str) -> None:
    """What was asked wrongly is exit code 1 and a message."""
    result = skillmeter(*words)
    assert (result.exit_code, result.stderr) == (1, message)


def test_no_database(tmp_path: Path) -> None:
    """A missing file is a message, and is not made."""
    path = tmp_path / "none.db"
    result = skillmeter("leaderboard", "--db-path", str(path))
    assert result.exit_code == 1
    assert f"there is no database {path}" in result.stderr
    assert not path.exists()


READING = [["leaderboard"], ["usage", "s"], ["trends", "s"], ["tail", "--no-follow"], ["top", "--json"]]
READING += [["export", "-", "--format", "csv"]]


@pytest.mark.parametrize("words", READING, ids=lambda words: words[0])
@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("letter", "{path} failed: file is not a database; choose another file, or restore a backup"),
        ("empty", "{path} is empty; the daemon makes its tables when it starts"),
        ("foreign", "{path}: the file is a database of another program; choose another path"),
        ("newer", "{path}: the database has schema version 99, this release knows up to "),
        ("older", "{path} has schema version 1, this release reads "),
        ("folder", "{path} is a folder; choose a file"),
        ("below", "{path} failed: Not a directory; check its folder"),
    ],
)
def test_a_file_that_is_not_ours(tmp_path: Path, db: Path, words: list[str], what: str, message: str) -> None:
    """Each command that reads says what the file is, and what to do; none reads a schema that it does not know."""
    path = tmp_path / "file.db"
    if what == "letter":
        path.write_text("Dear all, " * 1000)
    elif what == "empty":
        path.touch()
    elif what == "folder":
        path.mkdir()
    elif what == "below":
        path = db / "file.db"
    else:
        with contextlib.closing(sqlite3.connect(path)) as made:
            if what == "foreign":
                made.execute("CREATE TABLE letters (text)")
            else:
                with contextlib.closing(sqlite3.connect(db)) as ours:
                    ours.backup(made)
                made.execute("UPDATE schema_version SET version = ?", (99 if what == "newer" else 1,))
            made.commit()
    result = skillmeter(*words, "--db-path", str(path))
    assert (result.exit_code, result.stdout) == (1, "")
    assert message.format(path=path) in result.stderr


@pytest.mark.parametrize(
    "words", [["usage", "\udcff"], ["tail", "--skill", "\udcff"], ["leaderboard", "--org", "\udcff"]]
)
def test_names_that_are_no_text(words: list[str]) -> None:
    """Bytes on the command line that are not UTF-8 are wrong usage: no skill has such a name."""
    result = skillmeter(*words, "\udcff")
    assert (result.exit_code, result.stdout) == (2, "")
    assert "is not UTF-8" in result.stderr


def test_tail() -> None:
    """The last events, one a line, in the order of their commit."""
    printed = lines("tail", "-n", "3", "--no-follow")
    assert [words[2:5] for words in printed] == [
        ["ok", "1.5", "ms"],
        ["rated", "4", "parse_json"],
        ["health", "90.0", "parse_json"],
    ]
    events = [json.loads(line) for line in skillmeter("tail", "--no-follow", "--json").output.splitlines()]
    assert events[0]["error_type"] == "ValueError"
    assert len(events) == 10


def test_tail_follows(db: Path) -> None:
    """What is committed later is printed; Ctrl-C ends it with 130 and no traceback."""
    process = subprocess.Popen([*RUN, "tail", "-n", "1"], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    with process:
        assert process.stdout is not None
        assert b"health 90.0" in process.stdout.readline()
        store = Store.open(db)
        commit(store, Execution(0, "later", None, None, True, 1.0))
        store.close()
        assert b"later" in process.stdout.readline()
        process.send_signal(signal.SIGINT)
        assert process.communicate()[1] == b"\n"
    assert process.returncode == 130


def test_tail_goes_on_after_a_restore(tmp_path: Path, db: Path) -> None:
    """It says that the database is away, once, and follows the one that takes its place, from so far back."""
    other = Store.open(tmp_path / "other.db")
    commit(other, *[Execution(n, f"restored{n}", None, None, True, 1.0) for n in range(5)])
    other.close()
    process = subprocess.Popen([*RUN, "tail", "-n", "1"], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    with process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert b"health 90.0" in process.stdout.readline()
        for suffix in ("", "-wal", "-shm"):
            db.with_name(db.name + suffix).rename(tmp_path / f"away.db{suffix}")
        assert b"there is no database" in process.stderr.readline()
        (tmp_path / "other.db").rename(db)
        assert b"restored4" in process.stdout.readline()
        process.send_signal(signal.SIGINT)
        assert process.communicate() == (b"", b"\n")
    assert process.returncode == 130


def test_top() -> None:
    """On a terminal it fills the screen with the leaderboard, and Ctrl-C gives the terminal back."""
    ours, theirs = pty.openpty()
    env = {**os.environ, "TERM": "xterm", "COLUMNS": "120", "LINES": "30"}
    process = subprocess.Popen([*RUN, "top", "--every", "0.1"], stdin=theirs, stdout=theirs, stderr=theirs, env=env)
    os.close(theirs)
    shown = b""

    def read() -> bytes:
        nonlocal shown
        try:
            shown += os.read(ours, 65536)
        except OSError:  # EIO: the other side is closed
            return b"closed"
        return shown if shown.count(b"parse_json") >= 2 else b""

    try:
        wait_until(read, what="a second screen")
        process.send_signal(signal.SIGINT)
        wait_until(lambda: read() == b"closed", what="the end")
        assert process.wait(30) == 130
    finally:
        process.kill()
        process.wait()
        os.close(ours)
    assert b"\x1b[?1049h" in shown  # to the alternate screen
    assert shown.rindex(b"\x1b[?1049l") > shown.rindex(b"\x1b[?1049h")  # and back
    assert b"Traceback" not in shown


@pytest.mark.parametrize(("width", "columns"), [(100, 9), (80, 6), (40, 3), (20, 2)])
@pytest.mark.parametrize("cut", [True, False])
def test_a_narrow_terminal(width: int, columns: int, cut: bool) -> None:
    """Columns go before a number is broken or a name has no room; with `cut` each row is on a line of its own."""
    rows = [(n, "name" * 64, 12_345_678 // 10**n, 1234, 1234, 99.99, 1.5, 12.5, 999.25, 4.5) for n in (1, 2, 3)]
    console = Console(width=width, file=io.StringIO())
    console.print(table(HEADINGS, rows, width, SPARE, cut=cut))
    assert isinstance(console.file, io.StringIO)
    printed = console.file.getvalue().splitlines()
    assert max(map(len, printed)) <= width
    numbered = [line.split() for line in printed if line.split() and line.split()[0] in ("1", "2", "3")]
    assert [len(words) for words in numbered] == [columns] * 3
    assert numbered[0][1].startswith("namena")
    assert not cut or len(printed) == 7
    assert all(not word.endswith("…") for words in numbered for word in (words[0], *words[2:]))


def test_top_goes_on_when_the_database_is_away(db: Path, tmp_path: Path) -> None:
    """It keeps what it showed and says why it is not up to date; it goes on when the database is back."""
    ours, theirs = pty.openpty()
    env = {**os.environ, "TERM": "xterm", "COLUMNS": "120", "LINES": "30"}
    process = subprocess.Popen([*RUN, "top", "--every", "0.1"], stdin=theirs, stdout=theirs, stderr=theirs, env=env)
    os.close(theirs)

    def shows(text: bytes, without: bytes = b"\0") -> bool:
        screen = os.read(ours, 65536)
        return text in screen and without not in screen

    try:
        wait_until(lambda: shows(b"parse_json"))
        db.rename(tmp_path / "away.db")
        wait_until(lambda: shows(b"not up to date: there is no database"))
        (tmp_path / "away.db").rename(db)
        wait_until(lambda: shows(b"parse_json", without=b"not up to date"))
        assert process.poll() is None
    finally:
        process.kill()
        process.wait()
        os.close(ours)


def test_a_daemon_that_is_elsewhere(tmp_path: Path, db: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With its address alone, queries are asked over the network; what needs the file says where it can run."""
    questions = [["leaderboard"], ["usage", "parse_json"], ["trends", "parse_json"], ["top", "--period", "all"]]
    expected = [skillmeter(*words, "--json").output for words in questions]
    endpoint = f"tcp://127.0.0.1:{free_port()}"
    with DaemonProcess(tmp_path, env={"ANALYTICS_ENDPOINT": endpoint}) as daemon:
        assert daemon.db_path == db
        monkeypatch.delenv("ANALYTICS_DB_PATH")
        monkeypatch.setenv("ANALYTICS_ENDPOINT", endpoint)
        assert [skillmeter(*words, "--json").output for words in questions] == expected
        wrong = skillmeter("usage", "parse_jsn")
        assert (wrong.exit_code, "did you mean 'parse_json'?" in wrong.stderr) == (1, True)
        for words in (["tail"], ["export", "x.csv"], ["backup", "x.db"], ["restore", "x.db"]):
            result = skillmeter(*words)
            assert (result.exit_code, "run this there" in result.stderr) == (1, True)
        assert skillmeter("tail", "--no-follow", "--db-path", str(db)).exit_code == 0
    gone = skillmeter("leaderboard")
    assert (gone.exit_code, f"answered at {endpoint}" in gone.stderr) == (3, True)


def test_top_into_a_pipe() -> None:
    """Without a terminal it says what to use instead; with --json it prints once."""
    assert "skillmeter leaderboard" in skillmeter("top").stderr
    assert json.loads(skillmeter("top", "--json").output)[0]["executions"] == 7
