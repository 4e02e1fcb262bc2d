"""Journals: put a dead process's journal, found elsewhere, into the spool, from where the daemon takes it."""

import contextlib
import os
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path

from skillmeter.errors import CorruptJournal
from skillmeter.records import HEAD_BYTES, decode_head

from .. import folders
from ..errors import DaemonError
from ..spool import lock, open_regular
from .files import create_private


class NotImportable(DaemonError):
    """A journal cannot be taken. It is left as it is."""


def check(path: Path) -> None:
    """Raises NotImportable unless it is the journal of a process that has ended."""
    with _held(path):
        pass


def hand_over(path: Path, spool_dir: Path) -> None:
    """Copy a journal and its segments into the spool. Raises NotImportable or OSError.

    Where the daemon has its events already, by the journal's own offsets, it stores none twice.
    """
    if (spool_dir / path.name).exists():
        raise NotImportable(f"{path.name} is in the spool {spool_dir} already")
    with _held(path):
        folders.make(spool_dir)
        for part in (*sorted(path.parent.glob(f"{path.stem}.*.seg")), path):  # the head last: it is what is looked for
            _copy(part, spool_dir / part.name)


@contextlib.contextmanager
def _held(path: Path) -> Iterator[None]:
    """Keep a journal's lock."""
    fd = open_regular(path)
    if fd is None:
        raise NotImportable(f"{path} is not a regular file, or too large to be a journal")
    try:
        if not lock(fd):
            raise NotImportable(f"{path} belongs to a process that lives: it sends its events itself")
        decode_head(os.pread(fd, HEAD_BYTES, 0))
        yield
    except CorruptJournal as error:
        raise NotImportable(f"{path} is no journal: {error}") from error
    finally:
        os.close(fd)


def _copy(source: Path, target: Path) -> None:
    """A copy that takes its name when it is complete."""
    partial = target.with_name(f".{target.name}.partial")
    partial.unlink(missing_ok=True)  # of an import that was killed; a link that others put there is not followed
    try:
        with source.open("rb") as old, create_private(partial) as new:
            if target.parent.stat().st_mode & stat.S_ISGID:  # the daemon may be another user, of the folder's group
                os.fchmod(new.fileno(), 0o640)
            shutil.copyfileobj(old, new)
            new.flush()
            os.fsync(new.fileno())
        partial.replace(target)
    finally:
        partial.unlink(missing_ok=True)
