"""Reconcile: views are compared with SQLite at the event they show, equal to the event, and what differs is named."""

import contextlib
import itertools
import json
import sqlite3
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from skillmeterd import doctor
from skillmeterd.config import DaemonSettings
from skillmeterd.reconcile import Comparison, Difference, history, reconcile
from skillmeterd.rows import DAY_NS
from skillmeterd.sinks import otlp, otlp_state, totals
from skillmeterd.sinks.exposition import text
from skillmeterd.sinks.otlp import Otlp

from .otlp_receiver import Answer, Database, Receiver
from .support import DaemonProcess, query, run_client, skillmeter, start_client, wait_until

LABELS = ("skill_id", "org_id")


@pytest.fixture
def db(tmp_path: Path) -> Iterator[Database]:
    """A database with nothing in it."""
    with contextlib.closing(Database(tmp_path)) as database:
        yield database


def compared(path: Path, page: str | None = None, labels: tuple[str, ...] = LABELS) -> dict[str, Comparison]:
    """By name; `page` is what /metrics serves."""
    fetch = None if page is None else lambda: (200, page.encode())
    return {found.name: found for found in reconcile(path, labels, fetch, lambda *_: None)}


def verdicts(path: Path, page: str | None = None, labels: tuple[str, ...] = LABELS) -> dict[str, str]:
    """By name."""
    return {name: found.verdict for name, found in compared(path, page, labels).items()}


def scrape(db: Database, **env: str) -> str:
    """What /metrics would serve now."""
    source = db.source(**env)
    found = source.totals()
    return "".join(text([*found.families, *source.own(found)]))


def alter(path: Path, sql: str) -> int:
    """Change the database by hand; how many rows."""
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as other:
        return other.execute(sql).rowcount


def has_more(path: Path, event_id: int) -> bool:
    """Whether events were committed after one."""
    return bool(query(path, "SELECT 1 FROM event_log WHERE id > ? LIMIT 1", (event_id,)))


def fill(db: Database) -> None:
    """Some of everything, on two days, names with metacharacters, users and orgs absent and present."""
    for number, (skill, org, user) in enumerate(
        itertools.product(("a", 'b"\\\n{}', "c,d"), ("o1", None), ("u1", "u2", None))
    ):
        at_s = time.time() - (number % 2) * 86_400
        db.execute(skill, 3 + number, ms=7.5 * number, org=org, user=user, timestamp=at_s)
        db.execute(skill, 1, ms=6000.25, success=False, org=org, user=user)
        db.rate(skill, 1 + number % 5)
    db.health("a", 88.5)


EQUAL = {"ledger": "equal", "rollups": "equal", "events": "equal"}


def test_all_is_equal_to_the_event(db: Database) -> None:
    """Ledger, rollups and events among themselves, and a scrape: thousands of numbers, none of which differs."""
    fill(db)
    found = compared(db.path, scrape(db))
    assert {name: one.verdict for name, one in found.items()} == {**EQUAL, "metrics": "equal", "otlp": "skipped"}
    assert found["metrics"].event_id == query(db.path, "SELECT max(id) FROM event_log")[0][0]
    assert found["metrics"].compared > 80
    assert found["rollups"].compared > 80


def test_an_empty_database_is_equal(db: Database) -> None:
    """Nothing is nothing, on both sides."""
    assert verdicts(db.path, scrape(db)) == {**EQUAL, "metrics": "equal", "otlp": "skipped"}


def test_without_a_database_there_is_nothing_to_compare(tmp_path: Path) -> None:
    """And none is made."""
    assert set(verdicts(tmp_path / "a.db").values()) == {"skipped"}
    assert list(tmp_path.iterdir()) == []


def test_a_scrape_is_compared_at_its_own_event(db: Database) -> None:
    """What was recorded since is taken off again: counts, buckets, sums, ratings; new series were not there; a health
    score that was told since is not compared, as the one before is not known."""
    fill(db)
    page = scrape(db)
    (event,) = query(db.path, "SELECT max(id) FROM event_log")[0]
    fill(db)
    db.execute("new", 5, org="o9")
    db.health("a", 1.0)
    found = compared(db.path, page)["metrics"]
    assert (found.verdict, found.differences) == ("equal", [])
    assert found.event_id == event


