"""The shipped dashboards: valid as Grafana has them, and every SQL query gives the numbers of a real database file."""

import contextlib
import json
import sqlite3
import time
from collections.abc import Iterator
from typing import Any

import pytest
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.cog.plugins import register_default_plugins
from grafana_foundation_sdk.models.dashboard import Dashboard

from skillmeterd import shipped

from .dashboards import SOURCES, panels, queries, sql, variable
from .support import DaemonProcess, run_client

DAY_MS = 86_400_000
NAMES = ["parse", "fetch", "it's"]
SCRIPT = """
import logging, time
logging.disable()
at = time.time() // 86400 * 86400 - 43200  # noon of yesterday: no test sees midnight
for number in range(20):
    error = "ValueError" if number == 7 else None
    user = f"u{number % 4}"
    client.record_skill_execution("parse", not error, number + 1, user, "a", error_type=error, timestamp=at + number)
client.record_skill_execution("fetch", True, 100, "u9", None, timestamp=at)
client.record_skill_execution("it's", False, 5, None, "b'", error_type="KeyError", timestamp=at + 30)
client.rate_skill("parse", 4)
client.rate_skill("parse", 5)
client.rate_skill("fetch", 1)
client.update_health_score("fetch", 30)
client.record_skill_execution("parse", True, -1)
assert client.flush(60)
"""


@pytest.fixture(scope="module")
def db(tmp_path_factory: pytest.TempPathFactory) -> Iterator[sqlite3.Connection]:
    """The database of a daemon that has ended, open as the plugin opens it."""
    with DaemonProcess(tmp_path_factory.mktemp("daemon")) as daemon:
        run_client(SCRIPT, daemon.env)
        daemon.wait_drained()
        daemon.stop()
        uri = f"file:{daemon.db_path}?mode=ro"
        with contextlib.closing(sqlite3.connect(uri, uri=True)) as connection:
            connection.row_factory = sqlite3.Row
            yield connection


class Board:
    """Asks a database what a panel asks."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db
        self._queries = dict(queries("sqlite"))

    def rows(self, title: str, *, days_ago: int = 0, **chosen: list[str]) -> list[dict[str, Any]]:
        """The rows of a panel for the two days that end then, and the skills or orgs that are chosen."""
        to_ms = int(time.time() * 1000) - days_ago * DAY_MS
        text = sql(self._queries[f"{title} (A)"], to_ms - 2 * DAY_MS, to_ms, chosen)
        return [dict(row) for row in self._db.execute(text)]

    def one(self, title: str, **asked: Any) -> Any:
        """The only value."""
        ((value,),) = (row.values() for row in self.rows(title, **asked))
        return value


@pytest.fixture
def board(db: sqlite3.Connection) -> Board:
    """The SQLite dashboard over that database."""
    return Board(db)


# The form.


@pytest.mark.parametrize("source", SOURCES)
def test_grafana_knows_every_key(source: str) -> None:
    """What Grafana's own types read of a dashboard, and write again, is all that is in the file."""
    assert list(unknown(shipped.dashboard(source))) == []


@pytest.mark.parametrize("source", SOURCES)
def test_a_misspelt_key_would_be_found(source: str) -> None:
    """At the top, in a panel's options, in its field settings and in a variable."""
    dashboard = shipped.dashboard(source)
    dashboard["titel"] = "x"
    chart = next(panel for panel in panels(dashboard) if panel["type"] == "timeseries")
    chart["options"]["legendd"] = chart["fieldConfig"]["defaults"]["custom"]["drawStile"] = "line"
    dashboard["templating"]["list"][1]["multy"] = True
    found = list(unknown(dashboard))
    assert {one.rpartition(".")[2] for one in found} == {"titel", "legendd", "drawStile", "multy"}


def unknown(dashboard: dict[str, Any]) -> Iterator[str]:
    """Keys and values that Grafana's types do not keep."""
    register_default_plugins()
    return missing(dashboard, json.loads(JSONEncoder().encode(Dashboard.from_json(dashboard))))


