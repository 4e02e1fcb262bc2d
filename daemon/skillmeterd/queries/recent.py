"""Recent: the newest events themselves, a bounded number of them, for what no rollup says - minutes and error types."""

from dataclasses import dataclass
from typing import Final

from .reader import DAY_NS, Snapshot

LOOK_BACK: Final = 50_000  # events of all skills: read in about 10 ms, however many there are


@dataclass(frozen=True, slots=True)
class Recent:
    """Events with an id above `after_id` that happened at `since_ns` or later."""

    after_id: int
    since_ns: int
    is_complete: bool
    """Whether these are all events since the time that was asked for."""


def since(at: Snapshot, first_ns: int) -> Recent:
    """The events from a time on, as far back as LOOK_BACK reaches and events are kept.

    What happened on a day was committed on that day or later, so all of it lies behind the day's first commit. When an
    event happened says nothing of those committed before it: what waited in a spool comes late.
    """
    newest_id = at.value("SELECT max(id) FROM event_log") or 0
    after_id = newest_id - LOOK_BACK
    oldest_id = at.value("SELECT min(id) FROM event_log WHERE id > :after", after=after_id)
    first_id = at.value("SELECT min(first_event_id) FROM day_mark WHERE day >= :day", day=first_ns // DAY_NS)
    if first_id is None or (oldest_id is not None and oldest_id <= first_id):
        return Recent(after_id, first_ns, is_complete=True)
    looked_at = 0 if oldest_id is None else newest_id - oldest_id + 1
    return Recent(after_id, max(first_ns, _edge_ns(at, after_id, -(-looked_at // 100))), is_complete=False)


def _edge_ns(at: Snapshot, after_id: int, few: int) -> int:
    """About when the first events of a look were committed: the latest time that a few of them have.

    One alone may have come late, or from a clock that runs ahead.
    """
    edge_ns: int | None = at.value(
        """SELECT max(at_ns) FROM (
            SELECT at_ns FROM event_log WHERE id > :after AND at_ns <= :now ORDER BY id LIMIT :few)""",
        after=after_id,
        now=at.now_ns,
        few=few,
    )
    return at.now_ns if edge_ns is None else edge_ns
