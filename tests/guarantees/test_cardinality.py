"""Any number of skills and users: metrics and memory are bounded, what is past the bound is counted, SQL is exact."""

import urllib.request
from pathlib import Path
from typing import Final

from prometheus_client.parser import text_string_to_metric_families

from tests.support import SCALE, DaemonProcess, assert_consistent, query, run_client

MANY: Final = 20_000 * SCALE  # skills, each with a user of its own
BUDGET: Final = 100
MIB: Final = 1024 * 1024

SCRIPT: Final = """
for number in range(int(sys.argv[1])):
    client.record_skill_execution(f"skill-{number}", number % 2 == 0, 5, f"user-{number}")
assert client.flush(60)
"""


def test_distinct_skills_and_users_are_no_danger(tmp_path: Path) -> None:
    """Each metric has its budget of series and one more; their sum, and SQL, have every event."""
    env = {
        "ANALYTICS_BACKEND": "prometheus",
        "ANALYTICS_MAX_SERIES": str(BUDGET),
        "ANALYTICS_SPOOL_MAX_BYTES": "1GiB",
        "PROMETHEUS_ENABLED": "1",
        "PROMETHEUS_PORT": "0",
    }
    with DaemonProcess(tmp_path, env=env) as daemon:
        run_client(SCRIPT, daemon.env, MANY)
        values = samples(daemon)
        for metric in ("toolweaver_skill_executions_total", "toolweaver_skill_latency_milliseconds_count"):
            assert len(values[metric]) == BUDGET + 1
            assert sum(values[metric].values()) == MANY
            assert values[metric]["overflow=true"] == MANY - BUDGET
        assert values["skillmeter_series_over_budget"]["metric=toolweaver_skill_executions"] == MANY - BUDGET
        counted = "SELECT count(DISTINCT skill_id), count(DISTINCT user_id), sum(execution_count) FROM skill_usage"
        assert query(daemon.db_path, counted) == [(MANY, MANY, MANY)]
        daemon.wait_drained()
        assert_consistent(daemon.db_path)
        assert daemon.peak_bytes() < 256 * MIB  # at most 200,000 names are remembered


def samples(daemon: DaemonProcess) -> dict[str, dict[str, float]]:
    """Scrape: the value of each series, by metric and labels."""
    with urllib.request.urlopen(f"{daemon.ask('status')['http']}/metrics", timeout=60) as answer:
        page = answer.read().decode()
    found: dict[str, dict[str, float]] = {}
    for family in text_string_to_metric_families(page):
        for sample in family.samples:
            labels = ",".join(f"{name}={value}" for name, value in sample.labels.items())
            found.setdefault(sample.name, {})[labels] = sample.value
    return found
