"""The systemd units, installed word by word from docs/systemd.md into a real systemd, then killed, hung, attacked."""

import contextlib
import functools
import json
import re
import subprocess
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

from ..support import PRELUDE, WAIT_S, assert_exactly, complete_lines, journals, ledger, query, wait_until
from .host import PYTHON, REPOSITORY, Host

DROP_INS = "/etc/systemd/system/skillmeter.service.d"

UNTIL_STDIN_ENDS = """
    import itertools, select
    numbers = itertools.count()
    while not select.select([0], [], [], 0.001)[0]:
        record(f"{sys.argv[1]}-{next(numbers)}")
    assert client.flush(60)
"""


class Service:
    """The installed service, and all that was recorded with it so far."""

    def __init__(self, host: Host, folder: Path) -> None:
        self.host = host
        self.spool_dir = host.root / "var/spool/skillmeter"
        self.db_path = host.root / "var/lib/skillmeter/analytics.db"
        self.names: list[str] = []
        self._folder = folder

    def record(self, user: str, script: str, *args: str) -> list[str]:
        """Run a script after PRELUDE as a user in there; the names that were accepted."""
        out = self.host.run([PYTHON, "-c", PRELUDE + textwrap.dedent(script), *args], user=user)
        self.names += out.splitlines()
        return out.splitlines()

    @contextlib.contextmanager
    def load(self, name: str) -> Iterator[None]:
        """Alice records all the time in this block, then waits until all is committed; nothing is lost."""
        accepted = self._folder / name
        with accepted.open("wb") as out:
            command = [PYTHON, "-c", PRELUDE + textwrap.dedent(UNTIL_STDIN_ENDS), name]
            process = subprocess.Popen(
                self.host.command(command, "alice"), stdin=subprocess.PIPE, stdout=out, stderr=subprocess.PIPE
            )
        try:
            self.wait_for_more(name)
            yield
            self.wait_for_more(name)
            _, err = process.communicate(timeout=WAIT_S)
        finally:
            process.kill()
            process.wait()
        assert process.returncode == 0, err.decode()
        self.names += complete_lines(accepted.read_bytes())
        self.assert_nothing_lost()

    def wait_for_more(self, name: str) -> None:
        """Wait until more events of this load are in SQLite."""
        before = self.stored(name)
        wait_until(lambda: self.stored(name) > before, what=f"more events of {name}")

    def stored(self, name: str) -> int:
        """How many events of a load are in SQLite."""
        return int(query(self.db_path, "SELECT count(*) FROM events WHERE user_id LIKE ?", (f"{name}-%",))[0][0])

    def assert_nothing_lost(self) -> None:
        """Everything that was ever accepted is in SQLite, once."""
        wait_until(lambda: not journals(self.spool_dir), what="an empty spool")
        wait_until(lambda: not ledger(self.db_path)["pending"], what="a ledger with nothing pending")
        assert_exactly(self.names, self.db_path)

    def show(self, name: str, unit: str = "skillmeter.service") -> str:
        """A property of the unit."""
        return self.host.run(["systemctl", "show", "--property", name, "--value", unit]).strip()

    def log(self) -> str:
        """What the daemon, and systemd about it, have logged."""
        return self.host.run(["journalctl", "--unit=skillmeter", "--output=cat", "--no-pager"])

    def says(self, text: str) -> bool:
        """Whether the log has it."""
        return text in self.log()

    def wait_restarted(self, restarts: int) -> None:
        """Wait until it is up, after so many restarts by systemd."""
        wait_until(
            lambda: self.show("NRestarts") == str(restarts) and self.show("ActiveState") == "active",
            what=lambda: f"restart {restarts}: {self.log()[-2000:]}",
        )

    @contextlib.contextmanager
    def drop_in(self, *texts: str) -> Iterator[None]:
        """The service runs with these drop-ins in the block, then again without."""
        for number, text in enumerate(texts):
            self.host.write(f"{DROP_INS}/{number}.conf", text)
        try:
            self.host.sh("systemctl daemon-reload\nsystemctl restart skillmeter")
            yield
        finally:
            self.host.sh(f"rm -r {DROP_INS}\nsystemctl daemon-reload\nsystemctl restart skillmeter")


def documented(heading: str) -> list[str]:
    """The command blocks below a heading of the documentation."""
    text = (REPOSITORY / "docs/systemd.md").read_text()
    section = text.split(f"\n## {heading}\n")[1].split("\n## ")[0]
    return re.findall(r"```sh\n(.*?)```", section, re.DOTALL)


