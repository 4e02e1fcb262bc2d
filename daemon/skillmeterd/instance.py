"""One instance: locks that keep a second daemon from the same socket, database or spool.

libzmq would take over the path of a bound ipc socket without a word, and two daemons that share a spool would
each adopt the other's orphans.
"""

import fcntl
import os
from pathlib import Path

from .errors import AlreadyRunning


class Instance:
    """Locks held for as long as the process lives, or until `release`."""

    def __init__(self) -> None:
        self._fds: list[int] = []

    def claim(self, path: Path, what: str) -> None:
        """Lock `path`, made if need be. Raises AlreadyRunning, or OSError."""
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            owner = os.pread(fd, 32, 0).decode("ascii", "replace").strip()
            os.close(fd)
            raise AlreadyRunning(
                f"another daemon (pid {owner or 'unknown'}) already serves this {what} ({path})"
            ) from None
        os.ftruncate(fd, 0)
        os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)
        self._fds.append(fd)

    def release(self) -> None:
        """Unlock everything. The files stay: deleting one would let two daemons lock two files of one name."""
        for fd in self._fds:
            os.close(fd)
        self._fds.clear()
