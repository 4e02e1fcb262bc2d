"""`skillmeter status` and `skillmeter spool`, run as a person would."""

import contextlib
import json
import os
import sqlite3
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from tests.journals import event, flip, write_journal
from tests.support import DaemonProcess, assert_exactly, run_client, skillmeter, wait_until


def test_status_shows_the_ledger_and_its_reasons(tmp_path: Path):
    """One screen for people, the same for programs, exit code 0."""
    with DaemonProcess(tmp_path) as daemon:
        run_client("record('a'); client.record_skill_rating('s', 9); assert client.flush(20)", daemon.env, code=None)
        screen = skillmeter("status", env=daemon.env)
        assert screen.returncode == 0, screen.stderr
        assert "attempted 2 = stored 1 + pending 0 + dropped 0 + rejected 1" in screen.stdout
        assert "rejected.invalid_rating" in screen.stdout
        answer = json.loads(skillmeter("status", "--json", env=daemon.env).stdout)
        assert answer["ready"] is True
        assert answer["ledger"]["balance"] == 0


def test_status_without_a_daemon_says_what_to_do(tmp_path: Path):
    """Exit code 3, and one message that names the address and the command."""
    with DaemonProcess(tmp_path, started=False) as daemon:
        result = skillmeter("status", env=daemon.env)
        assert result.returncode == 3
        assert "skillmeter run" in result.stderr
        assert str(daemon.runtime_dir) in result.stderr


def test_spool_lists_what_waits_and_drains_it_without_a_daemon(tmp_path: Path):
    """Journals of ended processes are listed, taken over into the database, and gone."""
    with DaemonProcess(tmp_path, started=False) as daemon:
        recorded = [
            name for n in range(3) for name in run_client(f"[record(f'{n}-{{i}}') for i in range(50)]", daemon.env)
        ]
        listed = json.loads(skillmeter("spool", "ls", "--json", env=daemon.env).stdout)
        assert [row["owner"] for row in listed["journals"]] == ["ended"] * 3
        assert all(row["attempted"] == row["pending"] == 50 for row in listed["journals"])
        assert "ended" in skillmeter("spool", "ls", env=daemon.env).stdout
        drained = skillmeter("spool", "drain", env=daemon.env)
        assert drained.returncode == 0, drained.stderr
        assert "Nothing" in drained.stdout
        assert_exactly(recorded, daemon.db_path)
        assert not daemon.journals()


def test_spool_lists_journals_though_the_quarantine_cannot_be_read(tmp_path: Path):
    """It says why, and exits 1; the doctor, too, tells all else."""
    with DaemonProcess(tmp_path, started=False) as daemon:
        run_client("[record(str(n)) for n in range(50)]", daemon.env)
        quarantine = daemon.spool_dir / "quarantine"
        quarantine.symlink_to(quarantine)
        (daemon.spool_dir / "notes.txt").touch()
        shown = skillmeter("spool", "ls", env=daemon.env)
        assert shown.returncode == 1
        assert "ended" in shown.stdout
        assert "the quarantine cannot be read: [Errno 40] Too many levels of symbolic links" in shown.stderr
        told = skillmeter("spool", "ls", "--json", env=daemon.env)
        assert told.returncode == 1
        listed = json.loads(told.stdout)
        assert [row["pending"] for row in listed["journals"]] == [50]
        assert listed["quarantine"] is None
        examined = skillmeter("doctor", env=daemon.env).stdout
        assert "50 events" in examined
        assert "notes.txt" in examined
        assert str(quarantine) in examined


def test_names_that_are_no_text_are_shown_all_the_same(tmp_path: Path):
    """Whoever may write into the spool can give files any name: nothing reaches the terminal that moves its cursor, and
    JSON stays JSON."""
    with DaemonProcess(tmp_path, started=False) as daemon:
        folder = daemon.spool_dir / "quarantine"
        folder.mkdir(mode=0o700, parents=True)
        for place in (daemon.spool_dir, folder):
            Path(os.fsdecode(bytes(place) + b"/\xff\x1b[31m\n.journal")).touch()
            Path(os.fsdecode(bytes(place) + b"/\xff\x1b[31m\n.txt")).touch()
        for words in (("spool", "ls"), ("spool", "repair"), ("doctor",)):
            shown = skillmeter(*words, env=daemon.env)
            assert "\\udcff\\x1b[31m\\n" in shown.stdout
            assert "\x1b" not in shown.stdout + shown.stderr
            told = skillmeter(*words, "--json", env=daemon.env)
            assert "udcff" in told.stdout, told.stderr
            json.loads(told.stdout)


def test_spool_drain_waits_for_a_daemon_that_runs(tmp_path: Path):
    """It leaves the work to the daemon, and ends when the daemon has done it."""
    with DaemonProcess(tmp_path) as daemon:
        recorded = run_client("[record(str(n)) for n in range(50)]", daemon.env)
        assert skillmeter("spool", "drain", env=daemon.env).returncode == 0
        assert_exactly(recorded, daemon.db_path)


def test_spool_drain_says_what_it_could_not_take(tmp_path: Path):
    """A database that cannot be opened: exit code 1, the reason, and the journals stay."""
    with DaemonProcess(tmp_path, started=False) as daemon:
        run_client("record('a')", daemon.env)
        (tmp_path / "blocked").mkdir()
        result = skillmeter("spool", "drain", "--db-path", str(tmp_path / "blocked"), env=daemon.env)
        assert result.returncode == 1
        assert "blocked" in result.stderr
        assert "Traceback" not in result.stderr
        assert len(daemon.journals()) == 1


