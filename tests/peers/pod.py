"""Pod: the processes of a rendered pod, without a cluster."""

import contextlib
import functools
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any, Final

from ..support import PRELUDE, wait_until
from .charts import ROOT, env_of, sidecar_of

PYTHONPATH: Final = os.pathsep.join(
    [str(ROOT / "client"), str(ROOT / "daemon"), sysconfig.get_path("purelib"), sysconfig.get_path("platlib")]
)  # without the standard library, of which each Python has its own
AS_OTHERS: Final = {"PYTHONPATH": PYTHONPATH, "PYTHONDONTWRITEBYTECODE": "1"}


class Pod:
    """The processes of a rendered pod, without a cluster: its command, environment, users, groups and folders.

    Folders are made as the kubelet makes them: an emptyDir is drwxrwsrwx and belongs to root and the fsGroup. What a
    container finds at /run/skillmeter is elsewhere here, so paths in the environment are changed.
    """

    def __init__(self, pod: dict[str, Any], *, users: bool) -> None:
        """`users`: run containers as the users that they name; only root can."""
        self.root = Path(tempfile.mkdtemp(prefix="skm-", dir="/tmp"))  # a socket's path has 107 bytes at most
        self.root.chmod(0o755)
        self.spec = pod
        self.group = pod["securityContext"]["fsGroup"] if users else os.getgid()
        self._users = users
        self._processes: list[subprocess.Popen[bytes]] = []
        self.daemon: subprocess.Popen[bytes]
        self.log = self.root / "daemon.log"
        for volume in pod["volumes"]:
            self._make(volume)

    def __enter__(self) -> "Pod":
        return self

    def __exit__(self, *_: object) -> None:
        for process in self._processes:
            process.kill()
            process.wait()
            for stream in (process.stdout, process.stderr):
                if stream is not None:
                    stream.close()
        shutil.rmtree(self.root)

    def path(self, container: dict[str, Any], path: str) -> Path:
        """Where a container's path is."""
        for mount in container["volumeMounts"]:
            if path == mount["mountPath"] or path.startswith(mount["mountPath"] + "/"):
                return self.root / mount["name"] / path.removeprefix(mount["mountPath"]).lstrip("/")
        raise AssertionError(f"nothing is mounted at {path}, and the root file system is read-only")

    def start_daemon(self) -> None:
        """Start the sidecar; wait until its startup probe succeeds."""
        sidecar = sidecar_of(self.spec)
        with self.log.open("wb") as log:
            self.daemon = self._start(sidecar, ["-m", "skillmeterd", *sidecar["args"]], stdout=log, stderr=log)
        wait_until(lambda: self._has_started(sidecar), what=lambda: f"the startup probe: {self.log.read_text()}")

    def start_app(self, script: str, user: int) -> "subprocess.Popen[bytes]":
        """Start a script in the first container, as this user."""
        container = self.spec["containers"][0]
        return self._start(
            container, ["-c", PRELUDE + script], user=user, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )

    def get(self, path: str, token: str | None = None) -> tuple[int, str]:
        """What the pod's port answers, asked from outside of loopback's rules: by another Host."""
        port = sidecar_of(self.spec)["ports"][0]["containerPort"]
        headers = {"Host": "10.1.2.3", **({"Authorization": f"Bearer {token}"} if token else {})}
        request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", headers=headers)
        try:
            with urllib.request.urlopen(request, timeout=10) as response:
                return response.status, response.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()

    def _has_started(self, sidecar: dict[str, Any]) -> bool:
        assert self.daemon.poll() is None, self.log.read_text()
        try:
            return self.get(sidecar["startupProbe"]["httpGet"]["path"])[0] == 200
        except OSError:
            return False

    def _make(self, volume: dict[str, Any]) -> None:
        folder = self.root / volume["name"]
        folder.mkdir()
        for item in volume.get("secret", {}).get("items", []):
            file = folder / item["path"]
            file.write_text(f"token-of-{item['key']}\n")
            os.chown(file, -1, self.group)
            file.chmod(volume["secret"]["defaultMode"])
        os.chown(folder, -1, self.group)
        folder.chmod(0o2777)

    def _start(self, container: dict[str, Any], words: list[str], user: int | None = None, **streams: Any) -> Any:
        context = container.get("securityContext", {})
        who: dict[str, Any] = {}
        if self._users:
            user = user or context["runAsUser"]
            who = {"user": user, "group": context.get("runAsGroup", user), "extra_groups": [self.group]}
        env = {name: self._here(container, value) for name, value in env_of(container).items()}
        process = subprocess.Popen(
            [python_of_others() if self._users else sys.executable, *words],
            env={"PATH": os.environ["PATH"], **AS_OTHERS, **env},
            cwd="/",
            stdin=subprocess.DEVNULL,
            umask=0o022,
            **who,
            **streams,
        )
        self._processes.append(process)
        return process

    def _here(self, container: dict[str, Any], value: str) -> str:
        return str(self.path(container, value)) if value.startswith("/") else value


@functools.cache
def python_of_others() -> str:
    """A Python that any user can run, with the packages of this one; empty if there is none."""
    for python in (sys.executable, f"/usr/bin/python3.{sys.version_info.minor}"):
        command = [python, "-c", "import skillmeterd.server"]
        with contextlib.suppress(OSError):
            if not subprocess.run(
                command, user=10001, group=10001, extra_groups=[], env=AS_OTHERS, cwd="/", check=False
            ).returncode:
                return python
    return ""


def why_not_others() -> str:
    """Why processes of other users cannot run the daemon here, or an empty text."""
    if os.geteuid() != 0:
        return "only root can start processes of other users"
    return "" if python_of_others() else "no Python here can be run by other users, with these packages"
