"""Kills of the client: whatever ends a process, the calls that returned True are rows, each once."""

from pathlib import Path

import pytest

from tests.support import (
    SCALE,
    DaemonProcess,
    assert_exactly,
    complete_lines,
    ledger,
    recorded_names,
    run_client,
    start_client,
    wait_until,
)

KILLS = 200 * SCALE

ZYGOTE = """
import signal
for number in range(int(sys.argv[1])):
    pid = os.fork()
    if not pid:
        for step in range(number % 3 + 1):
            record(f"{number}-{step}")
        os.kill(os.getpid(), signal.SIGKILL)
    _, status = os.waitpid(pid, 0)
    assert status == signal.SIGKILL, status
"""


def test_a_client_that_is_killed_right_after_the_call_loses_nothing(tmp_path: Path) -> None:
    """Hundreds of processes, each killed as soon as its last call has returned: rows = R, and an empty spool."""
    with DaemonProcess(tmp_path) as daemon:
        recorded = run_client(ZYGOTE, daemon.env, KILLS)
        daemon.wait_drained()
        assert len(recorded) == sum(number % 3 + 1 for number in range(KILLS))
        assert_exactly(recorded, daemon.db_path)


def test_processes_that_never_met_a_daemon_lose_nothing(tmp_path: Path) -> None:
    """The daemon comes when all are dead: it finds their journals."""
    with DaemonProcess(tmp_path, started=False) as daemon:
        recorded = run_client(ZYGOTE, daemon.env, KILLS)
        daemon.start()
        daemon.wait_drained()
        assert_exactly(recorded, daemon.db_path)


@pytest.mark.parametrize("passes", [1, 7])
def test_a_torn_record_is_dropped_and_those_before_it_are_kept(tmp_path: Path, passes: int) -> None:
    """SIGKILL in the middle of an append: the call did not return, and what it had written counts for nothing."""
    with DaemonProcess(tmp_path) as daemon:
        env = {**daemon.env, "SKILLMETER_FAULTS": f"journal.torn_write={passes}"}
        script = "for number in range(100): record(str(number))"
        recorded = run_client(script, env, code=-9)
        assert recorded == [str(number) for number in range(passes - 1)]
        daemon.wait_drained()
        assert_exactly(recorded, daemon.db_path)
        assert ledger(daemon.db_path)["attempted"] == len(recorded)


ROLLING = """
from skillmeter.journal import Journal
Journal.create.__func__.__kwdefaults__.update(head_bytes=8192, segment_bytes=4096)
for number in range(100_000):
    record(f"{sys.argv[1]}-{number}")
    if number % 500 == 499:
        client.flush(5)
"""


@pytest.mark.parametrize(
    "point",
    [
        "journal.created",
        "journal.before_write=50",
        "journal.after_write=50",
        "journal.roll",
        "journal.roll=3",
        "journal.sealed=2",
        "shipper.before_send",
        "shipper.after_send=2",
        "shipper.before_free",
        "shipper.after_free=2",
    ],
)
def test_a_kill_at_any_point_of_the_client_loses_and_doubles_nothing(tmp_path: Path, point: str) -> None:
    """SIGKILL at each named point, with segments of a few dozen events: rows = R, but for the call that was killed."""
    with DaemonProcess(tmp_path) as daemon:
        recorded = run_client(ROLLING, {**daemon.env, "SKILLMETER_FAULTS": point}, "a", code=-9)
        daemon.wait_drained()
        following = f"a-{len(recorded)}"  # its call may have written and not returned
        assert_exactly(recorded, daemon.db_path, perhaps=[following])


@pytest.mark.parametrize(
    ("ending", "code"),
    [
        ("os._exit(0)", 0),
        ("sys.exit(3)", 3),
        ("raise SystemExit", 0),
        ("raise RuntimeError('unhandled')", 1),
        ("os.abort()", -6),
        ("os.kill(os.getpid(), 15)", -15),
        ("import threading; threading.Thread(target=record, args=('thread',)).start()", 0),
    ],
)
def test_every_way_to_end_keeps_what_was_recorded(tmp_path: Path, ending: str, code: int) -> None:
    """Nothing needs a clean exit, and nobody calls close()."""
    with DaemonProcess(tmp_path) as daemon:
        script = f"for number in range(50): record(str(number))\n{ending}"
        recorded = run_client(script, daemon.env, code=code)
        assert len(recorded) >= 50
        daemon.wait_drained()
        assert_exactly(recorded, daemon.db_path)


def test_fsync_waits_for_the_disk_before_it_says_true(tmp_path: Path) -> None:
    """Of a journal as it was at the last sync, every event whose call returned True can be read back."""
    script = """
    from skillmeter import records

    synced = {}
    real = os.fdatasync

    def fdatasync(fd):
        path = os.readlink(f"/proc/self/fd/{fd}")
        real(fd)
        with open(path, "rb") as file:
            synced[path] = file.read()

    os.fdatasync = fdatasync

    def on_disk():
        total = 0
        for path, data in synced.items():
            start = records.HEAD_BYTES if path.endswith(".journal") else records.SEGMENT_HEADER_BYTES
            total += len(records.scan(data[start:], sealed=False).payloads)
        return total

    for number in range(2000):
        assert record(str(number))
        if number % 97 == 0 or number > 1990:
            assert on_disk() == number + 1, (number, on_disk())
    """
    with DaemonProcess(tmp_path, started=False, env={"ANALYTICS_DURABILITY": "fsync"}) as daemon:
        recorded = run_client(script, daemon.env)
        daemon.start()
        daemon.wait_drained()
        assert_exactly(recorded, daemon.db_path)


def test_all_arrives_in_order_when_the_daemon_comes_and_goes(tmp_path: Path) -> None:
    """Absent at first and killed while clients record: everything drains, in the order of each producer."""
    script = """
    import time
    for number in range(2000):
        record(f"{sys.argv[1]}-{number}")
        if number % 100 == 0:
            time.sleep(0.01)
    assert client.flush(50)
    """
    with DaemonProcess(tmp_path, started=False) as daemon:
        clients = [start_client(script, daemon.env, name) for name in "abc"]
        try:
            daemon.start()
            for _ in range(3):
                wait_until(lambda: ledger(daemon.db_path)["stored"] or clients[0].poll() is not None)
                daemon.restart()
            recorded = [line for client in clients for line in complete_lines(client.communicate(timeout=60)[0])]
        finally:
            for client in clients:
                client.kill()
                client.communicate()
        daemon.wait_drained()
        assert len(recorded) == 6000
        assert_exactly(recorded, daemon.db_path)
        stored = recorded_names(daemon.db_path)
        for name in "abc":
            numbers = [int(text[2:]) for text in stored if text.startswith(name)]
            assert numbers == list(range(2000))