def missing(ours: Any, theirs: Any, at: str = "") -> Iterator[str]:
    """Where something of ours is not in theirs."""
    if isinstance(ours, dict) and isinstance(theirs, dict):
        for key, value in ours.items():
            if key not in theirs:
                yield f"{at}.{key}"
            else:
                yield from missing(value, theirs[key], f"{at}.{key}")
    elif isinstance(ours, list) and isinstance(theirs, list) and len(ours) == len(theirs):
        for number, (one, other) in enumerate(zip(ours, theirs, strict=True)):
            yield from missing(one, other, f"{at}[{number}]")
    elif ours != theirs:
        yield f"{at}: {ours!r} became {theirs!r}"


@pytest.mark.parametrize("source", SOURCES)
def test_panels_are_apart(source: str) -> None:
    """Each has an id of its own, and no two overlap."""
    every = list(panels(shipped.dashboard(source)))
    assert len({panel["id"] for panel in every}) == len(every)
    taken: set[tuple[int, int]] = set()
    for panel in every:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken, panel["title"]
        assert place["x"] + place["w"] <= 24
        taken |= cells


@pytest.mark.parametrize("source", SOURCES)
def test_the_data_source_is_the_one_that_is_chosen(source: str) -> None:
    """No panel and no variable names a data source of somebody's own Grafana."""
    dashboard = shipped.dashboard(source)
    kind = variable(source, "datasource")["query"]
    users = [*panels(dashboard), *dashboard["templating"]["list"]]
    assert {json.dumps(user["datasource"]) for user in users if "datasource" in user} == {
        json.dumps({"type": kind, "uid": "${datasource}"})
    }


def test_the_plugin_gets_the_query_that_its_editor_shows() -> None:
    """The two fields of a target, which the plugin keeps apart, hold the same."""
    targets = [target for panel in panels(shipped.dashboard("sqlite")) for target in panel.get("targets", ())]
    assert all(target["queryText"] == target["rawQueryText"] for target in targets)


# The SQL.

ANY = (0, 2**42)


@pytest.mark.parametrize(("title", "text"), queries("sqlite"), ids=[title for title, _ in queries("sqlite")])
@pytest.mark.parametrize("skill", [None, ["it's"], NAMES], ids=["all", "one", "several"])
def test_every_query_runs(title: str, text: str, skill: list[str] | None, db: sqlite3.Connection) -> None:
    """For all skills, one with a quote in its name, and several: it runs, and answers with at least one row."""
    chosen = {} if skill is None else {"skill": skill}
    rows = db.execute(sql(text, *ANY, chosen)).fetchall()
    assert rows or (skill == ["it's"] and ("rating" in title or "Health" in title))


@pytest.mark.parametrize("org", [["a"], ["b'"], ["nobody"]])
def test_every_query_runs_for_an_org(org: list[str], db: sqlite3.Connection) -> None:
    """The numbers of others are not in it."""
    for _, text in queries("sqlite"):
        db.execute(sql(text, *ANY, {"org": org})).fetchall()


def test_time_columns_are_columns_in_seconds(db: sqlite3.Connection) -> None:
    """What a target calls a time is one of its columns, and of this year."""
    now_s = time.time()
    for panel in panels(shipped.dashboard("sqlite")):
        for target in panel.get("targets", ()):
            for row in db.execute(sql(target["rawQueryText"], *ANY)):
                for column in target["timeColumns"]:
                    assert now_s - 3 * 86_400 < row[column] <= now_s, (panel["title"], column)


def test_series_are_sorted_by_time_with_one_value(db: sqlite3.Connection) -> None:
    """As the plugin needs them to make a line of each skill."""
    for panel in panels(shipped.dashboard("sqlite")):
        for target in panel.get("targets", ()):
            if target["queryType"] == "time series":
                rows = [dict(row) for row in db.execute(sql(target["rawQueryText"], *ANY))]
                times = [row["time"] for row in rows]
                assert times == sorted(times)
                values = [value for value in rows[0].values() if not isinstance(value, str)]
                assert len(values) == 2, panel["title"]


