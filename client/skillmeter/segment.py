"""A segment: one file of a journal, mapped, that many threads append to without a lock.

An append is `segment.write(record)`: the mapping's own `write`, one C call that copies and advances, or raises
ValueError when the record does not fit. Sealing moves the write position to the end of the file, so that a late writer
finds no room. Where the records end is noted just before that; what others write in between is found by its length.
Both rest on the GIL; see gil.py for interpreters without one.
"""

import contextlib
import errno
import fcntl
import mmap
import os
import stat
import struct
import sys
from typing import Final

from .errors import JournalError, came_between, meant_for_caller
from .records import RECORD_HEADER_BYTES, RECORD_MAGIC

_RECORD: Final = struct.Struct("<IHH")
_FULL: Final = {errno.ENOSPC, errno.EDQUOT}
_F_PREALLOCATE: Final = 42  # <sys/fcntl.h> of macOS
_F_ALLOCATEALL: Final = 4


class Segment:
    """Record bytes from offset `base` on, in a file whose records begin at `start`."""

    __slots__ = (
        "_end", "_fd", "_map", "_marks", "base", "capacity", "index", "path", "sealed", "start", "successors", "write",
    )  # fmt: skip

    def __init__(self, path: str, fd: int, size: int, header: bytes, *, index: int, base: int, start: int) -> None:
        """Takes over `fd`, an empty file; raises JournalError, and then leaves neither file nor descriptor."""
        try:
            preallocate(fd, size)
            self._map = mmap.mmap(fd, size)
            self._map[: len(header)] = header
            self._map.seek(start)
        except BaseException as error:
            os.close(fd)
            with contextlib.suppress(OSError):
                os.unlink(path)
            if isinstance(error, (OSError, ValueError)):
                raise unusable(error, path) from error
            raise
        self._fd: int | None = fd
        self.path = path
        self.index = index
        self.base = base
        self.start = start
        self.capacity = size - start
        self.write = self._map.write
        self.successors: list[Segment | None] = []
        """The first is the next segment, or None at the end of a closed journal. It is a list because appending to one
        decides in one step who was first."""
        self.sealed = False
        """Whether nothing can be appended any more."""
        self._marks: list[int] = []  # write positions noted by those who are sealing it; the least was true
        self._end: int | None = None  # the position behind the last record, once it cannot change

    @property
    def page(self) -> mmap.mmap:
        """The mapping, for the ledger in a head."""
        return self._map

    @property
    def next(self) -> "Segment | None":
        """The segment after this one, once there is one."""
        return self.successors[0] if self.successors else None

    @property
    def end(self) -> int:
        """The offset behind the last record."""
        try:
            position = self._end or self._find_end()
        except ValueError:  # unmapped meanwhile, and so known; or a copy in a forked child, where nobody cares
            position = self._end or self.start
        return self.base + position - self.start

    def seal(self) -> None:
        """Let nobody append any more. Idempotent, and may be interrupted by itself or by appends at any point."""
        try:
            self._marks.append(self._map.tell())
            self._map.seek(0, os.SEEK_END)
        except ValueError as error:  # already unmapped, so already sealed
            if came_between(error):
                raise
        self.sealed = True

    def end_chain(self) -> None:
        """Let no segment follow, unless one does already."""
        self.successors.append(None)

    def read(self, offset: int, end: int) -> bytes:
        """The record bytes between two offsets. Raises OSError if the file is gone."""
        first, last = offset - self.base + self.start, end - self.base + self.start
        with contextlib.suppress(ValueError):
            return self._map[first:last]
        fd = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            return os.pread(fd, last - first, first)
        finally:
            os.close(fd)

    def lose(self, offset: int) -> None:
        """Forget the records from `offset` on; only once it is sealed."""
        self._end = offset - self.base + self.start

    def sync(self) -> None:
        """Wait until the disk has all that was written. Raises OSError."""
        fd = self._fd
        if fd is not None:  # else it is committed and freed, which is more than synced
            os.fdatasync(fd) if hasattr(os, "fdatasync") else os.fsync(fd)

    def unmap(self) -> None:
        """Give the memory back; reading goes on through the file. Only once it is sealed."""
        self._end = self._end or self._find_end()
        self._map.close()

    def close(self) -> None:
        """Give memory and descriptor back. The file stays, and so does a lock that a parent process holds on it."""
        if self.sealed:
            with contextlib.suppress(ValueError):  # unmapped before
                self.unmap()
        self._map.close()
        fd, self._fd = self._fd, None
        if fd is not None:
            with contextlib.suppress(OSError):
                os.close(fd)

    def release_descriptor(self) -> None:
        """Close the descriptor; the mapping holds one of its own."""
        fd, self._fd = self._fd, None
        if fd is not None:
            os.close(fd)

    def _find_end(self) -> int:
        """The position behind the last record. Raises ValueError if the mapping is closed."""
        sealed = self.sealed
        position = self._map.tell()
        if self._marks:  # else nobody was sealing it yet, and that was it
            position = self._pass_records(min(self._marks))
        if sealed:
            self._end = position
        return position

    def _pass_records(self, position: int) -> int:
        """The position behind the records from `position` on; zeros follow, or no room for another."""
        size = self.start + self.capacity
        while position + RECORD_HEADER_BYTES <= size:
            _, length, magic = _RECORD.unpack_from(self._map, position)
            if magic != RECORD_MAGIC:
                break
            position += RECORD_HEADER_BYTES + int(length)
        return position

    def discard(self) -> None:
        """Close and delete. A view of the mapping keeps it until the view is gone."""
        with contextlib.suppress(BufferError):
            self.close()
        self.release_descriptor()
        with contextlib.suppress(OSError):
            os.unlink(self.path)


def create_file(path: str) -> int:
    """A new file's descriptor, readable by its owner; by the group too in a set-group-id folder, which is how an
    administrator says that the daemon runs as another user. Raises JournalError."""
    try:
        shared = os.stat(os.path.dirname(path)).st_mode & stat.S_ISGID
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        if shared:
            os.fchmod(fd, 0o640)
        return fd
    except OSError as error:
        raise unusable(error, path) from error


def preallocate(fd: int, size: int) -> None:
    """Reserve `size` bytes on the disk, so that writing to the mapping cannot fail later (SIGBUS). Raises OSError."""
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(fd, 0, size)
    elif sys.platform == "darwin":
        fcntl.fcntl(fd, _F_PREALLOCATE, struct.pack("=IiQQQ", _F_ALLOCATEALL, 3, 0, size, 0))
        os.ftruncate(fd, size)
    else:
        raise OSError(errno.ENOSYS, "skillmeter needs Linux or macOS")


def unusable(error: Exception, path: str) -> JournalError:
    """The journal error that an error of the operating system means. What a signal handler raised meanwhile, a timeout
    say, is raised as it is."""
    if meant_for_caller(error):
        raise error
    full = isinstance(error, OSError) and error.errno in _FULL
    return JournalError("disk_full" if full else "spool_unavailable", f"{path}: {error}")
