"""The spool: its files, opened with care, as anything may lie in a folder that many processes write to."""

import contextlib
import fcntl
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from skillmeter.errors import CorruptJournal

MAX_FILE_BYTES: Final = 4 * 1024 * 1024  # 4 times what a client makes: a file is read into memory as a whole
HEAD_SUFFIX: Final = ".journal"
SEGMENT_SUFFIX: Final = ".seg"
NOT_OURS: Final = "not a regular file, or too large to be one of ours"


def entries(folder: Path) -> list[Path]:
    """What is in the spool. One that is not there has nothing. Raises OSError."""
    try:
        with os.scandir(folder) as found:
            return [folder / entry.name for entry in found]
    except FileNotFoundError:
        return []


def open_regular(path: Path) -> int | None:
    """A descriptor, or None for what is not a regular file. Never follows a link, never waits for a FIFO."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        if isinstance(error, FileNotFoundError):
            raise
        if not stat.S_ISREG(os.lstat(path).st_mode):
            return None
        raise
    info = os.fstat(fd)
    if stat.S_ISREG(info.st_mode) and info.st_size <= MAX_FILE_BYTES:
        return fd
    os.close(fd)
    return None


def lock(fd: int) -> bool:
    """Lock a head; False: its owner lives. Raises OSError."""
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def is_linked(fd: int, path: Path) -> bool:
    """Whether the locked file still is the one of that name: another daemon may have deleted it meanwhile."""
    try:
        return os.path.samestat(os.fstat(fd), os.lstat(path))
    except FileNotFoundError:
        return False


@contextlib.contextmanager
def opened(path: Path) -> Iterator[int]:
    """A descriptor of a regular file. Raises CorruptJournal for anything else, or OSError."""
    fd = open_regular(path)
    if fd is None:
        raise CorruptJournal(NOT_OURS)
    try:
        yield fd
    finally:
        os.close(fd)


def read_file(path: Path, start: int) -> bytes:
    """A regular file's content from byte `start` on. Raises CorruptJournal for anything else, or OSError."""
    with opened(path) as fd:
        size = os.fstat(fd).st_size
        if size > MAX_FILE_BYTES:  # it has grown since it was opened
            raise CorruptJournal(NOT_OURS)
        return os.pread(fd, max(0, size - start), start)


def has_content(fd: int, at: int = 0) -> bool:
    """Whether a file holds anything but zeros from byte `at` on, or has grown larger than any of ours."""
    while block := os.pread(fd, 1 << 20, at):
        if block.strip(b"\0") or at > MAX_FILE_BYTES:
            return True
        at += len(block)
    return False
