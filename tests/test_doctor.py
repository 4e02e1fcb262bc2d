"""`skillmeter doctor` on real daemons, files and sockets: what is wrong is found, and each finding says what to do."""

import contextlib
import json
import os
import socket
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest
import zmq

from skillmeter import wire
from skillmeter.events import REJECT_REASONS
from skillmeter.records import LEDGER
from skillmeterd import doctor
from skillmeterd.config import DaemonSettings
from skillmeterd.doctor.ledger import ADVICE
from skillmeterd.doctor.sinks import fetch

from .journals import event, flip, write_journal
from .otlp_receiver import Answer, Receiver
from .support import DaemonProcess, run_client, skillmeter, start_client, wait_until

NOBODY = 65534


def examined(env: Mapping[str, str], **more: Any) -> dict[str, Any]:
    """What it says to programs."""
    result = skillmeter("doctor", "--json", env=env, **more)
    assert not result.stderr, result.stderr
    answer: dict[str, Any] = json.loads(result.stdout)
    assert result.returncode == (answer["state"] == "fail")
    return answer


def findings(env: Mapping[str, str]) -> dict[str, doctor.Finding]:
    """By check; of several of one check the last."""
    settings, mistakes = DaemonSettings.salvaged(env)
    return {finding.check: finding for finding in doctor.examine(doctor.admit(settings, mistakes, env))}


def troubles(env: Mapping[str, str]) -> dict[str, str]:
    """The state of each check that is not well."""
    return {check: found.state for check, found in findings(env).items() if found.state != "ok"}


def home_env(folder: Path, **env: str) -> dict[str, str]:
    """Everything in its usual places under a home folder."""
    return {**os.environ, "HOME": str(folder), "PROMETHEUS_PORT": "0", **env}


def test_a_healthy_daemon_has_nothing_but_ok(tmp_path: Path) -> None:
    """Exit code 0; a line for each check."""
    env = {"PROMETHEUS_ENABLED": "true", "PROMETHEUS_PORT": "0", "ANALYTICS_BACKEND": "prometheus"}
    with DaemonProcess(tmp_path, env=env) as daemon:
        run_client("record('a'); assert client.flush(20)", daemon.env)
        daemon.wait_drained()
        assert troubles(daemon.env) == {}
        screen = skillmeter("doctor", env=daemon.env)
    assert screen.returncode == 0
    assert "attempted 1 = stored 1" in screen.stdout
    assert " 0 warn, 0 fail" in screen.stdout
    assert str(daemon.db_path) in screen.stdout


def test_the_json_is_stable(tmp_path: Path) -> None:
    """Programs rely on these keys, these states, and these names of checks."""
    with DaemonProcess(tmp_path) as daemon:
        answer = examined(daemon.env)
    assert list(answer) == ["state", "version", "findings"]
    assert all(list(finding) == ["check", "state", "what", "advice"] for finding in answer["findings"])
    assert {finding["state"] for finding in answer["findings"]} <= {"ok", "warn", "fail"}
    checks = {finding["check"] for finding in answer["findings"]}
    assert {"settings.mistake", "socket.file", "daemon.answers", "daemon.commits", "daemon.version"} <= checks
    assert {"folders.runtime", "folders.spool", "folders.database", "folders.files"} <= checks
    assert {"spool.room", "spool.backlog", "database.schema", "database.whole", "database.size"} <= checks
    assert {"ledger.balance", "http.listener", "system.python", "system.clock"} <= checks


def test_every_finding_that_is_not_ok_says_what_to_do(tmp_path: Path) -> None:
    """In one line; whatever is wrong here."""
    with DaemonProcess(tmp_path, started=False) as daemon:
        env = {**daemon.env, "ANALYTICS_BACKEND": "nonsense", "ANALYTICS_DBPATH": "x"}
        answer = examined(env)
    assert len([found for found in answer["findings"] if found["state"] != "ok"]) >= 3
    for found in answer["findings"]:
        assert bool(found["advice"]) == (found["state"] != "ok"), found
        assert "\n" not in found["what"] + found["advice"]


