"""The metrics: what a scrape shows is what SQLite holds at one commit, whatever the ids, the labels and the budget."""

import os
import random
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing
from itertools import count
from pathlib import Path
from typing import Self

import prometheus_client
import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Metric
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text
from prometheus_client.samples import Sample

from skillmeter.events import encode_execution, encode_health, encode_rating
from skillmeterd.config import DaemonSettings
from skillmeterd.errors import MissingExtra
from skillmeterd.rows import BUCKETS_MS, DAY_NS
from skillmeterd.sinks import Sinks, Source, exposition, totals
from skillmeterd.sinks.families import Family, Histogram, Point
from skillmeterd.store import Chunk, Store
from skillmeterd.vitals import Vitals
from tests.support import query

EXECUTIONS = "toolweaver_skill_executions_total"
SUCCESS = "toolweaver_skill_success_total"
FAILURES = "toolweaver_skill_failures_total"
LATENCY = "toolweaver_skill_latency_milliseconds"
RATING = "toolweaver_skill_rating"
HEALTH = "toolweaver_skill_health_score"
STARTED_NS = 1_700_000_000_123_456_789

Values = dict[frozenset[tuple[str, str]], float]


class Daemon:
    """A store to commit to, and the sinks that read it; no process."""

    def __init__(self, folder: Path, **settings: object) -> None:
        self.settings = DaemonSettings.from_environment({"HOME": str(folder)}, backend="prometheus", **settings)
        self.now_ns = STARTED_NS
        self.store = Store.open(self.settings.db_path, clock_ns=lambda: self.now_ns)
        self.vitals = Vitals(STARTED_NS)
        self.source = Source(self.settings, self.vitals)
        self.sinks = Sinks.build(self.settings, self.source)
        self._producers = count(1)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.store.close()

    def commit(self, *payloads: bytes) -> None:
        """Commit events, as those of a producer of their own."""
        producer = next(self._producers).to_bytes(16, "big")
        offsets = [4096 + 100 * number for number in range(len(payloads))]
        self.store.commit([Chunk(producer, 4096 + 100 * len(payloads), offsets, list(payloads), finished=True)])

    def run(self, skill: str, org: str | None = None, user: str | None = None, times: int = 1) -> None:
        """Commit successful executions."""
        self.commit(*[encode_execution(skill, True, 12.5, user, org)] * times)

    def page(self) -> dict[str, Values]:
        """What a scrape shows: values by metric and labels."""
        assert self.sinks.scrape is not None
        values: dict[str, Values] = {}
        for family in parse_text("".join(exposition.text(self.sinks.scrape()))):
            for sample in family.samples:
                series = values.setdefault(sample.name, {})
                labels = frozenset(sample.labels.items())
                assert labels not in series, f"{sample.name} has {sample.labels} twice"
                series[labels] = sample.value
        return values


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    """One with the settings as they come."""
    with Daemon(tmp_path) as daemon:
        yield daemon


def labels(**names: str) -> frozenset[tuple[str, str]]:
    """A label set, as `page` has it."""
    return frozenset(names.items())


OVERFLOW = labels(overflow="true")


def test_success_and_failure_exist_from_the_first_execution(daemon: Daemon) -> None:
    """One execution makes three counters and a histogram; what did not happen is a 0, not a gap."""
    daemon.run("parse_json", "o1")
    page, key = daemon.page(), labels(skill_id="parse_json", org_id="o1")
    assert (page[EXECUTIONS][key], page[SUCCESS][key], page[FAILURES][key]) == (1, 1, 0)
    assert page[f"{LATENCY}_count"][key] == 1
    daemon.commit(encode_execution("fetch", False, 1, None, "o1"))
    assert daemon.page()[SUCCESS][labels(skill_id="fetch", org_id="o1")] == 0


def test_what_was_never_executed_has_no_executions(daemon: Daemon) -> None:
    """A rating or a score alone makes no counter and no latency."""
    daemon.commit(encode_rating("rated", 4, None, None), encode_health("scored", 50))
    page = daemon.page()
    assert EXECUTIONS not in page
    assert f"{LATENCY}_count" not in page
    assert page[f"{RATING}_count"] == {labels(skill_id="rated"): 1}
    assert page[HEALTH] == {labels(skill_id="scored"): 50}


def test_an_absent_org_is_absent(daemon: Daemon) -> None:
    """Executions without an org have no org label, and are not those of an org called None."""
    daemon.run("s")
    daemon.run("s", "None")
    assert set(daemon.page()[EXECUTIONS]) == {labels(skill_id="s"), labels(skill_id="s", org_id="None")}


