"""Kills of the daemon: at every named point, while clients record and while it takes over orphans."""

import functools
from pathlib import Path

import pytest

from skillmeter.faults import POINTS
from tests.support import (
    DaemonProcess,
    assert_exactly,
    complete_lines,
    run_client,
    start_client,
    wait_until,
)

SERVING = [point for point in POINTS if point.startswith(("receiver.", "store."))]
ADOPTING = [point for point in POINTS if point.startswith("orphans.")]
RECORDING = """
for number in range(int(sys.argv[2])):
    record(f"{sys.argv[1]}-{number}")
assert client.flush(50), "not all was committed"
"""
HASTY = RECORDING.replace("assert client.flush(50)", "assert client.flush(0.5) or True")


@pytest.mark.parametrize("point", [*SERVING, "store.before_commit=3", "store.after_commit=3", "receiver.before_ack=3"])
def test_a_kill_while_serving_loses_and_doubles_nothing(tmp_path: Path, point: str) -> None:
    """Before the commit the batch comes again; after it, it is a duplicate; the client notices nothing."""
    with DaemonProcess(tmp_path, started=False) as daemon:
        victim = daemon.spawn({"SKILLMETER_FAULTS": point})
        client = start_client(RECORDING, daemon.env, "a", 3000)
        try:
            others: list[str] = []
            while "=" in point and victim.poll() is None:  # it needs more groups than one client makes
                others += run_client(HASTY, daemon.env, f"b{len(others)}", 20)
            assert victim.wait(60) == -9, daemon.log()
            daemon.start()
            out, err = client.communicate(timeout=60)
        finally:
            client.kill()
            client.communicate()
        assert client.returncode == 0, err.decode()
        daemon.wait_drained()
        assert_exactly([*complete_lines(out), *others], daemon.db_path)


@pytest.mark.parametrize("point", [*ADOPTING, "store.before_commit", "store.after_commit"])
def test_a_kill_while_taking_over_orphans_loses_and_doubles_nothing(tmp_path: Path, point: str) -> None:
    """Again and again at the same point, then without: no crash loop, rows = R, an empty spool."""
    script = RECORDING.partition("assert")[0]
    with DaemonProcess(tmp_path, started=False) as daemon:
        recorded = [name for n in range(5) for name in run_client(script, daemon.env, f"p{n}", 3000)]
        for _ in range(2):
            victim = daemon.spawn({"SKILLMETER_FAULTS": point})
            wait_until(functools.partial(_is_over, daemon))
            assert victim.poll() in (-9, None)
            daemon.kill()
        daemon.start()
        daemon.wait_drained()
        assert_exactly(recorded, daemon.db_path)


def _is_over(daemon: DaemonProcess) -> bool:
    """Whether the daemon was killed, or has nothing left to take over."""
    assert daemon.process is not None
    return daemon.process.poll() is not None or not daemon.journals()