@pytest.mark.parametrize("labels", ["skill_id", "skill_id,org_id", "skill_id,user_id", "skill_id,org_id,user_id"])
@pytest.mark.parametrize("most", ["10000", "2", "1"])
def test_with_any_labels_and_any_budget_of_series(db: Database, labels: str, most: str) -> None:
    """What is past the budget is compared as one."""
    fill(db)
    page = scrape(db, ANALYTICS_METRIC_LABELS=labels, ANALYTICS_MAX_SERIES=most)
    assert ("overflow" in page) == (most != "10000")
    db.execute("a", 2, org="o1", user="u1")
    found = compared(db.path, page, tuple(labels.split(",")))["metrics"]
    assert (found.verdict, found.differences) == ("equal", [])


def test_a_total_that_was_altered_is_named_with_both_numbers(db: Database) -> None:
    """In the comparison of rollups, of events, and of a scrape made before."""
    fill(db)
    page = scrape(db)
    (before,) = query(db.path, "SELECT executions FROM pair_total WHERE pair_id = 1")[0]
    assert alter(db.path, "UPDATE pair_total SET executions = executions + 1 WHERE pair_id = 1") == 1
    found = compared(db.path, page)
    series = '{skill_id="a",org_id="o1"}'
    assert Difference(f"execution_count of skill_usage{series}", before + 1, before) in found["rollups"].differences
    assert Difference(f"executions since ever {series}", before + 1, before) in found["events"].differences
    metric = f"toolweaver_skill_executions_total{series}"
    assert Difference(metric, before + 1, before) in found["metrics"].differences
    line = doctor.finding_of(found["metrics"])
    assert line.state == "fail"
    assert f"{metric} is {before + 1} here, {before} there" in line.what


ALTERATIONS = {
    "UPDATE user_daily SET successes = successes + 1 WHERE rowid IS NULL OR user_no = 1": "rollups",
    "UPDATE pair_daily SET r3 = r3 + 1 WHERE pair_id = 1": "rollups",
    "UPDATE pair_total SET le_10 = le_10 + 1000 WHERE pair_id = 1": "rollups",
    "UPDATE pair_total SET latency_sum = latency_sum + 0.5 WHERE pair_id = 1": "rollups",
    "UPDATE skill_total SET executions = executions - 1 WHERE skill_no = 1": "rollups",
    "UPDATE skill_daily SET executions = executions - 1 WHERE skill_no = 1": "rollups",
    "DELETE FROM event_log WHERE id = 7": "events",
    "UPDATE event_log SET kind = 1 - kind WHERE id = 2": "events",
    "UPDATE event_log SET pair_id = pair_id + 1 WHERE id = 2": "events",
    "UPDATE ledger_total SET events = events + 1 WHERE outcome = 'stored'": "ledger",
    "UPDATE ledger_total SET events = events + 1 WHERE outcome IN ('stored', 'attempted')": "ledger",
}


@pytest.mark.parametrize("sql", ALTERATIONS)
def test_whatever_is_altered_is_found(db: Database, sql: str) -> None:
    """By one that looks at it."""
    fill(db)
    if sql.startswith("UPDATE user_daily"):
        sql = "UPDATE user_daily SET successes = successes + 1 WHERE user_no = 1"
    assert alter(db.path, sql) > 0
    name = ALTERATIONS.get(sql, "rollups")
    assert verdicts(db.path)[name] == "differs"


