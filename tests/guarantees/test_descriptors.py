"""Descriptors: an application that has none left for a while is not ended by us, and loses nothing."""

from pathlib import Path

import pytest

from tests.support import DaemonProcess, assert_exactly, run_client

EXHAUST = """
import resource, time
from skillmeter.errors import DaemonUnavailable

def used():
    return set(map(int, os.listdir("/proc/self/fd")))

resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
held = []
while len(used()) < 64:
    held.append(os.open("/dev/null", os.O_RDONLY))
for _ in range(int(sys.argv[1])):
    os.close(held.pop())
kept = [client.record_skill_execution("s", True, 1.0, f"few-{n}") for n in range(3)]
for n, one in enumerate(kept):
    if one:
        print(f"few-{n}")
opened = client._producer.opened
if opened is not None:
    opened.shipper.hurry()
try:
    client.get_db_stats()
except DaemonUnavailable as error:
    assert "cannot make a socket" in str(error), error
for fd in held:
    os.close(fd)
while not record("later"):  # refusals are not looked into again for a second
    time.sleep(0.05)
assert client.flush(30), "nothing is shipped any more"
"""


@pytest.mark.parametrize("left", [2, 4, 6, 8, 20])
def test_a_client_without_descriptors_lives_and_ships_when_there_are_some(tmp_path: Path, left: int) -> None:
    """libzmq would abort, and an import that failed would end the shipper for good: whatever number of descriptors is
    left, the process goes on, what was kept arrives without its end, and questions are answered with a clear error."""
    with DaemonProcess(tmp_path) as daemon:
        recorded = run_client(EXHAUST, daemon.env, left, code=None)
        assert "later" in recorded, daemon.log()
        daemon.wait_drained()
        assert_exactly(recorded, daemon.db_path)
