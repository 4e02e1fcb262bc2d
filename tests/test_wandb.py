"""The W&B sink, with a stand-in for W&B's library that writes down what it is told."""

import contextlib
import json
import os
import signal
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from skillmeterd import levels
from skillmeterd.errors import MissingExtra
from skillmeterd.sinks import Sinks, wandb, wandb_window
from skillmeterd.sinks.wandb import Wandb
from skillmeterd.sinks.wandb_window import Window, metric_name

from .otlp_receiver import Database
from .support import query, wait_until

KEY = "s3cr3t" * 6

LIBRARY = """
import json, os, time

def tell(**what):
    with open(os.environ["TOLD"], "a") as file:
        file.write(json.dumps(what) + "\\n")

def act(name):
    if os.path.exists(os.environ["TOLD"] + "." + name + ".raises"):
        raise RuntimeError(f"no, {os.environ.get('WANDB_API_KEY')}")
    while os.path.exists(os.environ["TOLD"] + "." + name + ".hangs"):
        time.sleep(0.01)

class Settings:
    def __init__(self, **settings):
        pass

class Run:
    def log(self, row):
        act("log")
        tell(row=row, pid=os.getpid())

    def finish(self):
        tell(finished=True)

def init(**settings):
    print("what the library prints")
    act("init")
    settings.pop("settings")
    tell(init=settings, key=os.environ.get("WANDB_API_KEY"))
    return Run()
"""


class Told:
    """What the library was told, and how it is to behave."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def all(self, what: str) -> list[Any]:
        """Each thing of this kind, in order."""
        lines = self.path.read_text().splitlines() if self.path.exists() else []
        return [json.loads(line)[what] for line in lines if what in json.loads(line)]

    @property
    def last(self) -> dict[str, Any]:
        """The last row."""
        return self.all("row")[-1]

    @contextlib.contextmanager
    def misbehaving(self, how: str) -> Iterator[None]:
        """As in `log.raises`, `init.hangs`."""
        file = self.path.with_name(f"{self.path.name}.{how}")
        file.touch()
        try:
            yield
        finally:
            file.unlink()


@pytest.fixture
def told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Told:
    """The stand-in is installed, here and for the worker."""
    library = tmp_path / "library"
    (library / "wandb").mkdir(parents=True)
    (library / "wandb" / "__init__.py").write_text(LIBRARY)
    path = tmp_path / "told.jsonl"
    monkeypatch.setenv("TOLD", str(path))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, (str(library), os.environ.get("PYTHONPATH")))))
    monkeypatch.syspath_prepend(library)
    return Told(path)


@pytest.fixture
def db(tmp_path: Path) -> Iterator[Database]:
    """A database with nothing in it."""
    with contextlib.closing(Database(tmp_path)) as database:
        yield database


Start = Callable[..., Wandb]


@pytest.fixture
def start(db: Database, told: Told) -> Iterator[Start]:
    """Starts sinks, and waits for their first row."""
    with contextlib.ExitStack() as stack:

        def start(**env: str) -> Wandb:
            made = wandb.create(db.source(WANDB_MODE="offline", **env))
            assert isinstance(made, Wandb)
            made.start()
            stack.callback(made.stop, 5)
            return made

        yield start


def test_a_row_is_what_happened_since_the_last_one(db: Database, told: Told, start: Start) -> None:
    """By skill: executions, share of successes, percentiles of this window alone, ratings, health."""
    db.execute("a", 10, ms=5000.0)
    sink = start()
    assert sink.push()
    db.execute("a", 3, ms=100.0)
    db.execute("a", 1, ms=100.0, success=False)
    db.rate("a", 4)
    db.rate("a", 5)
    db.health("a", 88.0)
    assert sink.push()
    row = told.last
    assert (row["skill/a/executions"], row["skill/a/success_rate"], row["skill/a/executions_total"]) == (4, 0.75, 14)
    assert (row["skill/a/ratings"], row["skill/a/rating"], row["skill/a/health_score"]) == (2, 4.5, 88.0)
    for percent in (50, 95, 99):
        assert row[f"skill/a/latency_p{percent}_ms"] == pytest.approx(100, rel=0.011)
    assert row["executions_total"] == 14
    assert [(row["last_event_id"],)] == query(db.path, "SELECT max(no) FROM event_rows")
    assert sink.push()
    assert not [key for key in told.last if key.startswith("skill/")]
    assert told.last["executions_total"] == 14


def test_the_run_is_begun_as_the_settings_say(db: Database, told: Told, start: Start) -> None:
    """The key goes to the worker alone, and is nowhere to be seen."""
    sink = start(WANDB_API_KEY=KEY, WANDB_PROJECT="skills", WANDB_ENTITY="team")
    assert sink.push()
    (begun,) = told.all("init")
    assert (begun["project"], begun["entity"], begun["mode"]) == ("skills", "team", "offline")
    assert begun["dir"] == str(db.path.parent)
    assert told.all("key") == [KEY]
    assert KEY not in f"{sink.status()} {vars(sink)}"
    assert "WANDB_API_KEY" not in os.environ


def test_what_the_library_writes_is_its_owners_alone(told: Told, start: Start) -> None:
    """Whatever the umask: the run's files hold names of skills."""
    umask = os.umask(0)
    try:
        assert start().push()
    finally:
        os.umask(umask)
    assert told.path.stat().st_mode & 0o777 == 0o600