@pytest.mark.parametrize(
    ("old", "new", "series"),
    [
        ('executions_total{skill_id="a",org_id="o1"} ', "1", "toolweaver_skill_executions_total"),
        ('success_total{skill_id="a"} ', "1", "toolweaver_skill_success_total"),
        ('bucket{le="10.0",skill_id="a"} ', "1", "toolweaver_skill_latency_milliseconds_bucket le 10"),
        ('milliseconds_sum{skill_id="a"} ', "1", "toolweaver_skill_latency_milliseconds_sum"),
        ('rating_bucket{le="2.0",skill_id="a"} ', "1", "toolweaver_skill_rating_bucket le 2"),
        ('health_score{skill_id="a"} ', "1", "toolweaver_skill_health_score"),
    ],
)
def test_whatever_a_page_shows_wrongly_is_found(db: Database, old: str, new: str, series: str) -> None:
    """One digit too many in one line: that series, and no other."""
    fill(db)
    page = scrape(db)
    assert page.count(old) == 1
    (difference,) = compared(db.path, page.replace(old, old + new))["metrics"].differences
    assert difference.series.startswith(series)
    assert difference.here != difference.there


def test_a_series_that_one_side_lacks(db: Database) -> None:
    """Missing there, or known only there."""
    fill(db)
    lines = scrape(db).split("\n")
    gone = "\n".join(line for line in lines if 'executions_total{skill_id="a",org_id="o1"}' not in line)
    more = "\n".join([*lines, 'toolweaver_skill_health_score{skill_id="x"} 5', ""])
    (missing,) = compared(db.path, gone)["metrics"].differences
    (unknown,) = compared(db.path, more)["metrics"].differences
    assert (missing.here, missing.there) == (3 + 4 + 5 + 3, None)
    assert (unknown.here, unknown.there) == (None, 5)


def test_a_skill_that_a_page_leaves_out(db: Database) -> None:
    """All its series are missing, whether there is an overflow that they might be in or not."""
    fill(db)
    whole = [line for line in scrape(db).split("\n") if 'skill_id="c,d"' not in line]
    found = compared(db.path, "\n".join(whole))["metrics"].differences
    assert found
    assert all(difference.there is None and "c,d" in difference.series for difference in found)
    page = scrape(db, ANALYTICS_MAX_SERIES="2").split("\n")
    over = compared(db.path, "\n".join(line for line in page if 'org_id="o1"' not in line))["metrics"].differences
    assert over[0].series == 'toolweaver_skill_executions_total{overflow="true"}'


@pytest.mark.parametrize("page", ["", "no metrics at all", 'x{a="b"} many'])
def test_a_page_that_is_none_cannot_be_compared(db: Database, page: str) -> None:
    """It says so: that is neither equal nor different."""
    found = compared(db.path, page)["metrics"]
    assert found.verdict == "unknown"
    assert doctor.finding_of(found).state == "warn"


def test_another_database_in_its_place(db: Database) -> None:
    """It ends before what was shown: nobody can say what it was then."""
    fill(db)
    page = scrape(db)
    db.replace(None)
    assert "another database" in compared(db.path, page)["metrics"].why


# Retention.


def test_after_retention_whole_days_are_compared_and_the_others_bounded(tmp_path: Path) -> None:
    """Days that lost events are no difference; an event too many on them, or one too few on a whole day, is."""
    now_ns = [100 * DAY_NS]
    with contextlib.closing(Database(tmp_path, clock_ns=lambda: now_ns[0])) as database:
        for day in range(100, 110):
            now_ns[0] = day * DAY_NS + 5
            database.execute("a", 10, timestamp=now_ns[0] / 1e9)
            database.rate("a", 5)
        assert database.store.delete_events(104, 25) > 0
        assert verdicts(database.path) == {**EQUAL, "metrics": "skipped", "otlp": "skipped"}
        page = scrape(database)
        assert verdicts(database.path, page)["metrics"] == "equal"
        alter(database.path, "DELETE FROM pair_daily WHERE day = 102")
        assert verdicts(database.path)["events"] == "differs"


