"""The daemon's process, as the demo sees it: started, killed, started again, stopped."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from skillmeter.connection import Connection
from skillmeter.errors import DaemonUnavailable

from .problems import DemoFailed, last_lines

START_TIMEOUT_S: Final = 15.0
STOP_TIMEOUT_S: Final = 10.0
ASK_S: Final = 0.2  # at a time: between two questions Ctrl-C is heard
PAUSE_S: Final = 0.02
_SETTINGS: Final = ("ANALYTICS_", "OTLP_", "OTEL_", "PROMETHEUS_", "WANDB_", "SKILLMETER_")


def environment(folder: Path) -> dict[str, str]:
    """An environment in which all is under `folder`, and no setting of the user's reaches the demo."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(_SETTINGS)}
    return kept | {
        "ANALYTICS_BACKEND": "sqlite,prometheus",
        "ANALYTICS_RUNTIME_DIR": str(folder),
        "ANALYTICS_SPOOL_DIR": str(folder / "spool"),
        "ANALYTICS_DB_PATH": str(folder / "analytics.db"),
        "PROMETHEUS_PORT": "0",
    }


class DaemonProcess:
    """`skillmeter run` in the demo's folder. Leaving the context stops it."""

    def __init__(self, folder: Path) -> None:
        self.env = environment(folder)
        self.endpoint = f"ipc://{folder}/skillmeter.sock"
        self.db_path = folder / "analytics.db"
        self.log = folder / "daemon.log"
        self.http: str | None = None
        """Where its page is, once it is ready."""
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """Its process id."""
        assert self._process is not None
        return self._process.pid

    def start(self, still_wanted: Callable[[], None]) -> None:
        """Start it and wait until it answers. `still_wanted` is called again and again, and may raise."""
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "skillmeterd", "run"],
                env=self.env,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # Ctrl-C is for the demo, which then stops the daemon
            )
        status = self._wait_until_ready(still_wanted)
        self.http = status.get("http")
        if self.http:  # the next start takes the same port, so that an open page goes on
            self.env["PROMETHEUS_PORT"] = self.http.rstrip("/").rpartition(":")[2]

    def check(self) -> None:
        """Raises DemoFailed if it has ended by itself."""
        if self._process is None or self._process.poll() is not None:
            raise DemoFailed(f"the daemon has ended:\n{last_lines(self.log)}")

    def kill(self) -> None:
        """SIGKILL: it gets no chance to put anything in order."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    def stop(self) -> int:
        """End it as a service manager would; its exit code, negative for a signal."""
        if self._process is None:
            return 0
        self._process.send_signal(signal.SIGTERM)
        try:
            return self._process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self.kill()
            return self._process.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        code = self.stop()
        if code and error is None:
            raise DemoFailed(f"the daemon ended with exit code {code}:\n{last_lines(self.log)}")

    def _wait_until_ready(self, still_wanted: Callable[[], None]) -> dict[str, Any]:
        connection = Connection(self.endpoint)
        end_s = time.monotonic() + START_TIMEOUT_S
        try:
            while time.monotonic() < end_s:
                still_wanted()
                self.check()
                try:
                    status: dict[str, Any] = connection.ask("status", timeout_s=ASK_S)
                    return status
                except DaemonUnavailable:
                    time.sleep(PAUSE_S)
        finally:
            connection.close()
        raise DemoFailed(f"the daemon does not answer:\n{last_lines(self.log)}")
