"""Reader: the database as a query sees it - one moment of it, over a connection of its own."""

import gc
import os
import sqlite3
import stat
import sys
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeVar

from skillmeter.errors import QueryError

from .. import migrations
from ..database import limited, open_reader, unavailable
from ..errors import DaemonError, StoreUnavailable, TookTooLong

DAY_NS: Final = 86_400 * 1_000_000_000
ANSWER_S: Final = 4.0  # clients wait for 5; an answer takes a hundredth, and who asks more holds up whoever asks next
_CACHE_KIB: Final = 32_768  # holds the rollups that a page looks at again and again
_MAX_IDLE: Final = 2  # the answers thread and a page that refreshes; more are made and closed as they come
_MEMO_ENTRIES: Final = 512
MEMO_BYTES: Final = 64 * 1024 * 1024  # a window of 1,000 skills with sketches has about 1 MB; most have a few KB

T = TypeVar("T")


class Memo:
    """What was computed from days that are over, with the stamp that tells whether it still holds. Any thread.

    Bounded, or whoever asks for ever other days would fill the memory.
    """

    def __init__(self) -> None:
        self._kept: OrderedDict[Hashable, _Kept] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: Hashable, stamp: object, compute: Callable[[], T]) -> T:
        """The value of `key` if it was computed under this stamp; otherwise computed now."""
        with self._lock:
            known = self._kept.get(key)
            if known is not None and known.stamp == stamp:
                self._kept.move_to_end(key)
                found: T = known.value
                return found
        value = compute()  # two threads may do so at once; either is right
        kept_now = _Kept(stamp, value)
        if kept_now.bytes() > MEMO_BYTES // 2:  # measured before the lock, as that takes a while for a large one
            return value
        with self._lock:
            self._kept[key] = kept_now
            self._kept.move_to_end(key)
            total = sum(kept.bytes() for kept in self._kept.values())
            while total > MEMO_BYTES or len(self._kept) > _MEMO_ENTRIES:
                total -= self._kept.popitem(last=False)[1].bytes()
        return value


@dataclass(slots=True)
class _Kept:
    stamp: object
    value: Any
    _items: int = -1
    _bytes: int = 0

    def bytes(self) -> int:
        """About how much memory the value takes. A dict may have grown: some are filled by those who ask."""
        items = len(self.value) if isinstance(self.value, dict) else 0
        if items != self._items:
            self._items, self._bytes = items, bytes_of(self.value)
        return self._bytes


def bytes_of(value: object) -> int:
    """About how much memory a value takes, with everything that it refers to."""
    seen: dict[int, object] = {}
    found = [value]
    while found:
        new = {id(each): each for each in found if id(each) not in seen and not isinstance(each, type)}
        seen |= new
        found = gc.get_referents(*new.values())
    return sum(map(sys.getsizeof, seen.values()))


@dataclass(frozen=True, slots=True)
class Snapshot:
    """One moment of the database: every statement sees the same commits."""

    db: sqlite3.Connection
    path: Path
    now_ns: int
    memo: Memo

    @property
    def today(self) -> int:
        """Days since 1970-01-01 UTC."""
        return self.now_ns // DAY_NS

    def rows(self, sql: str, **values: object) -> list[Any]:
        """All rows of a statement."""
        return self.db.execute(sql, values).fetchall()

    def row(self, sql: str, **values: object) -> Any:
        """The first row, or None."""
        return self.db.execute(sql, values).fetchone()

    def value(self, sql: str, **values: object) -> Any:
        """The first column of the first row, or None."""
        row = self.row(sql, **values)
        return None if row is None else row[0]

    def closed(self, key: Hashable, first: int, last: int, compute: Callable[[], T]) -> T:
        """`compute()`, or what it gave when days `first` to `last` were last written to. Today must not be in them.

        Late events do come: they move the stamp.
        """
        if last < first:
            return compute()
        stamp = self.row(
            "SELECT count(*), sum(changes) FROM day_change WHERE day BETWEEN :first AND :last", first=first, last=last
        )
        return self.memo.get((key, first, last), stamp, compute)