def test_a_whole_day_is_exact_also_after_retention(tmp_path: Path) -> None:
    """An event that is missing from it is found; one from a day before is not missed."""
    now_ns = [100 * DAY_NS]
    with contextlib.closing(Database(tmp_path, clock_ns=lambda: now_ns[0])) as database:
        for day in range(100, 110):
            now_ns[0] = day * DAY_NS + 5
            database.execute("a", 10, timestamp=now_ns[0] / 1e9)
        database.execute("a", 3, timestamp=(111 + 50) * DAY_NS / 1e9)  # a clock that is ahead
        database.execute("a", 3, timestamp=102 * DAY_NS / 1e9)  # and events that come late
        database.store.delete_events(104, 1000)
        assert verdicts(database.path)["events"] == "equal"
        alter(database.path, "UPDATE pair_daily SET executions = executions + 1 WHERE day = 107")
        (difference,) = compared(database.path)["events"].differences
        assert (difference.series, difference.here, difference.there) == ("executions of 1970-04-18", 11, 10)


def test_events_that_came_after_a_view_and_are_deleted(db: Database) -> None:
    """The totals at that time cannot be had any more."""
    fill(db)
    page = scrape(db)
    fill(db)
    alter(db.path, "DELETE FROM event_log WHERE id <= (SELECT max(id) - 3 FROM event_log)")
    found = compared(db.path, page)["metrics"]
    assert (found.verdict, "have been deleted" in found.why) == ("unknown", True)