def test_without_a_daemon_it_says_how_to_start_one(tmp_path: Path) -> None:
    """And looks at all the rest; it makes no file and no folder."""
    found = findings(home_env(tmp_path))
    assert found["socket.file"].state == found["daemon.answers"].state == "fail"
    assert "skillmeter run" in found["daemon.answers"].advice
    assert found["database.opens"].state == "warn"
    assert found["folders.spool"].state == "ok"
    assert found["http.listener"].state == "ok"
    assert list(tmp_path.iterdir()) == []


def test_a_socket_that_a_killed_daemon_left(tmp_path: Path) -> None:
    """Is told from one that is served, and from what is no socket at all."""
    with DaemonProcess(tmp_path) as daemon:
        path = daemon.runtime_dir / "skillmeter.sock"
        daemon.kill()
        stale = findings(daemon.env)
        assert "left of a daemon that was killed" in stale["socket.file"].what
        assert "takes the name over" in stale["socket.file"].advice
        path.unlink()
        path.write_text("")
        assert "is no socket" in findings(daemon.env)["socket.file"].what


def test_a_daemon_that_is_stopped_is_named(tmp_path: Path) -> None:
    """It has the socket and does not answer: which process, and whose."""
    with DaemonProcess(tmp_path) as daemon:
        daemon.pause()
        pid, found = daemon.pid, findings(daemon.env)
        daemon.resume()
    assert found["socket.file"].state == "ok"
    assert found["daemon.answers"].state == "fail"
    assert f"process {pid} of" in found["daemon.answers"].what
    assert "kill -CONT" in found["daemon.answers"].advice


