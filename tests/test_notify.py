"""Notify, activation and reload: what passes between the daemon and the service manager that started it."""

import os
import signal
import socket
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

from skillmeterd import activation
from skillmeterd.errors import DaemonError
from skillmeterd.notify import STATUS_S, Notifier
from tests.support import WAIT_S, DaemonProcess, assert_exactly, run_client, wait_until


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[socket.socket]:
    """The socket that a service manager hears from its services on."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(str(tmp_path / "notify"))
        listener.settimeout(WAIT_S)
        yield listener


def told(manager: socket.socket) -> list[str]:
    """The lines of the next message."""
    return manager.recv(4096).decode().split("\n")


def environment(manager: socket.socket, **more: str) -> dict[str, str]:
    """What the service manager gives a service, and more."""
    return {"NOTIFY_SOCKET": manager.getsockname(), **more}


def test_each_message_is_what_sd_notify_documents(manager):
    """READY, WATCHDOG, RELOADING with the monotonic time, READY again, STOPPING; the status on one line."""
    notifier = Notifier(environment(manager))
    notifier.starting("not yet")
    assert told(manager) == ["STATUS=not yet"]
    notifier.ready("two\nlines")
    assert told(manager) == ["READY=1", "STATUS=two lines"]
    notifier.beat(lambda: "at work")
    assert told(manager) == ["WATCHDOG=1", "STATUS=at work"]
    with notifier.reloading():
        reloading, moment = told(manager)
        assert reloading == "RELOADING=1"
        assert moment.removeprefix("MONOTONIC_USEC=").isdecimal()
    assert told(manager) == ["READY=1"]
    notifier.stopping()
    assert told(manager)[0] == "STOPPING=1"


def test_an_abstract_address_begins_with_a_zero_byte():
    """A manager in an abstract name is found."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind("")  # the kernel chooses a free abstract name
        listener.settimeout(WAIT_S)
        Notifier({"NOTIFY_SOCKET": "@" + listener.getsockname()[1:].decode()}).stopping()
        assert told(listener)[0] == "STOPPING=1"


def test_beats_are_sent_no_more_often_than_is_needed(manager):
    """A loop may turn as fast as it likes: a second beat within the interval is not sent, nor its status made."""
    notifier = Notifier(environment(manager, WATCHDOG_USEC="3600000000"))
    notifier.beat(lambda: "first")
    notifier.beat(lambda: pytest.fail("nobody needs this"))
    notifier.stopping()
    assert [told(manager)[0], told(manager)[0]] == ["WATCHDOG=1", "STOPPING=1"]


@pytest.mark.parametrize(
    ("env", "interval_s"),
    [
        ({"WATCHDOG_USEC": "3000000"}, 1.0),
        ({"WATCHDOG_USEC": "3000000", "WATCHDOG_PID": str(os.getpid())}, 1.0),
        ({"WATCHDOG_USEC": "3000000", "WATCHDOG_PID": "1"}, STATUS_S),
        ({"WATCHDOG_USEC": "3600000000"}, STATUS_S),
        ({"WATCHDOG_USEC": "soon"}, STATUS_S),
        ({}, STATUS_S),
    ],
)
def test_the_interval_leaves_room_for_a_late_beat(env, interval_s):
    """A third of the watchdog's, if it is meant for this process."""
    assert Notifier({"NOTIFY_SOCKET": "/nowhere", **env}).interval_s == interval_s


def test_a_manager_that_is_absent_or_gone_stops_nobody(tmp_path):
    """No address: nothing is sent and no status made. An address where nobody listens: nothing is raised."""
    absent = Notifier({})
    assert not absent.is_heard
    absent.beat(lambda: pytest.fail("nobody hears this"))
    with absent.reloading():
        absent.ready("")
    Notifier({"NOTIFY_SOCKET": str(tmp_path / "gone")}).stopping()


def test_a_daemon_tells_its_life(tmp_path, manager):
    """Its status, READY when it serves, beats from its loop, RELOADING and READY around SIGHUP, STOPPING on SIGTERM."""
    env = environment(manager, WATCHDOG_USEC="150000")
    with DaemonProcess(tmp_path, env=env) as daemon:
        assert told(manager)[0].startswith("STATUS=opening the database")
        assert told(manager)[0] == "READY=1"
        run_client("record('one'); assert client.flush(30)", daemon.env)
        wait_until(lambda: told(manager)[-1].startswith("STATUS=serving; 1 events"))
        os.kill(daemon.pid, signal.SIGHUP)
        wait_until(lambda: told(manager)[0] == "RELOADING=1")
        wait_until(lambda: told(manager)[0] == "READY=1")
        assert daemon.stop() == 0
        wait_until(lambda: told(manager)[0] == "STOPPING=1")


