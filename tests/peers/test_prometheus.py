"""A real Prometheus scrapes a real daemon: what it answers is what SQLite says, also while the daemon is killed."""

import contextlib
import json
import math
import random
import re
import shutil
import subprocess
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import skillmeterd

from ..dashboards import promql, queries, variable
from ..support import DaemonProcess, free_port, query, run_client, start_client, wait_until
from .programs import debian

RULES = Path(skillmeterd.__file__).parent / "assets" / "prometheus"
KEPT = re.compile("(toolweaver_.*|skillmeter_(attempted_)?events)_(total|bucket|count|sum)")  # over restarts
STRANGE = [
    'quote"',
    "back\\slash",
    "new\nline",
    "{}=,",
    "ünï\u2028 \U0001f600",
    "'; DROP TABLE pair; --",
    "<b>&amp;",
    "\r\t\x1b\x7f",
    "nul\x00byte",
]

CONFIG = """
global: {{scrape_interval: 1s, scrape_timeout: 1s, evaluation_interval: 1s}}
rule_files: ["{rules}/rules.yml", "{rules}/alerts.yml"]
scrape_configs:
  - job_name: skillmeter
    static_configs: [{{targets: ["127.0.0.1:{port}"]}}]
"""

# Twelve skills, each with its share of executions, failures and latencies; some with orgs.
LOAD = """
import random, sys, time
chance, seconds = random.Random(int(sys.argv[1])), float(sys.argv[2])
until = time.monotonic() + seconds
done = 0
while time.monotonic() < until:
    for number in range(12):
        for _ in range(number):
            skill, org = f"skill{number}", ("a", "b", None)[number % 3]
            client.record_skill_execution(skill, chance.random() < 0.8, chance.uniform(1, 900), None, org)
            done += 1
    time.sleep(0.02)
assert client.flush(60)
print(done)
"""
ONCE = """
for number in range(12):
    client.record_skill_execution(f"skill{number}", number % 2 == 0, 5, None, ("a", "b", None)[number % 3])
assert client.flush(60)
"""
EACH = """
import json
for name in json.loads(sys.argv[1]):
    client.record_skill_execution(name, True, 1, None, name)
assert client.flush(60)
"""


def program(name: str) -> str:
    """The path of `prometheus` or `promtool`: this machine's own, or else Debian's."""
    return shutil.which(name) or str(debian("prometheus", "bookworm") / "usr/bin" / name)