def shipped(drop_in: str) -> str:
    """The text of a drop-in that is ready."""
    return (REPOSITORY / "systemd/drop-ins" / drop_in).read_text()


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """Installed as documented, but for the first block: pip's work is done by the environment that the tests run in."""
    folder = tmp_path_factory.mktemp("systemd")
    with Host(folder).booted() as host:
        _pip, install, join = documented("Install")
        host.sh(f"{{ {install} }} || {{ journalctl --no-pager --unit=skillmeter; exit 1; }}")
        host.sh(join)
        host.sh("usermod -aG skillmeter bob")
        yield Service(host, folder)


def test_it_is_started_and_says_so(service):
    """Enabled, up, and `serving` in its status; the folders have the modes that the documentation gives."""
    assert service.host.sh("systemctl is-active skillmeter.socket skillmeter.service") == "active\nactive\n"
    assert service.host.sh("systemctl is-enabled skillmeter.socket skillmeter.service") == "enabled\nenabled\n"
    assert service.show("StatusText").startswith("serving")
    modes = service.host.sh("stat -c '%a %U %G' /run/skillmeter /run/skillmeter/skillmeter.sock /var/spool/skillmeter")
    assert modes == "2750 skillmeter skillmeter\n660 skillmeter skillmeter\n3730 skillmeter skillmeter\n"
    assert service.host.sh("stat -c '%a %U' /var/lib/skillmeter /var/lib/skillmeter/analytics.db") == (
        "750 skillmeter\n600 skillmeter\n"
    )


def test_a_start_may_take_its_time(service):
    """To bring a large database up to date takes what it takes: ended, it would begin anew. Later a hang is ended."""
    assert service.show("TimeoutStartUSec") == "infinity"
    assert service.show("WatchdogUSec") == "1min"


def test_systemd_finds_no_fault_in_the_units(service):
    """`systemd-analyze verify`, for which an unknown key is a fault, for every unit and with every drop-in."""
    service.host.sh(f"install -D -m 644 -t {DROP_INS} systemd/drop-ins/*.conf")
    try:
        said = service.host.sh(
            "systemd-analyze verify --man=no --recursive-errors=yes systemd/*.service systemd/*.socket"
        )
        installed = "skillmeter.service skillmeter.socket"
        said += service.host.sh(f"systemd-analyze verify --man=no --recursive-errors=yes {installed}")
    finally:
        service.host.sh(f"rm -r {DROP_INS}")
    assert said == ""


def test_a_member_of_the_group_records(service):
    """Another user than the daemon's, by the group alone, with no setting."""
    names = service.record("alice", "[record(f'member-{n}') for n in range(100)]; assert client.flush(60)")
    assert len(names) == 100
    service.assert_nothing_lost()


def test_who_is_outside_the_group_is_denied(service):
    """Record calls return False, the socket refuses, and neither spool nor database can be looked into."""
    outcome = service.host.run([PYTHON, "-c", OUTSIDER], user="mallory")
    assert json.loads(outcome.splitlines()[-1]) == {
        "recorded": False,
        "healthy": False,
        "connect": "EACCES",
        "list_spool": "EACCES",
        "write_spool": "EACCES",
        "read_database": "EACCES",
    }


OUTSIDER = """
import errno, json, os, socket
from skillmeter import create_analytics_client
def outcome(call, *args):
    try:
        call(*args)
    except OSError as error:
        return errno.errorcode[error.errno]
    return "allowed"
client = create_analytics_client()
print(json.dumps({
    "recorded": client.record_skill_execution("s", True, 1.0, "outsider"),
    "healthy": client.health_check(),
    "connect": outcome(socket.socket(socket.AF_UNIX).connect, "/run/skillmeter/skillmeter.sock"),
    "list_spool": outcome(os.listdir, "/var/spool/skillmeter"),
    "write_spool": outcome(open, "/var/spool/skillmeter/x", "w"),
    "read_database": outcome(open, "/var/lib/skillmeter/analytics.db"),
}))
"""


def test_members_are_kept_apart_in_the_spool(service):
    """A member can neither list the spool, nor delete another one's journal, nor touch what is the daemon's."""
    with service.load("apart"):
        name = wait_until(lambda: next((name for name in journals(service.spool_dir) if name.endswith("nal")), None))
        for script, why in (
            ("ls /var/spool/skillmeter", "Permission denied"),
            (f"rm -f /var/spool/skillmeter/{name}", "Operation not permitted"),
            ("rm -rf /var/spool/skillmeter/quarantine", "Operation not permitted"),
            ("echo 1 > /var/spool/skillmeter/daemon.lock", "Permission denied"),
            ("cat /var/lib/skillmeter/analytics.db", "Permission denied"),
        ):
            assert why in service.host.run(["sh", "-c", f"! {script}"], user="bob"), script