def test_a_reload_takes_the_level_of_the_log_and_names_what_needs_a_restart(tmp_path, manager):
    """The level is taken over, another changed setting is named and left, a file with a mistake changes nothing."""
    config = tmp_path / "settings.toml"
    config.write_text('log_level = "info"\n')

    with DaemonProcess(tmp_path, env=environment(manager, ANALYTICS_CONFIG=str(config))) as daemon:

        def reload(text: str) -> str:
            """What the daemon logs when it reads these settings."""
            before = daemon.log()
            config.write_text(text)
            os.kill(daemon.pid, signal.SIGHUP)
            wait_until(lambda: told(manager)[0] == "RELOADING=1")
            assert told(manager) == ["READY=1"]
            return daemon.log().removeprefix(before)

        assert "settings=ANALYTICS_DB_RETENTION_DAYS\n" in reload('log_level = "info"\ndb_retention_days = 7\n')
        assert "did you mean 'log_level'" in reload('log_levl = "error"\n')
        assert "log_level=debug" in reload('log_level = "debug"\n')
        assert reload('log_level = "error"\ndb_retention_days = 7\n') == ""


ACTIVATE = """
    import os, socket, sys
    path, fds = sys.argv[1], int(sys.argv[2])
    listeners = []
    for number in range(fds):
        listeners.append(socket.socket(socket.AF_UNIX))
        listeners[-1].bind(path + "x" * number)
        listeners[-1].listen(16)
    copies = [os.dup(listener.fileno()) for listener in listeners for _ in range(8)]  # past the numbers they are to get
    for number in range(fds):
        os.dup2(copies[8 * number + 7], 3 + number, inheritable=True)
    os.environ |= {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": str(fds)}
    os.execv(sys.executable, [sys.executable, *sys.argv[3:]])
"""


def test_a_socket_that_was_passed_on_is_served_and_left_behind(tmp_path):
    """Clients reach the daemon over the socket it was given; when it ends the socket's file is still there."""
    with DaemonProcess(tmp_path, started=False) as daemon:
        path = daemon.runtime_dir / "skillmeter.sock"
        daemon.process = subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(ACTIVATE), str(path), "1", "-m", "skillmeterd", "run"],
            env=daemon.env,
        )
        names = run_client("[record(str(n)) for n in range(100)]; assert client.flush(30)", daemon.env)
        inode = path.stat().st_ino
        assert daemon.stop() == 0
        assert path.stat().st_ino == inode
        assert_exactly(names, daemon.db_path)


@pytest.mark.parametrize(
    ("fds", "other", "env", "said"),
    [
        (1, "-", {}, "/else.sock"),
        (2, "", {}, "skillmeter.sockx"),
        (1, "", {"ANALYTICS_ENDPOINT": "tcp://127.0.0.1:9"}, "clients look for tcp://127.0.0.1:9"),
    ],
)
def test_a_wrong_socket_is_refused(tmp_path, fds, other, env, said):
    """A socket with another path than clients look for, or more than one: an error that names them, at the start."""
    with DaemonProcess(tmp_path, env=env, started=False) as daemon:
        path = daemon.runtime_dir / ("else.sock" if other else "skillmeter.sock")
        run = subprocess.run(
            [sys.executable, "-c", textwrap.dedent(ACTIVATE), str(path), str(fds), "-m", "skillmeterd", "run"],
            env=daemon.env,
            capture_output=True,
            text=True,
            timeout=WAIT_S,
            check=False,
        )
        assert run.returncode == 1
        assert said in run.stderr
        assert "ListenStream" in run.stderr


def test_descriptors_for_another_process_are_not_taken(tmp_path):
    """LISTEN_FDS without this process's LISTEN_PID was inherited from a parent, and means nothing."""
    assert activation.inherited(str(tmp_path / "s"), {"LISTEN_FDS": "1", "LISTEN_PID": "1"}) is None
    assert activation.inherited(str(tmp_path / "s"), {}) is None


def test_something_that_is_no_socket_is_refused(tmp_path):
    """A file as descriptor 3 is named for what it is not."""
    script = """
        import os
        from pathlib import Path
        from skillmeterd import activation
        os.dup2(os.open("/dev/null", os.O_RDONLY), 3)
        activation.inherited("/s", {"LISTEN_FDS": "1", "LISTEN_PID": str(os.getpid())})
    """
    run = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True, timeout=WAIT_S, check=False
    )
    assert DaemonError.__name__ in run.stderr
    assert "no listening unix socket" in run.stderr
