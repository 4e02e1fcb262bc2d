"""Backends by one variable: the same client code for each, nothing lost by switching, health that tells the truth."""

import urllib.request
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import zmq
from prometheus_client.parser import text_string_to_metric_families

from skillmeter import create_analytics_client
from skillmeter.client import AnalyticsClient
from tests.otlp_receiver import Answer, Receiver, attributes, every_record, value
from tests.support import DaemonProcess, assert_exactly, query, run_client, wait_until

ABSENT = """
for number in range(int(sys.argv[2])):
    record(f"{sys.argv[1]}-{number}", success=number % 3 != 0)
"""
SCRIPT = f"{ABSENT}assert client.flush(60)\n"
EACH = 50


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    """Takes what is pushed."""
    with Receiver() as running:
        yield running


def settings(receiver: Receiver) -> dict[str, str]:
    """Of a daemon for any backend: only ANALYTICS_BACKEND is missing."""
    return {
        "PROMETHEUS_ENABLED": "1",
        "PROMETHEUS_PORT": "0",
        "OTLP_LOGS": "1",
        "OTLP_PUSH_INTERVAL": "86400",
        "OTEL_EXPORTER_OTLP_ENDPOINT": receiver.url,
    }


def scraped(daemon: DaemonProcess) -> float:
    """Executions at /metrics."""
    with urllib.request.urlopen(f"{daemon.ask('status')['http']}/metrics", timeout=60) as answer:
        families = text_string_to_metric_families(answer.read().decode())
    name = "toolweaver_skill_executions_total"
    return sum(sample.value for family in families for sample in family.samples if sample.name == name)


def test_switching_and_restarting_loses_nothing(tmp_path: Path, receiver: Receiver) -> None:
    """What is recorded under one backend, or while there is no daemon, is in the totals of the next and in its logs."""
    recorded: list[str] = []
    with DaemonProcess(tmp_path, env=settings(receiver), started=False) as daemon:
        for number, backend in enumerate(("sqlite", "prometheus", "otlp", "sqlite", "otlp,prometheus")):
            recorded += run_client(ABSENT, daemon.env, f"before{number}", EACH)
            daemon.start({"ANALYTICS_BACKEND": backend})
            recorded += run_client(SCRIPT, daemon.env, f"under{number}", EACH)
            daemon.wait_drained()
            assert all(daemon.ask("push", timeout_s=60)["sinks"].values())
            if "prometheus" in backend:
                assert scraped(daemon) == len(recorded)
            if "otlp" in backend:
                executed = value(receiver.metrics(), "toolweaver_skill_executions", skill_id="parse_json", org_id="o1")
                assert executed == len(recorded)
            assert daemon.stop() == 0
        assert_exactly(recorded, daemon.db_path)
        ids = Counter(attributes(record.attributes)["skillmeter.event_id"] for record in every_record(receiver.logs()))
        assert set(ids) == {event_id for (event_id,) in query(daemon.db_path, "SELECT event_id FROM events")}
        assert max(ids.values()) == 1  # no answer was lost: nothing had to come twice


@pytest.fixture
def clients(request: pytest.FixtureRequest) -> Iterator[Any]:
    """Makes clients of this process, and closes them."""
    made: list[AnalyticsClient] = []

    def make(backend: str, daemon: DaemonProcess, **more: Any) -> AnalyticsClient:
        client = create_analytics_client(backend, endpoint=daemon.endpoint, spool_dir=daemon.spool_dir, **more)
        made.append(client)
        return client

    yield make
    for client in made:
        client.close()


def test_health_is_that_of_the_backend_that_the_application_counts_on(
    tmp_path: Path, receiver: Receiver, clients: Any
) -> None:
    """One that the daemon does not have, or whose receiver refuses, or whose daemon is away, is not healthy."""
    with DaemonProcess(tmp_path, env={**settings(receiver), "ANALYTICS_BACKEND": "otlp"}) as daemon:
        every = ("sqlite", "otlp", "prometheus", "sqlite,otlp", "otlp,prometheus")
        health = {name: clients(name, daemon).health_check for name in every}
        wait_until(health["otlp"])
        assert {name: check() for name, check in health.items()} == {
            **dict.fromkeys(("sqlite", "otlp", "sqlite,otlp"), True),
            **dict.fromkeys(("prometheus", "otlp,prometheus"), False),
        }
        assert clients("otlp", daemon).push()
        receiver.then(Answer(400))  # for the metrics; there is no event to forward
        assert not clients("otlp", daemon).push()
        assert health["sqlite"]()
        assert not health["otlp"]()
        assert not health["sqlite,otlp"]()
        assert clients("otlp", daemon).push()
        assert health["otlp"]()
        daemon.kill()
        assert not any(check() for check in health.values())


def test_the_summary_has_no_character_of_a_secret(tmp_path: Path, receiver: Receiver, clients: Any) -> None:
    """Neither do the client's repr and its settings."""
    public, secret = (key.decode() for key in zmq.curve_keypair())
    with DaemonProcess(tmp_path, env=settings(receiver)) as daemon:
        client = clients("sqlite", daemon, curve_server_key=public, curve_client_secret=secret)
        summary = client.get_config_summary()
        assert summary["curve_client_secret"] == "[REDACTED]"
        shown = f"{summary!r} {client!r} {client.settings!r}"
        assert not [at for at in range(len(secret) - 4) if secret[at : at + 5] in shown]
