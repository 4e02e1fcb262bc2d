"""The documentation, where a program can tell whether it is true: links, settings, metrics, columns, queries."""

import re
import sqlite3
from pathlib import Path

import pytest

from skillmeterd import shipped
from skillmeterd.cli import COMMANDS
from skillmeterd.config import TABLE, DaemonSettings
from skillmeterd.sinks import Source, own
from skillmeterd.vitals import Vitals

from .otlp_receiver import Database

ROOT = Path(__file__).parents[1]
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "helm" / "README.md",
    *sorted((ROOT / "docs").glob("*.md")),
]
OURS = re.compile("(?<![A-Z_])(ANALYTICS|OTLP|PROMETHEUS|WANDB|GRAFANA)_[A-Z_]+")
OTHERS = {"WANDB_DIR", "WANDB_BASE_URL", "GRAFANA_URL", "GRAFANA_TOKEN"}  # W&B's own, and those of `skillmeter grafana`


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    """To a file that is there, and to a heading that it has."""
    for target, heading in re.findall(r"\]\(([^)#:]*)#?([^)]*)\)", page.read_text()):
        file = page.parent / target if target else page
        assert file.exists(), target
        if heading:
            headings = {_anchor(line) for line in file.read_text().splitlines() if line.startswith("#")}
            assert heading in headings, f"{target}#{heading}"


def _anchor(line: str) -> str:
    return re.sub(r"[^a-z0-9 -]", "", line.lstrip("# ").lower()).replace(" ", "-")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_settings_exist(page: Path) -> None:
    """Every variable of ours that is named is one; a secret's may end in _FILE."""
    known = {row.name for row in TABLE} | {"ANALYTICS_CONFIG"} | OTHERS
    known |= {f"{row.name}_FILE" for row in TABLE if row.secret} | {"GRAFANA_TOKEN_FILE"}
    named = {found.group() for found in OURS.finditer(page.read_text())}
    assert not {name for name in named - known if not name.endswith("_")}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_commands_exist(page: Path) -> None:
    """What follows `skillmeter` on a line of a shell is a command."""
    for block in re.findall(r"```(?:sh|)\n(.*?)```", page.read_text(), re.DOTALL):
        named = set(re.findall(r"^(?:[A-Z_]+=\S+ )*skillmeter ([a-z]+)", block, re.MULTILINE))
        assert named <= set(COMMANDS)


def test_the_page_on_prometheus_has_every_metric_of_the_daemon(tmp_path: Path) -> None:
    """And names none that there is not."""
    db = Database(tmp_path)
    db.execute("s")
    db.close()
    env = {"HOME": str(tmp_path), "ANALYTICS_DB_PATH": str(db.path), "ANALYTICS_SPOOL_DIR": str(tmp_path / "spool")}
    source = Source(DaemonSettings.from_environment(env), Vitals(started_ns=1, last_commit_ns=2))
    families = own.families(source.settings, source.vitals, [], source.totals())
    there = {f"{one.name}_total" if one.kind == "counter" else one.name for one in families}
    text = (ROOT / "docs" / "prometheus.md").read_text()
    rows = re.findall(r"^\| (`.*?) \|", text[text.index("all beginning with") : text.index("## Queries")], re.MULTILINE)
    named = {f"skillmeter_{name.partition('{')[0]}" for row in rows for name in re.findall("`([^`]+)`", row)}
    assert named == there


def test_the_page_on_prometheus_has_every_alert() -> None:
    """By its name."""
    alerts = re.findall(r"alert: (\w+)", shipped.text("alerts.yml"))
    text = (ROOT / "docs" / "prometheus.md").read_text()
    assert [alert for alert in alerts if f"`{alert}`" not in text] == []


def test_the_page_on_sqlite_has_the_public_columns_and_queries_that_run(tmp_path: Path) -> None:
    """Each table's columns, in their order; each query, on a database with an event of each kind."""
    db = Database(tmp_path)
    db.execute("s", user="u", org="o", success=False, error_type="E", attributes={"model": "m"})
    db.rate("s", 4)
    db.health("s", 50)
    db.close()
    text = (ROOT / "docs" / "sqlite.md").read_text()
    reader = sqlite3.connect(f"file:{db.path}?mode=ro", uri=True)
    try:
        tables = re.findall(r"^\| `([a-z_]+)` \|[^|]*\| (.*) \|$", text, re.MULTILINE)
        assert [name for name, _ in tables] == ["events", "skill_usage", "skill_metrics", "ledger", "schema_version"]
        for name, columns in tables:
            listed = re.sub(r"\([^)]*\)", "", columns).replace(
                "`rating_1_count` to `rating_5_count`", ", ".join(f"`rating_{n}_count`" for n in range(1, 6))
            )
            there = [row[1] for row in reader.execute(f"PRAGMA table_info({name})")]
            assert re.findall("`(\\w+)`", listed) == there
        (queries,) = re.findall(r"```sql\n(.*?)```", text, re.DOTALL)
        answers = [reader.execute(query).fetchall() for query in queries.split(";") if query.strip()]
        assert all(answers)
        assert answers[-1] == [(0,)]
    finally:
        reader.close()
