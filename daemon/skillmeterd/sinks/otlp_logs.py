"""OTLP logs: forwards every event of the database as a log record, at least once, from a cursor that survives restarts.

The cursor moves only once the receiver has answered for a batch. While it does not, events stay where they are, in the
database; only retention can overtake the cursor, and what it deletes is counted as missed. What the receiver refuses
for good is set aside and passed over. If one record makes it refuse the batch, halving finds that record.
"""

import contextlib
import gzip
import logging
import sqlite3
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from google.protobuf.message import DecodeError
from opentelemetry.proto.resource.v1.resource_pb2 import Resource

from ..database import open_reader
from .otlp_events import Event, encode, read, refusal
from .otlp_state import Cursor, Refused, State
from .otlp_transport import REFUSED, Delivery, Transport
from .sink import Progress

log = logging.getLogger(__name__)

BATCH: Final = 500  # records: about 200 kB as a rule
MAX_BODY_BYTES: Final = 2 * 1024 * 1024  # receivers usually take 4 MiB; events with long attributes go in smaller parts
MAX_HALVINGS: Final = 40  # for a batch: finds two bad records of 500; a receiver that refuses all ends it too
SHOWN: Final = 10


class Forwarder:
    """One thread calls `export`. `status` may be called by any."""

    def __init__(
        self, db_path: Path, state: State, transport: Transport, resource: Resource, stopping: threading.Event
    ) -> None:
        self.progress = Progress()
        self._db_path = db_path
        self._state = state
        self._transport = transport
        self._resource = resource
        self._stopping = stopping

    def export(self) -> bool:
        """Forward until the receiver has everything that was committed before the call. Whether it has."""
        try:
            with contextlib.closing(open_reader(self._db_path)) as db:
                problem = self._forward(db, _last_id(db))
        except sqlite3.Error as error:
            problem = f"SQLite: {error}"
        finally:
            self._transport.close()
        if problem:
            self.progress.failed(time.time_ns(), problem)
        else:
            self.progress.succeeded(time.time_ns())
        return not problem

    def status(self) -> dict[str, Any]:
        """How far it is behind, what it came to, and the last refusals."""
        try:
            return self._account()
        except sqlite3.Error as error:
            return {"problem": f"SQLite: {error}"}

    def _account(self) -> dict[str, Any]:
        cursor = self._state.cursor() or Cursor(0)
        with contextlib.closing(open_reader(self._db_path)) as db:
            waiting = max(0, _last_id(db) - cursor.event_log_id)
            oldest = read(db, cursor.event_log_id, 1)
        return {
            "waiting": waiting,
            "lag_s": round(max(0.0, time.time() - oldest[0].recorded_at / 1e9), 1) if oldest else 0.0,
            "forwarded": cursor.forwarded,
            "refused": cursor.refused,
            "missed": cursor.missed,
            "restarts": cursor.restarts,
            "last_refused": self._state.last_refused(SHOWN),
        }

    def _forward(self, db: sqlite3.Connection, end: int) -> str:
        """Up to the event `end`; what went wrong, or nothing. Records that were refused are a problem, once."""
        cursor = self._cursor(db, end)
        problem = ""
        while cursor.event_log_id < end:
            events = read(db, cursor.event_log_id, min(BATCH, end - cursor.event_log_id))
            if not events:  # retention has deleted the rest
                cursor.missed += end - cursor.event_log_id
                cursor.event_log_id, cursor.event = end, None
                self._state.save(cursor, [])
                break
            refused, delivery = self._send(events)
            if not delivery.delivered:
                return delivery.problem
            cursor.missed += events[0].no - cursor.event_log_id - 1
            _advance(cursor, events, refused)
            self._state.save(cursor, refused)
            if refused:
                problem = f"{sum(part.refused for part in refused)} log records refused: {refused[-1].reason}"
                log.warning("log records refused", extra={"problem": problem})
            if self._stopping.is_set() and cursor.event_log_id < end:
                return "stopped with events left; the next start goes on"
        return problem

    def _send(self, events: Sequence[Event]) -> tuple[list[Refused], Delivery]:
        """Have the receiver answer for each event; what it refused, and how the last request that counts went."""
        refused: list[Refused] = []
        parts = [events]
        halvings = 0
        delivery = Delivery("delivered")
        while parts:
            part = parts.pop()
            body = encode(part, self._resource, time.time_ns())
            if len(body) > MAX_BODY_BYTES and len(part) > 1:
                parts += _halves(part)
                continue
            delivery = self._transport.deliver(body)
            if delivery.delivered:
                refused += self._refused_in_part(part, body, delivery.body)
            elif delivery.kind not in REFUSED:
                return refused, delivery
            elif len(part) > 1 and halvings < MAX_HALVINGS:
                halvings += 1
                parts += _halves(part)
            else:
                refused.append(_refused(part, body, len(part), delivery.problem))
        return refused, Delivery("delivered")

    def _refused_in_part(self, part: Sequence[Event], body: bytes, answer: bytes) -> list[Refused]:
        """A partial success says how many records were refused but not which: the request is kept whole."""
        try:
            count, message = refusal(answer)
        except DecodeError:  # it said 2xx; what else it said nobody can read
            return []
        if message and not count:
            log.warning("the receiver of log records warns", extra={"warning": self._transport.shown(message)})
        if not count:
            return []
        self._transport.failures["partial"] += 1
        return [_refused(part, body, count, self._transport.shown(message))]

    def _cursor(self, db: sqlite3.Connection, end: int) -> Cursor:
        """Where to go on. Anew from the first event if the cursor is not one of this database."""
        database = int(db.execute("SELECT min(migrated_ns) FROM schema_version WHERE migrated_ns > 0").fetchone()[0])
        cursor = self._state.cursor()
        if cursor is None:
            return Cursor(database)
        event = _event_at(db, cursor.event_log_id)
        if event is not None and event == cursor.event:
            cursor.database = database  # the same one, whatever it is stamped with: a migration does that anew
        elif cursor.database != database or cursor.event_log_id > end or None not in (event, cursor.event):
            log.warning("another database is in place: its events are forwarded from the first one")
            cursor.database, cursor.event_log_id, cursor.event = database, 0, None
            cursor.restarts += 1
        return cursor


def _event_at(db: sqlite3.Connection, number: int) -> str | None:
    """The identity of the event under a number. Another than the cursor's: a backup was restored and has gone on."""
    there = read(db, number - 1, 1)
    return there[0].event_id if there and there[0].no == number else None


def _last_id(db: sqlite3.Connection) -> int:
    (last_id,) = db.execute("SELECT ifnull(max(seq), 0) FROM sqlite_sequence WHERE name = 'event_log'").fetchone()
    return int(last_id)


def _halves(part: Sequence[Event]) -> list[Sequence[Event]]:
    """The second before the first, as they are taken from the end."""
    middle = len(part) // 2
    return [part[middle:], part[:middle]]


def _refused(part: Sequence[Event], body: bytes, count: int, reason: str) -> Refused:
    first, last = part[0].no, part[-1].no
    return Refused(time.time_ns(), first, last, len(part), count, reason, gzip.compress(body, compresslevel=5))


def _advance(cursor: Cursor, events: Sequence[Event], refused: Sequence[Refused]) -> None:
    count = sum(part.refused for part in refused)
    cursor.event_log_id, cursor.event = events[-1].no, events[-1].event_id
    cursor.forwarded += len(events) - count
    cursor.refused += count
