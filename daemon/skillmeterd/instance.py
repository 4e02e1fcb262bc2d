"""One instance: locks that keep a second daemon from the same socket, database or spool.

libzmq would take over the path of a bound ipc socket without a word, and two daemons that share a spool would
each adopt the other's orphans.
"""

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from . import folders
from .config import DaemonSettings
from .errors import AlreadyRunning, CannotUse


class Instance:
    """Locks held for as long as the process lives, or until `release`."""

    def __init__(self) -> None:
        self._fds: list[int] = []

    def claim_all(self, settings: DaemonSettings) -> None:
        """Lock everything that a daemon owns, all or nothing; makes its folders. Raises AlreadyRunning or CannotUse."""
        database = settings.db_path.resolve()  # by whatever links it is reached
        try:
            with _chosen_by("ANALYTICS_SPOOL_DIR"):
                folders.make(Path(settings.spool_dir))
            if settings.endpoint.startswith("ipc://"):
                with _chosen_by("ANALYTICS_ENDPOINT, ANALYTICS_RUNTIME_DIR"):
                    self.claim(Path(settings.endpoint.removeprefix("ipc://") + ".lock"), "socket")
            with _chosen_by("ANALYTICS_DB_PATH"):
                self.claim(database.with_name(database.name + ".lock"), "database")
            with _chosen_by("ANALYTICS_SPOOL_DIR"):
                self.claim(Path(settings.spool_dir, "daemon.lock"), "spool")
        except BaseException:
            self.release()
            raise

    def claim(self, path: Path, what: str) -> None:
        """Lock `path`, made if need be. Raises AlreadyRunning, or OSError."""
        folders.make(path.parent)
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            owner = os.pread(fd, 32, 0).decode("ascii", "replace").strip()
            os.close(fd)
            raise AlreadyRunning(
                f"another daemon (pid {owner or 'unknown'}) already serves this {what} ({path})"
            ) from None
        self._fds.append(fd)
        with contextlib.suppress(OSError):  # it is only told to others; a full disk must not keep us from starting
            os.ftruncate(fd, 0)
            os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)

    def release(self) -> None:
        """Unlock everything. The files stay: deleting one would let two daemons lock two files of one name."""
        for fd in self._fds:
            os.close(fd)
        self._fds.clear()


@contextlib.contextmanager
def _chosen_by(setting: str) -> Iterator[None]:
    """Whoever reads that a place cannot be used has to know which setting leads there. Raises CannotUse."""
    try:
        yield
    except OSError as error:
        raise CannotUse(
            f"cannot use {error.filename} ({setting}): {error.strerror};"
            " choose another place, or let this user make files there"
        ) from error
