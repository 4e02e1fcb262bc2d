"""Container: the image, built from the Dockerfile with buildah, unpacked with umoci and run with crun. It needs root.

The base is a Debian of its own, and pip's packages come as a folder of wheels: the build itself needs no network.

Their libraries are not installed, and crun wants control groups of version 2, so each command has a mount namespace of
its own with a loader's cache that names the libraries, and with such a file system. Nothing of this machine is changed.
"""

import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from ..support import WAIT_S, wait_until
from .programs import debian, debian_root, missing, wheels

REPOSITORY: Final = Path(__file__).parents[2]
SUITE: Final = "bookworm"
PYTHON: Final = "3.11"  # of that suite
USER: Final = 10001
VOLUMES: Final = {"run": ("/run/skillmeter", 0o2770), "spool": ("/var/spool/skillmeter", 0o2770)}
DATA: Final = {"data": ("/var/lib/skillmeter", 0o700)}
BUILD_S: Final = 300.0

INSIDE: Final = 'mount --bind "$LOADER_CACHE" /etc/ld.so.cache && mount -t cgroup2 none /sys/fs/cgroup && exec "$@"'
GET: Final = "import sys, urllib.request as u; print(u.urlopen('http://127.0.0.1:8000' + sys.argv[1]).read().decode())"


class Image:
    """The built image: its root file system, and what it says of itself."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.root = folder / "bundle/rootfs"
        self.crun = ("crun", "--root", folder / "containers", "--cgroup-manager=disabled")
        self._env = _environment(folder)
        tried = self.run("sh", "-c", "echo possible", check=False)
        if tried != "possible\n":
            missing(f"no mounts of one's own can be made here: {tried}")
        self._build()
        self.config: dict[str, Any] = json.loads((folder / "bundle/config.json").read_text())
        for volume, (_, mode) in {**VOLUMES, **DATA}.items():
            made = folder / volume
            made.mkdir()
            os.chown(made, USER, USER)
            made.chmod(mode)

    @contextlib.contextmanager
    def running(self, name: str, args: list[str] | None = None, **changes: Any) -> Iterator["Container"]:
        """A container of it, ended with the block; the daemon, unless other `args` are given."""
        volumes = VOLUMES if args else {**VOLUMES, **DATA}
        bundle = self.folder / name
        bundle.mkdir(exist_ok=True)
        (bundle / "config.json").write_text(json.dumps(self._specification(volumes, args, changes)))
        process = self.start(bundle / "log", *self.crun, "run", "--bundle", bundle, name)
        try:
            yield Container(self, name, bundle / "log", process)
        finally:
            self.run(*self.crun, "delete", "--force", name, check=False)
            process.kill()
            process.wait(WAIT_S)

    def command(self, *words: object) -> list[str]:
        """The command that runs this one where its libraries are."""
        return ["unshare", "--mount", "--propagation", "private", "sh", "-c", INSIDE, "sh", *map(str, words)]

    def run(self, *words: object, check: bool = True) -> str:
        """What a command prints."""
        done = subprocess.run(
            self.command(*words),
            env=self._env,
            cwd=self.folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=BUILD_S,
            check=False,
        )
        assert done.returncode == 0 or not check, f"{words} ended with {done.returncode}:\n{done.stdout[-3000:]}"
        return done.stdout

    def start(self, log: Path, *words: object) -> "subprocess.Popen[bytes]":
        """A command that goes on running."""
        with log.open("ab") as out:
            return subprocess.Popen(
                self.command(*words), env=self._env, cwd=self.folder, stdin=subprocess.DEVNULL, stdout=out, stderr=out
            )

    def _build(self) -> None:
        buildah = [
            *("buildah", "--root", self.folder / "storage", "--runroot", self.folder / "state"),
            *("--storage-driver", "vfs"),
        ]
        trust = ("--signature-policy", self.folder / "policy.json")
        (self.folder / "policy.json").write_text('{"default": [{"type": "insecureAcceptAnything"}]}')
        base = self.run(*buildah, "from", "scratch").strip()
        self.run(*buildah, "add", base, debian_root(SUITE, "python3", "python3-venv", "libstdc++6"), "/")
        self.run(*buildah, "commit", *trust, "--rm", base, "base")
        arguments = {"BASE": "localhost/base", "REVISION": "4f2a", "PIP_NO_INDEX": "1", "PIP_FIND_LINKS": "/wheels"}
        self.run(
            *(*buildah, "bud", *trust, "--isolation", "chroot", "--format", "oci", "--tag", "skillmeter"),
            *(word for name, value in arguments.items() for word in ("--build-arg", f"{name}={value}")),
            *("--volume", f"{wheels(REPOSITORY / 'docker/constraints.txt', PYTHON)}:/wheels:ro"),
            REPOSITORY,
        )
        self.run(*buildah, "push", *trust, "--disable-compression", "skillmeter", "oci:oci:skillmeter")
        shutil.rmtree(self.folder / "storage")
        self.run("umoci", "unpack", "--image", "oci:skillmeter", "bundle")

    def _specification(
        self, volumes: dict[str, tuple[str, int]], args: list[str] | None, changes: dict[str, Any]
    ) -> dict[str, Any]:
        """The image's own, confined as docs/container.md has it: read-only, without capabilities, with its volumes."""
        spec: dict[str, Any] = json.loads(json.dumps(self.config))
        process = spec["process"]
        process.update(terminal=False, noNewPrivileges=True, args=args or process["args"])
        process["capabilities"] = {kind: [] for kind in process["capabilities"]}
        process["user"] = {**process["user"], **changes}
        spec["root"] = {"path": str(self.root), "readonly": True}
        spec["linux"].pop("resources", None)
        spec["mounts"] = [mount for mount in spec["mounts"] if mount["destination"] != "/sys/fs/cgroup"] + [
            {"destination": path, "type": "bind", "source": str(self.folder / name), "options": ["rbind", "rw"]}
            for name, (path, _) in volumes.items()
        ]
        return spec


