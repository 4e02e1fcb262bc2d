"""The spool: the folder that journals lie in, and how a new journal's head is put there, locked.

A head is *unfinished* until a client holds its journal: a child that is forked meanwhile inherits the descriptor, and
with it the lock, of a file that nobody would tell it to close.
"""

import contextlib
import fcntl
import os
import time

from .errors import came_between
from .records import HEAD_BYTES, Head, encode_head
from .segment import Segment, create_file, unusable

unfinished: set[str] = set()
"""Names of heads that no client knows of yet. A child that is forked now looks for their descriptors; see fork.py."""


def make(spool_dir: str) -> None:
    """Make the folder if it is missing. Raises JournalError."""
    try:
        _make_folder(spool_dir)
    except OSError as error:
        raise unusable(error, spool_dir) from error


def _make_folder(path: str) -> None:
    """Make a folder and those above it, for their owner alone: who may write to one of those can put another in its
    place. (os.makedirs asks os.path.exists, which would swallow a handler's timeout.)"""
    try:
        os.mkdir(path, 0o700)
    except FileExistsError as error:  # if it is no folder, that comes out when a file is made in it
        if came_between(error):
            raise
    except FileNotFoundError as error:
        if came_between(error) or path == os.path.dirname(path):
            raise
        _make_folder(os.path.dirname(path))
        with contextlib.suppress(FileExistsError):  # by another process in between
            os.mkdir(path, 0o700)


def create_head(path: str, producer: bytes, size: int) -> Segment | None:
    """A locked head, or None if a daemon took the file for an orphan before it was locked. Raises JournalError."""
    name = os.path.basename(path)
    unfinished.add(name)
    head = None
    try:
        header = encode_head(Head(producer, time.time_ns(), os.getpid()))
        fd = create_file(path)
        if _lock_new(fd, path):
            head = Segment(path, fd, size, header, index=0, base=0, start=HEAD_BYTES)
        return head
    finally:
        if head is None:
            unfinished.discard(name)


def _lock_new(fd: int, path: str) -> bool:
    """Lock a new head. False: it was taken, and it is closed and deleted, as it is when JournalError is raised."""
    mine = False
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        mine = os.fstat(fd).st_nlink > 0
    except BlockingIOError:
        pass
    except OSError as error:
        raise unusable(error, path) from error
    finally:
        if not mine:
            os.close(fd)
            with contextlib.suppress(OSError):
                os.unlink(path)
    return mine


def take_unfinished() -> set[str]:
    """In a forked child: the names of heads that threads of the parent were making."""
    global unfinished
    names, unfinished = unfinished, set()
    return names


def sync_folder(folder: str) -> None:
    """Wait until the disk knows the folder's files. Raises JournalError."""
    try:
        fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)
    except OSError as error:
        raise unusable(error, folder) from error
