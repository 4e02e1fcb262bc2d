"""The demo: its tools really work and really fail, its books are checked, and it leaves nothing behind."""

import itertools
import json
import os
import py_compile
import re
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest

from skillmeter.connection import Connection
from skillmeter.testing import RecordingClient
from skillmeterd.database import open_writer
from skillmeterd.demo import outcome, plan
from skillmeterd.demo.interrupts import Interrupts
from skillmeterd.demo.plan import File, Task
from skillmeterd.demo.tools import toolbox, write_catalog
from skillmeterd.demo.worker import PLAN, Progress, Worker

from .support import WAIT_S, wait_until

# Tools

GOOD = {
    "parse_json": ("a.json", b'{"a": [1, 2]}'),
    "parse_toml": ("a.toml", b"[a]\nb = 1\n"),
    "parse_python": ("a.py", b"def f(): pass\n"),
    "tokenize_python": ("a.py", b"def f(): pass\n"),
    "parse_xml": ("a.xml", b"<a><b/></a>"),
    "parse_csv": ("RECORD", b'"a,b",1,\nc,2,3\n'),
    "parse_ini": ("a.ini", b"[a]\nb = 1\n"),
    "read_metadata": ("METADATA", b"Name: a\nVersion: 1\n\ntext\n"),
    "extract_html_text": ("a.html", b"<p>one <b>two</b></p>"),
    "decode_text": ("a.txt", "\u00e9".encode()),
    "search_definitions": ("a.py", b"class A:\n    async def f(self): pass\n"),
    "hash_sha256": ("a.txt", b"text"),
    "compress_zlib": ("a.txt", b"text"),
    "compress_bz2": ("a.txt", b"text"),
    "compress_lzma": ("a.txt", b"text"),
    "query_catalog": ("a.py", b"pass\n"),
    "load_bytecode": ("a.pyc", None),
}
BINARY = b"\xff\xfe\0\0\x93\xe9'" + bytes(range(128, 200))


@pytest.fixture
def tools(tmp_path) -> dict[str, Callable[[Path], object]]:
    """The tools, with a catalog of one Python file."""
    write_catalog(tmp_path / "catalog.db", [(tmp_path / "a.py", 5)])
    return toolbox(tmp_path / "catalog.db")


def write_good(folder: Path, skill: str) -> Path:
    """A file that suits a tool."""
    name, data = GOOD[skill]
    path = folder / name
    if data is None:  # a compiled module: this test's own
        py_compile.compile(__file__, cfile=str(path))
    else:
        path.write_bytes(data)
    return path


@pytest.mark.parametrize("skill", GOOD)
def test_each_tool_does_its_work_on_a_file_of_its_kind(tools, tmp_path, skill):
    """Every skill of the demo returns a result for a good file."""
    assert tools[skill](write_good(tmp_path, skill))


@pytest.mark.parametrize("skill", [diet.skill for diet in plan.DIETS if diet.bad])
def test_each_tool_that_gets_bad_files_really_fails_on_them(tools, tmp_path, skill):
    """What the demo shows as failures are exceptions of the libraries."""
    path = tmp_path / "a.pyc"
    path.write_bytes(BINARY)
    with pytest.raises(Exception):  # noqa: B017 - each library has its own
        tools[skill](path)


def test_every_skill_has_a_tool_and_every_tool_a_diet(tools):
    """The tables agree."""
    assert set(tools) == {diet.skill for diet in plan.DIETS} == set(GOOD)


# Plan


def make_files(kinds: dict[str, int]) -> list[File]:
    """So many files of each kind."""
    return [
        File(f"/root/{number}{kind}", kind, 1, f"user{number % 3}", "org")
        for kind, count in kinds.items()
        for number in range(count)
    ]


def test_the_same_files_give_the_same_plan():
    """In whatever order they were found."""
    files = make_files({".py": 20, ".json": 3, ".pyc": 5})
    tasks = plan.plan(files, 500)
    assert len(tasks) == 500
    assert tasks == plan.plan(files[::-1], 500)


def test_a_tool_without_files_is_left_out_and_a_file_may_come_again():
    """No call is made up: what is not on this machine is not in the demo."""
    tasks = plan.plan(make_files({".json": 2, ".pyc": 1}), 300)
    by_json = [task.file.kind for task in tasks if task.skill == "parse_json"]
    assert "parse_toml" not in {task.skill for task in tasks}
    assert len(by_json) > 50
    assert 0.04 < by_json.count(".pyc") / len(by_json) < 0.12  # one in twelve is of the wrong kind


