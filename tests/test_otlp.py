"""The OTLP sink against a scripted receiver: what it holds is what SQLite holds, whatever happened on the way."""

import contextlib
import gzip
import logging
import sqlite3
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest

from skillmeter.errors import ConfigError
from skillmeterd.rows import DAY_NS
from skillmeterd.sinks import otlp, otlp_logs, otlp_metrics, otlp_transport
from skillmeterd.sinks.otlp import Otlp
from skillmeterd.sinks.otlp_transport import ATTEMPTS

from .otlp_receiver import (
    OK,
    Answer,
    Database,
    Posted,
    Receiver,
    attributes,
    every_metric,
    every_record,
    lost,
    refused_points,
    refused_records,
    series,
    value,
)
from .support import DaemonProcess, query, run_client, wait_until

EXECUTIONS = "toolweaver_skill_executions"
TOKEN = "glc_s3cr3t"
Make = Callable[..., Otlp]


@pytest.fixture
def db(tmp_path: Path) -> Iterator[Database]:
    """A database with nothing in it."""
    with contextlib.closing(Database(tmp_path)) as database:
        yield database


@pytest.fixture
def start(db: Database, monkeypatch: pytest.MonkeyPatch) -> Iterator[Make]:
    """Starts sinks to a receiver, which push when told, and retry at once."""
    monkeypatch.setattr(otlp_transport, "FIRST_WAIT_S", 0.001)
    with contextlib.ExitStack() as stack:

        def start(receiver: Receiver, **env: str) -> Otlp:
            settings = {"OTLP_ENDPOINT": receiver.url, "OTLP_INSTANCE_ID": "42", "OTLP_TOKEN": TOKEN}
            sink = otlp.create(db.source(**{**settings, "OTLP_PUSH_INTERVAL": "3600", **env}))
            assert isinstance(sink, Otlp)
            sink.start()
            stack.callback(sink.stop, 5.0)
            return sink

        yield start


def forwarded(receiver: Receiver) -> Counter[str]:
    """The ids of the events that came as log records."""
    return Counter(attributes(record.attributes)["skillmeter.event_id"] for record in every_record(receiver.logs()))


def stored(db: Database) -> Counter[str]:
    """The ids of the events that are in SQLite."""
    return Counter(event_id for (event_id,) in query(db.path, "SELECT event_id FROM events"))


# Metrics.


def test_the_receiver_holds_what_sqlite_holds(db: Database, start: Make) -> None:
    """Every family of skills, success and failure from the first execution, and the daemon's own."""
    db.execute("a", 3, ms=145.5, org="o1", user="u1")
    db.execute("a", 1, ms=70.0, success=False)
    db.rate("a", 4)
    db.health("a", 88.5)
    with Receiver() as receiver:
        assert start(receiver).push()
        requests = receiver.metrics()
    assert value(requests, EXECUTIONS, skill_id="a", org_id="o1") == 3
    assert value(requests, "toolweaver_skill_success", skill_id="a", org_id="o1") == 3
    assert value(requests, "toolweaver_skill_failures", skill_id="a", org_id="o1") == 0
    assert value(requests, "toolweaver_skill_failures", skill_id="a") == 1
    assert value(requests, "toolweaver_skill_health_score", skill_id="a") == 88.5
    latency = series(requests)["toolweaver_skill_latency_milliseconds", frozenset({("skill_id", "a")})]
    assert list(latency.explicit_bounds) == [10, 50, 100, 200, 500, 1000, 2000, 5000]
    assert (list(latency.bucket_counts), latency.sum) == ([0, 0, 1, 0, 0, 0, 0, 0, 0], 70.0)
    rating = series(requests)["toolweaver_skill_rating", frozenset({("skill_id", "a")})]
    assert (list(rating.explicit_bounds), list(rating.bucket_counts)) == ([1, 2, 3, 4, 5], [0, 0, 0, 1, 0, 0])
    assert value(requests, "skillmeter_attempted_events") == 6
    assert any(metric.name.startswith("skillmeter_") for metric in every_metric(requests))


