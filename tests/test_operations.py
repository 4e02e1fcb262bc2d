"""The operator's page: an entry for every alert and reason, settings that work as printed, and refusals as they are."""

import os
import re
import sqlite3
import subprocess
import sys
import tomllib
from contextlib import closing
from pathlib import Path
from typing import Any, Final

import pytest

from skillmeter.records import DROP_REASONS
from skillmeter.settings import ClientSettings
from skillmeterd import outcomes
from skillmeterd.config import DaemonSettings
from skillmeterd.migrations import latest

from .support import DaemonProcess, assert_exactly, run_client

ROOT: Final = Path(__file__).parents[1]
TEXT: Final = (ROOT / "docs/operations.md").read_text()
RUNBOOK: Final = TEXT.split("\n## Runbook\n")[1]
ALERTS: Final = (ROOT / "daemon/skillmeterd/assets/prometheus/alerts.yml").read_text()
NAMES: Final = re.findall(r"^ +- alert: (\w+)$", ALERTS, re.MULTILINE)


def test_every_alert_has_an_entry_and_names_it() -> None:
    """In the order of the rules; each annotation is the address of its entry."""
    assert re.findall(r"^### (\w+)$", RUNBOOK, re.MULTILINE) == NAMES
    addresses = re.findall(r"^ +runbook: (\S+)$", ALERTS, re.MULTILINE)
    assert addresses == [f"docs/operations.md#{name.lower()}" for name in NAMES]


@pytest.mark.parametrize("name", NAMES)
def test_an_entry_says_what_it_means_where_to_look_and_what_to_do(name: str) -> None:
    """None is a heading alone."""
    entry = re.split(r"^##", RUNBOOK.split(f"### {name}\n")[1], maxsplit=1, flags=re.MULTILINE)[0]
    assert entry.strip().startswith("*")
    assert "Look" in entry or "| reason |" in entry
    assert re.search(r"\bdo\b|\bDo\b", entry)


def test_every_reason_of_a_drop_is_explained() -> None:
    """Those that clients count, and those that the daemon finds."""
    entry = RUNBOOK.split("### SkillmeterLosingEvents\n")[1].split("\n###")[0]
    explained = {
        reason for line in re.findall(r"^\| (`.*?) \|", entry, re.MULTILINE) for reason in re.findall("`(.*?)`", line)
    }
    found = {reason for outcome, reason in (outcomes.LOST, outcomes.CORRUPT, outcomes.UNFINISHED)}
    assert explained == {*DROP_REASONS, *found}


def test_links_lead_somewhere() -> None:
    """Files are there, and headings too."""
    headings = {re.sub(r"[^\w -]", "", line).lower().replace(" ", "-") for line in re.findall(r"^#+ (.*)$", TEXT, re.M)}
    for target in re.findall(r"\]\(([^)]+)\)", TEXT):
        file, _, anchor = target.partition("#")
        assert (ROOT / "docs" / file).exists(), target
        assert file or anchor in headings, target


def test_the_files_for_remote_clients_are_right(tmp_path: Path) -> None:
    """Each TOML block, with its secret in a file, is read without a mistake by the side that it is for."""
    daemon, client = re.findall(r"```toml\n(.*?)```", TEXT, re.DOTALL)
    made: list[Any] = []
    for kind, text in ((DaemonSettings, daemon), (ClientSettings, client)):
        secret, path = tmp_path / "secret", tmp_path / "settings.toml"
        secret.write_text(tomllib.loads(client)["curve_server_key"])
        path.write_text(re.sub(r'(secret_file = )".*"', rf'\1"{secret}"', text))
        made.append(kind.from_environment({"HOME": str(tmp_path), "ANALYTICS_CONFIG": str(path)}))
    assert len(made[0].curve_client_keys) == 1
    assert made[1].endpoint.startswith("tcp://analytics.example")


def test_an_older_release_refuses_a_newer_schema_in_words(tmp_path: Path) -> None:
    """Exit code 1 and the sentence of the page; the file is as it was, and clients' records wait for the right one."""
    with DaemonProcess(tmp_path) as daemon:
        recorded = run_client("record('before'); assert client.flush(60)", daemon.env)
        assert daemon.stop() == 0
        _set_version(daemon.db_path, latest() + 1)
        before = daemon.db_path.read_bytes()
        env = {**daemon.env, "PATH": os.environ["PATH"]}
        done = subprocess.run(
            [sys.executable, "-m", "skillmeterd", "run"],
            env=env,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert (done.returncode, done.stdout) == (1, "")
        words = (
            re.sub(r"version 5|up to 4", "{}", re.sub(r"\s+", " ", TEXT)).split("*the database has ")[1].split("*")[0]
        )
        assert words.format(f"version {latest() + 1}", f"up to {latest()}") in done.stderr
        assert "Traceback" not in done.stderr
        recorded += run_client("record('after')", daemon.env)
        assert daemon.db_path.read_bytes() == before
        _set_version(daemon.db_path, latest())  # as the newer release would find it
        daemon.start()
        daemon.wait_drained()
        assert_exactly(recorded, daemon.db_path)


def _set_version(path: Path, version: int) -> None:
    with closing(sqlite3.connect(path)) as db:
        db.execute("UPDATE schema_version SET version = ?", (version,))
        db.commit()
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