def test_a_plan_is_well_mixed():
    """Every worker gets every tool, early and late."""
    tasks = plan.plan(make_files({".py": 20, ".json": 3, ".pyc": 5, ".txt": 4, ".xml": 2}), 2000)
    skills = {task.skill for task in tasks}
    for number in range(4):
        assert {task.skill for task in tasks[number::4][:250]} == skills


def test_files_are_found_with_their_users(tmp_path):
    """The user is the package or module; empty, large, hidden and linked files are left out, packages too."""
    wanted = ["json/decoder.py", "json/data/a.json", "this.py", "pip.dist-info/RECORD"]
    for name in [*wanted, "site-packages/a.py", ".git/a.py", "json/a.so"]:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("x")
    (tmp_path / "empty.py").touch()
    (tmp_path / "large.py").write_bytes(bytes(plan.MAX_FILE_BYTES + 1))
    (tmp_path / "link.py").symlink_to(tmp_path / "large.py")
    found = {os.path.relpath(file.path, tmp_path): file for file in plan.find_files("org", tmp_path)}
    assert sorted(found) == sorted(wanted)
    assert [found[name].user_id for name in wanted] == ["json", "json", "this", "pip"]
    assert {file.org_id for file in found.values()} == {"org"}


# Worker


def test_a_worker_counts_what_its_client_answers(tools, tmp_path):
    """Calls and ratings that were kept, by skill, and those that were not; a tool's failure is an execution."""
    client = RecordingClient()
    worker = Worker(client, tools)
    good = write_good(tmp_path, "parse_json")
    files = [File(str(path), "", 1, "user", "org") for path in (good, tmp_path / "missing.json")]
    for file in files:
        worker.do(Task("parse_json", file))
    assert [(event.success, event.error_type, event.user_id) for event in client.executions] == [
        (True, None, "user"),
        (False, "FileNotFoundError", "user"),
    ]
    assert worker.progress == Progress(2, {"parse_json": len(client.events)}, 0)
    client.close()
    worker.do(Task("parse_xml", files[1]))
    assert worker.progress == Progress(3, {"parse_json": len(client.events)}, 1)


@pytest.mark.parametrize(("took_s", "stars"), [(0.0004, 5), (0.007, 3), (1.0, 1)])
def test_some_files_are_rated_by_how_long_they_took(tools, tmp_path, monkeypatch, took_s, stars):
    """A rating comes from the measured time, and only after a success."""
    clock_s = itertools.count(0, took_s)
    monkeypatch.setattr("skillmeterd.demo.worker._clock_s", lambda: next(clock_s))
    client = RecordingClient()
    worker = Worker(client, tools)
    files = [File(str(tmp_path / f"{number}.txt"), "", 1, "user", "org") for number in range(60)]
    for file in files:
        Path(file.path).write_text("text")
        worker.do(Task("hash_sha256", file))
        worker.do(Task("parse_xml", file))  # fails
    assert 0 < len(client.ratings) < len(files)
    assert {(event.skill_id, event.rating) for event in client.ratings} == {("hash_sha256", stars)}


def test_a_worker_ends_when_its_time_is_over(tmp_path):
    """It says what it did, records nothing more, and that is no failure."""
    task = Task("parse_json", File(str(tmp_path / "a.json"), ".json", 1, "user", "org"))
    (tmp_path / PLAN).write_bytes(msgspec.msgpack.encode([task] * 10))
    command = [sys.executable, "-m", "skillmeterd.demo.worker", str(tmp_path), "0", "1", "0"]
    answer = subprocess.run(command, capture_output=True, check=True)
    assert msgspec.json.decode(answer.stdout, type=Progress) == Progress(0, {}, 0)


# Outcome


def test_a_loss_is_a_problem(tmp_path):
    """A database that lacks what the workers recorded is found out, in the sum and by skill."""
    open_writer(tmp_path / "a.db", time.time_ns()).close()
    read = outcome.read(tmp_path / "a.db", Progress(5, {"parse_json": 3, "parse_xml": 2}, 1))
    assert read.lost == 5
    assert read.problems == [
        "the ledger's attempted is 0, expected 6",
        "the ledger's stored is 0, expected 5",
        "parse_json: 3 recorded, 0 in SQLite",
        "parse_xml: 2 recorded, 0 in SQLite",
    ]


