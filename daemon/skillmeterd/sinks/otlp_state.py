"""State: what the OTLP sink has to remember over restarts - who it is, which totals the receiver has, how far log
records got, and what was refused.

It is a file of its own beside the database, so that the database keeps its single writer: no export ever waits for a
commit, nor a commit for an export. Losing the file costs a new service.instance.id, and log records sent a second time
under the same event id.
"""

import contextlib
import os
import sqlite3
import uuid
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple

import msgspec

from ..database import is_corrupt, open_reader, set_aside
from .families import Family, Histogram, Point

MAX_REFUSED_BYTES: Final = 64 * 1024 * 1024  # of requests kept; past it the oldest are forgotten, their counts stay
MAX_REMEMBERED: Final = 200_000  # series: about 60 MB to encode, 5 MB on disk
_BUSY_TIMEOUT_S: Final = 5

_SCHEMA: Final = (
    "CREATE TABLE IF NOT EXISTS instance (id TEXT NOT NULL)",
    # One row: how far the events of `database` have been forwarded. `event` is the last one's identity in it.
    """
    CREATE TABLE IF NOT EXISTS cursor (
        database INTEGER NOT NULL,
        event_log_id INTEGER NOT NULL,
        event TEXT,
        forwarded INTEGER NOT NULL,
        refused INTEGER NOT NULL,
        missed INTEGER NOT NULL,
        restarts INTEGER NOT NULL
    )
    """,
    # Requests that the receiver refused, whole or in part. `request` is a gzipped ExportLogsServiceRequest.
    """
    CREATE TABLE IF NOT EXISTS refused_request (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        at_ns INTEGER NOT NULL,
        first_event_log_id INTEGER NOT NULL,
        last_event_log_id INTEGER NOT NULL,
        records INTEGER NOT NULL,
        refused INTEGER NOT NULL,
        reason TEXT NOT NULL,
        request BLOB NOT NULL
    )
    """,
    # One row: the totals that the receiver acknowledged last. `families` is NULL if there were too many series.
    """
    CREATE TABLE IF NOT EXISTS acknowledged (
        at_ns INTEGER NOT NULL,
        url TEXT NOT NULL,
        event_log_id INTEGER NOT NULL,
        labels TEXT NOT NULL,
        families BLOB
    )
    """,
)


class Refused(NamedTuple):
    """A request of log records that the receiver did not take, or not all of."""

    at_ns: int
    first_event_log_id: int
    last_event_log_id: int
    records: int
    refused: int
    reason: str
    request: bytes


@dataclass(slots=True)
class Cursor:
    """How far forwarding got, and what it came to."""

    database: int
    """Its stamp, when its schema was last changed: another may tell of another database in its place."""
    event_log_id: int = 0
    event: str | None = None
    forwarded: int = 0
    refused: int = 0
    missed: int = 0
    """Events that retention deleted before they could be forwarded."""
    restarts: int = 0
    """How often another database was found in the place of the one that was being forwarded."""


@dataclass(frozen=True, slots=True)
class Acknowledged:
    """The totals that a receiver has said it has."""

    at_ns: int
    url: str
    event_log_id: int
    """The newest event in them."""
    labels: tuple[str, ...]
    """Of skills' series: ANALYTICS_METRIC_LABELS."""
    families: list[Family] | None
    """None if there were more than MAX_REMEMBERED series."""


