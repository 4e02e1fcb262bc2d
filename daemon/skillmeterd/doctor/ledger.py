"""Ledger: whether every attempt has one outcome, and why events are not stored."""

import contextlib
from collections.abc import Iterator
from typing import Any, Final

from skillmeter.events import REJECT_REASONS

from .. import migrations, report
from ..database import open_reader
from .finding import Finding, fail, ok, warn
from .patient import Patient

_STRICT: Final = "the caller gives an invalid value: strict=True (or ANALYTICS_STRICT=1) raises where, in tests"

ADVICE: Final = {
    **{f"rejected.{reason}": _STRICT for reason in REJECT_REASONS},
    "rejected.malformed": "no client of skillmeter writes such records: find the program that does",
    "dropped.spool_full": "have the daemon running while there is load, or raise ANALYTICS_SPOOL_MAX_BYTES",
    "dropped.disk_full": "make room where the spool is (ANALYTICS_SPOOL_DIR)",
    "dropped.spool_unavailable": "let the recording processes write to the spool (ANALYTICS_SPOOL_DIR)",
    "dropped.too_large": "record shorter ids and attributes",
    "dropped.busy": "record less from signal handlers",
    "dropped.closed": "record before close(), or do not close",
    "dropped.internal": "a fault of skillmeter: report it with the traceback in the application's log",
    "dropped.lost": "the database was replaced or restored: keep backups, and leave the file where it is",
    "dropped.corrupt": "`skillmeter spool repair` shows what was damaged; check the spool's disk",
    "dropped.unfinished": "processes died inside the call, or the power failed: ANALYTICS_DURABILITY=fsync is safe",
    "sync_failed": "the disk did not confirm what was accepted: check it, and the system log",
}


def check(patient: Patient) -> Iterator[Finding]:
    """Findings `ledger.*`."""
    counts = _counts(patient)
    if counts is None:
        return
    sums = " + ".join(f"{name} {counts[name]:,}" for name in ("stored", "pending", "dropped", "rejected"))
    if counts["balance"]:
        what = f"attempted {counts['attempted']:,} is not {sums}: off by {counts['balance']:,}"
        yield fail("ledger.balance", what, "keep a copy of the database, and report it: this must never happen")
    else:
        yield ok("ledger.balance", f"attempted {counts['attempted']:,} = {sums}")
    for reason, events in counts["reasons"].items():
        if events and reason in ADVICE:
            yield warn(f"ledger.{reason}", f"{events:,} events since the database was made", ADVICE[reason])


def _counts(patient: Patient) -> dict[str, Any] | None:
    """From the daemon, which may see what this user may not; else from the file. None: nobody can say."""
    if patient.status is not None:
        answered: dict[str, Any] = patient.status["ledger"]
        return None if answered["problem"] else answered
    if not patient.settings.db_path.exists():
        return None
    with contextlib.closing(open_reader(patient.settings.db_path)) as db:
        return report.ledger(db) if migrations.version(db) else None