def test_a_restart_changes_neither_who_it_is_nor_since_when_it_counts(db: Database, start: Make) -> None:
    """Or receivers would see a reset, or another instance beside the first."""
    db.execute("a", 3)
    with Receiver() as receiver:
        sink = start(receiver, OTLP_SERVICE_NAME="mine", OTLP_SERVICE_VERSION="9")
        assert sink.push()
        sink.stop(5)
        before = receiver.metrics()
        db.execute("a", 2)
        assert start(receiver, OTLP_SERVICE_NAME="mine", OTLP_SERVICE_VERSION="9").push()
        after = receiver.metrics()[len(before) :]
    assert before[0].resource_metrics[0].resource == after[0].resource_metrics[0].resource
    resource = attributes(after[0].resource_metrics[0].resource.attributes)
    assert (resource["service.name"], resource["service.version"]) == ("mine", "9")
    assert len(resource["service.instance.id"]) == 36
    key = EXECUTIONS, frozenset({("skill_id", "a")})
    old, new = series(before)[key], series(after)[key]
    assert (old.as_int, new.as_int) == (3, 5)
    created = query(db.path, "SELECT created_ns FROM pair_total")
    assert [(old.start_time_unix_nano,), (new.start_time_unix_nano,)] == created * 2


@pytest.mark.parametrize("status", [503, 429, 400, 401, 404, 500, 307])
def test_after_failures_the_next_success_carries_the_right_totals(status: int, db: Database, start: Make) -> None:
    """What was recorded meanwhile is not lost, and a failure is shown until a success."""
    db.execute("a", 1)
    with Receiver(script=lambda _: Answer(status, {"Location": "/"}, b"reason")) as receiver:
        sink = start(receiver)
        assert not sink.push()
        assert not sink.healthy
        assert f"HTTP {status}" in sink.status()["problem"]
        failures = sink.status()["metrics"]["failures_by_kind"]
        assert sum(failures.values()) == len(receiver.posted)
        db.execute("a", 4)
        receiver.then(OK)
        assert sink.push()
        assert sink.status()["healthy"]
        assert sink.status()["problem"] == ""
        assert value(receiver.metrics(), EXECUTIONS, skill_id="a") == 5


def test_a_lost_answer_leaves_the_totals_right(db: Database, start: Make) -> None:
    """The receiver took it, and takes it again: cumulative values do not add up."""
    db.execute("a", 7)
    with Receiver(Answer(act=lost)) as receiver:
        assert start(receiver).push()
        assert len(receiver.posted) > 1
        assert value(receiver.metrics(), EXECUTIONS, skill_id="a") == 7


def test_points_that_were_refused_are_counted_and_shown_and_no_success(db: Database, start: Make) -> None:
    """The answer is 200, and says otherwise; it is not retried."""
    db.execute("a")
    with Receiver(script=lambda _: refused_points(2, f"bad points of {TOKEN}")) as receiver:
        sink = start(receiver)
        assert not sink.push()
        posted = len(receiver.posted)
        status = sink.status()["metrics"]
        assert status["refused_points"] == 2 * posted
        assert status["failures_by_kind"] == {"partial": posted}
        assert status["problem"] == "2 points refused: bad points of [REDACTED]"
        assert status["acknowledged"] == {}
        receiver.then(refused_points(0, "a warning"))
        assert sink.push()
        assert sink.status()["metrics"]["warning"] == "a warning"


def test_ten_thousand_series_go_in_bounded_requests(db: Database, start: Make) -> None:
    """None has more than a thousand points, and all arrive."""
    for first in range(0, 2000, 500):
        db.commit(*(db.execution(f"skill-{number}") for number in range(first, first + 500)))
    with Receiver() as receiver:
        assert start(receiver).push()
        requests = receiver.metrics()
    for request in requests:
        points = [len(getattr(m, m.WhichOneof("data") or "").data_points) for m in every_metric([request])]
        assert sum(points) <= otlp_metrics.MAX_POINTS
    names = Counter(name for name, _ in series(requests))
    assert [names[f"toolweaver_skill_{name}"] for name in ("executions", "success", "failures")] == [2000] * 3
    assert names["toolweaver_skill_latency_milliseconds"] == 2000