class State:
    """Opens its file for each call: there are few, from several threads. Raises sqlite3.Error."""

    def __init__(self, db_path: Path, now_ns: int) -> None:
        """Create the file beside the database, for its owner only. One that is corrupt is set aside."""
        self._path = _beside(db_path)
        try:
            self._prepare()
        except sqlite3.DatabaseError as error:
            if not is_corrupt(error):
                raise
            set_aside(self._path, "corrupt", now_ns, ("-journal", ""))
            self._prepare()

    def instance_id(self) -> str:
        """The service.instance.id, made once."""
        with self._transaction() as db:
            row = db.execute("SELECT id FROM instance").fetchone()
            if row is None:
                row = db.execute("INSERT INTO instance VALUES (?) RETURNING id", (str(uuid.uuid4()),)).fetchone()
        return str(row[0])

    def cursor(self) -> Cursor | None:
        """None before the first `save`."""
        with self._transaction() as db:
            row = db.execute("SELECT * FROM cursor").fetchone()
        return None if row is None else Cursor(*row)

    def save(self, cursor: Cursor, refused: list[Refused]) -> None:
        """Keep the cursor and what was refused on the way to it."""
        with self._transaction() as db:
            db.execute("DELETE FROM cursor")
            db.execute("INSERT INTO cursor VALUES (?, ?, ?, ?, ?, ?, ?)", [getattr(cursor, name) for name in _COLUMNS])
            db.executemany(
                "INSERT INTO refused_request (at_ns, first_event_log_id, last_event_log_id, records, refused, reason,"
                " request) VALUES (?, ?, ?, ?, ?, ?, ?)",
                refused,
            )
            if refused:
                _forget_oldest(db)

    def acknowledge(self, totals: Acknowledged) -> None:
        """Keep the totals that the receiver has just acknowledged."""
        families = totals.families or []
        remembered = sum(len(family.points) for family in families) <= MAX_REMEMBERED
        blob = zlib.compress(msgspec.msgpack.encode(families), 1) if remembered else None
        with self._transaction() as db:
            db.execute("DELETE FROM acknowledged")
            db.execute(
                "INSERT INTO acknowledged VALUES (?, ?, ?, ?, ?)",
                (totals.at_ns, totals.url, totals.event_log_id, ",".join(totals.labels), blob),
            )

    def last_refused(self, limit: int) -> list[dict[str, Any]]:
        """The latest refused requests, without their bytes."""
        columns = ("at_ns", "first_event_log_id", "last_event_log_id", "records", "refused", "reason")
        with self._transaction() as db:
            found = db.execute(
                f"SELECT {', '.join(columns)} FROM refused_request ORDER BY id DESC LIMIT ?",  # noqa: S608 - ours
                (limit,),
            ).fetchall()
        return [dict(zip(columns, row, strict=True)) for row in found]

    def _prepare(self) -> None:
        os.close(os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
        with self._transaction() as db:
            for statement in _SCHEMA:
                db.execute(statement)

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with contextlib.closing(sqlite3.connect(self._path, timeout=_BUSY_TIMEOUT_S, isolation_level=None)) as db:
            db.execute("BEGIN IMMEDIATE")
            yield db
            db.execute("COMMIT")


def acknowledged(db_path: Path) -> Acknowledged | None:
    """What was acknowledged last, for who only looks; None if nothing was. Raises sqlite3.Error."""
    path = _beside(db_path)
    if not path.exists():
        return None
    with contextlib.closing(open_reader(path)) as db:
        if not db.execute("SELECT 1 FROM sqlite_master WHERE name = 'acknowledged'").fetchone():
            return None  # of a release before
        row = db.execute("SELECT at_ns, url, event_log_id, labels, families FROM acknowledged").fetchone()
    if row is None:
        return None
    at_ns, url, event_log_id, labels, blob = row
    families = None if blob is None else _families(zlib.decompress(blob))
    return Acknowledged(at_ns, url, event_log_id, tuple(labels.split(",")), families)


def _families(data: bytes) -> list[Family]:
    return [_family(**fields) for fields in msgspec.msgpack.decode(data)]


def _family(points: list[Any], bounds: list[int], **fields: Any) -> Family:
    if fields["kind"] == "histogram":
        made = [Histogram(labels, tuple(counts), *rest) for labels, counts, *rest in points]
        return Family(points=made, bounds=tuple(bounds), **fields)
    return Family(points=[Point(*values) for values in points], **fields)


def _beside(db_path: Path) -> Path:
    return db_path.with_name(db_path.name + ".sinks")


_COLUMNS: Final = ("database", "event_log_id", "event", "forwarded", "refused", "missed", "restarts")


def _forget_oldest(db: sqlite3.Connection) -> None:
    db.execute(
        "DELETE FROM refused_request WHERE id IN (SELECT id FROM ("
        " SELECT id, sum(length(request)) OVER (ORDER BY id DESC) AS bytes FROM refused_request) WHERE bytes > ?)",
        (MAX_REFUSED_BYTES,),
    )