def test_latency_buckets_are_inclusive_and_cumulative(daemon: Daemon) -> None:
    """An execution at a bound counts within it, one past the last bound only in +Inf."""
    latencies = [0, *BUCKETS_MS, 5000.5]
    daemon.commit(*[encode_execution("s", True, latency, None, None) for latency in latencies])
    page = daemon.page()
    buckets = [page[f"{LATENCY}_bucket"][labels(skill_id="s", le=f"{bound}.0")] for bound in BUCKETS_MS]
    assert buckets == [2, 3, 4, 5, 6, 7, 8, 9]
    assert page[f"{LATENCY}_bucket"][labels(skill_id="s", le="+Inf")] == 10
    assert page[f"{LATENCY}_sum"][labels(skill_id="s")] == sum(latencies)


def test_ratings_are_a_skill_s_over_all_orgs(daemon: Daemon) -> None:
    """The rating histogram has the skill as its only label; the health score is the latest."""
    daemon.commit(*[encode_rating("s", stars, None, org) for stars, org in ((1, "a"), (5, "b"), (5, None))])
    daemon.commit(encode_health("s", 20), encode_health("s", 0.95))
    page = daemon.page()
    assert page[f"{RATING}_bucket"][labels(skill_id="s", le="4.0")] == 1
    assert page[f"{RATING}_bucket"][labels(skill_id="s", le="5.0")] == 3
    assert page[f"{RATING}_sum"] == {labels(skill_id="s"): 11}
    assert page[HEALTH] == {labels(skill_id="s"): 0.95}


def test_labels_may_be_fewer(tmp_path: Path) -> None:
    """With skill_id alone a skill is one series over all its orgs."""
    with Daemon(tmp_path, metric_labels="skill_id") as daemon:
        daemon.run("s", "a")
        daemon.run("s", "b", times=2)
        daemon.run("t")
        page = daemon.page()
    assert page[EXECUTIONS] == {labels(skill_id="s"): 3, labels(skill_id="t"): 1}
    assert page[f"{LATENCY}_count"] == page[EXECUTIONS]


def test_user_label_tells_counters_apart(tmp_path: Path) -> None:
    """With user_id the counters are by user and sum up to the same; the histogram stays by skill and org."""
    with Daemon(tmp_path, metric_labels="skill_id,org_id,user_id") as daemon:
        daemon.run("s", "o", "u1", times=2)
        daemon.commit(encode_execution("s", False, 3, "u2", "o", timestamp=STARTED_NS / 1e9 - 3 * 86_400))
        daemon.commit(encode_execution("s", False, 3, "u2", "o"))
        daemon.run("s", "o")
        page = daemon.page()
    mine = {user: labels(skill_id="s", org_id="o", user_id=user) for user in ("u1", "u2")}
    nobody = labels(skill_id="s", org_id="o")
    assert page[EXECUTIONS] == {mine["u1"]: 2, mine["u2"]: 2, nobody: 1}
    assert page[SUCCESS] == {mine["u1"]: 2, mine["u2"]: 0, nobody: 1}
    assert page[FAILURES] == {mine["u1"]: 0, mine["u2"]: 2, nobody: 0}
    assert page[f"{LATENCY}_count"] == {nobody: 5}


def test_past_the_budget_there_is_one_more_series(tmp_path: Path) -> None:
    """Series are as many as allowed and one; nothing is missing from their sum; SQL has every skill."""
    with Daemon(tmp_path, max_series=10) as daemon:
        daemon.commit(*[encode_execution(f"s{number}", number % 2 == 0, 1, None, None) for number in range(3000)])
        daemon.commit(*[encode_rating(f"s{number}", 3, None, None) for number in range(30)])
        daemon.commit(*[encode_health(f"s{number}", 40) for number in range(30)])
        page = daemon.page()
        skills = query(daemon.settings.db_path, "SELECT count(*) FROM skill_metrics")[0][0]
    assert [len(page[name]) for name in (EXECUTIONS, SUCCESS, FAILURES, f"{LATENCY}_count", f"{RATING}_count")] == [
        11
    ] * 5
    assert page[EXECUTIONS][OVERFLOW] == page[f"{LATENCY}_count"][OVERFLOW] == 2990
    assert (page[SUCCESS][OVERFLOW], page[FAILURES][OVERFLOW]) == (1495, 1495)
    assert (page[f"{RATING}_count"][OVERFLOW], page[f"{RATING}_sum"][OVERFLOW]) == (20, 60)
    assert len(page[HEALTH]) == 10  # the sum of scores would mean nothing
    over = page["skillmeter_series_over_budget"]
    assert over[labels(metric="toolweaver_skill_executions")] == 2990
    assert over[labels(metric=HEALTH)] == 20
    assert skills == 3000