class Container:
    """A running container."""

    def __init__(self, image: Image, name: str, log: Path, process: "subprocess.Popen[bytes]") -> None:
        self.name = name
        self.log = log
        self.process = process
        self._image = image
        self.pid = wait_until(self._started, what=lambda: f"the container {name}: {self.log.read_text()}")

    def run(self, *words: str, check: bool = True) -> str:
        """What a command in it prints, as the image's user."""
        return self._image.run(*self._image.crun, "exec", "--user", f"{USER}:{USER}", self.name, *words, check=check)

    def get(self, path: str) -> str:
        """What its port answers; nothing while it does not."""
        command = ["nsenter", f"--target={self.pid}", "--net", sys.executable, "-c", GET, path]
        return subprocess.run(command, capture_output=True, text=True, timeout=WAIT_S, check=False).stdout

    def kill(self, signal: str) -> int:
        """Send it a signal, and wait; its exit code."""
        self._image.run(*self._image.crun, "kill", self.name, signal)
        return self.process.wait(WAIT_S)

    def _started(self) -> int:
        assert self.process.poll() is None, self.log.read_text()
        state = self._image.run(*self._image.crun, "state", self.name, check=False)
        found = json.loads(state) if state.startswith("{") else {}
        return int(found["pid"]) if found.get("status") == "running" else 0


@contextlib.contextmanager
def image() -> Iterator[Image]:
    """The image, built now and removed in the end."""
    if sys.platform != "linux" or os.geteuid() != 0:
        missing("building an image needs Linux and root")
    with tempfile.TemporaryDirectory(prefix="skm-", dir="/tmp") as folder:
        Path(folder).chmod(0o755)
        yield Image(Path(folder))


def _environment(folder: Path) -> dict[str, str]:
    """With the programs in PATH, and a loader's cache that has their libraries."""
    unpacked = [debian(name, SUITE, with_needs=True) for name in ("buildah", "umoci", "crun")]
    libraries = [next((root / "usr/lib").glob("*-linux-*"), root) for root in unpacked]
    config, cache = folder / "ld.so.conf", folder / "ld.so.cache"
    config.write_text("".join(f"{path}\n" for path in libraries) + "include /etc/ld.so.conf\n")
    subprocess.run(["/sbin/ldconfig", "-f", config, "-C", cache], check=True, capture_output=True)
    path = os.pathsep.join([*(str(root / "usr/bin") for root in unpacked), "/usr/sbin", "/usr/bin", "/sbin", "/bin"])
    return {"PATH": path, "HOME": str(folder), "LOADER_CACHE": str(cache), "TMPDIR": str(folder)}
