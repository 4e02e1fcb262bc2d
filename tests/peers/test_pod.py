"""The daemon, run as the rendered manifest says: its command, environment, users, groups and folders."""

from collections.abc import Iterator
from typing import Final

import pytest

from ..support import assert_exactly, free_port, journals, ledger, wait_until
from .charts import pod_of, render, sidecar_of, values_of
from .pod import Pod, why_not_others


@pytest.fixture(params=["one user", "users of their own"])
def pod(request: pytest.FixtureRequest) -> Iterator[Pod]:
    """The guarded example, its daemon running: all processes under our user, or each under its own."""
    users = request.param != "one user"
    if users and (reason := why_not_others()):
        pytest.skip(reason)
    given = values_of("guarded")
    given["daemon"]["http"] = {"port": free_port()}
    given["daemon"]["otlp"]["endpoint"] = "http://127.0.0.1:9"  # nobody
    with Pod(pod_of(render(given)), users=users) as running:
        running.start_daemon()
        yield running


SERVE: Final = """
for number in range(200):
    record(f"{sys.argv[0]}-{os.getuid()}-{os.getpid()}-{number}")
if not client.flush(30):
    sys.exit("not committed in time")
os.kill(os.getpid(), 9)  # its journal stays for the daemon
"""


def test_the_pod_serves_a_client(pod: Pod) -> None:
    """Applications of two users record through the shared folders; all is committed, adopted, shown, once."""
    sidecar = sidecar_of(pod.spec)
    recorded: list[str] = []
    for user in (20002, 20003):
        app = pod.start_app(SERVE, user)
        out, err = app.communicate(timeout=60)
        assert (app.returncode, err) == (-9, b"")
        recorded += out.decode().splitlines()
    assert len(recorded) == 400
    spool = pod.path(sidecar, "/var/spool/skillmeter")
    wait_until(lambda: not journals(spool), what="the journals of the dead to be adopted and deleted")
    assert pod.get("/readyz")[0] == 200
    status, metrics = pod.get("/metrics")
    assert status == 200
    assert 'toolweaver_skill_executions_total{skill_id="parse_json"} 400' in metrics.replace(".0\n", "\n")
    assert [pod.get("/api/v1/ledger", token)[0] for token in (None, "wrong", "token-of-http-token")] == [401, 401, 200]
    pod.daemon.terminate()
    assert pod.daemon.wait(sidecar_drain(pod)) == 0
    db = pod.path(sidecar, "/var/lib/skillmeter/analytics.db")
    assert_exactly(recorded, db)
    assert ledger(db)["stored"] == 400
    assert "token-of-" not in pod.log.read_text()


def sidecar_drain(pod: Pod) -> int:
    """How long the daemon has at the end: what the grace period has more than the application's 60 seconds."""
    return int(pod.spec["terminationGracePeriodSeconds"]) - 60


def test_socket_spool_and_database_are_as_open_as_they_must_be(pod: Pod) -> None:
    """The group reaches the socket and reads the journals; the database is the daemon's alone."""
    sidecar = sidecar_of(pod.spec)
    app = pod.start_app("import time; record('one'); time.sleep(600)", 20002)
    spool = pod.path(sidecar, "/var/spool/skillmeter")
    wait_until(lambda: any(name.endswith(".journal") for name in journals(spool)), what="a journal")
    (head,) = [spool / name for name in journals(spool) if name.endswith(".journal")]
    wait_until(lambda: head.stat().st_mode & 0o777 == 0o640, what="the journal to be open to the group")
    socket = pod.path(sidecar, "/run/skillmeter") / "skillmeter.sock"
    db = pod.path(sidecar, "/var/lib/skillmeter/analytics.db")
    assert (socket.stat().st_mode & 0o777, socket.stat().st_gid) == (0o660, pod.group)
    assert head.stat().st_gid == pod.group
    assert db.stat().st_mode & 0o777 == 0o600
    app.kill()