def test_no_id_collides_with_the_overflow(tmp_path: Path) -> None:
    """Skills that are called as the overflow is are told from it."""
    with Daemon(tmp_path, max_series=2) as daemon:
        for skill in ("overflow", "true", "third"):
            daemon.run(skill, "overflow")
        page = daemon.page()
    assert len(page[EXECUTIONS]) == 3
    assert all(value == 1 for value in page[EXECUTIONS].values())


@pytest.mark.parametrize("chosen", ["skill_id", "skill_id,org_id", "skill_id,user_id", "skill_id,org_id,user_id"])
def test_no_counter_ever_goes_down(tmp_path: Path, chosen: str) -> None:
    """While names old and new come in any order past the budget, each counter grows, and their sum is exact."""
    chance = random.Random(chosen)
    with Daemon(tmp_path, metric_labels=chosen, max_series=6) as daemon:
        before: Values = {}
        for done in range(1, 61):
            skill, org, user = (chance.choice("abcdefgh"), chance.choice("xyz"), chance.choice("1234567"))
            daemon.commit(encode_rating(skill, 3, user, org), encode_health(chance.choice("abcdefgh"), 1))
            days_ago = chance.randrange(4)
            at_s = STARTED_NS / 1e9 - days_ago * DAY_NS / 1e9
            daemon.commit(encode_execution(skill, True, 1, user, chance.choice((org, None)), timestamp=at_s))
            now = daemon.page()[EXECUTIONS]
            assert len(now) <= 7
            assert sum(now.values()) == done
            fallen = {key: (before[key], now[key]) for key in before.keys() & now.keys() if now[key] < before[key]}
            assert not fallen
            before = now
    assert OVERFLOW in before


def test_series_keep_their_place(tmp_path: Path) -> None:
    """A skill that was seen early but executed late does not push out one that has a series."""
    with Daemon(tmp_path, max_series=2) as daemon:
        daemon.commit(encode_health("first", 1))
        daemon.run("second")
        daemon.run("third")
        early = set(daemon.page()[EXECUTIONS])
        daemon.run("first")
        assert early <= set(daemon.page()[EXECUTIONS])


def test_created_is_when_counting_began(daemon: Daemon) -> None:
    """OpenMetrics says to the nanosecond when the daemon first saw a series, and keeps to it."""
    daemon.run("s")
    daemon.now_ns += DAY_NS
    daemon.run("s")
    daemon.commit(encode_rating("s", 1, None, None))
    assert daemon.sinks.scrape is not None
    lines = "".join(exposition.openmetrics(daemon.sinks.scrape())).splitlines()
    for name in ("toolweaver_skill_executions", "toolweaver_skill_failures", LATENCY):
        assert f'{name}_created{{skill_id="s"}} 1700000000.123456789' in lines
    assert f'{RATING}_created{{skill_id="s"}} {1_700_000_000 + 86_400}.123456789' in lines


def test_a_scrape_sees_whole_commits_and_waits_for_none(daemon: Daemon) -> None:
    """While a commit is half done in SQLite, a scrape answers with what was before it."""
    daemon.run("s")
    with daemon.store._transaction() as session:
        session.db.execute("UPDATE pair_total SET executions = 99")
        assert daemon.page()[EXECUTIONS] == {labels(skill_id="s"): 1}
        session.db.execute("UPDATE pair_total SET executions = 1")


def test_a_scrape_sees_nothing_of_a_migration_before_it_is_done(daemon: Daemon) -> None:
    """With tables half rebuilt and rows half rewritten, the page shows the last commit."""
    daemon.run("s")
    with closing(sqlite3.connect(daemon.settings.db_path, isolation_level=None)) as migrating:
        migrating.execute("BEGIN IMMEDIATE")
        migrating.execute("UPDATE pair_total SET executions = 99")
        migrating.execute("ALTER TABLE pair_total RENAME COLUMN executions TO runs")
        migrating.execute("DROP VIEW ledger")
        assert daemon.page()[EXECUTIONS] == {labels(skill_id="s"): 1}
        migrating.execute("ROLLBACK")