def test_killed_it_is_started_again_and_nothing_is_lost(service):
    """SIGKILL under load, three times."""
    restarts = int(service.show("NRestarts"))
    with service.load("killed"):
        for kill in range(1, 4):
            service.host.sh("systemctl kill --signal=KILL skillmeter.service")
            service.wait_restarted(restarts + kill)
            service.wait_for_more("killed")


def test_restarted_under_load_it_refuses_nobody(service):
    """The socket is the same one all the time, a connection while the daemon is away waits, and starts it."""
    inode = service.host.sh("stat -c %i /run/skillmeter/skillmeter.sock")
    with service.load("restarted"):
        for _ in range(3):
            service.host.sh("systemctl restart skillmeter.service")
            service.wait_for_more("restarted")
        service.host.sh("systemctl stop skillmeter.service")
        service.wait_for_more("restarted")
    assert service.host.sh("stat -c %i /run/skillmeter/skillmeter.sock") == inode


def test_stopped_it_ends_well_and_takes_up_what_was_recorded_meanwhile(service):
    """With its socket stopped nothing listens; records go to the spool, and are committed after the next start."""
    service.host.sh("systemctl stop skillmeter.socket skillmeter.service")
    assert service.show("Result") == "success"
    assert service.show("ExecMainStatus") == "0"
    assert len(service.record("alice", "[record(f'away-{n}') for n in range(100)]")) == 100
    assert journals(service.spool_dir)
    service.host.sh("systemctl start skillmeter.socket skillmeter.service")
    service.assert_nothing_lost()


def test_hung_it_is_ended_by_the_watchdog(service):
    """SIGSTOP under load: the beats stop, systemd ends it, the log holds where it was, and the next one goes on."""
    with service.drop_in("[Service]\nWatchdogSec=2\n"), service.load("hung"):
        restarts = int(service.show("NRestarts"))
        service.host.sh("systemctl kill --signal=STOP skillmeter.service")
        service.wait_restarted(restarts + 1)
        assert "Watchdog timeout" in service.log()
        assert re.search(r'File ".*/skillmeterd/server.py", line [0-9]+ in _loop', service.log())


def test_reload_takes_the_level_of_the_log_over(service):
    """The same process then says more; a mistake is named and changes nothing."""
    pid = service.show("MainPID")
    settings = "/etc/skillmeter/skillmeter.toml"
    try:
        for text, said in (
            ('log_levl = "debug"', "did you mean 'log_level'"),
            ("db_retention_days = 7", "settings=ANALYTICS_DB_RETENTION_DAYS"),
            ('log_level = "debug"', "log_level=debug"),
        ):
            service.host.write(settings, text + "\n")
            service.host.sh("systemctl reload skillmeter")
            wait_until(functools.partial(service.says, said), what=f"{said} in the log")
            wait_until(lambda: service.show("ActiveState") == "active", what="the end of the reload")
    finally:
        service.host.sh(f"install -m 644 systemd/skillmeter.toml {settings}\nsystemctl reload skillmeter")
    assert service.show("MainPID") == pid


def test_it_recovers_when_a_mistake_in_the_settings_is_put_right(service):
    """Started again and again, with clients that wait at its socket, until the settings are right."""
    settings = "/etc/skillmeter/skillmeter.toml"
    restarts = 0
    with service.load("mistaken"):
        service.host.write(settings, 'log_levl = "info"\n')
        service.host.sh("systemctl restart skillmeter", code=1)
        wait_until(lambda: int(service.show("NRestarts")) > restarts)
        assert service.show("ActiveState", "skillmeter.socket") == "active"
        service.host.sh(f"install -m 644 systemd/skillmeter.toml {settings}")
        wait_until(lambda: service.show("ActiveState") == "active")


@pytest.mark.parametrize(("drop_in", "threshold"), [("", 10), (shipped("hardened.conf"), 5)], ids=["main", "hardened"])
def test_the_confinement_scores_and_serves(service, drop_in, threshold):
    """Exposure by systemd's own rules, at most 1.0 as shipped and 0.5 hardened (in tenths); members still record."""
    with service.drop_in(drop_in):
        service.host.sh(f"systemd-analyze security --no-pager --threshold={threshold} skillmeter.service")
        names = service.record("alice", "record(sys.argv[1]); assert client.flush(60)", f"confined-{threshold}")
        assert len(names) == 1
        service.assert_nothing_lost()