def test_many_parts_are_one(db: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """The events are read in parts; every edge between two is a place to lose or double one."""
    fill(db)
    page = scrape(db)
    fill(db)
    for part in (1, 2, 7, 100):
        monkeypatch.setattr(history, "PART", part)
        assert verdicts(db.path, page) == {**EQUAL, "metrics": "equal", "otlp": "skipped"}


# OTLP.


@pytest.fixture
def sink(db: Database) -> Iterator[tuple[Otlp, Receiver]]:
    """The sink, and who it pushes to when told."""
    with Receiver() as receiver:
        made = otlp.create(db.source(OTLP_ENDPOINT=receiver.url, OTLP_PUSH_INTERVAL="3600"))
        assert isinstance(made, Otlp)
        made.start()
        yield made, receiver
        made.stop(5.0)


def test_what_otlp_acknowledged_is_compared_at_its_event(db: Database, sink: tuple[Otlp, Receiver]) -> None:
    """Also when much came since, and also by who only has the files."""
    fill(db)
    assert sink[0].push()
    event = query(db.path, "SELECT max(id) FROM event_log")[0][0]
    fill(db)
    found = compared(db.path)["otlp"]
    assert (found.verdict, found.event_id, found.differences) == ("equal", event, [])
    assert found.compared > 80


def test_totals_that_no_longer_fit_what_otlp_acknowledged(db: Database, sink: tuple[Otlp, Receiver]) -> None:
    """The series, and both numbers."""
    fill(db)
    assert sink[0].push()
    alter(db.path, "UPDATE pair_total SET r5 = r5 + 2 WHERE pair_id = (SELECT min(pair_id) FROM pair_total WHERE r5)")
    (difference,) = compared(db.path)["otlp"].differences
    assert difference.series.startswith("toolweaver_skill_rating_bucket le 5")
    assert difference.here == (difference.there or 0) + 2


def test_a_push_that_was_refused_is_not_acknowledged(db: Database, sink: tuple[Otlp, Receiver]) -> None:
    """The last one that was taken counts."""
    db.execute("a", 3)
    assert sink[0].push()
    db.execute("a", 2)
    sink[1].then(*[Answer(400)] * 3)
    assert not sink[0].push()
    found = compared(db.path)["otlp"]
    assert (found.verdict, found.event_id) == ("equal", 3)


def test_more_series_than_are_remembered(
    db: Database, sink: tuple[Otlp, Receiver], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file stays small, and the comparison says why there is none."""
    monkeypatch.setattr(otlp_state, "MAX_REMEMBERED", 10)
    fill(db)
    assert sink[0].push()
    assert compared(db.path)["otlp"].verdict == "unknown"


def test_a_receiver_holds_what_is_remembered_of_it(db: Database, sink: tuple[Otlp, Receiver]) -> None:
    """What is compared with SQLite is what was sent."""
    fill(db)
    assert sink[0].push()
    found = otlp_state.acknowledged(db.path)
    assert found is not None
    assert found.url == f"{sink[1].url}/v1/metrics"
    assert found.labels == LABELS
    assert found.families == totals.read(db.path, LABELS, 10_000).families


# The command.


def test_a_daemon_under_load_is_compared_at_one_commit(tmp_path: Path) -> None:
    """Over HTTP and with a receiver, while four processes record: equal, time and again; commits go on meanwhile."""
    script = """
        import time
        n = 0
        while sys.stdin is not None and not os.path.exists(sys.argv[1]):
            client.record_skill_execution(f"s{n % 50}", n % 7 != 0, n % 3000, f"u{n % 11}", "o1" if n % 2 else None)
            if n % 100 == 0:
                client.record_skill_rating(f"s{n % 50}", 1 + n % 5)
                time.sleep(0.005)
            n += 1
    """
    with Receiver() as receiver:
        env = {
            **{"ANALYTICS_BACKEND": "otlp,prometheus", "PROMETHEUS_ENABLED": "true", "PROMETHEUS_PORT": "0"},
            **{"OTLP_ENDPOINT": receiver.url, "OTLP_PUSH_INTERVAL": "0.3"},
        }
        with DaemonProcess(tmp_path, env=env) as daemon:
            end = tmp_path / "end"
            clients = [start_client(script, daemon.env, end) for _ in range(4)]
            try:
                rounds, behind, last = 0, 0, 0
                while rounds < 5 or behind < 2:  # views whose event was not the last one any more
                    wait_until(partial(has_more, daemon.db_path, last))
                    patient = doctor.admit(*DaemonSettings.salvaged(daemon.env), daemon.env)
                    found = {one.name: one for one in doctor.compare(patient, lambda *_: None)}
                    assert all(one.verdict == "equal" for one in found.values()), found
                    events = [found[name].event_id or 0 for name in ("metrics", "otlp", "events")]
                    rounds, last = rounds + 1, events[-1]
                    behind += sum(0 < event < last for event in events)
            finally:
                end.touch()
                for client in clients:
                    client.communicate(timeout=60)
            daemon.wait_drained()


def test_the_command_names_what_differs_and_exits_1(tmp_path: Path) -> None:
    """Against a stopped daemon; exit 0 when all is equal; the JSON has a comparison's every field."""
    with DaemonProcess(tmp_path) as daemon:
        run_client("[record(str(n)) for n in range(20)]; assert client.flush(20)", daemon.env)
        daemon.wait_drained()
        live = skillmeter("doctor", "--reconcile", "--json", env=daemon.env)
        answer = json.loads(live.stdout)
        assert (live.returncode, answer["state"]) == (0, "ok"), answer
        assert list(answer) == ["state", "version", "findings", "reconcile"]
        fields = ["name", "verdict", "why", "event_id", "compared", "different", "differences"]
        assert [list(one) for one in answer["reconcile"]] == [fields] * 5
        daemon.stop()
        alter(daemon.db_path, "UPDATE user_daily SET executions = executions - 1 WHERE user_no = 3")
        stopped = skillmeter("doctor", "--reconcile", env=daemon.env)
    assert stopped.returncode == 1
    assert 'execution_count of skill_usage{skill_id="parse_json",org_id="o1"} is 20 here, 19 there' in stopped.stdout


def test_comparing_holds_up_no_commit(tmp_path: Path) -> None:
    """A comparison that is in the middle of its snapshot, and a client that waits for its commit."""
    with DaemonProcess(tmp_path) as daemon:
        run_client("record('a'); assert client.flush(20)", daemon.env)
        with contextlib.closing(sqlite3.connect(f"file:{daemon.db_path}?mode=ro", uri=True)) as reader:
            reader.execute("BEGIN")
            reader.execute("SELECT count(*) FROM event_log").fetchone()
            run_client("record('b'); assert client.flush(20)", daemon.env)
            assert verdicts(daemon.db_path)["events"] == "equal"
