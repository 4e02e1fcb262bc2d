"""Host: a real systemd, booted in a container from this machine's own /usr, with users and this skillmeter in it.

It needs root. The container has a process tree, a network, users and folders of its own; what it leaves is removed.
"""

import contextlib
import functools
import os
import platform
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

from ..support import WAIT_S, wait_until
from .programs import debian, missing

REPOSITORY: Final = Path(__file__).parents[2]
USERS: Final = {"alice": 1001, "bob": 1002, "mallory": 1003}
PYTHON: Final = "/opt/skillmeter/bin/python"
HIERARCHIES: Final = ("name=systemd", "pids", "memory", "")  # what systemd looks for itself in; "" is version 2
ENVIRONMENT: Final = {"PATH": "/usr/sbin:/usr/bin", "LANG": "C.UTF-8", "HOME": "/nonexistent", "SYSTEMD_PAGER": ""}

NAMESPACES: Final = ("-m", "-u", "-i", "-n", "-p", "-C", "-r", "-w")  # the root and working folder, too
FOLDERS: Final = "proc sys dev run tmp usr root home etc/systemd/system var/lib var/spool var/log opt/packages"

TARGET: Final = """
[Unit]
Requires=basic.target
After=basic.target
"""
MAIN: Final = f"""#!{PYTHON}
from skillmeter._cli import main
main()
"""


