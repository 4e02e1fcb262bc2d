"""OTLP against real receivers: VictoriaMetrics behind TLS and Basic credentials, and rotel as a second decoder."""

import contextlib
import json
import socket
import ssl
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from skillmeterd.sinks import otlp
from skillmeterd.sinks.otlp import Otlp

from ..otlp_receiver import Database, Receiver, attributes, every_record, series
from ..support import free_port, query, wait_until
from .programs import debian, missing, pypi

TOKEN = "glc_s3cr3t"
HOUR = "3600"

VMAUTH = """
users:
  - username: "42"
    password: {token}
    url_map:
      - src_paths: ["/otlp/v1/metrics"]
        url_prefix: "http://127.0.0.1:{port}/opentelemetry/v1/metrics"
        drop_src_path_prefix_parts: 3
"""


class Victoria:
    """VictoriaMetrics on loopback, and in front of it what Grafana Cloud looks like from outside."""

    def __init__(self, folder: Path) -> None:
        self.port, self.front_port = free_port(), free_port()
        self.certificate = folder / "cert.pem"
        self.endpoint = f"https://127.0.0.1:{self.front_port}/otlp"
        self._folder = folder
        self._programs = debian("victoria-metrics", "trixie") / "usr/bin"

    @contextlib.contextmanager
    def running(self) -> Iterator["Victoria"]:
        """Both programs."""
        key = self._folder / "key.pem"
        make_certificate(self.certificate, key)
        (self._folder / "auth.yml").write_text(VMAUTH.format(token=TOKEN, port=self.port))
        store = [
            *(f"-storageDataPath={self._folder}/data", f"-httpListenAddr=127.0.0.1:{self.port}"),
            *("-retentionPeriod=1d", "-search.latencyOffset=0s", "-search.disableCache"),
            *("-opentelemetry.usePrometheusNaming", "-memory.allowedBytes=256MB"),
        ]
        front = [
            *(f"-auth.config={self._folder}/auth.yml", f"-httpListenAddr=127.0.0.1:{self.front_port}"),
            *("-tls", f"-tlsCertFile={self.certificate}", f"-tlsKeyFile={key}"),
        ]
        with (
            program([str(self._programs / "victoria-metrics"), *store], self._folder / "store.log", self.port),
            program([str(self._programs / "vmauth"), *front], self._folder / "front.log", self.front_port),
        ):
            yield self

    def ask(self, promql: str) -> dict[frozenset[tuple[str, str]], float]:
        """The answer of PromQL now, by labels."""
        self._get("/internal/force_flush")
        soon_s = int(time.time()) + 1  # it knows whole seconds only, and the samples are of this one
        found = json.loads(self._get(f"/api/v1/query?{urllib.parse.urlencode({'query': promql, 'time': soon_s})}"))
        return {frozenset(row["metric"].items()): float(row["value"][1]) for row in found["data"]["result"]}

    def names(self) -> set[str]:
        """Of all metrics."""
        self._get("/internal/force_flush")
        return set(json.loads(self._get("/api/v1/label/__name__/values"))["data"])

    def _get(self, path: str) -> bytes:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=30) as answer:
            return answer.read()


@pytest.fixture(scope="module")
def victoria(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Victoria]:
    """One for all tests of this module; each has an instance id of its own."""
    with Victoria(tmp_path_factory.mktemp("victoria")).running() as running:
        yield running


@pytest.fixture
def db(tmp_path: Path) -> Iterator[Database]:
    """A database with nothing in it."""
    with contextlib.closing(Database(tmp_path)) as database:
        yield database


def make_certificate(certificate: Path, key: Path) -> None:
    """For 127.0.0.1, signed by itself."""
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    command += ["-days", "2", "-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1"]
    try:
        subprocess.run([*command, "-keyout", key, "-out", certificate], check=True, capture_output=True)
    except FileNotFoundError:
        missing("there is no openssl to make a certificate")


@contextlib.contextmanager
def program(command: Sequence[str], log: Path, port: int) -> Iterator[None]:
    """It runs, and listens on its port."""
    with log.open("wb") as output, subprocess.Popen(command, stdout=output, stderr=output) as process:

        def listens() -> bool:
            assert process.poll() is None, log.read_text()
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
                return True
            return False

        try:
            wait_until(listens, what=lambda: f"{command[0]}: {log.read_text()[-2000:]}")
            yield
        finally:
            process.kill()


@contextlib.contextmanager
def sink(db: Database, **env: str) -> Iterator[Otlp]:
    """Running, and pushing when told."""
    made = otlp.create(db.source(OTLP_PUSH_INTERVAL=HOUR, **env))
    assert isinstance(made, Otlp)
    made.start()
    try:
        yield made
    finally:
        made.stop(5)


def fill(db: Database, skill: str) -> None:
    """Executions of several lengths, with and without org, failures, ratings, a score."""
    for ms in (5.0, 10.0, 145.5, 6000.0):
        db.execute(skill, 2, ms=ms, org="o1", user="u1")
    db.execute(skill, 3, success=False, ms=49.5, error_type="KeyError")
    for rating in (1, 5, 5):
        db.rate(skill, rating)
    db.health(skill, 87.5)


