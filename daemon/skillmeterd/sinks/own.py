"""Own: how the daemon itself is doing, as the families under `skillmeter_`."""

import contextlib
import platform
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from skillmeter._version import __version__
from skillmeter.records import LEDGER

from .. import report
from ..config import DaemonSettings
from ..outcomes import CORRUPT, LOST, MALFORMED, STORED, UNFINISHED
from ..vitals import Vitals
from .families import Family, Point
from .sink import Sink
from .totals import Totals

# What can happen is a series from the start: an alert that looks for an increase would miss the first one else.
_OUTCOMES: Final = ("stored", "dropped", "rejected")
_CLIENTS: Final = [(outcome, reason) for outcome, _, reason in (slot.partition(".") for slot in LEDGER) if reason]
_SETTLED: Final = (STORED, *_CLIENTS, MALFORMED, LOST, CORRUPT, UNFINISHED)
_INCIDENTS: Final = ("corrupt", "exchanged")

_BUILD: Final = {"version": __version__, "python_version": platform.python_version()}


def families(settings: DaemonSettings, vitals: Vitals, sinks: Sequence[Sink], totals: Totals) -> list[Family]:
    """All of them. The ledger is of the same commit as `totals`; the rest is as of now."""
    return [*_record(totals), *_ingest(vitals), *_files(settings, vitals), *_exports(sinks)]


def _record(totals: Totals) -> list[Family]:
    ledger = totals.ledger
    settled = dict.fromkeys(_SETTLED, 0) | {slot: events for slot, events in ledger.items() if slot[0] in _OUTCOMES}
    incidents = dict.fromkeys(_INCIDENTS, 0) | totals.incidents
    outcomes = [Point(_outcome(*slot), events) for slot, events in settled.items()]
    kinds = [Point({"kind": kind}, times) for kind, times in incidents.items()]
    over = [Point({"metric": metric}, label_sets) for metric, label_sets in totals.over_budget.items()]
    return [
        _counter("attempted_events", "Calls that recorded an event, or tried to.", ledger.get(("attempted", ""), 0)),
        Family("skillmeter_events", "counter", "Events whose outcome is known: stored, dropped, rejected.", outcomes),
        _gauge("pending_events", "Events accepted by clients and not committed yet.", ledger.get(("pending", ""), 0)),
        _counter("unsynced_events", "Accepted, but the disk did not confirm it.", ledger.get(("sync_failed", ""), 0)),
        _gauge("last_event_id", "The newest event that these totals include.", totals.last_event_id),
        Family("skillmeter_series_over_budget", "gauge", "Label sets past ANALYTICS_MAX_SERIES, by metric.", over),
        Family("skillmeter_incidents", "counter", "What happened to the database file, by kind.", kinds),
    ]


def _ingest(vitals: Vitals) -> list[Family]:
    began_ns = vitals.started_ns
    return [
        Family("skillmeter_build_info", "gauge", "Versions.", [Point(_BUILD, 1)]),
        _gauge("start_time_seconds", "When this daemon started, Unix time.", began_ns / 1e9),
        _gauge("ready", "1 if events can be committed.", vitals.ready),
        _counter("commits", "Group commits of batches.", vitals.commits, began_ns),
        _counter("commit_seconds", "Time spent in them.", vitals.commit_seconds, began_ns),
        _counter("committed_events", "Events in them.", vitals.events, began_ns),
        _counter("batches", "Batches received.", vitals.batches, began_ns),
        _counter("rewinds", "Batches that did not continue what is committed.", vitals.rewinds, began_ns),
        _counter("refused_messages", "Messages outside the protocol.", vitals.refused_messages, began_ns),
        _counter("refused_connections", "Connections refused by key.", vitals.refused_connections, began_ns),
        _counter("orphans_recovered", "Journals of ended processes taken over.", vitals.orphans_recovered, began_ns),
        _gauge("orphans_pending", "Journals that may be orphans, to be looked at.", vitals.orphans_pending),
        *_time("last_commit_timestamp_seconds", "When the last commit was, Unix time.", vitals.last_commit_ns),
    ]


def _files(settings: DaemonSettings, vitals: Vitals) -> list[Family]:
    """What cannot be looked at has no number: one made up would be wrong, and the totals can be shown all the same."""
    families = [_counter("quarantined", "Damaged spans and files set aside.", vitals.quarantined, vitals.started_ns)]
    with contextlib.suppress(OSError):
        spool = report.spool(Path(settings.spool_dir))
        families += [
            _gauge("spool_journals", "Journals in the spool.", spool["journals"]),
            _gauge("spool_bytes", "Disk space that journals take: what clients still keep.", spool["bytes"]),
        ]
    with contextlib.suppress(OSError):
        aside = report.quarantine(Path(settings.spool_dir))["quarantined"]
        families.append(_gauge("quarantined_files", "Files set aside in the spool's quarantine.", aside))
    with contextlib.suppress(OSError):
        database = report.database(settings.db_path)
        families += [
            _gauge("database_bytes", "Size of the database file.", database["bytes"]),
            _gauge("wal_bytes", "Size of the database's write-ahead log.", database["wal_bytes"]),
        ]
    return families


def _exports(sinks: Sequence[Sink]) -> list[Family]:
    def points(field: str) -> list[Point]:
        values = [(sink.name, getattr(sink.progress, field)) for sink in sinks]
        return [Point({"sink": name}, value) for name, value in values if value is not None]

    seen = [Point(point.labels, point.value / 1e9) for point in points("last_success_ns")]
    healthy = [Point({"sink": sink.name}, sink.healthy) for sink in sinks]
    return [
        Family("skillmeter_sink_healthy", "gauge", "1 if the sink works, as far as is known.", healthy),
        Family("skillmeter_sink_exports", "counter", "Exports that succeeded.", points("exports")),
        Family("skillmeter_sink_failures", "counter", "Exports that failed.", points("failures")),
        Family("skillmeter_sink_last_success_timestamp_seconds", "gauge", "When the last one succeeded.", seen),
    ]


def _outcome(outcome: str, reason: str) -> dict[str, str]:
    return {"outcome": outcome, "reason": reason} if reason else {"outcome": outcome}


def _counter(name: str, text: str, value: float, created_ns: int | None = None) -> Family:
    return Family(f"skillmeter_{name}", "counter", text, [Point({}, value, created_ns)])


def _gauge(name: str, text: str, value: float) -> Family:
    return Family(f"skillmeter_{name}", "gauge", text, [Point({}, value)])


def _time(name: str, text: str, at_ns: int | None) -> list[Family]:
    return [] if at_ns is None else [_gauge(name, text, at_ns / 1e9)]
