"""Database: how the file is opened for writing and for reading, what its failures mean, and how a corrupt one is kept.

One connection writes, the store's. Everybody else opens a reader, which cannot change anything.
"""

import contextlib
import os
import sqlite3
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from . import folders
from .errors import NetworkFileSystem, StoreBusy, StoreUnavailable
from .migrations import check, migrate

_BUSY_TIMEOUT_S: Final = 2  # another program's lock; longer, and clients would wait for acks behind it
_CACHE_KIB: Final = 32_768  # of pages per connection: holds the rollups of a busy day
_CHECKPOINT_PAGES: Final = 4096  # 16 MiB: a page that is updated by many commits goes to the database once
WAL_MAX_BYTES: Final = 64 * 1024 * 1024  # what a reader that took long leaves behind is cut back to this
_STATEMENTS: Final = 128  # kept compiled; there are about 70
_STEPS: Final = 10_000  # of SQLite's machine, well under a millisecond, between two looks at the clock
_MOUNTS: Final = Path("/proc/self/mounts")

_NETWORK: Final = frozenset(
    (
        *("nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "afs", "ncpfs", "ceph", "glusterfs", "lustre", "beegfs"),
        *("gpfs", "fuse.sshfs", "fuse.glusterfs", "fuse.s3fs", "fuse.rclone", "fuse.gcsfuse", "fuse.ceph"),
    )
)

_PASSING: Final = {sqlite3.SQLITE_FULL, sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}
_HINTS: Final = {
    sqlite3.SQLITE_FULL: "make room on its file system",
    sqlite3.SQLITE_BUSY: "another program holds its lock: end that program's transaction",
    sqlite3.SQLITE_LOCKED: "another program holds its lock: end that program's transaction",
    sqlite3.SQLITE_IOERR: "check its disk, and the system log",
    sqlite3.SQLITE_READONLY: "make the file and its folder writable for this user",
    sqlite3.SQLITE_PERM: "make the file and its folder writable for this user",
    sqlite3.SQLITE_NOTADB: "choose another file, or restore a backup",
    sqlite3.SQLITE_CORRUPT: "`skillmeter doctor` says more; restore a backup",
    sqlite3.SQLITE_CANTOPEN: "check that this user may open it and write to its folder, and the limit on open files",
}


def open_writer(path: Path, now_ns: int) -> sqlite3.Connection:
    """Create the file if need be, for its owner only, and bring its schema up to date.

    Raises sqlite3.Error, OSError or StoreUnavailable.
    """
    folders.make(path.parent)
    refuse_network(path)
    os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))  # SQLite gives -wal and -shm the same mode
    db = sqlite3.connect(
        path, timeout=_BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False, cached_statements=_STATEMENTS
    )
    try:
        check(db)  # before anything is set, as the journal mode would change another program's file
        _configure(db)
        migrate(db, now_ns)
    except BaseException:
        db.close()
        raise
    return db


def open_reader(path: Path, *, any_thread: bool = False) -> sqlite3.Connection:
    """A connection that cannot write, for the thread that calls, or for one at a time. Raises sqlite3.Error."""
    uri = f"{path.absolute().as_uri()}?mode=ro"
    db = sqlite3.connect(uri, uri=True, timeout=_BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=not any_thread)
    db.execute("PRAGMA query_only = ON")  # and not what a query attaches either
    return db


def is_corrupt(error: sqlite3.Error) -> bool:
    """Whether the file itself is broken, rather than unavailable."""
    return _code(error) in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)


def unavailable(error: sqlite3.Error, path: Path) -> StoreUnavailable:
    """What a failure of SQLite means to a person."""
    kind = StoreBusy if _code(error) in _PASSING else StoreUnavailable
    return kind(f"the database {path} failed: {error}", hint(error))


def hint(error: sqlite3.Error) -> str:
    """What a person can do about a failure of SQLite."""
    return _HINTS.get(_code(error), "see the daemon's log")


