"""Reconcile: what the comparisons came to, as findings."""

from collections.abc import Iterator
from typing import Final

from ..reconcile import Comparison, Difference, reconcile
from ..reconcile.history import Advance
from .finding import Finding, fail, ok, warn
from .patient import Patient
from .sinks import fetch

SCRAPE_S: Final = 30.0  # of 10,000 series a scrape takes half a second
SHOWN: Final = 3  # differences in a line for people; programs get more

WHAT: Final = {
    "ledger": "the two sides of the ledger",
    "rollups": "the rollups and the totals",
    "events": "the events and the rollups",
    "metrics": "/metrics and the totals",
    "otlp": "what OTLP acknowledged and the totals",
}
ADVICE: Final = {
    "ledger": "keep a copy of the database and report it, unless somebody wrote to it: this must never happen",
    "rollups": "keep a copy of the database and report it, unless somebody wrote to it: this must never happen",
    "events": "keep a copy of the database and report it, unless somebody wrote to it, or a clock ran days ahead",
    "metrics": "see whether the daemon has this database (ANALYTICS_DB_PATH); else report it",
    "otlp": "see whether the database was restored or written to since; `client.push()` sends all totals again",
}


def compare(patient: Patient, advance: Advance) -> Iterator[Comparison]:
    """Every comparison of this patient's files and views."""
    settings, status = patient.settings, patient.status
    serves = status is not None and status["http"] is not None and "prometheus" in settings.backends
    metrics = (lambda: fetch(status["http"], "/metrics", SCRAPE_S)) if status is not None and serves else None
    return reconcile(settings.db_path, settings.metric_labels, metrics, advance)


def finding_of(comparison: Comparison) -> Finding:
    """A comparison in a line."""
    check, what = f"reconcile.{comparison.name}", WHAT[comparison.name]
    if comparison.verdict == "skipped":
        return ok(check, f"not compared: {comparison.why}")
    if comparison.verdict == "unknown":
        return warn(check, f"{what} cannot be compared: {comparison.why}", "remove the reason, and run it again")
    numbers = f"{comparison.compared:,} numbers at event {comparison.event_id:,}"
    if comparison.verdict == "equal":
        return ok(check, f"{what} are equal: {numbers}")
    shown = "; ".join(map(_told, comparison.differences[:SHOWN]))
    rest = f"; {comparison.different - SHOWN:,} more" if comparison.different > SHOWN else ""
    return fail(
        check, f"{what} differ in {comparison.different:,} of {numbers}: {shown}{rest}", ADVICE[comparison.name]
    )


def _told(difference: Difference) -> str:
    return f"{difference.series} is {_number(difference.here)} here, {_number(difference.there)} there"


def _number(value: float | None) -> str:
    if value is None:
        return "missing"
    return f"{value:,.0f}" if value == int(value) else f"{value:,.6g}"
