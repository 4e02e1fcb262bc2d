"""Reconcile: compares everything that shows the record, and says where two differ: which series, which two numbers.

What was shown somewhere is compared at the event it was shown at. A scrape of /metrics and a push that an OTLP receiver
acknowledged both carry the number N of the newest event in them. One snapshot of SQLite, taken after that, has the
totals up to event M; the events between N and M are still there, each with its number. So the totals at N are those of
the snapshot less what these events come to. That is exact while recording goes on, holds up no commit - readers never
do that - and asks nothing of the daemon but what it serves anyway.

It proves, each for one commit:

    ledger    attempted = stored + pending + dropped + rejected, and stored is how many events were ever numbered
    rollups   the daily tables, `skill_usage` among them, add up to the totals, series by series
    events    the events that are kept are numbered without a gap, and come to what the rollups have of their days
    metrics   what /metrics served over HTTP is what the totals were at its last event
    otlp      what the receiver acknowledged last is what the totals were at its last event

Days from which retention has deleted events can only be bounded: the events must not be more than the rollups say.
Counts are compared to the event. Sums of milliseconds are floating-point numbers, added up in another order on each
side: they have to agree to a millionth.
"""

from .comparison import Comparison, Difference
from .reconciliation import reconcile

__all__ = ["Comparison", "Difference", "reconcile"]