def test_the_confinement_holds(service):
    """A program with the unit's confinement instead of the daemon tries what an intruder would, and is refused."""
    host = service.host
    host.write("/opt/probe.py", PROBE)
    unit = (REPOSITORY / "systemd/skillmeter.service").read_text()
    host.write("/etc/systemd/system/probe.service", re.sub(r"^ExecStart=.*", "", unit, flags=re.MULTILINE))
    host.write("/etc/systemd/system/probe.service.d/probe.conf", PROBE_UNIT)
    host.sh("ip address add 192.0.2.1/24 dev lo\nmkdir -p /root/.ssh\nsystemctl daemon-reload")
    host.sh("systemctl start probe || { journalctl --no-pager --unit=probe; exit 1; }")
    found = json.loads((host.root / "var/lib/skillmeter/probe.json").read_text())
    assert found == {
        "read shadow": "EACCES",
        "list root": "EACCES",
        "write etc": "EROFS",
        "write opt": "EROFS",
        "write usr": "EROFS",
        "write spool": "allowed",
        "write state": "allowed",
        "write and execute": "EPERM",
        "become root": "EPERM",
        "set user id bit": "EPERM",
        "mount": "EPERM",
        "new namespace": "EPERM",
        "netlink": "EAFNOSUPPORT",
        "loopback": "allowed",
        "other host": "EPERM",
        "devices": [],
        "processes of others": [],
        "capabilities": 0,
    }


PROBE_UNIT = f"""
[Service]
Type=oneshot
Restart=no
WatchdogSec=0
ExecStart={PYTHON} /opt/probe.py
StandardOutput=truncate:/var/lib/skillmeter/probe.json
"""

PROBE = """
import ctypes, errno, json, mmap, os, re, socket

libc = ctypes.CDLL(None, use_errno=True)

def outcome(call, *args):
    try:
        result = call(*args)
    except OSError as error:
        return errno.errorcode[error.errno]
    if result == -1:
        return errno.errorcode[ctypes.get_errno()]
    return "allowed"

def write(path):
    open(path, "w").close()
    os.unlink(path)

def set_user_id_bit():
    fd = os.open("/var/lib/skillmeter/suid", os.O_CREAT | os.O_WRONLY, 0o600)
    try:
        os.fchmod(fd, 0o4755)
    finally:
        os.close(fd)
        os.unlink("/var/lib/skillmeter/suid")

def send(host):
    with socket.socket(type=socket.SOCK_DGRAM) as client:
        client.sendto(b"x", (host, 9))

status = open("/proc/self/status").read()
mine = {entry for entry in os.listdir("/proc") if entry.isdigit() and os.stat(f"/proc/{entry}").st_uid == os.getuid()}
print(json.dumps({
    "read shadow": outcome(open, "/etc/shadow"),
    "list root": outcome(os.listdir, "/root"),
    "write etc": outcome(write, "/etc/x"),
    "write opt": outcome(write, "/opt/x"),
    "write usr": outcome(write, "/usr/x"),
    "write spool": outcome(write, "/var/spool/skillmeter/x"),
    "write state": outcome(write, "/var/lib/skillmeter/x"),
    "write and execute": outcome(mmap.mmap, -1, 4096, mmap.MAP_PRIVATE, mmap.PROT_WRITE | mmap.PROT_EXEC),
    "become root": outcome(os.setuid, 0),
    "set user id bit": outcome(set_user_id_bit),
    "mount": outcome(libc.mount, b"none", b"/tmp", b"tmpfs", 0, None),
    "new namespace": outcome(libc.unshare, 0x10000000),
    "netlink": outcome(socket.socket, socket.AF_NETLINK, socket.SOCK_RAW),
    "loopback": outcome(send, "127.0.0.1"),
    "other host": outcome(send, "192.0.2.1"),
    "devices": [name for name in os.listdir("/dev") if re.match("sd|vd|nvme|loop|mem|kmsg|fuse", name)],
    "processes of others": [entry for entry in os.listdir("/proc") if entry.isdigit() and entry not in mine],
    "capabilities": int(re.search("CapBnd:\\\\s*(\\\\w+)", status)[1], 16),
}))
"""


def test_tokens_are_handed_over_as_credentials(service):
    """From a file that root alone can read; the token itself is neither in the environment nor in the log."""
    service.host.sh("umask 077; echo s3cr3t-t0ken >/etc/skillmeter/http_token")
    with service.drop_in(shipped("credentials.conf")):
        assert service.show("ActiveState") == "active"
        pid = service.show("MainPID")
        environment = service.host.sh(f"tr '\\0' '\\n' </proc/{pid}/environ")
        assert "ANALYTICS_HTTP_TOKEN_FILE=/run/credentials/skillmeter.service/http_token" in environment
        assert "s3cr3t" not in environment + service.log()
        service.host.run(["cat", "/run/credentials/skillmeter.service/http_token"], user="bob", code=1)
        service.host.run(["cat", "/etc/skillmeter/http_token"], user="bob", code=1)