def set_aside(path: Path, why: str, now_ns: int, suffixes: Sequence[str] = ("-wal", "-shm", "")) -> Path:
    """Rename a database that cannot be used, with its WAL so that it can still be examined; returns its new path.

    `suffixes` name the files; the database itself is the last to go, so that a start after a kill finds it again.
    """
    stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(now_ns // 1_000_000_000))
    aside = path.with_name(f"{path.name}.{why}-{stamp}")
    number = 1
    while any(_beside(aside, suffix).exists() for suffix in suffixes):
        number += 1
        aside = path.with_name(f"{path.name}.{why}-{stamp}-{number}")
    for suffix in suffixes:
        if _beside(path, suffix).exists():
            _beside(path, suffix).rename(_beside(aside, suffix))
    return aside


class Files:
    """The files that a connection has open, to notice when others stand in their place."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._database = _stat(path)
        self._wal = _stat(_beside(path, "-wal"))

    def exchanged(self) -> bool:
        """Whether the database was deleted, or another file put in its place."""
        return not _same(self._database, _stat(self._path))

    def leave_wal(self, now_ns: int) -> None:
        """Set aside the WAL of a database that was exchanged: SQLite would play it into the new one."""
        if _same(self._wal, _stat(_beside(self._path, "-wal"))):
            set_aside(self._path, "exchanged", now_ns, ("-wal", "-shm"))


@contextlib.contextmanager
def limited(db: sqlite3.Connection, seconds: float) -> Iterator[None]:
    """Statements in the block end with TimeoutError when they have taken so long together."""
    deadline_s = time.monotonic() + seconds
    db.set_progress_handler(lambda: time.monotonic() > deadline_s, _STEPS)
    try:
        yield
    except sqlite3.Error as error:
        if _code(error) == sqlite3.SQLITE_INTERRUPT:
            raise TimeoutError(f"took longer than {seconds:g} s") from error
        raise
    finally:
        db.set_progress_handler(None, 0)


def refuse_network(path: Path, mounts: Path = _MOUNTS) -> None:
    """Raises NetworkFileSystem if the file system that holds `path` is one. Where there is no `mounts`, it passes."""
    kind = network(path, mounts)
    if kind:
        raise NetworkFileSystem(
            f"{path} is on a network file system ({kind}), where SQLite's WAL loses data", "choose a local one"
        )


def network(path: Path, mounts: Path = _MOUNTS) -> str:
    """The kind of the network file system that holds `path`; empty for a local one, or where there is no `mounts`."""
    try:
        lines = mounts.read_text("utf-8", "surrogateescape").splitlines()
    except OSError:
        return ""
    mounted = [(_unescaped(line.split()[1]), line.split()[2]) for line in lines]
    real = path.resolve()
    _, kind = max((entry for entry in mounted if real.is_relative_to(entry[0])), key=_depth, default=("/", ""))
    return kind if kind in _NETWORK else ""


def _beside(path: Path, suffix: str) -> Path:
    return path.with_name(path.name + suffix)


def _stat(path: Path) -> os.stat_result | None:
    try:
        return path.stat()
    except FileNotFoundError:
        return None


def _same(one: os.stat_result | None, other: os.stat_result | None) -> bool:
    return one is not None and other is not None and os.path.samestat(one, other)


def _depth(mounted: tuple[str, str]) -> int:
    return len(Path(mounted[0]).parts)


def _unescaped(mount_point: str) -> str:
    """Blanks and the like stand in octal: backslash 040."""
    for code in ("040", "011", "012", "134"):
        mount_point = mount_point.replace(f"\\{code}", chr(int(code, 8)))
    return mount_point


def give_back(db: sqlite3.Connection, max_pages: int, kept_share: int) -> int:
    """Take up to `max_pages` free pages off the file, if more than a `kept_share`th of it is free; returns how many.

    A file that was made without incremental auto-vacuum keeps its free pages, and fills them again.
    """
    pages, free = _pages(db)
    if free <= pages // kept_share:
        return 0
    for _ in range(min(max_pages, free)):  # one by one: of a larger number Python's module does the first
        db.execute("PRAGMA incremental_vacuum(1)")
    return pages - _pages(db)[0]


def _pages(db: sqlite3.Connection) -> tuple[int, int]:
    """(pages in the file, those of them that are free)"""
    return db.execute("PRAGMA page_count").fetchone()[0], db.execute("PRAGMA freelist_count").fetchone()[0]


def _configure(db: sqlite3.Connection) -> None:
    db.execute("PRAGMA auto_vacuum = INCREMENTAL")  # before anything is written, or it has no effect
    (mode,) = db.execute("PRAGMA journal_mode = WAL").fetchone()
    if mode != "wal":
        raise StoreUnavailable(f"SQLite cannot use its WAL here (journal mode {mode})", "use a local file system")
    db.execute("PRAGMA synchronous = FULL")
    db.execute(f"PRAGMA cache_size = -{_CACHE_KIB}")
    db.execute(f"PRAGMA wal_autocheckpoint = {_CHECKPOINT_PAGES}")
    db.execute(f"PRAGMA journal_size_limit = {WAL_MAX_BYTES}")


def _code(error: sqlite3.Error) -> int:
    """The primary result code, or 0 for an error that SQLite itself did not raise."""
    code: int = getattr(error, "sqlite_errorcode", 0)
    return sqlite3.SQLITE_FULL if code == sqlite3.SQLITE_IOERR_SHMSIZE else code & 0xFF  # no room for the -shm file