def test_a_request_that_is_refused_keeps_no_other_from_being_sent(db: Database, start: Make) -> None:
    """One series that a receiver does not like must not starve those that come after it, nor the daemon's own."""
    db.execute("disliked")
    db.commit(*(db.execution(f"s{number}") for number in range(2500)))

    def script(post: Posted) -> Answer:
        return Answer(400, body=b"label too long") if b"disliked" in post.body else OK

    with Receiver(script=script) as receiver:
        sink = start(receiver)
        assert not sink.push()
        assert "label too long" in sink.status()["problem"]
        taken = [ExportMetricsServiceRequest.FromString(post.body) for post in receiver.posted if script(post) is OK]
        assert value(taken, EXECUTIONS, skill_id="s1500") == 1
        assert value(taken, "skillmeter_attempted_events") == 2501
        receiver.posted.clear()
        assert not sink.push()
        bodies = [post.body for post in receiver.posted]
        assert len(set(bodies)) == len(bodies), "what was refused was sent again as it was"


def test_between_full_exports_only_what_changed_is_sent(db: Database, start: Make) -> None:
    """A push that somebody asked for is a full one: the receiver may have lost what it had."""
    for name in "abc":
        db.execute(name)
    with Receiver() as receiver:
        sink = start(receiver, OTLP_PUSH_INTERVAL="0.1")
        assert sink.push()
        db.execute("b")

        def changed_alone() -> bool:
            sent = [{key for key in series([request]) if key[0] == EXECUTIONS} for request in receiver.metrics()]
            return {(EXECUTIONS, frozenset({("skill_id", "b")}))} in sent

        wait_until(changed_alone)
        assert sink.push()
        last = receiver.metrics()[-1]
        assert len([key for key in series([last]) if key[0] == EXECUTIONS]) in (0, 1, 3)
        assert value(receiver.metrics(), EXECUTIONS, skill_id="b") == 2


def test_a_failure_makes_the_next_export_a_full_one(db: Database, start: Make) -> None:
    """What had arrived of it is not known."""
    for name in "abc":
        db.execute(name)
    with Receiver() as receiver:
        sink = start(receiver, OTLP_PUSH_INTERVAL="0.1")
        assert sink.push()
        seen = len(receiver.metrics())
        receiver.then(Answer(400))

        def skills() -> list[int]:
            return [sum(name == EXECUTIONS for name, _ in series([one])) for one in receiver.metrics()[seen:]]

        wait_until(lambda: 3 in skills())
        assert sink.status()["failures"] == 1


def test_what_is_acknowledged_is_the_totals_of_one_commit(db: Database, start: Make) -> None:
    """For who compares SQLite, /metrics and the receiver."""
    db.execute("a", 5)
    db.rate("a", 3)
    with Receiver() as receiver:
        sink = start(receiver)
        assert sink.push()
        acknowledged = sink.status()["metrics"]["acknowledged"]
    assert acknowledged["last_event_id"] == 6
    assert acknowledged["sums"][EXECUTIONS] == 5
    assert acknowledged["sums"]["toolweaver_skill_rating"] == 1


def test_a_receiver_that_hangs_does_not_hold_up_commits_nor_the_end(db: Database, start: Make) -> None:
    """The thread is cut off from its connection when the grace period is over."""
    with Receiver() as receiver:
        receiver.then(*[receiver.hang()] * 10)
        sink = start(receiver)
        wait_until(lambda: receiver.posted)
        db.execute("a")
        assert query(db.path, "SELECT count(*) FROM events") == [(1,)]
        sink.stop(0.1)
        assert not [thread for thread in threading.enumerate() if thread.name.startswith("otlp")]
        assert not sink.push()