@pytest.mark.parametrize("name", ["skill", "org"])
def test_variables_list_what_there_is(name: str, db: sqlite3.Connection) -> None:
    """Of a single column, as the plugin needs it."""
    rows = db.execute(sql(variable("sqlite", name)["query"], *ANY)).fetchall()
    assert {tuple(row) for row in rows} == {"skill": {(one,) for one in NAMES}, "org": {("a",), ("b'",)}}[name]


def test_the_numbers_at_the_top(board: Board) -> None:
    """Of all, of a skill, of an org; nothing of the days before."""
    assert board.one("Executions") == 22
    assert board.one("Success rate") == pytest.approx(20 / 22)
    assert board.one("Latency, mean") == pytest.approx((210 + 100 + 5) / 22)
    assert board.one("Users") == 5
    assert board.one("Skills used") == 3
    assert board.one("Mean rating, ever") == pytest.approx(10 / 3)
    assert board.one("Executions", skill=["fetch", "it's"]) == 2
    assert board.one("Executions", org=["a"]) == 20
    assert board.one("Mean rating, ever", skill=["parse"]) == 4.5
    assert board.one("Executions", days_ago=4) is None


def test_the_tables(board: Board) -> None:
    """Of the skills, the ratings, the ledger, and single events."""
    top = {row["skill"]: row for row in board.rows("Top skills")}
    assert set(top) == set(NAMES)
    assert next(iter(top)) == "parse"
    assert [
        top["parse"][key] for key in ("executions", "success rate", "mean", "slowest", "users", "rating", "health")
    ] == [*(20, 0.95, 10.5, 20, 4, 4.5, None)]
    assert [(row["stars"], row["ratings"]) for row in board.rows("Ratings, ever")] == [
        *(("1", 1), ("2", 0), ("3", 0), ("4", 1), ("5", 1))
    ]
    assert [row["skill_id"] for row in board.rows("Mean rating, lowest first")] == ["fetch", "parse"]
    assert board.rows("Health score, lowest first") == [{"skill_id": "fetch", "health_score": 30}]
    ledger = {(row["outcome"], row["reason"]): row["events"] for row in board.rows("Ledger")}
    assert ledger["attempted", ""] == 27
    assert ledger["stored", ""] == 26
    assert board.one("Off by") == board.one("Events lost") == 0
    percentiles = {row["skill"]: row for row in board.rows("Latency percentiles")}
    assert [percentiles["parse"][key] for key in ("executions", "p50", "p95", "p99")] == [20, 10, 19, 20]
    causes = [(row["skill"], row["error"], row["failures"]) for row in board.rows("Why skills fail")]
    assert sorted(causes) == [("it's", "KeyError", 1), ("parse", "ValueError", 1)]
    assert [row["skill"] for row in board.rows("Latest failures")] == ["it's", "parse"]
    assert board.rows("Latest failures", days_ago=4) == []


def test_the_series_have_a_point_a_skill_a_day(board: Board) -> None:
    """Of the ten skills at most that have most of what is shown."""
    executions = {row["skill_id"]: row["executions"] for row in board.rows("Executions by day")}
    assert executions == {"parse": 20, "fetch": 1, "it's": 1}
    failures = {row["skill_id"]: row["failures"] for row in board.rows("Failures by day", skill=["parse", "fetch"])}
    assert failures == {"parse": 1, "fetch": 0}
    assert [row["users"] for row in board.rows("Users by day", org=["a"])] == [4]
    assert {row["mean"] for row in board.rows("Latency by day, mean", skill=["fetch"])} == {100}
    assert {row["success_rate"] for row in board.rows("Success rate by day", skill=["it's"])} == {0}
