"""Outcomes: every event has exactly one, whatever a producer says of itself."""

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from skillmeter.records import LEDGER
from skillmeterd.outcomes import (
    ATTEMPTED,
    CORRUPT,
    LOST,
    MAX_CLAIMED,
    MAX_COUNT,
    STORED,
    SYNC_FAILED,
    UNFINISHED,
    Account,
    Totals,
)

counts = st.one_of(st.integers(0, 20), st.sampled_from([MAX_COUNT, 2**62]))
snapshots = st.lists(counts, max_size=len(LEDGER) + 3).map(tuple)
steps = st.lists(
    st.tuples(snapshots, st.integers(0, 9), st.integers(0, 2), counts, st.integers(0, 2), st.booleans()), max_size=8
)


def step(
    account: Account, totals: Totals, snapshot=(), stored=0, malformed=0, lost=0, corrupt=0, finished=False
) -> None:
    """What the store does with a chunk."""
    account.count(totals, stored, malformed, lost, corrupt)
    account.advance(totals, snapshot)
    account.settle(totals, finished=finished)


def outcome(totals: Totals, *names: str) -> int:
    """The events of some outcomes, over all reasons."""
    return sum(events for (name, _), events in totals.items() if name in names)


@given(steps)
def test_every_event_has_one_outcome_after_every_step(history) -> None:
    """attempted = stored + pending + dropped + rejected, with nothing negative, and nothing pending of the dead."""
    account, totals = Account(1), Totals()
    for snapshot, stored, malformed, lost, corrupt, finished in history:
        before = dict(totals)
        step(account, totals, snapshot, stored, malformed, lost, corrupt, finished)
        pending = account.attempted - account.accounted
        assert totals[ATTEMPTED] == outcome(totals, "stored", "dropped", "rejected") + pending
        assert pending >= 0
        assert pending == 0 or not account.finished
        assert all(totals[slot] >= events for slot, events in before.items())
        assert account.attempted < 2**53


claims = st.lists(counts, max_size=3).map(lambda slots: (*slots, *[0] * (len(LEDGER) - 1 - len(slots)), *slots[:1]))


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 9), claims, counts, st.booleans()), max_size=9))
def test_claims_have_a_bound_and_records_have_none(history) -> None:
    """Whatever any number of producers claim, in however many groups, the ledger's sums stay exact, and balance."""
    accounts = [Account(number) for number in range(4)]
    ledger, records = Totals({ATTEMPTED: MAX_CLAIMED - 3 * MAX_COUNT, STORED: MAX_CLAIMED - 3 * MAX_COUNT}), 0
    for number, stored, snapshot, lost, finished in history:
        group = Totals()
        group.claimed_before = ledger[ATTEMPTED] + ledger[SYNC_FAILED]
        step(accounts[number], group, snapshot, stored, lost=lost, finished=finished)
        ledger.update(group)
        records += stored
        pending = sum(account.attempted - account.accounted for account in accounts)
        assert ledger[ATTEMPTED] == outcome(ledger, "stored", "dropped", "rejected") + pending
        assert ledger[ATTEMPTED] + ledger[SYNC_FAILED] <= MAX_CLAIMED + records
        assert ledger[STORED] == MAX_CLAIMED - 3 * MAX_COUNT + records


def test_a_snapshot_counts_only_what_is_new_in_it() -> None:
    """Snapshots are cumulative; each slot goes to its own outcome and reason."""
    account, totals = Account(1), Totals()
    slots = [10] + [0] * (len(LEDGER) - 1)
    slots[LEDGER.index("rejected.invalid_rating")] = 2
    slots[LEDGER.index("dropped.spool_full")] = 3
    step(account, totals, tuple(slots), stored=4)
    slots[0] = 12
    step(account, totals, tuple(slots), stored=2)
    step(account, totals, tuple(slots))
    assert {slot: events for slot, events in totals.items() if events} == {
        ATTEMPTED: 12,
        STORED: 6,
        ("rejected", "invalid_rating"): 2,
        ("dropped", "spool_full"): 3,
    }
    assert account.attempted - account.accounted == 1


def test_an_older_snapshot_changes_nothing() -> None:
    """Batches may be sent again with what the ledger was when they were made."""
    account, totals = Account(1), Totals()
    step(account, totals, (9,), stored=5)
    known, before = replace(account), Totals(totals)
    step(account, totals, (7,))
    assert account == known
    assert totals == before


def test_a_failed_sync_is_counted_but_is_no_outcome() -> None:
    """The event was accepted; that the disk did not confirm it is a fact beside."""
    account, totals = Account(1), Totals()
    slots = [0] * len(LEDGER)
    slots[0], slots[LEDGER.index("sync_failed")] = 1, 1
    step(account, totals, tuple(slots), stored=1)
    assert totals["sync_failed", ""] == 1
    assert account.attempted == account.accounted == 1


def test_slots_of_a_newer_client_are_kept_and_not_counted() -> None:
    """What this release has no name for has no outcome yet."""
    account, totals = Account(1), Totals()
    snapshot = (3, *[0] * (len(LEDGER) - 1), 7, 7)
    step(account, totals, snapshot, stored=3)
    assert account.ledger == snapshot
    assert sum(totals.values()) == 6


def test_records_beyond_the_snapshot_raise_what_was_attempted() -> None:
    """The counters' page may be lost with the power while the records are not."""
    account, totals = Account(1), Totals()
    step(account, totals, (2,), stored=5, finished=True)
    assert totals[ATTEMPTED] == totals[STORED] == 5


def test_the_rest_of_a_dead_producer_goes_under_its_gravest_cause() -> None:
    """Lost if it lost anything, else corrupt if bytes were quarantined, else calls that never returned."""
    for fact, slot in (({"lost": 1, "corrupt": 1}, LOST), ({"corrupt": 1}, CORRUPT), ({}, UNFINISHED)):
        account, totals = Account(1), Totals()
        step(account, totals, (10,), stored=5, **fact, finished=True)
        assert totals[slot] == 10 - 5 - sum(count for name, count in fact.items() if name.upper() != slot[1].upper())
        assert account.attempted == account.accounted


def test_a_dead_producers_late_records_still_balance() -> None:
    """A batch that was queued when the journal was taken over changes the sums, not the equation."""
    account, totals = Account(1), Totals()
    step(account, totals, (10,), stored=9, finished=True)
    step(account, totals, (10,), stored=1)
    assert account.finished
    assert totals[ATTEMPTED] == outcome(totals, "stored", "dropped", "rejected")