def test_spool_drain_gives_up_in_time(tmp_path: Path):
    """A daemon that is stopped takes nothing: exit code 1, and how many are left."""
    with DaemonProcess(tmp_path) as daemon:
        daemon.pause()
        run_client("record('a')", daemon.env)
        result = skillmeter("spool", "drain", "--timeout", "0.5", env=daemon.env)
        assert result.returncode == 1
        assert "1 journals of ended processes are left" in result.stdout
        told = skillmeter("spool", "drain", "--timeout", "0.1", "--json", env=daemon.env)
        assert (told.returncode, json.loads(told.stdout)) == (1, {"left": 1})


def test_spool_repair_shows_first_and_puts_back_on_request(tmp_path: Path):
    """A journal whose header is damaged is set aside, shown, repaired, and then taken over."""
    with DaemonProcess(tmp_path, started=False) as daemon:
        written = write_journal(daemon.spool_dir, [[event("a"), event("b")], [event("c")]])
        flip(written.head, 20)
        assert skillmeter("spool", "drain", env=daemon.env).returncode == 0
        shown = skillmeter("spool", "repair", env=daemon.env)
        assert shown.returncode == 0, shown.stderr
        assert "its header fails its checksum" in shown.stdout
        assert "--apply" in shown.stdout
        assert not daemon.journals()
        applied = json.loads(skillmeter("spool", "repair", "--apply", "--json", env=daemon.env).stdout)
        assert applied["repaired"] == [written.head.name]
        assert skillmeter("spool", "drain", env=daemon.env).returncode == 0
        assert_exactly("abc", daemon.db_path)
        assert json.loads(skillmeter("spool", "repair", "--json", env=daemon.env).stdout)["quarantine"] == []


def test_status_of_a_daemon_that_cannot_commit_exits_1(tmp_path: Path):
    """The reason is on the screen."""
    with DaemonProcess(tmp_path) as daemon:
        run_client("record('a'); assert client.flush(20)", daemon.env)
        with contextlib.closing(sqlite3.connect(daemon.db_path, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            run_client("record('b'); assert not client.flush(0.1)", daemon.env)
            wait_until(lambda: not daemon.ask("health")["ready"])
            screen = skillmeter("status", env=daemon.env)
        assert screen.returncode == 1
        assert "database is locked" in screen.stdout


def test_status_of_a_daemon_that_cannot_see_its_spool(tmp_path: Path):
    """It says so, on the screen and in JSON, shows everything else, and exits 1; so does the API."""
    with DaemonProcess(tmp_path, env={"PROMETHEUS_ENABLED": "true", "PROMETHEUS_PORT": "0"}) as daemon:
        run_client("record('a'); assert client.flush(20)", daemon.env)
        daemon.wait_drained()
        daemon.spool_dir.rename(tmp_path / "moved")
        daemon.spool_dir.touch()
        wait_until(lambda: "cannot look for orphans" in daemon.log())
        screen = skillmeter("status", env=daemon.env)
        assert (screen.returncode, screen.stderr) == (1, "")
        assert "cannot be read: [Errno 20] Not a directory" in screen.stdout
        assert "attempted 1 = stored 1" in screen.stdout
        answer = json.loads(skillmeter("status", "--json", env=daemon.env).stdout)
        assert answer["spool"]["journals"] is None
        assert "Not a directory" in answer["spool"]["problem"]
        assert answer["ledger"]["stored"] == 1
        with urllib.request.urlopen(f"{answer['http']}/api/v1/status", timeout=30) as told:
            assert json.load(told)["spool"] == answer["spool"]
        assert daemon.log().count("cannot look for orphans") == 1


def test_status_of_a_daemon_that_cannot_see_its_quarantine(tmp_path: Path):
    """What was set aside is not known, and why; the journals in the spool are shown all the same. It exits 1."""
    with DaemonProcess(tmp_path) as daemon:
        quarantine = daemon.spool_dir / "quarantine"
        quarantine.symlink_to(quarantine)
        screen = skillmeter("status", env=daemon.env)
        assert (screen.returncode, screen.stderr) == (1, "")
        assert "0 journals" in screen.stdout
        assert "cannot be read: [Errno 40] Too many levels of symbolic links" in screen.stdout
        spool = json.loads(skillmeter("status", "--json", env=daemon.env).stdout)["spool"]
        assert (spool["journals"], spool["bytes"], spool["quarantined"]) == (0, 0, None)
        assert str(quarantine) in spool["problem"]


def test_status_of_a_daemon_whose_database_is_gone(tmp_path: Path):
    """The ledger cannot be read: it says so, shows everything else, and exits 1; the API's ledger is 503."""
    with DaemonProcess(tmp_path, env={"PROMETHEUS_ENABLED": "true", "PROMETHEUS_PORT": "0"}) as daemon:
        daemon.db_path.rename(tmp_path / "moved")
        screen = skillmeter("status", env=daemon.env)
        assert (screen.returncode, screen.stderr) == (1, "")
        assert screen.stdout.count("cannot be read: unable to open database file") == 1
        assert "0 journals" in screen.stdout
        answer = json.loads(skillmeter("status", "--json", env=daemon.env).stdout)
        assert answer["ledger"]["attempted"] is None
        assert "Traceback" not in skillmeter("doctor", env=daemon.env).stderr
        with pytest.raises(urllib.error.HTTPError, match="503"):
            urllib.request.urlopen(f"{answer['http']}/api/v1/ledger", timeout=30)