def test_stopping_exports_what_is_left(db: Database, start: Make) -> None:
    """The interval is an hour; the events before the stop arrive. Stopping again does nothing."""
    with Receiver() as receiver:
        sink = start(receiver, OTLP_LOGS="1")
        wait_until(lambda: sink.healthy)
        db.execute("a", 3)
        sink.stop(5)
        posted = len(receiver.posted)
        sink.stop(5)
        assert len(receiver.posted) == posted
        assert value(receiver.metrics(), EXECUTIONS, skill_id="a") == 3
        assert forwarded(receiver) == stored(db)


def test_before_the_first_success_it_is_not_healthy(db: Database, start: Make) -> None:
    """Nobody knows yet that it works."""
    with Receiver() as receiver:
        sink = otlp.create(db.source(OTLP_ENDPOINT=receiver.url))
        assert not sink.healthy
        sink.stop(0)
        assert not sink.push()


def test_no_secret_in_status_log_or_repr(db: Database, start: Make, caplog: pytest.LogCaptureFixture) -> None:
    """Though the receiver repeats what it was sent."""
    caplog.set_level(logging.DEBUG)
    db.execute("a")

    def repeat(post: Posted) -> Answer:
        return Answer(401, {}, f"no access for {post.headers['Authorization']} {TOKEN}".encode())

    with Receiver(script=repeat) as receiver:
        sink = start(receiver, OTLP_LOGS="1")
        assert not sink.push()
        authorization = receiver.posted[0].headers["Authorization"].split()[1]
        shown = f"{sink.status()} {sink!r} {vars(sink)} {caplog.text}"
    assert "[REDACTED]" in shown
    assert TOKEN not in shown
    assert authorization not in shown


