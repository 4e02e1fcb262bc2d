"""Stats: the size of the database."""

from skillmeter.results import DbStats

from .params import Params
from .reader import Snapshot
from .rollups import time_of


def db_stats(at: Snapshot, asked: Params) -> DbStats:  # noqa: ARG001 - takes none
    """Rows and bytes. No table is scanned but those of names."""
    first, last = at.row("SELECT (SELECT min(id) FROM event_log), (SELECT max(id) FROM event_log)")
    page_bytes = at.value("PRAGMA page_size")
    wal = at.path.with_name(at.path.name + "-wal")
    return DbStats(
        path=str(at.path),
        schema_version=at.value("SELECT version FROM schema_version"),
        events=0 if first is None else last - first + 1,  # ids have no gaps: they are given in commits, and go in order
        skills=at.value("SELECT count(*) FROM skill"),
        orgs=at.value("SELECT count(*) FROM org"),
        users=at.value("SELECT count(*) FROM user"),
        producers=at.value("SELECT count(*) FROM producer"),
        database_bytes=page_bytes * at.value("PRAGMA page_count"),
        wal_bytes=wal.stat().st_size if wal.exists() else 0,
        free_bytes=page_bytes * at.value("PRAGMA freelist_count"),
        oldest=time_of(at.value("SELECT at_ns FROM event_log WHERE id = :id", id=first)),
        newest=time_of(at.value("SELECT at_ns FROM event_log WHERE id = :id", id=last)),
    )