def test_the_ledger_is_that_of_sql(daemon: Daemon) -> None:
    """What was attempted, and each outcome with its reason, are series that agree with the view."""
    daemon.run("s", times=3)
    chunk = Chunk(b"p" * 16, 4096, [], [], ledger=(9, 2, *[0] * 20), lost=1)
    daemon.store.commit([chunk])
    page = daemon.page()
    ledger = {(o, r): n for o, r, n in query(daemon.settings.db_path, "SELECT * FROM ledger")}
    assert page["skillmeter_attempted_events_total"] == {frozenset(): ledger["attempted", ""]}
    assert page["skillmeter_pending_events"] == {frozenset(): ledger["pending", ""]}
    shown = {key: value for key, value in page["skillmeter_events_total"].items() if value}
    assert shown == {
        labels(outcome=outcome, **({"reason": reason} if reason else {})): events
        for (outcome, reason), events in ledger.items()
        if events and outcome not in ("attempted", "pending")
    }
    settled = sum(shown.values()) + ledger["pending", ""]
    assert settled == ledger["attempted", ""] == 12
    assert page["skillmeter_last_event_id"] == {frozenset(): 3}


def test_the_daemon_s_own_numbers_are_there(daemon: Daemon) -> None:
    """Commits, backlog, files and sinks are shown; what has not happened yet has no time."""
    daemon.run("s")
    assert "skillmeter_last_commit_timestamp_seconds" not in daemon.page()
    daemon.vitals.last_commit_ns = 1_500_000_000
    daemon.vitals.commits, daemon.vitals.commit_seconds, daemon.vitals.events = 3, 0.5, 60
    spool_dir = Path(daemon.settings.spool_dir)
    spool_dir.mkdir(parents=True)
    (spool_dir / "a.journal").write_bytes(b"x" * 10_000)
    page = daemon.page()
    one = {name: values[frozenset()] for name, values in page.items() if frozenset() in values}
    assert one["skillmeter_last_commit_timestamp_seconds"] == 1.5
    assert (one["skillmeter_commits_total"], one["skillmeter_commit_seconds_total"]) == (3, 0.5)
    assert one["skillmeter_committed_events_total"] == 60
    assert one["skillmeter_spool_journals"] == 1
    assert one["skillmeter_spool_bytes"] >= 10_000
    assert one["skillmeter_database_bytes"] == daemon.settings.db_path.stat().st_size
    assert one["skillmeter_wal_bytes"] > 0
    assert (one["skillmeter_ready"], one["skillmeter_start_time_seconds"]) == (1, STARTED_NS / 1e9)
    assert page["skillmeter_sink_healthy"] == {labels(sink="prometheus"): 1}
    assert page["skillmeter_sink_exports_total"] == {labels(sink="prometheus"): 2}
    daemon.vitals.store_problem = "the disk is full"
    assert daemon.page()["skillmeter_ready"] == {frozenset(): 0}


def test_what_cannot_be_looked_at_hides_nothing_else(daemon: Daemon, monkeypatch: pytest.MonkeyPatch) -> None:
    """A quarantine that may not be listed has no number; the journals beside it have theirs."""
    Path(daemon.settings.spool_dir, "quarantine").mkdir(parents=True)
    assert daemon.page()["skillmeter_quarantined_files"] == {frozenset(): 0}

    def denied(path: Path) -> list[str]:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(os, "listdir", denied)
    page = daemon.page()
    assert page["skillmeter_spool_journals"] == {frozenset(): 0}
    assert "skillmeter_quarantined_files" not in page


def test_a_database_that_cannot_be_read_makes_the_sink_unhealthy(tmp_path: Path) -> None:
    """A failed scrape is an error and a count, and the next good one makes up for it."""
    with Daemon(tmp_path) as daemon:
        assert daemon.sinks.healthy() == {"prometheus": True}
        aside = daemon.settings.db_path.with_name("aside")
        daemon.settings.db_path.rename(aside)
        assert daemon.sinks.push() == {"prometheus": False}
        assert daemon.sinks.healthy() == {"prometheus": False}
        assert daemon.sinks.status()["prometheus"]["failures"] == 1
        aside.rename(daemon.settings.db_path)
        assert daemon.sinks.push() == {"prometheus": True}
        assert daemon.sinks.healthy() == {"prometheus": True}


def test_only_chosen_backends_are_built(tmp_path: Path) -> None:
    """With SQLite alone there is no sink, and nothing to scrape."""
    settings = DaemonSettings.from_environment({"HOME": str(tmp_path)})
    sinks = Sinks.build(settings, Source(settings, Vitals(0)))
    assert (sinks.all, sinks.scrape, sinks.healthy()) == ([], None, {})