def test_mistakes_of_both_signals_are_reported_once_and_together(db: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """Most variables are for metrics and log records alike."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "10")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_LOGS_COMPRESSION", "zip")
    with pytest.raises(ConfigError) as caught:
        otlp.create(db.source(OTLP_ENDPOINT="http://h", OTLP_LOGS="1"))
    assert [line.partition(":")[0] for line in caught.value.problems] == [
        "OTEL_EXPORTER_OTLP_TIMEOUT",
        "OTEL_EXPORTER_OTLP_LOGS_COMPRESSION",
    ]


# Log records.


def test_each_event_is_a_log_record_with_its_names_and_id(db: Database, start: Make) -> None:
    """Attributes of the GenAI conventions where they fit, of the columns of `events` where not."""
    db.execute("a", user="u1", org="o1", ms=12.5)
    db.execute("a", success=False, error_type="KeyError", skill_version="2", attributes={"k": [1]})
    db.rate("a", 4)
    db.health("a", 55.0)
    with Receiver() as receiver:
        sink = start(receiver, OTLP_LOGS="1")
        assert sink.push()
        records = list(every_record(receiver.logs()))
        (request, *_) = receiver.logs()
    ok, failed, rating, health = (attributes(record.attributes) for record in records)
    times = [at for (at,) in query(db.path, "SELECT recorded_at FROM events")]
    assert [record.time_unix_nano for record in records] == times
    assert [record.event_name for record in records] == [
        f"skillmeter.{kind}" for (kind,) in query(db.path, "SELECT kind FROM events")
    ]
    assert [record.severity_text for record in records] == ["INFO", "ERROR", "INFO", "INFO"]
    assert records[0].body.string_value == "a succeeded in 12.5 ms"
    ids = [event_id for (event_id,) in query(db.path, "SELECT event_id FROM events")]
    assert ok == {
        "skillmeter.event_id": ids[0],
        "skillmeter.kind": "execution",
        "skillmeter.org_id": "o1",
        "skillmeter.success": True,
        "skillmeter.latency_ms": 12.5,
        "user.id": "u1",
        "gen_ai.tool.name": "a",
        "gen_ai.operation.name": "execute_tool",
    }
    assert (failed["error.type"], failed["skillmeter.skill_version"]) == ("KeyError", "2")
    assert (failed["skillmeter.attributes"], failed["skillmeter.success"]) == ('{"k":[1]}', False)
    assert (rating["gen_ai.evaluation.name"], rating["gen_ai.evaluation.score.value"]) == ("rating", 4.0)
    assert (health["gen_ai.evaluation.name"], health["gen_ai.evaluation.score.value"]) == ("health", 55.0)
    assert request.resource_logs[0].scope_logs[0].schema_url == "https://opentelemetry.io/schemas/1.41.0"


def test_an_outage_costs_only_time(db: Database, start: Make) -> None:
    """Over a restart, nothing is missing and nothing comes twice."""
    db.execute("a", otlp_logs.BATCH + 10)
    with Receiver(script=lambda _: Answer(503)) as receiver:
        sink = start(receiver, OTLP_LOGS="1")
        assert not sink.push()
        assert sink.status()["logs"]["waiting"] == otlp_logs.BATCH + 10
        sink.stop(5)
        db.execute("a", 5)
        receiver.posted.clear()
        receiver.then(OK)
        sink = start(receiver, OTLP_LOGS="1")
        assert sink.push()
        assert forwarded(receiver) == stored(db)
        sink.stop(5)
        db.execute("b", 3)
        assert start(receiver, OTLP_LOGS="1").push()
        assert forwarded(receiver) == stored(db)
        assert set(stored(db).values()) == {1}


def test_a_lost_answer_repeats_records_under_the_same_id(db: Database, start: Make) -> None:
    """At least once, and who counts by event id counts right."""
    db.execute("a", 3)
    with Receiver(script=lambda post: Answer(act=lost) if "logs" in post.path else OK) as receiver:
        sink = start(receiver, OTLP_LOGS="1")
        assert not sink.push()
        receiver.then(OK)
        assert sink.push()
        seen = forwarded(receiver)
    assert set(seen) == set(stored(db))
    assert min(seen.values()) > 1


def poison(bad: set[str], status: int = 400) -> Callable[[Posted], Answer]:
    """Refuses every request with one of these skills in it."""

    def script(post: Posted) -> Answer:
        if "logs" not in post.path:
            return OK
        records = every_record([ExportLogsServiceRequest.FromString(post.body)])
        found = {attributes(record.attributes)["gen_ai.tool.name"] for record in records} & bad
        return Answer(status, {}, f"cannot take {found}".encode()) if found else OK

    return script


@pytest.mark.parametrize("status", [400, 413])
def test_the_one_record_that_is_refused_is_found_and_kept_aside(status: int, db: Database, start: Make) -> None:
    """The others of its batch arrive; it is shown, kept, and not sent for ever."""
    db.commit(*(db.execution(f"s{number}") for number in range(100)))
    with Receiver(script=poison({"s37"}, status)) as receiver:
        sink = start(receiver, OTLP_LOGS="1")
        wait_until(lambda: sink.status()["logs"]["refused"])
        logs = sink.status()["logs"]
        assert (logs["forwarded"], logs["refused"], logs["waiting"]) == (99, 1, 0)
        (shown,) = logs["last_refused"]
        assert (shown["first_event_log_id"], shown["last_event_log_id"], shown["records"]) == (38, 38, 1)
        assert f"HTTP {status}" in shown["reason"]
        posted = len(receiver.posted)
        assert sink.push()
        assert not [post for post in receiver.posted[posted:] if "logs" in post.path]
    ((request,),) = query(db.path.with_name("analytics.db.sinks"), "SELECT request FROM refused_request")
    (record,) = every_record([ExportLogsServiceRequest.FromString(gzip.decompress(request))])
    assert attributes(record.attributes)["gen_ai.tool.name"] == "s37"


def test_a_receiver_that_refuses_everything_is_not_asked_for_ever(db: Database, start: Make) -> None:
    """The halving has a bound; then what is left of the batch is kept aside as it is."""
    db.execute("a", 500)
    with Receiver(script=poison({"a"})) as receiver:
        sink = start(receiver, OTLP_LOGS="1")
        wait_until(lambda: sink.status()["logs"]["refused"] == 500)
        assert len(receiver.logs()) <= 2 * otlp_logs.MAX_HALVINGS + 1
    kept = query(db.path.with_name("analytics.db.sinks"), "SELECT sum(records) FROM refused_request")
    assert kept == [(500,)]


def test_a_partial_success_keeps_the_request_and_counts_the_records(db: Database, start: Make) -> None:
    """Which of them were refused nobody says, so the request is kept whole; it is not sent again."""
    db.execute("a", 10)
    script = [refused_records(3, "too old")]
    with Receiver(script=lambda post: script.pop() if "logs" in post.path and script else OK) as receiver:
        sink = start(receiver, OTLP_LOGS="1")
        wait_until(lambda: sink.status()["logs"]["refused"])
        logs = sink.status()["logs"]
        assert (logs["forwarded"], logs["refused"], logs["waiting"]) == (7, 3, 0)
        assert (logs["last_refused"][0]["records"], logs["last_refused"][0]["reason"]) == (10, "too old")
        assert logs["failures_by_kind"] == {"partial": 1}
        assert sink.push()
        assert len(receiver.logs()) == 1


def test_a_refusal_of_the_sender_is_no_refusal_of_records(db: Database, start: Make) -> None:
    """With a wrong token or address everything waits until it is put right."""
    db.execute("a", 3)
    for status in (401, 403, 404, 500, 302):
        with Receiver(*[Answer(status)] * 10) as receiver:
            sink = start(receiver, OTLP_LOGS="1")
            assert not sink.push()
            logs = sink.status()["logs"]
            assert (logs["forwarded"], logs["refused"], logs["waiting"]) == (0, 0, 3)
            sink.stop(5)


def test_events_that_retention_deleted_first_are_counted(db: Database, start: Make) -> None:
    """From the start of the gap, in its middle, and when nothing is left."""
    db.execute("a", 10)
    db.store.delete_events(before_day=2**40 // DAY_NS + 10**6, limit=4)
    with Receiver() as receiver:
        sink = start(receiver, OTLP_LOGS="1")
        assert sink.push()
        logs = sink.status()["logs"]
        assert (logs["forwarded"], logs["missed"], logs["waiting"]) == (6, 4, 0)
        sink.stop(5)
        db.execute("a", 5)
        db.store.delete_events(before_day=2**40 // DAY_NS + 10**6, limit=100)
        sink = start(receiver, OTLP_LOGS="1")
        assert sink.push()
        logs = sink.status()["logs"]
        assert (logs["forwarded"], logs["missed"], logs["waiting"]) == (6, 9, 0)


def test_another_database_in_its_place_is_forwarded_from_its_first_event(db: Database, start: Make) -> None:
    """Its numbers begin anew, or went on differently from a backup; nothing is passed over."""
    db.execute("a", 5)
    backup = db.path.with_name("backup.db")
    with contextlib.closing(sqlite3.connect(db.path)) as source, contextlib.closing(sqlite3.connect(backup)) as target:
        source.backup(target)
    with Receiver() as receiver:
        db.execute("b", 5)
        sink = start(receiver, OTLP_LOGS="1")
        assert sink.push()
        sink.stop(5)
        db.replace(backup)
        db.execute("c", 7)
        sink = start(receiver, OTLP_LOGS="1")
        assert sink.push()
        assert set(stored(db)) <= set(forwarded(receiver))
        assert sink.status()["logs"]["restarts"] == 1
        sink.stop(5)
        db.replace(None)
        db.execute("d", 20)
        receiver.posted.clear()
        sink = start(receiver, OTLP_LOGS="1")
        assert sink.push()
        assert forwarded(receiver) == stored(db)
        assert sink.status()["logs"]["restarts"] == 2


def test_an_upgrade_that_migrates_the_database_sends_nothing_twice(db: Database, start: Make) -> None:
    """It is the same database: the cursor's event is in it under its number."""
    db.execute("a", 5)
    with Receiver() as receiver:
        sink = start(receiver, OTLP_LOGS="1")
        assert sink.push()
        with contextlib.closing(sqlite3.connect(db.path, isolation_level=None)) as migration:
            migration.execute("UPDATE schema_version SET version = version + 1, migrated_ns = migrated_ns + 1000")
        db.execute("a", 2)
        assert sink.push()
        assert sink.push()
        assert max(forwarded(receiver).values()) == 1
        assert forwarded(receiver) == stored(db)
        assert sink.status()["logs"]["restarts"] == 0


def test_large_records_go_in_smaller_requests(db: Database, start: Make) -> None:
    """Receivers take 4 MiB, as a rule."""
    db.execute("a", otlp_logs.BATCH, attributes={"text": "x" * 8000})
    with Receiver() as receiver:
        assert start(receiver, OTLP_LOGS="1").push()
        assert max(len(post.body) for post in receiver.posted) <= otlp_logs.MAX_BODY_BYTES
        assert forwarded(receiver) == stored(db)


def test_a_corrupt_state_file_is_set_aside(db: Database, start: Make) -> None:
    """Records come again, which is allowed; not starting is not."""
    state = db.path.with_name("analytics.db.sinks")
    state.write_bytes(b"not a database at all" * 100)
    db.execute("a", 2)
    with Receiver() as receiver:
        assert start(receiver, OTLP_LOGS="1").push()
        assert forwarded(receiver) == stored(db)
    assert list(state.parent.glob("analytics.db.sinks.corrupt-*"))
    assert state.stat().st_mode & 0o777 == 0o600


def test_the_sink_never_writes_to_the_database(db: Database, start: Make) -> None:
    """A push works while a writer holds the lock, and leaves the file as it was."""
    db.execute("a", 2)
    with Receiver() as receiver, contextlib.closing(sqlite3.connect(db.path, isolation_level=None)) as writer:
        writer.execute("BEGIN IMMEDIATE")
        assert start(receiver, OTLP_LOGS="1").push()
        writer.execute("ROLLBACK")


def test_retries_are_bounded_in_the_sink_too(db: Database, start: Make) -> None:
    """One push posts no more than its attempts."""
    with Receiver(script=lambda _: Answer(503)) as receiver:
        sink = start(receiver)
        wait_until(lambda: sink.status()["failures"])
        assert len(receiver.posted) == ATTEMPTS


# push(), asked of a real daemon.


def test_push_is_true_only_when_the_receiver_has_it(tmp_path: Path) -> None:
    """It says no when the receiver refuses; and while one hangs, queries are answered, and so is health."""
    with Receiver() as receiver:
        env = {
            "ANALYTICS_BACKEND": "otlp,prometheus",
            "PROMETHEUS_ENABLED": "1",
            "PROMETHEUS_PORT": "0",
            "OTLP_PUSH_INTERVAL": "86400",
            "OTEL_EXPORTER_OTLP_ENDPOINT": receiver.url,
        }
        with DaemonProcess(tmp_path, env=env) as daemon:
            wait_until(lambda: daemon.ask("health")["sinks"]["otlp"])
            run_client("record('a'); assert client.flush(60)", daemon.env)
            assert daemon.ask("push")["sinks"] == {"sqlite": True, "otlp": True, "prometheus": True}
            assert value(receiver.metrics(), "toolweaver_skill_executions", skill_id="parse_json", org_id="o1") == 1
            receiver.then(Answer(400, body=b"no"))
            assert daemon.ask("push")["sinks"] == {"sqlite": True, "otlp": False, "prometheus": True}
            assert not daemon.ask("health")["sinks"]["otlp"]
            receiver.then(receiver.hang())
            posts = len(receiver.posted)
            with ThreadPoolExecutor(1) as pool:
                pushed = pool.submit(daemon.ask, "push", timeout_s=60)
                wait_until(lambda: len(receiver.posted) > posts)
                assert daemon.ask("leaderboard")[0]["skill_id"] == "parse_json"
                assert not pushed.done()
                receiver.released.set()  # what hangs is cut off, and the next attempt is answered
                assert pushed.result()["sinks"]["otlp"]