def test_a_daemon_that_cannot_commit(tmp_path: Path) -> None:
    """The reason is the daemon's."""
    with DaemonProcess(tmp_path) as daemon:
        other = sqlite3.connect(daemon.db_path, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        run_client("record('b'); assert not client.flush(0.1)", daemon.env)
        wait_until(lambda: not daemon.ask("health")["ready"])
        found = findings(daemon.env)["daemon.commits"]
        other.close()
    assert found.state == "fail"
    assert "database is locked" in found.what


def test_a_daemon_with_other_settings_is_looked_at_where_it_is(tmp_path: Path) -> None:
    """A shell seldom has the service's variables: its database is the one that matters."""
    with DaemonProcess(tmp_path) as daemon:
        run_client("record('a'); assert client.flush(20)", daemon.env)
        found = findings({**daemon.env, "ANALYTICS_DB_PATH": str(tmp_path / "other.db")})
    assert found["settings.daemon"].state == "warn"
    assert str(daemon.db_path) in found["settings.daemon"].what
    assert str(daemon.db_path) in found["database.schema"].what


def test_all_mistakes_in_the_settings_are_told_and_the_rest_is_still_looked_at(tmp_path: Path) -> None:
    """Each is a finding; unknown names too; no secret is in any."""
    file = tmp_path / "skillmeter.toml"
    file.write_text('retention = 9\nhttp_token = "s3cr3t-of-file"\n')
    file.chmod(0o644)
    env = {
        **{"ANALYTICS_CONFIG": str(file), "ANALYTICS_BACKEND": "postgres", "PROMETHEUS_PORT": "many"},
        **{"ANALYTICS_DB_PTH": "x", "OTLP_TOKEN": "s3cr3t-of-env"},
    }
    with DaemonProcess(tmp_path) as daemon:
        result = skillmeter("doctor", "--json", env={**daemon.env, **env})
        answer = json.loads(result.stdout)
    mistakes = [found["what"] for found in answer["findings"] if found["check"] == "settings.mistake"]
    assert len(mistakes) == 4, mistakes
    assert all(name in str(mistakes) for name in ("ANALYTICS_BACKEND", "PROMETHEUS_PORT", "'retention'", "OTLP_TOKEN"))
    by_check = {found["check"]: msgspec.convert(found, doctor.Finding) for found in answer["findings"]}
    assert "did you mean ANALYTICS_DB_PATH?" in by_check["settings.unknown"].what
    assert by_check["settings.secrets"].advice == f"chmod o= {file}"
    assert by_check["daemon.answers"].state == by_check["database.schema"].state == "ok"
    assert result.returncode == 1
    assert "s3cr3t" not in result.stdout + result.stderr


def test_mistakes_in_the_standard_otlp_variables(tmp_path: Path) -> None:
    """The daemon would find them only when it starts."""
    env = {
        "ANALYTICS_BACKEND": "otlp",
        "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9",
        "OTEL_EXPORTER_OTLP_TIMEOUT": "10",
        "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc",
    }
    answer = examined(home_env(tmp_path, **env))
    mistakes = [found["what"] for found in answer["findings"] if found["check"] == "settings.mistake"]
    assert len(mistakes) == 2
    assert "OTEL_EXPORTER_OTLP_PROTOCOL" in mistakes[0]


def test_files_that_others_may_open(tmp_path: Path) -> None:
    """Database, journals and folders, each with the command that closes it."""
    with DaemonProcess(tmp_path) as daemon:
        run_client("record('a'); assert client.flush(20)", daemon.env)
        daemon.wait_drained()
        daemon.db_path.chmod(0o644)
        daemon.spool_dir.chmod(0o777)
        daemon.runtime_dir.chmod(0o770)
        written = write_journal(daemon.spool_dir / "elsewhere", [[event("a")]])
        daemon.pause()  # or it takes the journal over
        journal = daemon.spool_dir / written.head.name
        written.head.rename(journal)
        journal.chmod(0o666)
        found = findings(daemon.env)
        daemon.resume()
    assert found["folders.files"].advice == f"chmod 600 {daemon.db_path}"
    assert (found["folders.spool"].state, found["folders.spool"].advice) == (
        "fail",
        f"chmod o= {daemon.spool_dir}",
    )
    assert found["folders.runtime"].state == "warn"
    assert found["folders.journals"].state == "fail"


def test_a_spool_that_is_shared_as_documented_is_well(tmp_path: Path) -> None:
    """Mode 3730: members make journals for the group; without the sticky bit they could delete those of others."""
    with DaemonProcess(tmp_path) as daemon:
        daemon.spool_dir.chmod(0o3730)
        shared = findings(daemon.env)["folders.spool"]
        daemon.spool_dir.chmod(0o2730)
        loose = findings(daemon.env)["folders.spool"]
    assert shared.state == "ok"
    assert "shared with the group" in shared.what
    assert (loose.state, loose.advice) == ("warn", f"chmod +t {daemon.spool_dir}")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_the_daemon_of_another_user(tmp_path: Path) -> None:
    """Who may neither reach the socket nor read the files is told whose they are."""
    with DaemonProcess(tmp_path) as daemon:
        found = as_nobody(daemon.env)
    assert "belongs to root" in found["socket.file"].what
    assert "run this as root" in found["socket.file"].advice
    assert found["daemon.answers"].state == "fail"
    assert all(finding.advice for finding in found.values() if finding.state != "ok")


def as_nobody(env: Mapping[str, str]) -> dict[str, doctor.Finding]:
    """By check, as a child finds it that gave up being root: another user's Python need not be able to start here."""
    receive, send = os.pipe()
    child = os.fork()
    if child == 0:
        with contextlib.suppress(BaseException):
            os.setgroups([])
            os.setresgid(NOBODY, NOBODY, NOBODY)
            os.setresuid(NOBODY, NOBODY, NOBODY)
            settings, mistakes = DaemonSettings.salvaged(env)
            os.write(send, msgspec.json.encode(list(doctor.examine(doctor.admit(settings, mistakes, env)))))
        os._exit(0)
    os.close(send)
    with open(receive, "rb") as answer:
        found = msgspec.json.decode(answer.read(), type=list[doctor.Finding])
    os.waitpid(child, 0)
    return {finding.check: finding for finding in found}


def test_what_waits_in_the_spool_and_what_does_not_belong_there(tmp_path: Path) -> None:
    """Orphans without a daemon, quarantine, segments without a head, foreign and damaged files."""
    with DaemonProcess(tmp_path, started=False) as daemon:
        write_journal(daemon.spool_dir, [[event("a"), event("b")]])
        headless = write_journal(daemon.spool_dir, [[event("a")], [event("b")]])
        headless.head.unlink()
        damaged = write_journal(daemon.spool_dir, [[event("c")]])
        flip(damaged.head, 20)
        (daemon.spool_dir / "quarantine").mkdir()
        (daemon.spool_dir / "quarantine" / "x.bytes").touch()
        (daemon.spool_dir / "notes.txt").touch()
        found = findings(daemon.env)
    for check in ("orphans", "quarantine", "headless", "foreign", "unreadable"):
        assert found[f"spool.{check}"].state == "warn", check
    assert "1 journals of ended processes with 2 events" in found["spool.orphans"].what
    assert "skillmeter spool drain" in found["spool.orphans"].advice
    assert "notes.txt" in found["spool.foreign"].what


def test_a_process_that_has_used_up_its_room(tmp_path: Path) -> None:
    """Before its events are dropped, if somebody looks."""
    env = {"ANALYTICS_SPOOL_MAX_BYTES": "2MiB"}
    script = """
        while record("x" * 200):
            pass
        print("full", flush=True)
        sys.stdin.read()
    """
    with DaemonProcess(tmp_path, env=env, started=False) as daemon:
        client = start_client(script, daemon.env, stdin=subprocess.PIPE)
        try:
            assert client.stdout is not None
            for line in client.stdout:
                if line == b"full\n":
                    break
            found = findings(daemon.env)
        finally:
            client.communicate()
    assert found["spool.bound"].state == "warn"
    assert f"process {client.pid}" in found["spool.bound"].what
    assert "ANALYTICS_SPOOL_MAX_BYTES" in found["spool.bound"].advice


def test_a_damaged_database(tmp_path: Path) -> None:
    """Whether SQLite notices when it opens the file, or only when it looks at all of it; and one that is none."""
    with DaemonProcess(tmp_path) as daemon:
        run_client("[record(str(n)) for n in range(500)]; assert client.flush(20)", daemon.env)
        daemon.wait_drained()
        daemon.stop()
        content = daemon.db_path.read_bytes()
        daemon.db_path.write_bytes(content[: 8 * 4096] + b"\xff" * (len(content) - 8 * 4096))
        inside = findings(daemon.env)["database.whole"]
        daemon.db_path.write_bytes(b"no database" * 1000)
        outside = findings(daemon.env)["database.whole"]
    assert inside.state == outside.state == "fail"
    assert "skillmeter restore" in inside.advice


def test_a_database_of_another_program_or_a_newer_release(tmp_path: Path) -> None:
    """The daemon would not start."""
    env = home_env(tmp_path, ANALYTICS_DB_PATH=str(tmp_path / "a.db"))
    with contextlib.closing(sqlite3.connect(tmp_path / "a.db")) as db:
        db.execute("CREATE TABLE theirs (x)")
    assert "another program" in findings(env)["database.schema"].what
    (tmp_path / "a.db").unlink()
    with DaemonProcess(tmp_path, env={"ANALYTICS_DB_PATH": str(tmp_path / "a.db")}) as daemon:
        daemon.stop()
        with contextlib.closing(sqlite3.connect(tmp_path / "a.db", isolation_level=None)) as db:
            db.execute("UPDATE schema_version SET version = 999")
        found = findings(env)["database.schema"]
    assert found.state == "fail"
    assert "999" in found.what


def test_what_the_ledger_says_of_events_that_are_not_stored(tmp_path: Path) -> None:
    """A line for each reason; an imbalance is a failure."""
    with DaemonProcess(tmp_path) as daemon:
        run_client("client.record_skill_rating('s', 9); assert client.flush(20)", daemon.env, code=None)
        found = findings(daemon.env)["ledger.rejected.invalid_rating"]
        assert (found.state, found.what.split()[0]) == ("warn", "1")
        daemon.wait_drained()
        daemon.stop()
        with contextlib.closing(sqlite3.connect(daemon.db_path, isolation_level=None)) as db:
            db.execute("UPDATE ledger_total SET events = events + 2 WHERE outcome = 'attempted'")
        found = findings(daemon.env)["ledger.balance"]
    assert found.state == "fail"
    assert "off by 2" in found.what


def test_every_reason_of_the_ledger_has_its_advice() -> None:
    """Also those that come later: this fails then."""
    reasons = {name for name in LEDGER if name != "attempted"} | {f"rejected.{name}" for name in REJECT_REASONS}
    reasons |= {"rejected.malformed", "dropped.lost", "dropped.corrupt", "dropped.unfinished"}
    assert reasons == set(ADVICE)


def test_a_sink_that_fails(tmp_path: Path) -> None:
    """The receiver's answer, what to do, and no character of the token."""
    with Receiver(script=lambda _: Answer(401, body=b"no")) as receiver:
        env = {
            **{"ANALYTICS_BACKEND": "otlp,prometheus", "PROMETHEUS_ENABLED": "true", "PROMETHEUS_PORT": "0"},
            **{"OTLP_ENDPOINT": receiver.url, "OTLP_INSTANCE_ID": "42", "OTLP_TOKEN": "glc_s3cr3t"},
        }
        with DaemonProcess(tmp_path, env=env) as daemon:
            wait_until(lambda: daemon.ask("status")["sinks"]["otlp"]["failures"])
            found = findings(daemon.env)
            screen = skillmeter("doctor", env=daemon.env)
    assert found["sinks.otlp"].state == "fail"
    assert "401" in found["sinks.otlp"].what
    assert found["sinks.prometheus"].state == "ok"
    assert "401" in screen.stdout
    assert "glc_s3cr3t" not in screen.stdout + screen.stderr + repr(found)


def test_a_backend_that_is_not_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The line to install it with."""
    monkeypatch.setitem(sys.modules, "wandb", None)
    found = findings(home_env(tmp_path, ANALYTICS_BACKEND="wandb"))["sinks.wandb"]
    assert (found.state, found.advice) == ("fail", "pip install 'skillmeter[wandb]'")


def test_a_port_that_is_taken(tmp_path: Path) -> None:
    """The daemon would refuse to start: the setting is named."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        found = findings(home_env(tmp_path, PROMETHEUS_PORT=port))["http.listener"]
    assert found.state == "fail"
    assert port in found.what


def test_a_listener_that_never_ends_its_answer() -> None:
    """The doctor's patience has an end, however slowly something comes."""
    ended = threading.Event()

    def trickle(listening: socket.socket) -> None:
        connection, _ = listening.accept()
        with connection, contextlib.suppress(OSError):
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n")
            while not ended.wait(0.02):
                connection.sendall(b"x")

    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=trickle, args=(listening,))
        thread.start()
        with pytest.raises(TimeoutError):
            fetch(f"http://127.0.0.1:{listening.getsockname()[1]}", "/healthz", 0.3)
        ended.set()
        thread.join()