class Prometheus:
    """A server on loopback that scrapes one daemon every second, with the shipped rules."""

    def __init__(self, folder: Path, target_port: int) -> None:
        self._folder = folder
        self._port = free_port()
        (folder / "prometheus.yml").write_text(CONFIG.format(rules=RULES, port=target_port))

    @contextlib.contextmanager
    def running(self) -> Iterator["Prometheus"]:
        """Until the end of the block."""
        command = [
            *(program("prometheus"), f"--config.file={self._folder}/prometheus.yml", "--log.level=warn"),
            *(f"--storage.tsdb.path={self._folder}/data", f"--web.listen-address=127.0.0.1:{self._port}"),
        ]
        with (self._folder / "prometheus.log").open("wb") as log:
            process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
            try:
                wait_until(self._is_ready, what=(self._folder / "prometheus.log").read_text)
                yield self
            finally:
                process.kill()
                process.wait()

    def ask(self, promql: str) -> dict[frozenset[tuple[str, str]], float]:
        """The answer of PromQL now, by labels, without those that say who was scraped."""
        result = self.get(f"/api/v1/query?{urllib.parse.urlencode({'query': promql})}")["data"]["result"]
        return {
            frozenset((k, v) for k, v in row["metric"].items() if k not in ("instance", "job", "__name__")): float(
                row["value"][1]
            )
            for row in result
        }

    def one(self, promql: str) -> float:
        """The answer's only value; 0 if there is none."""
        values = self.ask(promql).values()
        assert len(values) <= 1
        return sum(values)

    def get(self, path: str) -> Any:
        """JSON of its API."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self._port}{path}", timeout=30) as answer:
            return json.loads(answer.read())

    def _is_ready(self) -> bool:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self._port}/-/ready", timeout=5) as answer:
                return bool(answer.status == 200)
        except (urllib.error.URLError, ConnectionError):
            return False


@contextlib.contextmanager
def scraped(folder: Path, **settings: str) -> Iterator[tuple[DaemonProcess, Prometheus, str]]:
    """A daemon, the Prometheus that scrapes it, and the address of its metrics."""
    port = free_port()
    env = {"ANALYTICS_BACKEND": "prometheus", "PROMETHEUS_ENABLED": "1", "PROMETHEUS_PORT": str(port), **settings}
    prometheus = Prometheus(folder, port)
    with DaemonProcess(folder, env=env) as daemon, prometheus.running():
        yield daemon, prometheus, f"http://127.0.0.1:{port}/metrics"


def totals(daemon: DaemonProcess) -> dict[frozenset[tuple[str, str]], tuple[int, int, float]]:
    """Executions, successes and the sum of latencies in SQLite, by labels."""
    rows = query(
        daemon.db_path,
        "SELECT skill_id, org_id, count(*), sum(success), sum(latency_ms) FROM events WHERE kind = 'execution'"
        " GROUP BY skill_id, org_id",
    )
    return {
        frozenset({"skill_id": skill, **({} if org is None else {"org_id": org})}.items()): (runs, good, latency)
        for skill, org, runs, good, latency in rows
    }


def wait_for_all(daemon: DaemonProcess, prometheus: Prometheus) -> None:
    """Wait until Prometheus has scraped the newest event, and the rules have seen it."""
    (last,) = query(daemon.db_path, "SELECT max(seq) FROM sqlite_sequence")[0]
    wait_until(lambda: prometheus.one("skillmeter_last_event_id offset 2s") == last, what="the last scrape")


def test_the_three_queries_through_kills_of_the_daemon(tmp_path: Path) -> None:
    """Rates, means and shares are those of the rows in SQLite; no counter goes down while the daemon is killed."""
    with scraped(tmp_path) as (daemon, prometheus, _):
        run_client(ONCE, daemon.env)
        wait_for_all(daemon, prometheus)
        before = totals(daemon)

        chance = random.Random(7)
        clients = [start_client(LOAD, daemon.env, seed, 8) for seed in range(2)]
        try:
            # No more kills once one has ended: on a busy machine the other could not flush between them.
            while all(client.poll() is None for client in clients):
                wait_until(lambda: any(client.poll() is not None for client in clients) or chance.random() < 0.02)
                daemon.restart()
            said = [client.communicate()[0] for client in clients]
        finally:
            for client in clients:
                client.kill()
                client.communicate()
        daemon.wait_drained()
        wait_for_all(daemon, prometheus)
        after = totals(daemon)
        assert sum(runs for runs, _, _ in after.values()) == sum(map(int, said)) + len(before)

        # What was counted since the first scrape saw each series, from rows.
        executed = {key: after[key][0] - before[key][0] for key in after}
        succeeded = {key: after[key][1] - before[key][1] for key in after}
        assert prometheus.ask("toolweaver_skill_executions_total") == {key: runs for key, (runs, _, _) in after.items()}

        top = prometheus.ask("topk(10, rate(toolweaver_skill_executions_total[5m]))")
        assert sorted(top, key=lambda key: -top[key]) == sorted(executed, key=lambda key: -executed[key])[:10]
        # rate() stretches what it saw towards its window's ends: all series alike, but for the one execution before it
        busiest = max(executed, key=lambda key: executed[key])
        shares = {key: rate / top[busiest] for key, rate in top.items()}
        assert shares == pytest.approx({key: executed[key] / executed[busiest] for key in top}, rel=0.01)
        assert executed[busiest] <= top[busiest] * 300 <= 1.5 * executed[busiest]

        means = {key: latency / runs for key, (runs, _, latency) in after.items()}
        assert prometheus.ask("toolweaver_skill_latency_milliseconds") == pytest.approx(means)
        mean = prometheus.one("avg(toolweaver_skill_latency_milliseconds)")
        assert mean == pytest.approx(sum(means.values()) / len(means))

        share = prometheus.ask(
            "100 * (rate(toolweaver_skill_success_total[5m]) / rate(toolweaver_skill_executions_total[5m]))"
        )
        wanted = {key: 100 * succeeded[key] / executed[key] for key in executed if executed[key]}
        assert {key: value for key, value in share.items() if not math.isnan(value)} == pytest.approx(wanted, abs=0.5)
        succeeded_ever = prometheus.ask("toolweaver_skill_success_total")
        assert succeeded_ever == {key: good for key, (_, good, _) in after.items()}

        kept = [name for name in prometheus.get("/api/v1/label/__name__/values")["data"] if KEPT.fullmatch(name)]
        assert len(kept) >= 8
        assert {name: prometheus.ask(f"resets({name}[1h]) > 0") for name in kept} == {name: {} for name in kept}
        assert prometheus.one("changes(skillmeter_start_time_seconds[1h])") > 0
        health = prometheus.get("/api/v1/rules")["data"]["groups"]
        assert {rule["health"] for group in health for rule in group["rules"]} == {"ok"}


# Executions with and without an org, failures, ratings, a health score, and a call that is refused.
ALL_KINDS = """
import itertools, logging, time
logging.disable()
for turn in itertools.count():
    for skill, org in (("parse", "a"), ("parse", None), ("fetch", "b")):
        client.record_skill_execution(skill, turn % 2 == 0, 5, None, org)
    client.record_skill_execution("parse", True, -1)
    client.rate_skill("parse", 4)
    client.update_health_score("fetch", 30)
    time.sleep(0.05)