def test_what_the_library_cannot_do_is_shown_and_the_next_row_covers_it(db: Database, told: Told, start: Start) -> None:
    """No event is missing from the windows, and no secret is in the message."""
    with told.misbehaving("init.raises"):
        sink = start(WANDB_API_KEY=KEY)
        assert not sink.push()
        assert not sink.status()["healthy"]
        assert sink.status()["problem"] == "RuntimeError: no, [REDACTED]"
    assert sink.push()
    db.execute("a", 2)
    with told.misbehaving("log.raises"):
        assert not sink.push()
    db.execute("a", 3)
    assert sink.push()
    assert told.last["skill/a/executions"] == 5
    assert sink.status()["healthy"]


def test_a_worker_that_is_killed_is_begun_again(db: Database, told: Told, start: Start) -> None:
    """One push fails, the next one carries what it did not."""
    sink = start()
    assert sink.push()
    os.killpg(told.all("pid")[-1], signal.SIGKILL)
    db.execute("a", 2)
    assert not sink.push()
    assert sink.push()
    assert told.last["skill/a/executions"] == 2
    assert len(told.all("init")) == 2


def test_stopping_logs_the_last_row_and_finishes_the_run(db: Database, told: Told, start: Start) -> None:
    """Stopping again does nothing; pushing then is no success."""
    sink = start()
    assert sink.push()
    db.execute("a", 2)
    sink.stop(10)
    assert told.last["skill/a/executions"] == 2
    assert told.all("finished") == [True]
    sink.stop(1)
    assert not sink.push()


def test_a_library_that_hangs_does_not_hold_up_the_end(
    db: Database, told: Told, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The worker is killed."""
    monkeypatch.setattr(wandb, "LAST_ANSWER_S", 0.0)
    sink = start()
    assert sink.push()
    pid = told.all("pid")[-1]
    with told.misbehaving("log.hangs"):
        sink.stop(0.1)
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


def test_a_missing_library_is_one_line_on_what_to_install(db: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """It names the backend and the extra."""
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    source = db.source(ANALYTICS_BACKEND="wandb")
    with pytest.raises(MissingExtra) as caught:
        Sinks.build(source.settings, source)
    assert "pip install 'skillmeter[wandb]'" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("skill_id", ["parse_json", "a-b_C9"])
def test_a_plain_id_is_a_metric_name(skill_id: str) -> None:
    """As it is."""
    assert metric_name(skill_id) == skill_id


def test_other_ids_become_names_that_stay_apart() -> None:
    """Whatever is in them, W&B takes the name."""
    ids = ["a b", "a_b", "a/b", "a.b", "../../x\n", "é", "x" * 256, "x" * 255]
    names = [metric_name(skill_id) for skill_id in ids]
    assert len(set(names)) == len(ids)
    assert all(name.replace("-", "_").isidentifier() and name.isascii() for name in names[:4])
    assert max(map(len, names)) <= wandb_window.MAX_NAME_CHARS + 9


def test_the_number_of_skills_is_bounded(db: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those used most when the run began, and newcomers while there is room; the rest is counted."""
    monkeypatch.setattr(wandb_window, "MAX_SKILLS", 3)
    db.execute("often", 5)
    db.execute("seldom", 1)
    window = Window(db.path)
    window.row(0.0)
    window.next()
    for name in ("new", "newer", "often"):
        db.execute(name)
    row = window.row(60.0)
    assert {key.split("/")[1] for key in row if key.startswith("skill/")} == {"often", "new"}
    assert (row["skills_left_out"], row["executions_total"], row["window_s"]) == (1, 8, 60.0)


def test_latencies_are_those_of_both_levels(db: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """Half way through a window, those there are were merged into the large table."""
    window = Window(db.path)
    window.row(0.0)
    window.next()
    db.execute("a", 9, ms=1.0)
    with monkeypatch.context() as patch:
        patch.setattr(levels, "MAX_RECENT_BYTES", 0)
        while db.store.settle(1000):
            pass
    db.execute("a", 9, ms=900.0)
    row = window.row(60.0)
    assert row["skill/a/latency_p50_ms"] == pytest.approx(1.0, rel=0.01)
    assert row["skill/a/latency_p99_ms"] == pytest.approx(900.0, rel=0.01)


def test_another_database_in_its_place_is_all_new(db: Database) -> None:
    """Totals that go down are no negative window."""
    db.execute("a", 9)
    window = Window(db.path)
    window.row(0.0)
    window.next()
    db.replace(None)
    db.execute("a", 4)
    assert window.row(60.0)["skill/a/executions"] == 4


def test_an_unreadable_database_is_a_failure_that_is_shown(db: Database, told: Told, start: Start) -> None:
    """And the sink goes on once it can be read."""
    sink = start()
    assert sink.push()
    aside = db.path.with_name("aside.db")
    db.path.rename(aside)
    assert not sink.push()
    assert sink.status()["problem"]
    aside.rename(db.path)
    wait_until(sink.push)
    with pytest.raises(sqlite3.Error):
        Window(db.path.with_name("none.db")).row(0.0)
