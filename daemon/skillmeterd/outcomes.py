"""Outcomes: how each producer's counts become totals in which every event has exactly one outcome.

    attempted = stored + pending + dropped + rejected

A producer's snapshot tells what it attempted, rejected and dropped; the daemon knows what it stored, found malformed,
lost or corrupt. *Accounted* is all that has an outcome; the rest of *attempted* is pending. A snapshot may be older
than the records beside it, or may have been lost with the power, so `attempted` is never taken to be less than
`accounted`. When a producer is dead nothing is pending any more: the rest is a drop, under the gravest cause that is
known of that producer.

Nothing here goes backwards: snapshots count by the largest value seen of each slot.

A snapshot, and a loss that is declared, are a client's word alone, and cost a hostile one nothing. So there is a bound
to what one producer may claim, and to what all of them have claimed together; what would pass that is not counted.
Records always are.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Final

from skillmeter.records import LEDGER

ATTEMPTED: Final = ("attempted", "")
STORED: Final = ("stored", "")
MALFORMED: Final = ("rejected", "malformed")  # a record that is no event: only a foreign client writes one
LOST: Final = ("dropped", "lost")  # declared by the producer, or gone with a replaced database
CORRUPT: Final = ("dropped", "corrupt")  # quarantined on disk; a span counts as one event until its producer is dead
UNFINISHED: Final = ("dropped", "unfinished")  # the process died inside the call, or the power failed right after it
SYNC_FAILED: Final = ("sync_failed", "")  # no outcome: such events are stored as well

MAX_COUNT: Final = 2**44
"""Of one producer and reason. No process counts that far."""
MAX_CLAIMED: Final = 2**53
"""Of the whole ledger: up to here its sums are exact in SQLite, in Prometheus and on the page."""

_SLOTS: Final = tuple((outcome, reason) for outcome, _, reason in (name.partition(".") for name in LEDGER))
_OUTCOMES: Final = ("rejected", "dropped")


class Totals(Counter[tuple[str, str]]):
    """Events by (outcome, reason), as a group adds them to the ledger."""

    claimed_before = 0
    """What is in the ledger already of all that clients can claim: attempts, and failed syncs."""

    @property
    def room(self) -> int:
        """How much more they may claim."""
        return max(0, MAX_CLAIMED - self.claimed_before - self[ATTEMPTED] - self[SYNC_FAILED])


@dataclass(slots=True)
class Account:
    """What is known of one producer. `no` is its number in this database."""

    no: int
    committed: int = 0
    records: int = 0
    attempted: int = 0
    accounted: int = 0
    lost: int = 0
    corrupt: int = 0
    ledger: tuple[int, ...] = ()
    finished: bool = False

    def count(self, totals: Totals, stored: int, malformed: int, lost: int, corrupt: int) -> None:
        """Records that were committed, and events that will never be."""
        lost = min(lost, MAX_COUNT - self.lost, totals.room)
        corrupt = min(corrupt, MAX_COUNT - self.corrupt)
        self.records += stored + malformed
        self.lost += lost
        self.corrupt += corrupt
        self.accounted += stored + malformed + lost + corrupt
        totals.update({STORED: stored, MALFORMED: malformed, LOST: lost, CORRUPT: corrupt})

    def advance(self, totals: Totals, snapshot: Sequence[int]) -> None:
        """Count what a snapshot says beyond the last one, if there is room for all of it. Slots that this release does
        not know are only kept."""
        if not snapshot or snapshot == self.ledger:
            return
        known = self.ledger
        ledger = tuple(min(max(pair), MAX_COUNT) for pair in zip_longest(known, snapshot, fillvalue=0))
        claimed = sum(ledger[: len(_SLOTS)]) - sum(known[: len(_SLOTS)])
        unsettled = max(0, self.accounted - self.attempted)
        if claimed > totals.room - unsettled:
            return
        self.ledger = ledger
        for slot, before, now in zip(_SLOTS, (*known, *[0] * len(_SLOTS)), self.ledger, strict=False):
            if now > before and slot != ATTEMPTED:
                totals[slot] += now - before
                self.accounted += now - before if slot[0] in _OUTCOMES else 0

    def settle(self, totals: Totals, *, finished: bool) -> None:
        """Make the equation hold, after `count` and `advance`."""
        attempted = max(self.attempted, self.accounted, *self.ledger[:1])
        totals[ATTEMPTED] += attempted - self.attempted
        self.attempted = attempted
        self.finished = self.finished or finished
        if self.finished:
            totals[self._cause()] += attempted - self.accounted
            self.accounted = attempted

    def _cause(self) -> tuple[str, str]:
        if self.lost:
            return LOST
        return CORRUPT if self.corrupt else UNFINISHED