def test_an_event_that_is_there_twice_is_a_problem(tmp_path):
    """The right number of rows is not enough."""
    db = open_writer(tmp_path / "a.db", time.time_ns())
    db.execute("INSERT INTO pair (id, skill_id) VALUES (1, 'parse_json')")
    db.execute("INSERT INTO producer (no, producer, first_seen_ns, last_seen_ns) VALUES (1, x'00', 0, 0)")
    event = (
        "INSERT INTO event_log (at_ns, pair_id, user_no, producer_no, offset, kind, value) VALUES (1, 1, 0, 1, 8, 1, 2)"
    )
    for _ in range(2):
        db.execute(event)
    db.close()
    read = outcome.read(tmp_path / "a.db", Progress(2, {"parse_json": 2}, 0))
    assert read.lost == 0
    assert "1 events are in SQLite twice" in read.problems


def test_nothing_is_stored_where_there_is_no_database(tmp_path):
    """Before the daemon has made it, the bar stands at zero."""
    assert outcome.stored(tmp_path / "none.db") == 0


# Interrupts


@pytest.mark.parametrize(
    ("number", "error"), [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, SystemExit), (signal.SIGHUP, SystemExit)]
)
def test_a_signal_is_heard_where_it_is_asked_for(number, error):
    """It interrupts nothing; the next check raises; the handlers are put back as found."""
    before = signal.getsignal(number)
    with Interrupts() as interrupts:
        interrupts.check()
        os.kill(os.getpid(), number)
        with pytest.raises(error) as caught:
            interrupts.check()
    if error is SystemExit:
        assert caught.value.code == 128 + number
    assert signal.getsignal(number) is before


# The whole

MINUTES_OF_CALLS = "200000"


class Demo:
    """A demo as a process, in a temporary folder of its own, and all processes that it starts."""

    def __init__(self) -> None:
        self.folder = Path(f"/tmp/demo-{uuid.uuid4().hex[:8]}")  # short: a socket's path has 107 bytes at most
        self.folder.mkdir()
        self._mark = f"DEMO_TEST={uuid.uuid4().hex}"
        self.process: subprocess.Popen[str] | None = None

    def start(self, *arguments: str, stderr: int = subprocess.STDOUT) -> "subprocess.Popen[str]":
        """Start it; its folder is where it puts temporary files."""
        self.process = subprocess.Popen(
            [sys.executable, "-m", "skillmeterd", "demo", *arguments],
            env={**os.environ, "TMPDIR": str(self.folder), "DEMO_TEST": self._mark.partition("=")[2]},
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
            process_group=0,
        )
        return self.process

    def wait_for_line(self, text: str) -> None:
        """Read what it prints until a line has this in it."""
        assert self.process is not None
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if text in line:
                return
        raise AssertionError(f"it ended without {text!r}")

    def end(self) -> tuple[int, str]:
        """Its exit code and what else it printed."""
        assert self.process is not None
        output, _ = self.process.communicate(timeout=WAIT_S)
        return self.process.returncode, output

    def processes(self) -> dict[int, str]:
        """The command lines of all processes of this demo that live, by process id."""
        found = {}
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                if self._mark.encode() in (folder / "environ").read_bytes().split(b"\0"):
                    found[int(folder.name)] = (folder / "cmdline").read_text().replace("\0", " ")
            except OSError:
                continue  # it ended, or is another user's
        return found

    @property
    def left_behind(self) -> list[object]:
        """Files and processes that are still there."""
        return [*self.folder.iterdir(), *self.processes().values()]

    def close(self) -> None:
        """End all that is left."""
        for pid in self.processes():
            os.kill(pid, signal.SIGKILL)
        if self.process is not None:
            self.process.communicate()
        shutil.rmtree(self.folder)


@pytest.fixture
def demo() -> Iterator[Demo]:
    """A demo that is not yet started."""
    if not Path("/proc/self/environ").exists():
        pytest.skip("needs /proc to find the demo's processes")
    demo = Demo()
    yield demo
    demo.close()


def test_the_demo_balances_and_leaves_nothing(demo):
    """It kills its daemon, shows every skill with real failures, loses nothing, and cleans up."""
    demo.start("--calls", "600")
    code, output = demo.end()
    assert code == 0, output
    assert "killed (SIGKILL)" in output
    assert "The daemon is back" in output
    assert "lost 0," in output
    row = re.search(r"\d+ +parse_json +(\d+) +([\d.]+)", output)
    assert row is not None, output
    assert int(row[1]) > 30
    assert 50 < float(row[2]) < 100  # some inputs are bad
    match = re.search(r"attempted ([\d,]+) = stored ([\d,]+) \+ pending 0 \+ dropped 0 \+ rejected 0", output)
    assert match is not None, output
    assert match[1] == match[2]
    assert int(match[1].replace(",", "")) > 600  # and ratings
    assert demo.left_behind == []