def test_a_daemon_that_speaks_another_protocol(tmp_path: Path) -> None:
    """It listens and refuses: its words, and what to do."""
    with DaemonProcess(tmp_path, started=False) as daemon, contextlib.ExitStack() as stack:
        context = stack.enter_context(zmq.Context())
        router = stack.enter_context(context.socket(zmq.ROUTER))
        router.bind(daemon.endpoint)

        def refuse() -> None:
            identity, *_ = router.recv_multipart()
            router.send_multipart([identity, *wire.encode(wire.Refusal("this daemon speaks SKM9"))])

        thread = threading.Thread(target=refuse)
        thread.start()
        found = findings(daemon.env)
        thread.join()
    assert found["socket.file"].state == "ok"
    assert "refuses: this daemon speaks SKM9" in found["daemon.answers"].what
    assert "another protocol" in found["daemon.answers"].advice


def test_credentials_that_go_unencrypted(tmp_path: Path) -> None:
    """Off loopback, without TLS."""
    env = {
        "ANALYTICS_BACKEND": "otlp",
        "OTLP_ENDPOINT": "http://192.0.2.1",
        "OTLP_INSTANCE_ID": "1",
        "OTLP_TOKEN": "t0k",
    }
    assert "unencrypted" in findings(home_env(tmp_path, **env))["sinks.otlp.tls"].what


def test_what_a_group_cannot_look_at_is_a_finding(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that fails does not keep the others from being run."""
    settings, mistakes = DaemonSettings.salvaged({"HOME": str(tmp_path)})
    patient = doctor.Patient(settings, {}, mistakes)

    def fails(_: object) -> Sequence[doctor.Finding]:
        raise sqlite3.OperationalError("disk I/O error")

    monkeypatch.setitem(doctor.examination.GROUPS, "spool", fails)
    found = {finding.check: finding for finding in doctor.examine(patient)}
    assert "disk I/O error" in found["spool.access"].what
    assert "system.clock" in found