"""
QUIET = {"Alerts that fire (A)"}


def test_every_expression_of_the_dashboard_answers(tmp_path: Path) -> None:
    """For all skills, orgs and daemons, and for one of each; so do the variables. What is chosen is not left out."""
    with scraped(tmp_path) as (daemon, prometheus, _):
        client = start_client(ALL_KINDS, daemon.env)
        try:
            # The rule needs two scrapes; when it has seen them, and the last one has the ratings too, all is there.
            wait_until(lambda: prometheus.ask('skill:toolweaver_skill_executions:rate5m{skill_id="fetch"} > 0'))
            unanswered = {title for title, expr in queries("prometheus") if not prometheus.ask(promql(expr))}
            chosen = {"skill": ["parse", "fetch"], "org": ["a"], "instance": ["nobody", ".*"]}
            answers = {title: prometheus.ask(promql(expr, chosen)) for title, expr in queries("prometheus")}
        finally:
            client.kill()
            client.communicate()
        assert unanswered == QUIET
        assert {title for title, answer in answers.items() if not answer} == QUIET
        assert not [labels for answer in answers.values() for labels in answer if ("org_id", "b") in labels]
        assert prometheus.get("/api/v1/label/instance/values?match[]=skillmeter_build_info")["data"]
        for name, wanted in (("skill", ["fetch", "parse"]), ("org", ["a", "b"])):
            asked = re.fullmatch(r"label_values\((\w+), (\w+)\)", variable("prometheus", name)["query"]["query"])
            assert asked is not None
            assert prometheus.get(f"/api/v1/label/{asked[2]}/values?match[]={asked[1]}")["data"] == wanted


def test_labels_arrive_literally(tmp_path: Path) -> None:
    """Ids with the format's own characters come out of Prometheus as they went in, each as one series."""
    with scraped(tmp_path) as (daemon, prometheus, _):
        run_client(EACH, daemon.env, json.dumps(STRANGE))
        wait_for_all(daemon, prometheus)
        seen = prometheus.ask("toolweaver_skill_executions_total")
        assert seen == {frozenset({("skill_id", name), ("org_id", name)}): 1 for name in STRANGE}
        assert prometheus.ask("sum(toolweaver_skill_executions_total)") == {frozenset(): len(STRANGE)}


def test_promtool_finds_no_fault_with_the_metrics(tmp_path: Path) -> None:
    """Names and types are as Prometheus wants them, but for milliseconds, which is a name that users have."""
    env = {"ANALYTICS_BACKEND": "prometheus", "PROMETHEUS_ENABLED": "1", "PROMETHEUS_PORT": "0"}
    with DaemonProcess(tmp_path, env=env) as daemon:
        script = "client.rate_skill('s', 5)\nclient.update_health_score('s', 50)\nassert client.flush(60)"
        run_client(ONCE + script, daemon.env)
        with urllib.request.urlopen(f"{daemon.ask('status')['http']}/metrics", timeout=30) as answer:
            page = answer.read()
    said = subprocess.run([program("promtool"), "check", "metrics"], input=page, capture_output=True, check=False)
    complaints = (said.stdout + said.stderr).decode().splitlines()
    assert complaints == ['toolweaver_skill_latency_milliseconds use base unit "seconds" instead of "milliseconds"']


@pytest.mark.parametrize("words", [("check", "rules", "rules.yml", "alerts.yml"), ("test", "rules", "tests.yml")])
def test_promtool_finds_no_fault_with_the_rules(words: tuple[str, ...]) -> None:
    """They are valid, and do what their unit tests say."""
    ran = subprocess.run([program("promtool"), *words], cwd=RULES, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr
