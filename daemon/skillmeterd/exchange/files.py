"""Files: new ones, for their owner alone from the first moment, that take their name when all is in them."""

import contextlib
import fcntl
import glob
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Final

from ..errors import DaemonError


class NotAFile(DaemonError):
    """A device, a pipe or a folder, which must not be replaced. Nothing was changed."""


_BESIDE: Final = ("-wal", "-shm", "-journal", "")  # what SQLite makes of a file, and the file


def create_private(path: Path) -> IO[bytes]:
    """A new file to write to. Raises FileExistsError, for a link too, or another OSError."""
    return open(path, "xb", opener=lambda name, flags: os.open(name, flags | os.O_CLOEXEC, 0o600))


@contextlib.contextmanager
def partial(target: Path) -> Iterator[Path]:
    """A file beside `target` for what is not complete yet; what is there at the end goes. Raises NotAFile or OSError.

    What a killed process left there goes too: it no longer has the lock.
    """
    if target.exists() and not target.is_file():
        raise NotAFile(f"{target} is no regular file, and nothing else is replaced; give another name")
    for left in target.parent.glob(f".{glob.escape(target.name)}.*.partial"):
        with contextlib.suppress(OSError), left.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            _remove(left)
    fd, name = tempfile.mkstemp(".partial", f".{target.name}.", target.parent)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield Path(name)
    finally:
        os.close(fd)
        _remove(Path(name))


def complete(path: Path, target: Path) -> None:
    """Give a partial file its name, once it is on the disk. Raises OSError."""
    _sync(path)
    path.replace(target)
    _sync(target.parent)


def _remove(path: Path) -> None:
    for suffix in _BESIDE:
        path.with_name(path.name + suffix).unlink(missing_ok=True)


def _sync(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