class Reader:
    """A few connections, handed out one to a question. Any thread may use it."""

    def __init__(self, path: Path, clock_ns: Callable[[], int]) -> None:
        self._path = path
        self._clock_ns = clock_ns
        self._memo = Memo()
        self._file: os.stat_result | None = None
        self._idle: list[sqlite3.Connection] = []
        self._lock = threading.Lock()

    @contextmanager
    def snapshot(self) -> Iterator[Snapshot]:
        """A moment of the database. Raises StoreUnavailable; TookTooLong when it was looked at for ANSWER_S."""
        db = None
        try:
            db, memo = self._take()
            with limited(db, ANSWER_S), _moment(db):
                yield Snapshot(db, self._path, self._clock_ns(), memo)
        except BaseException as error:
            if db is not None and isinstance(error, QueryError):  # the question is wrong, and the connection is not
                self._give_back(db, memo)
            elif db is not None:
                db.close()
            meaning = self._meaning(error)
            if meaning is None:
                raise
            raise meaning from error
        self._give_back(db, memo)

    def close(self) -> None:
        """Close what is idle. Idempotent."""
        with self._lock:
            while self._idle:
                self._idle.pop().close()

    def _take(self) -> tuple[sqlite3.Connection, Memo]:
        file = _stat(self._path)
        with self._lock:
            if self._file is None or not os.path.samestat(file, self._file):  # another database took its place
                self._file, self._memo = file, Memo()
                while self._idle:
                    self._idle.pop().close()
            if self._idle:
                return self._idle.pop(), self._memo
            memo = self._memo
        db = open_reader(self._path, any_thread=True)
        try:
            _check(db, self._path)
            db.execute(f"PRAGMA cache_size = -{_CACHE_KIB}")
        except BaseException:
            db.close()
            raise
        return db, memo

    def _give_back(self, db: sqlite3.Connection, memo: Memo) -> None:
        with self._lock:
            if memo is self._memo and len(self._idle) < _MAX_IDLE:
                self._idle.append(db)
                return
        db.close()

    def _meaning(self, error: BaseException) -> DaemonError | None:
        """What a failure means to who asked; None: what it says."""
        if isinstance(error, sqlite3.Error):
            return unavailable(error, self._path)
        if isinstance(error, TimeoutError):
            return TookTooLong(f"the answer {error}, and was given up; ask for fewer days, or within one org")
        if isinstance(error, OSError):
            return StoreUnavailable(f"the database {self._path} failed: {error.strerror}", "check its folder")
        return None


@contextmanager
def _moment(db: sqlite3.Connection) -> Iterator[None]:
    """One moment of the database in the block, and no longer, or the WAL could not be taken back behind it.

    After an error other than QueryError, nobody knows the connection's state: it has to be closed.
    """
    db.execute("BEGIN")
    try:
        yield
    except QueryError:
        db.execute("ROLLBACK")
        raise
    db.execute("ROLLBACK")


def _stat(path: Path) -> os.stat_result:
    """Raises StoreUnavailable where no file is, or another OSError."""
    try:
        found = path.stat()
    except FileNotFoundError as error:
        raise StoreUnavailable(f"there is no database {path}", "the daemon makes it when it starts") from error
    if stat.S_ISDIR(found.st_mode):
        raise StoreUnavailable(f"{path} is a folder", "choose a file")
    return found


def _check(db: sqlite3.Connection, path: Path) -> None:
    """Raises StoreUnavailable unless the schema is this release's: from another, numbers could be wrong."""
    try:
        migrations.check(db)
    except StoreUnavailable as error:
        raise StoreUnavailable(f"{path}: {error.reason}", error.hint) from error
    version, latest = migrations.version(db), migrations.latest()
    if not version:
        raise StoreUnavailable(f"{path} is empty", "the daemon makes its tables when it starts")
    if version < latest:
        raise StoreUnavailable(
            f"{path} has schema version {version}, this release reads {latest}",
            "start the daemon of this release: it brings the schema up to date",
        )
