"""Store: keeps what producers recorded, each event exactly once. The only writer of the database.

A group of chunks is one transaction: events, rollups, ledger and every producer's committed offset become visible and
durable together, or not at all. That offset is what makes redelivery harmless: the receiver skips what lies below it.
"""

import sqlite3
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from skillmeter.faults import point

from . import database
from .accounts import Accounts
from .errors import StaleChunks, StoreReplaced, StoreUnavailable
from .outcomes import Account, Totals
from .rows import DAY_NS, Group
from .seen import Seen
from .tables import (
    MAX_NAMES,
    Days,
    Pairs,
    Sketches,
    Users,
    delete_events,
    mark_day,
    write_events,
    write_ledger,
    write_rollups,
)


@dataclass(slots=True)
class Chunk:
    """One producer's contiguous piece, without what was committed before."""

    producer: bytes
    committed: int
    """The producer's committed offset after this chunk."""
    offsets: list[int]
    """The journal offset at which each record starts, ascending."""
    payloads: list[bytes]
    """The records' payloads; their CRCs are checked, they are not decoded."""
    ledger: tuple[int, ...] = ()
    """The producer's counters so far, in the order of skillmeter.records.LEDGER; empty if nothing new is known."""
    lost: int = 0
    """Events that were declared lost."""
    corrupt: int = 0
    """Spans that were quarantined."""
    finished: bool = False
    """The producer is dead, and this is the last of it."""
    continues: int | None = None
    """The committed offset that this chunk was made for. If it is no longer the producer's, because the database was
    replaced or somebody else committed the same records, the commit raises StaleChunks. None: not checked."""


class Committed(NamedTuple):
    """What SQLite holds of a producer: its records before `offset`. There were `events` before it, stored, malformed or
    declared lost."""

    offset: int
    events: int


@dataclass(frozen=True, slots=True)
class CommitResult:
    """What a group came to."""

    stored: int
    malformed: int
    last_event_id: int
    """0 when the group had no events."""


