"""Recent: the newest events themselves, a bounded number of them, for what no rollup says - minutes and error types."""

from dataclasses import dataclass
from typing import Final

from .reader import DAY_NS, Snapshot

LOOK_BACK: Final = 50_000  # events of all skills: read in about 10 ms, however many there are
_NONE_LEFT: Final = 2**63  # an id after all others


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
    after_id = (at.value("SELECT max(id) FROM event_log") or 0) - LOOK_BACK
    oldest = at.row("SELECT id, at_ns FROM event_log WHERE id > :after ORDER BY id LIMIT 1", after=after_id)
    oldest_id, oldest_ns = oldest or (_NONE_LEFT, at.now_ns)
    first_id = at.value("SELECT min(first_event_id) FROM day_mark WHERE day >= :day", day=first_ns // DAY_NS)
    if first_id is None or oldest_id <= first_id:
        return Recent(after_id, first_ns, is_complete=True)
    return Recent(after_id, max(first_ns, oldest_ns), is_complete=False)