def test_grafana_cloud_shaped_receiver_holds_the_totals_of_sql(
    victoria: Victoria, db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Behind TLS and Basic credentials, over a restart, under the names that PromQL users know."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_CERTIFICATE", str(victoria.certificate))
    settings = {"OTLP_ENDPOINT": victoria.endpoint, "OTLP_INSTANCE_ID": "42", "OTLP_TOKEN": TOKEN}
    for _ in range(2):
        fill(db, "held")
        with sink(db, **settings) as running:
            assert running.push(), running.status()["problem"]

    for family, column in (("executions", "executions"), ("success", "successes")):
        in_sql = {
            (org,): float(total)
            for org, total in query(
                db.path, f"SELECT org_id, sum({column}) FROM pair_total JOIN pair ON pair.id = pair_id GROUP BY org_id"
            )
        }
        found = victoria.ask(f'sum by (org_id) (toolweaver_skill_{family}_total{{skill_id="held"}})')
        assert {(dict(labels).get("org_id"),): total for labels, total in found.items()} == in_sql
    by_skill = frozenset({("skill_id", "held")})
    for promql, expected in (
        ("sum by (skill_id) (toolweaver_skill_failures_total)", 6),
        ("sum by (skill_id) (toolweaver_skill_latency_milliseconds_count)", 22),
        ('sum by (skill_id) (toolweaver_skill_latency_milliseconds_bucket{le="10"})', 8),
        ('sum by (skill_id) (toolweaver_skill_latency_milliseconds_bucket{le="5000"})', 18),
        ("sum by (skill_id) (toolweaver_skill_rating_count)", 6),
        ("sum by (skill_id) (toolweaver_skill_rating_sum)", 22),
        ("max by (skill_id) (toolweaver_skill_health_score)", 87.5),
    ):
        assert victoria.ask(promql)[by_skill] == expected, promql
    assert len(victoria.ask("toolweaver_skill_health_score")) == 1, "a restart made another instance"
    doubled = {name for name in victoria.names() if "total_total" in name or "_ratio" in name}
    assert not doubled
    assert "skillmeter_attempted_events_total" in victoria.names()


def test_a_wrong_token_is_a_401_that_is_shown(
    victoria: Victoria, db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The real answer of a real gateway; the token is not."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_CERTIFICATE", str(victoria.certificate))
    with sink(db, OTLP_ENDPOINT=victoria.endpoint, OTLP_INSTANCE_ID="42", OTLP_TOKEN="wr0ng-token") as running:
        assert not running.push()
        status = running.status()
    assert "HTTP 401" in status["problem"]
    assert "wr0ng" not in str(status)
    assert set(status["metrics"]["failures_by_kind"]) == {"unauthorized"}


def test_a_certificate_that_nobody_vouches_for_is_refused(
    victoria: Victoria, db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Even if the environment names a bundle that has it, for other programs."""
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(victoria.certificate))
    with sink(db, OTLP_ENDPOINT=victoria.endpoint, OTLP_INSTANCE_ID="42", OTLP_TOKEN=TOKEN) as running:
        assert not running.push()
        assert set(running.status()["metrics"]["failures_by_kind"]) == {"tls"}
    with pytest.raises((ssl.SSLError, urllib.error.URLError)):
        urllib.request.urlopen(victoria.endpoint, timeout=10)


def test_a_second_decoder_reads_metrics_and_log_records(db: Database, tmp_path: Path) -> None:
    """Rotel decodes what comes and encodes it anew; that arrives complete, each event once."""
    agent = pypi("rotel") / "rotel" / "rotel-agent"
    fill(db, "forwarded")
    port, grpc_port = free_port(), free_port()
    with Receiver() as receiver:
        command = [
            *(str(agent), "start", "--pid-file", str(tmp_path / "pid"), "--batch-timeout", "100ms"),
            *("--otlp-http-endpoint", f"127.0.0.1:{port}", "--otlp-grpc-endpoint", f"127.0.0.1:{grpc_port}"),
            *("--exporter", "otlp", "--otlp-exporter-protocol", "http", "--otlp-exporter-endpoint", receiver.url),
        ]
        with program(command, tmp_path / "rotel.log", port):
            with sink(db, OTLP_ENDPOINT=f"http://127.0.0.1:{port}", OTLP_LOGS="1") as running:
                assert running.push(), running.status()["problem"]
            stored = Counter(event_id for (event_id,) in query(db.path, "SELECT event_id FROM events"))

            def arrived() -> Counter[str]:
                records = every_record(receiver.logs())
                return Counter(attributes(record.attributes)["skillmeter.event_id"] for record in records)

            wait_until(lambda: arrived().total() >= stored.total())
            assert arrived() == stored
            wait_until(receiver.metrics)
            key = "toolweaver_skill_executions", frozenset({("skill_id", "forwarded"), ("org_id", "o1")})
            wait_until(lambda: key in series(receiver.metrics()))
            assert series(receiver.metrics())[key].as_int == 8
