"""Recent: the newest events themselves, a bounded number of them, for what no rollup says - minutes and error types."""

from dataclasses import dataclass
from typing import Final

from .reader import Snapshot

LOOK_BACK: Final = 50_000  # events of all skills: read in about 10 ms, however many there are


@dataclass(frozen=True, slots=True)
class Recent:
    """Events with an id above `after_id` that happened at `since_ns` or later."""

    after_id: int
    since_ns: int
    is_complete: bool
    """Whether these are all events since the time that was asked for."""


def since(at: Snapshot, first_ns: int) -> Recent:
    """The events from a time on, as far back as LOOK_BACK reaches."""
    after_id = (at.value("SELECT max(id) FROM event_log") or 0) - LOOK_BACK
    before_ns = at.value("SELECT at_ns FROM event_log WHERE id <= :id ORDER BY id DESC LIMIT 1", id=after_id)
    if before_ns is None or before_ns < first_ns:
        return Recent(after_id, first_ns, is_complete=True)
    return Recent(after_id, before_ns, is_complete=False)
