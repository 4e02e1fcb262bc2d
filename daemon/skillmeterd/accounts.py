"""Accounts: every producer's row, read when it speaks, written with the group it speaks in.

Every method runs inside the transaction of its caller, but `get`, which only reads.
"""

import sqlite3
from collections.abc import Iterable
from typing import Final

import msgspec

from .outcomes import Account

MAX_ACCOUNTS: Final = 20_000
"""In memory, about 10 MB; the others are read again when they speak."""

_LOAD: Final = """
SELECT no, committed, records, attempted, accounted, lost, corrupt, ledger, finished FROM producer WHERE producer = ?
"""
_OPEN: Final = "INSERT INTO producer (producer, first_seen_ns, last_seen_ns) VALUES (?, ?, ?)"
_SAVE: Final = """
UPDATE producer SET
    committed = ?, records = ?, attempted = ?, accounted = ?, lost = ?, corrupt = ?, ledger = ?, finished = ?,
    last_event_id = max(last_event_id, ?), last_seen_ns = ?
WHERE no = ?
"""
_PRUNE: Final = """
DELETE FROM producer WHERE no IN (
    SELECT no FROM producer
    WHERE finished AND last_seen_ns < ?
    AND last_event_id < ifnull((SELECT min(id) FROM event_log), last_event_id + 1)
    LIMIT ?
)
"""
_CLAIMED: Final = "SELECT total(events) FROM ledger_total WHERE outcome IN ('attempted', 'sync_failed')"

_encode_ledger = msgspec.json.Encoder().encode
_decode_ledger = msgspec.json.Decoder(tuple[int, ...]).decode


class Accounts:
    """The accounts of one connection, the recently used ones in memory. Clear them after a rollback."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db
        self._recent: dict[bytes, Account] = {}

    def get(self, producer: bytes) -> Account | None:
        """The producer's account, or None if it never spoke."""
        account = self._recent.pop(producer, None) or self._load(producer)
        if account is not None:
            self._recent[producer] = account
        return account

    def open(self, producer: bytes, now_ns: int) -> Account:
        """The producer's account, made if it never spoke."""
        account = self.get(producer)
        if account is None:
            number = self._db.execute(_OPEN, (producer, now_ns, now_ns)).lastrowid
            assert number is not None
            account = self._recent[producer] = Account(number)
        return account

    def save(self, accounts: Iterable[Account], last_event_id: int, now_ns: int) -> None:
        """Write accounts that a group changed. `last_event_id` is the group's, and so not before any of theirs."""
        self._db.executemany(_SAVE, [(*_columns(account), last_event_id, now_ns, account.no) for account in accounts])

    def claimed(self) -> int:
        """What the ledger holds of all that clients can claim; see `outcomes.Totals`."""
        (events,) = self._db.execute(_CLAIMED).fetchone()
        return int(events)

    def prune(self, idle_before_ns: int, limit: int) -> int:
        """Delete finished producers that were last seen before a time and have no event left; returns how many."""
        self._recent.clear()
        return self._db.execute(_PRUNE, (idle_before_ns, limit)).rowcount

    def trim(self) -> None:
        """Forget those that were not used for longest."""
        while len(self._recent) > MAX_ACCOUNTS:
            del self._recent[next(iter(self._recent))]

    def clear(self) -> None:
        """Forget all."""
        self._recent.clear()

    def _load(self, producer: bytes) -> Account | None:
        row = self._db.execute(_LOAD, (producer,)).fetchone()
        if row is None:
            return None
        *counts, ledger, finished = row
        account = Account(*counts)
        account.ledger = _decode_ledger(ledger)
        account.finished = bool(finished)
        return account


def _columns(account: Account) -> tuple[int | str, ...]:
    """The columns of _SAVE that come from the account."""
    counts = account.committed, account.records, account.attempted, account.accounted, account.lost, account.corrupt
    return *counts, _encode_ledger(account.ledger).decode(), int(account.finished)