class Host:
    """A booted systemd. `root` is its root folder, seen from outside."""

    def __init__(self, folder: Path) -> None:
        self.root = folder / "root"
        self._log = folder / "boot.log"
        self._pid = 0

    @contextlib.contextmanager
    def booted(self) -> Iterator["Host"]:
        """Boot it, and remove it in the end."""
        nspawn, libraries = _programs()
        binds = _make_root(self.root)
        with _control_groups() as groups, self._log.open("wb") as log:
            join = 'for group in $GROUPS_TO_JOIN; do echo $$ >"$group/cgroup.procs" || exit 1; done; exec "$@"'
            process = subprocess.Popen(
                ["/bin/sh", "-c", join, "sh", str(nspawn), *_options(self.root, binds)],
                env={
                    **ENVIRONMENT,
                    "GROUPS_TO_JOIN": " ".join(map(str, groups)),
                    "SYSTEMD_NSPAWN_UNIFIED_HIERARCHY": "1",
                    "LD_LIBRARY_PATH": str(libraries),
                },
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
            try:
                self._wait_until_up(process)
                self.run(["ldconfig"])
                yield self
            finally:
                with contextlib.suppress(ProcessLookupError):
                    if self._pid:
                        os.kill(self._pid, 9)  # the first process: all others in there end with it
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(WAIT_S if self._pid else 0)
                process.kill()
                process.wait()

    def sh(self, script: str, *, code: int | None = 0, folder: str = "/opt/src") -> str:
        """What a shell script prints that root runs in there; `code` is the expected exit code, None for any."""
        return self.run(["sh", "-euc", f"cd {folder}\n{script}"], code=code)

    def run(self, command: Sequence[str], *, user: str | None = None, code: int | None = 0) -> str:
        """What a command prints that this user runs in there, stdout and stderr together."""
        done = subprocess.run(
            self.command(command, user),
            env=ENVIRONMENT,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=WAIT_S,
            check=False,
        )
        assert code is None or done.returncode == code, f"{command} ended with {done.returncode}:\n{done.stdout}"
        return done.stdout

    def command(self, command: Sequence[str], user: str | None = None) -> list[str]:
        """The command that runs this one in there, with the groups that the user has now."""
        become = ["setpriv", f"--reuid={user}", f"--regid={user}", "--init-groups"] if user else []
        return [
            "nsenter",
            f"--target={self._pid}",
            *NAMESPACES,
            *become,
            *command,
        ]

    def write(self, path: str, text: str) -> None:
        """Make a file in there."""
        file = self.root / path.lstrip("/")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
        file.chmod(0o644)

    def _wait_until_up(self, process: "subprocess.Popen[bytes]") -> None:
        def is_up() -> bool:
            if process.poll() is not None:
                missing(f"no systemd can be booted here: {self._log.read_text()[-500:]}")
            children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
            if not children:
                return False
            self._pid = int(children[0])
            return self.run(["systemctl", "is-active", "test.target"], code=None) == "active\n"

        wait_until(is_up, what=lambda: f"a booted systemd: {self._log.read_text()[-500:]}")


def _programs() -> tuple[Path, Path]:
    """The program systemd-nspawn, and the folder with its libraries."""
    if sys.platform != "linux" or os.geteuid() != 0:
        missing("booting a systemd needs Linux and root")
    for program in ("/lib/systemd/systemd", "nsenter", "setpriv"):
        if shutil.which(program) is None:
            missing(f"this machine has no {program}")
    suite = platform.freedesktop_os_release().get("VERSION_CODENAME", "stable")
    library = next((debian("libsystemd-shared", suite) / "usr/lib").rglob("libsystemd-shared-*.so"))
    return debian("systemd-container", suite) / "usr/bin/systemd-nspawn", library.parent


def _options(root: Path, binds: Mapping[Path, str]) -> list[str]:
    return [
        *("-q", "--register=no", "--keep-unit", f"--directory={root}", f"--machine=skillmeter-test-{os.getpid()}"),
        "--private-network",
        *("--bind-ro=/usr", "--tmpfs=/tmp", "--console=pipe", "--kill-signal=SIGRTMIN+3"),
        *("--capability=CAP_BPF,CAP_PERFMON,CAP_NET_ADMIN", "--system-call-filter=bpf"),  # what IPAddressDeny needs
        *(f"--bind-ro={outside}:{inside}" for outside, inside in binds.items()),
        *("/lib/systemd/systemd", "--system", "--unit=test.target"),
    ]


# The root folder: the least that a systemd boots from, and the environment /opt/skillmeter.


def _make_root(root: Path) -> dict[Path, str]:
    """Make it; what is to be bound into it, and where."""
    for name in FOLDERS.split():
        (root / name).mkdir(parents=True)
    for name in ("bin", "sbin", "lib", "lib64"):
        (root / name).symlink_to(f"usr/{name}")
    users = {"root": 0, **USERS, "nobody": 65534}
    files = {
        "etc/passwd": "".join(f"{name}:x:{uid}:{uid}::/nonexistent:/bin/sh\n" for name, uid in users.items()),
        "etc/group": "".join(f"{name}:x:{uid}:\n" for name, uid in users.items()),
        "etc/shadow": "root:*:::::::\n",
        "etc/os-release": "ID=test\n",
        "etc/machine-id": "0123456789abcdef0123456789abcdef\n",
        "etc/systemd/system/test.target": TARGET,
    }
    for name, text in files.items():
        (root / name).write_text(text)
    (root / "etc/shadow").chmod(0o600)
    shutil.copy("/etc/ld.so.cache", root / "etc")
    shutil.copytree("/etc/ld.so.conf.d", root / "etc/ld.so.conf.d")
    (root / "etc/ld.so.conf").write_text("/opt/python/lib\ninclude /etc/ld.so.conf.d/*.conf\n")  # for its libpython
    for name in ("client", "daemon", "systemd"):
        shutil.copytree(REPOSITORY / name, root / "opt/src" / name, ignore=shutil.ignore_patterns("__pycache__"))
    binds = _make_environment(root / "opt/skillmeter")
    for path in [root, *root.rglob("*")]:  # whatever the umask is
        if not path.is_symlink() and path.name != "shadow":
            path.chmod(path.stat().st_mode | (0o755 if path.is_dir() else 0o644))
    return binds


def _make_environment(folder: Path) -> dict[Path, str]:
    """A virtual environment of this Python with this environment's packages, as the service would see it."""
    binds = {Path(sysconfig.get_path("purelib")): "/opt/packages"}
    base = Path(sys.base_prefix)
    home = base / "bin"
    if not base.is_relative_to("/usr"):  # under a home folder, say, which the service does not see
        binds[base] = "/opt/python"
        home = Path("/opt/python/bin")
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    packages = folder / "lib" / version / "site-packages"
    packages.mkdir(parents=True)
    (packages / "skillmeter.pth").write_text("/opt/src/client\n/opt/src/daemon\n/opt/packages\n")
    (folder / "pyvenv.cfg").write_text(f"home = {home}\ninclude-system-site-packages = false\n")
    (folder / "bin").mkdir()
    (folder / "bin/python").symlink_to(home / version)
    (folder / "bin/skillmeter").write_text(MAIN)
    (folder / "bin/skillmeter").chmod(0o755)
    return binds


# Control groups: a systemd makes its own below the ones that it was started in.


@contextlib.contextmanager
def _control_groups() -> Iterator[list[Path]]:
    """A new group in each hierarchy, removed in the end with all that is in it."""
    groups = [mount / f"skillmeter-test-{os.getpid()}" for mount in _hierarchies()]
    try:
        _make(groups)
        yield groups
    finally:
        for group in groups:
            wait_until(functools.partial(_remove, group), what=f"an empty {group}")


def _make(groups: list[Path]) -> None:
    try:
        for group in groups:
            group.mkdir()
    except OSError as error:
        missing(f"no control group can be made: {error}")


def _remove(group: Path) -> bool:
    if not group.exists():
        return True
    with contextlib.suppress(OSError):  # a process in it has not quite ended
        for folder in sorted((path for path in group.rglob("*") if path.is_dir()), reverse=True):
            folder.rmdir()
        group.rmdir()
    return not group.exists()


def _hierarchies() -> list[Path]:
    """Where the hierarchies of control groups are mounted."""
    found = []
    for line in Path("/proc/self/mounts").read_text().splitlines():
        _, where, kind, options, *_ = line.split()
        controllers = {""} if kind == "cgroup2" else set(options.split(","))
        if kind in ("cgroup", "cgroup2") and controllers & set(HIERARCHIES):
            found.append(Path(where))
    return found
