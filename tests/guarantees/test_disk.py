"""Disk: a spool that is full, missing, read-only or bounded. Nothing raises, everything refused is counted."""

import contextlib
import os
from pathlib import Path

import pytest

from tests.support import DaemonProcess, assert_exactly, ledger, run_client, small_disk, start_client

COUNT = """
import json
def refused():
    return client.get_config_summary()["ledger"]
"""


def test_a_full_disk_refuses_and_counts_and_works_again_when_there_is_room(tmp_path: Path) -> None:
    """ENOSPC where a segment is made: False, no exception, no SIGBUS; and what was accepted arrives."""
    script = (
        COUNT
        + """
ballast = os.path.join(os.path.dirname(os.environ["ANALYTICS_SPOOL_DIR"]), "ballast")
import time
names = iter(range(10**9))
while record(str(next(names))):
    pass
refusals = 1 + sum(not record(str(next(names))) for _ in range(500))
assert refused()["dropped.disk_full"] == refusals, (refused(), refusals)
os.unlink(ballast)
deadline = time.monotonic() + 30
while not record(str(next(names))):
    assert time.monotonic() < deadline
    time.sleep(0.02)
assert sum(record(str(next(names))) for _ in range(1000)) == 1000
"""
    )
    with small_disk(tmp_path / "disk", "4m") as disk:
        (disk / "ballast").write_bytes(b"x" * (2 * 1024 * 1024))
        env = {"ANALYTICS_SPOOL_DIR": str(disk / "spool")}
        with DaemonProcess(tmp_path, env=env, started=False) as daemon:
            recorded = run_client(script, daemon.env, code=None)
            daemon.spool_dir = disk / "spool"
            daemon.start()
            daemon.wait_drained()
            assert len(recorded) > 1000, "the script failed"
            assert_exactly(recorded, daemon.db_path)
            assert ledger(daemon.db_path)["dropped.disk_full"] >= 501


def test_a_disk_too_full_for_any_journal_is_counted_until_there_is_room(tmp_path: Path) -> None:
    """Not even the head can be made: one warning, counted; when there is room, the count is in the ledger."""
    script = (
        COUNT
        + """
import time
ballast = os.path.join(os.path.dirname(os.environ["ANALYTICS_SPOOL_DIR"]), "ballast")
assert not any(record(f"refused-{n}") for n in range(100))
assert refused()["dropped.disk_full"] == 100, refused()
os.unlink(ballast)
deadline = time.monotonic() + 30
more = 0
while not record("kept"):
    more += 1
    assert time.monotonic() < deadline
    time.sleep(0.02)
assert refused()["dropped.disk_full"] == 100 + more, refused()
"""
    )
    with small_disk(tmp_path / "disk", "1m") as disk:
        (disk / "spool").mkdir(mode=0o700)
        with contextlib.suppress(OSError), (disk / "ballast").open("wb") as ballast:
            while True:
                ballast.write(b"x" * 4096)
                ballast.flush()
        env = {"ANALYTICS_SPOOL_DIR": str(disk / "spool")}
        with DaemonProcess(tmp_path, env=env, started=False) as daemon:
            recorded = run_client(script, daemon.env, code=None)
            assert recorded == ["kept"]
            daemon.spool_dir = disk / "spool"
            daemon.start()
            daemon.wait_drained()
            assert_exactly(recorded, daemon.db_path)
            assert ledger(daemon.db_path)["dropped.disk_full"] >= 100


def test_at_the_bound_the_newest_are_dropped_and_counted(tmp_path: Path) -> None:
    """With nobody to take them: stored + dropped = attempted, and what is kept are the oldest."""
    script = "for number in range(60_000): record(str(number))"
    with DaemonProcess(tmp_path, started=False, env={"ANALYTICS_SPOOL_MAX_BYTES": "1500KiB"}) as daemon:
        recorded = run_client(script, daemon.env, code=None)
        size = sum(path.stat().st_size for path in daemon.spool_dir.iterdir())
        assert 0 < len(recorded) < 60_000
        assert recorded == [str(number) for number in range(len(recorded))]
        assert size <= 1500 * 1024
        daemon.start()
        daemon.wait_drained()
        assert_exactly(recorded, daemon.db_path)
        counts = ledger(daemon.db_path)
        assert counts["attempted"] == 60_000
        assert counts["dropped.spool_full"] == 60_000 - len(recorded)


@pytest.mark.parametrize("obstacle", ["a file", "read-only", "not permitted"])
def test_a_spool_that_cannot_be_used_is_warned_of_once_and_counted(tmp_path: Path, obstacle: str) -> None:
    """No exception, one warning, and every event counted; as a user whom permissions bind."""
    spool = tmp_path / "spool"
    if obstacle == "a file":
        spool.write_text("not a folder")
    else:
        spool.mkdir(mode=0o555 if obstacle == "read-only" else 0o000)
    os.chmod(tmp_path, 0o755)
    # Before it becomes nobody, it imports what nobody may not be able to read.
    become = "import os, logging\nclient.health_check()\nif os.getuid() == 0: os.setgid(65534); os.setuid(65534)\n"
    script = (
        COUNT
        + become
        + """
results = [client.record_skill_execution("s", True, 1.0, str(n)) for n in range(100)]
assert not any(results)
assert refused() == {"attempted": 100, "dropped.spool_unavailable": 100}, refused()
print("counted")
"""
    )
    with DaemonProcess(tmp_path, started=False) as daemon:
        os.chmod(daemon.runtime_dir, 0o755)
        process = start_client(script, daemon.env)
        out, err = process.communicate(timeout=60)
        assert out.decode().split() == ["counted"], err.decode()
        assert err.decode().count("events are dropped") == 1, err.decode()


def test_a_spool_that_is_deleted_under_a_client_stops_nobody(tmp_path: Path) -> None:
    """Record calls go on without an exception; what can be sent arrives once, and the ledger balances."""
    script = """
    import shutil
    for number in range(1000):
        record(f"before-{number}")
    assert client.flush(20)
    shutil.rmtree(os.environ["ANALYTICS_SPOOL_DIR"])
    results = [client.record_skill_execution("s", True, 1.0, f"after-{n}") for n in range(50_000)]
    print(sum(results), client.get_config_summary()["ledger"].get("dropped.spool_unavailable", 0), flush=True)
    """
    with DaemonProcess(tmp_path) as daemon:
        out = run_client(script, daemon.env, code=None)
        kept, dropped = map(int, out[-1].split())
        assert kept + dropped == 50_000
        assert dropped, "more than fits into what was mapped has to be refused"
        assert len(out) == 1001