@pytest.mark.parametrize(
    ("number", "code", "at", "calls"),
    [
        (signal.SIGINT, 130, "tool calls", MINUTES_OF_CALLS),
        (signal.SIGINT, 130, "killed (SIGKILL)", "2000"),
        (signal.SIGTERM, 143, "The daemon runs", MINUTES_OF_CALLS),
    ],
)
def test_an_interrupted_demo_leaves_nothing(demo, number, code, at, calls):
    """Ctrl-C with all at work, while the daemon is away, and a polite kill: no process, no file, no traceback."""
    process = demo.start("--calls", calls, "--seconds-limit", "600")
    demo.wait_for_line(at)
    os.killpg(process.pid, number)  # as a terminal does
    returned, output = demo.end()
    assert returned == code, output
    assert "Traceback" not in output
    assert "SIGKILL" not in output  # it did not play on
    assert demo.left_behind == []


def test_a_kept_demo_leaves_a_daemon_that_can_be_ended_as_it_says(demo):
    """With --keep the daemon answers questions until it is ended in the printed way."""
    demo.start("--calls", "100", "--keep")
    code, output = demo.end()
    assert code == 0, output
    (pid,) = demo.processes()
    assert f"kill {pid} " in output
    runtime = re.search(r"ask it: +ANALYTICS_RUNTIME_DIR=(\S+)", output)
    assert runtime is not None
    connection = Connection(f"ipc://{runtime[1]}/skillmeter.sock")
    assert connection.ask("health")["ready"]
    connection.close()
    how = re.search(r"end it: +(kill .+) && sleep 2 && (rm .+)", output)
    assert how is not None
    subprocess.run(how[1].split(), check=True)
    wait_until(lambda: not demo.processes(), what="the daemon's end")
    subprocess.run(how[2].split(), check=True)
    assert demo.left_behind == []


def test_a_demo_for_programs_prints_its_outcome_and_nothing_else(demo):
    """With --json stdout is leaderboard, ledger and where the page is; what happens meanwhile is told on stderr."""
    process = demo.start("--calls", "400", "--keep", "--json", stderr=subprocess.PIPE)
    output, told = process.communicate(timeout=WAIT_S)
    assert process.returncode == 0, told
    assert "killed (SIGKILL)" in told
    assert "calls, " in told
    played = msgspec.json.decode(output)
    assert {skill["skill_id"] for skill in played["leaderboard"]} > {"parse_json", "hash_sha256"}
    assert played["ledger"]["attempted"] == played["ledger"]["stored"] > 400
    assert (played["lost"], played["problems"], played["ledger"]["balance"]) == (0, [], 0)
    (pid,) = demo.processes()
    assert played["daemon"]["pid"] == pid
    with urllib.request.urlopen(f"{played['daemon']['page']}/api/v1/leaderboard", timeout=WAIT_S) as answer:
        shown = {entry["skill_id"]: entry["executions"] for entry in json.load(answer)}
    assert shown.items() <= {skill["skill_id"]: skill["calls"] for skill in played["leaderboard"]}.items()
    os.kill(pid, signal.SIGTERM)
    wait_until(lambda: not demo.processes(), what="the daemon's end")
    shutil.rmtree(played["daemon"]["folder"])
    assert demo.left_behind == []


def test_a_worker_that_breaks_down_ends_the_demo(demo):
    """It is noticed at once: the exit code says so, and the message why."""
    demo.start("--calls", MINUTES_OF_CALLS, "--seconds-limit", "600")
    demo.wait_for_line("tool calls")
    worker = next(pid for pid, command in demo.processes().items() if "demo.worker" in command)
    os.kill(worker, signal.SIGKILL)
    code, output = demo.end()
    assert code == 1
    assert "a worker ended with exit code -9" in output
    assert "SIGKILL" not in output  # it did not play on
    assert demo.left_behind == []


def test_a_daemon_that_cannot_start_ends_the_demo(demo):
    """The end of the daemon's log is shown: it says what is wrong."""
    demo.folder = demo.folder.rename(f"{demo.folder}-{'x' * 100}")  # too long for a socket
    demo.start("--calls", "100")
    code, output = demo.end()
    assert code == 1
    assert "the daemon has ended" in output
    assert "socket" in output.lower() or "path" in output.lower()
    assert demo.left_behind == []