def test_a_missing_extra_is_one_clear_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A backend whose packages are not installed says which, and how to get them."""
    settings = DaemonSettings.from_environment({"HOME": str(tmp_path)}, backend="wandb")

    def fail(_: str) -> None:
        raise ModuleNotFoundError("No module named 'wandb'", name="wandb")

    monkeypatch.setattr("skillmeterd.sinks.group.importlib.import_module", fail)
    with pytest.raises(MissingExtra, match=r"wandb is not installed: pip install 'skillmeter\[wandb\]'"):
        Sinks.build(settings, Source(settings, Vitals(0)))


# The two formats, against prometheus_client's parsers and its renderer.

texts = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20)
label_sets = st.dictionaries(st.sampled_from(["skill_id", "org_id", "user_id"]), texts)
numbers = st.integers(0, 2**60) | st.floats(0, 1e18)


@st.composite
def families(draw: st.DrawFn) -> list[Family]:
    """A counter, a gauge and a histogram with any labels and values."""

    def points() -> list[Point]:
        keys = draw(st.lists(label_sets, max_size=4, unique_by=lambda names: tuple(sorted(names.items()))))
        return [Point(key, draw(numbers), draw(st.integers(0, 2**62))) for key in keys]

    counts = st.tuples(*[st.integers(0, 2**40)] * 4)
    spread = [Histogram(p.labels, draw(counts), float(p.value), p.created_ns) for p in points()]
    return [
        Family("skills_run", "counter", "Runs.", points()),
        Family("skill_score", "gauge", "Score.", [p._replace(created_ns=None) for p in points()]),
        Family("skill_latency", "histogram", "Latency.", spread, bounds=(10, 50, 5000)),
    ]


@given(families())
def test_openmetrics_says_the_same_as_prometheus_client(made: list[Family]) -> None:
    """Samples, names and types are those that prometheus_client renders; labels come back as they were."""
    ours = "".join(exposition.openmetrics(made))
    theirs = prometheus_client.openmetrics.exposition.generate_latest(_Registry(made))  # type: ignore[no-untyped-call]
    assert samples(parse_openmetrics(ours)) == samples(parse_openmetrics(theirs.decode()))  # type: ignore[no-untyped-call]


@given(families())
def test_text_says_the_same_as_prometheus_client(made: list[Family]) -> None:
    """The older format too, in which prometheus_client shows created times as gauges."""
    ours = "".join(exposition.text(made))
    theirs = prometheus_client.generate_latest(_Registry(made)).decode()
    wanted = [sample for sample in samples(parse_text(theirs)) if not sample[0].endswith("_created")]
    assert samples(parse_text(ours)) == wanted


def samples(parsed: object) -> list[tuple[str, list[tuple[str, str]], float, str]]:
    """Every sample, with its family's type."""
    assert isinstance(parsed, Iterator)
    return [
        (s.name, sorted(s.labels.items()), float(s.value), metric.type) for metric in parsed for s in metric.samples
    ]


class _Registry(CollectorRegistry):
    """A prometheus_client registry that holds the families."""

    def __init__(self, made: Sequence[Family]) -> None:
        super().__init__(auto_describe=False)
        self._made = made

    def collect(self) -> Iterator[Metric]:
        for family in self._made:
            metric = Metric(family.name, family.help, family.kind)
            for point in family.points:
                metric.samples.extend(_samples(family, point))
            yield metric


def _samples(family: Family, point: Point | Histogram) -> Iterator[Sample]:
    names = dict(point.labels)
    if isinstance(point, Histogram):
        bounds = [*(f"{bound}.0" for bound in family.bounds), "+Inf"]
        for number, bound in enumerate(bounds):
            yield Sample(f"{family.name}_bucket", {**names, "le": bound}, sum(point.counts[: number + 1]))
        yield Sample(f"{family.name}_count", names, sum(point.counts))
        yield Sample(f"{family.name}_sum", names, point.sum)
    else:
        yield Sample(f"{family.name}_total" if family.kind == "counter" else family.name, names, point.value)
    if point.created_ns is not None:
        yield Sample(f"{family.name}_created", names, point.created_ns / 1e9)


def test_reading_takes_no_lock_that_outlives_it(daemon: Daemon) -> None:
    """After a read the log can be cut back: a scrape leaves no reader behind."""
    daemon.run("s")
    totals.read(daemon.settings.db_path, ("skill_id",), 10)
    with daemon.store._transaction() as session:
        pass
    with closing(session.db.execute("PRAGMA wal_checkpoint(TRUNCATE)")) as result:
        assert result.fetchone()[0] == 0
    assert daemon.settings.db_path.with_name("analytics.db-wal").stat().st_size == 0