class Store:
    """The database's writer. One thread at a time may use it: the one that commits."""

    def __init__(self, path: Path, clock_ns: Callable[[], int] = time.time_ns) -> None:
        """Opens nothing yet: `connect` does, or the first call that needs it."""
        self.path = path
        self.replaced_corrupt: Path | None = None
        """Where a corrupt database was kept aside, if this store ever found one."""
        self._clock_ns = clock_ns
        self._session: _Session | None = None
        self._incident: tuple[str, str] | None = None  # to be told in the next database: kind and detail

    @classmethod
    def open(cls, path: Path, *, clock_ns: Callable[[], int] = time.time_ns) -> "Store":
        """A store that is connected."""
        store = cls(path, clock_ns)
        store.connect()
        return store

    def connect(self) -> None:
        """Create or open the database and bring its schema up to date.

        Raises StoreUnavailable: of these, StoreBusy passes; SchemaTooNew, ForeignDatabase and NetworkFileSystem need a
        person. A corrupt file is kept aside and a fresh one started; see `replaced_corrupt`.
        """
        try:
            self._connected()
        except StoreReplaced:
            self._connected()

    def close(self) -> None:
        """Idempotent. SQLite moves its WAL into the database on the way."""
        if self._session is not None:
            self._session.db.close()
            self._session = None

    def committed(self, producer: bytes) -> Committed:
        """What is committed of a producer: (0, 0) if it is unknown. Raises StoreUnavailable."""
        session = self._connected()
        try:
            account = session.accounts.get(producer)
        except sqlite3.Error as error:
            raise self._failed(error) from error
        return Committed(0, 0) if account is None else Committed(account.committed, account.records + account.lost)

    def commit(self, chunks: Sequence[Chunk]) -> CommitResult:
        """Write chunks in one transaction.

        Raises StoreUnavailable, and then nothing has changed; of these, StaleChunks says that the chunks do not fit
        what is in the database and have to be made anew from `committed`.
        """
        with self._transaction() as session:
            result = self._write(session, chunks)
            point("store.before_commit")
        point("store.after_commit")
        session.trim()
        return result

    def prune_producers(self, idle_before_ns: int, limit: int = 1000) -> int:
        """Forget up to `limit` finished producers that were last seen before a time and have no event left.

        Returns how many. Raises StoreUnavailable.
        """
        with self._transaction() as session:
            return session.accounts.prune(idle_before_ns, limit)

    def delete_events(self, before_day: int, limit: int) -> int:
        """Delete up to `limit` events, the oldest first, of those committed before a day of the daemon's clock.

        Days count from 1970-01-01 UTC. Rollups and totals stay. Returns how many. Raises StoreUnavailable.
        """
        with self._transaction() as session:
            return delete_events(session.db, before_day, limit)

    def settle(self, limit: int) -> bool:
        """Put in order up to `limit` rows of what was added lately (levels.py), if it is much; whether it was.

        Raises StoreUnavailable.
        """
        with self._transaction() as session:
            return session.seen.settle(limit) or session.sketches.settle(limit)

    def give_back(self, max_pages: int, kept_share: int) -> int:
        """Give up to `max_pages` free pages back to the file system, if more than a `kept_share`th of the file is free.

        Returns how many. Raises StoreUnavailable.
        """
        with self._transaction() as session:
            return database.give_back(session.db, max_pages, kept_share)

    def _write(self, session: "_Session", chunks: Sequence[Chunk]) -> CommitResult:
        now_ns = self._clock_ns()
        totals = Totals()
        totals.claimed_before = session.accounts.claimed()
        group = Group(session.pairs, session.users)
        touched: dict[int, Account] = {}
        malformed = 0
        point("store.before_rows")
        for chunk in chunks:
            account = session.accounts.open(chunk.producer, now_ns)
            touched[account.no] = account
            malformed += _take(chunk, account, group, totals)
        last_event_id = write_events(session.db, group)
        point("store.before_rollups")
        if last_event_id:
            write_rollups(session.db, group, session.days, session.seen, session.sketches, now_ns)
            mark_day(session.db, now_ns // DAY_NS, last_event_id - len(group.rows) + 1)
        write_ledger(session.db, totals)
        session.accounts.save(touched.values(), last_event_id, now_ns)
        return CommitResult(len(group.rows), malformed, last_event_id)

    @contextmanager
    def _transaction(self) -> Iterator["_Session"]:
        """All of the block, or nothing of it."""
        session = self._connected()
        try:
            session.db.execute("BEGIN IMMEDIATE")
            yield session
            session.db.execute("COMMIT")
        except sqlite3.Error as error:
            raise self._failed(error) from error
        except BaseException:
            self._roll_back()
            raise

    def _connected(self) -> "_Session":
        """The session, made anew if the last one broke. Raises StoreUnavailable."""
        if self._session is not None and self._session.files.exchanged():
            self._session.files.leave_wal(self._clock_ns())
            self.close()
            self._incident = ("exchanged", f"{self.path} was deleted, or another file put in its place")
            raise StoreReplaced(self._incident[1], "producers send again what is missing, as far as they have it")
        if self._session is None:
            self._connect()
        assert self._session is not None
        return self._session

    def _connect(self) -> None:
        now_ns = self._clock_ns()
        try:
            self._session = _Session(self.path, now_ns)
            if self._incident is not None:
                self._session.db.execute("INSERT INTO incident VALUES (?, ?, ?)", (now_ns, *self._incident))
                self._incident = None
        except sqlite3.Error as error:
            raise self._failed(error) from error
        except OSError as error:
            raise StoreUnavailable(f"the database {self.path} cannot be opened: {error}", "check its folder") from error

    def _failed(self, error: sqlite3.Error) -> StoreUnavailable:
        """Leave nothing half done; the error to raise. A corrupt database is set aside: the next call starts afresh."""
        self._roll_back()
        if not database.is_corrupt(error):
            return database.unavailable(error, self.path)
        try:
            aside = database.set_aside(self.path, "corrupt", self._clock_ns())
        except OSError as failure:
            return StoreUnavailable(f"the database {self.path} is corrupt: {error}", f"move it away by hand: {failure}")
        self.close()  # after the renaming, or SQLite would still move the WAL into the broken file
        self.replaced_corrupt = aside
        self._incident = ("corrupt", f"{error}; kept as {aside}")
        return StoreReplaced(f"the database {self.path} was corrupt: {error}", f"it is kept as {aside}")

    def _roll_back(self) -> None:
        if self._session is None:
            return
        self._session.clear()
        try:
            if self._session.db.in_transaction:
                self._session.db.execute("ROLLBACK")
        except sqlite3.Error:
            self.close()  # and the next call connects again


class _Session:
    """A connection and what is remembered of its database, which is only true while nothing was rolled back."""

    def __init__(self, path: Path, now_ns: int) -> None:
        self.db = database.open_writer(path, now_ns)
        self.files = database.Files(path)
        self.accounts = Accounts(self.db)
        self.pairs = Pairs(self.db)
        self.days = Days(self.db)
        self.users = Users(self.db)
        self.seen = Seen(self.db)
        self.sketches = Sketches(self.db)

    def trim(self) -> None:
        self.accounts.trim()
        self.seen.trim()
        for names in (self.pairs, self.days, self.users):
            if len(names) > MAX_NAMES:
                names.clear()

    def clear(self) -> None:
        for remembered in (self.accounts, self.pairs, self.days, self.users, self.seen, self.sketches):
            remembered.clear()


def _take(chunk: Chunk, account: Account, group: Group, totals: Totals) -> int:
    """Add a chunk to its group and to its producer's account; returns how many records were malformed.

    Raises StaleChunks.
    """
    if chunk.continues is not None and chunk.continues != account.committed:
        raise StaleChunks(
            f"producer {chunk.producer.hex()} is committed to {account.committed}, not {chunk.continues}",
            "its records are read again",
        )
    malformed = group.add(account.no, chunk.offsets, chunk.payloads)
    account.committed = max(account.committed, chunk.committed)
    account.count(totals, len(chunk.payloads) - malformed, malformed, chunk.lost, chunk.corrupt)
    account.advance(totals, chunk.ledger)
    account.settle(totals, finished=chunk.finished)
    return malformed