def test_clients_of_other_machines_come_in_with_their_keys(service):
    """As the operator's page has it: the key as a credential, no socket unit, an address beyond loopback."""
    text = (REPOSITORY / "docs/operations.md").read_text()
    (prepare,) = [block for block in re.findall(r"```sh\n(.*?)```", text, re.DOTALL) if "remote.conf" in block]
    said = service.host.sh(f"ip address replace 192.0.2.1/24 dev lo\n{prepare}")
    public = said.split("The public key is")[1].split()[0]
    keys = service.host.run(
        ["/opt/skillmeter/bin/skillmeter", "keys", "new", "--client", "/tmp/alice.key"], user="alice"
    )
    allowed = keys.split("The public key is")[1].split()[0]
    settings = f'endpoint = "tcp://192.0.2.1:5557"\ncurve_client_keys = ["{allowed}"]\n'
    service.host.write("/etc/skillmeter/skillmeter.toml", settings)
    there = {
        "ANALYTICS_ENDPOINT": "tcp://192.0.2.1:5557",
        "ANALYTICS_CURVE_SERVER_KEY": public,
        "ANALYTICS_CURVE_CLIENT_SECRET_FILE": "/tmp/alice.key",
    }
    script = PRELUDE + "[record(f'remote-{n}') for n in range(100)]\nassert client.flush(60) and client.health_check()"
    try:
        service.host.sh("systemctl restart skillmeter || { journalctl --no-pager --unit=skillmeter; exit 1; }")
        assert service.show("ActiveState", "skillmeter.socket") == "inactive"
        command = ["env", *(f"{name}={value}" for name, value in there.items()), PYTHON, "-c", script]
        names = service.host.run(command, user="alice").splitlines()
        pid = service.show("MainPID")
        secret = (service.host.root / "etc/skillmeter/daemon.key").read_text().strip()
        assert secret not in service.host.sh(f"tr '\\0' '\\n' </proc/{pid}/environ") + service.log()
    finally:
        service.host.sh(f"rm -r {DROP_INS}\ninstall -m 644 systemd/skillmeter.toml /etc/skillmeter/skillmeter.toml")
        service.host.sh("install -m 644 -t /etc/systemd/system systemd/skillmeter.socket\nsystemctl daemon-reload")
        service.host.sh("systemctl stop skillmeter\nsystemctl enable --now skillmeter.socket skillmeter.service")
    assert len(names) == 100
    service.names += names
    service.assert_nothing_lost()


def test_a_backup_is_made_while_it_records(service):
    """The timer's service leaves a copy that holds every event committed before, and that nobody else can read."""
    (install,) = documented("Backup by timer")
    service.host.sh(install)
    with service.load("backup"):
        stored = service.stored("backup")
        service.host.sh("systemctl start skillmeter-backup.service")
        (copy,) = (service.host.root / "var/lib/skillmeter-backups").iterdir()
        assert copy.stat().st_mode & 0o777 == 0o600
        assert query(copy, "SELECT count(*) FROM events WHERE user_id LIKE 'backup-%'")[0][0] >= stored


def test_a_copy_is_put_back(service):
    """As the rollback has it, but for pip's work: what was there is kept, and the daemon goes on with the copy."""
    back_up, roll_back = (re.sub(r".*bin/pip .*\n", "", block) for block in documented("Upgrade and rollback"))
    service.host.sh(back_up)
    script = PRELUDE + "record('since'); assert client.flush(60)"
    service.host.run([PYTHON, "-c", script], user="alice")
    service.host.sh(roll_back)
    assert service.show("ActiveState") == "active"
    assert service.host.sh("stat --format='%U %G %a' /var/lib/skillmeter/analytics.db") == "skillmeter skillmeter 600\n"
    service.record("alice", "[record(f'after-{n}') for n in range(10)]; assert client.flush(60)")
    service.assert_nothing_lost()
    kept = service.db_path.with_name("analytics.db.before-restore-1")
    assert query(kept, "SELECT count(*) FROM events WHERE user_id = 'since'") == [(1,)]


def test_uninstalled_it_leaves_the_record_alone(service):
    """As documented: the units are gone, the database stays."""
    (uninstall,) = documented("Uninstall")
    service.host.sh(uninstall.replace("rm -r /opt/skillmeter\n", ""))
    assert service.show("LoadState") == "not-found"
    assert_exactly(service.names, service.db_path)
