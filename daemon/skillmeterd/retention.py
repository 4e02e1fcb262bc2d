"""Retention: events go when they are old, in steps so small that no commit waits for them. Rollups and totals stay.

Age is counted by the daemon's clock, from the day an event was committed: a client's clock that is wrong deletes
nothing. With `days` = 90, an event of today is still there on the 90th day after, and gone on the 91st.

After events, what was lately added to the tables of two levels is put in order (levels.py), once it is much. Then
producers go that have none left and ended long ago; then pages at the end of the file that nothing needs are given back
to the file system, except for as many as the next days will fill again.
"""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, Final

import msgspec

from .errors import StoreUnavailable
from .queries.params import Params, read
from .rows import DAY_NS
from .store import Store

log = logging.getLogger(__name__)

EVENTS: Final = 4000  # deleted in one transaction: about 5 ms
PRODUCERS: Final = 500
RECENT: Final = 4000  # rows that were added lately, or fewer with counts, put in order in one transaction
PAGES: Final = 256  # given back in one transaction: a MiB
KEPT_FREE: Final = 16  # a 16th of the file may stay free: the next days' events go there
PRODUCER_IDLE_NS: Final = 7 * DAY_NS  # a batch may still be on its way when its journal was adopted, but not so long
SHARE: Final = 4  # after a step, leave the thread to commits for this many times as long
LOOK_S: Final = 60.0  # between two looks when there is nothing to do
RETRY_S: Final = 5.0
MAX_JOBS: Final = 64  # whose outcome is remembered


class Cleanup(Params, frozen=True):
    """A question: delete now what was committed more than `retention_days` ago. The same `job` again asks how far."""

    retention_days: Annotated[int, msgspec.Meta(ge=1, le=36_500)]
    job: Annotated[str, msgspec.Meta(min_length=1, max_length=64)]


@dataclass(slots=True)
class _Job:
    before_day: int
    deleted: int = 0
    done: bool = False


class Retention:
    """Owned by the ingest thread, which calls `turn` between groups; `cleanup` answers on that thread too."""

    def __init__(
        self, store: Store, days: int, clock_ns: Callable[[], int], monotonic_s: Callable[[], float] = time.monotonic
    ) -> None:
        """`days` of 0 keeps everything, but for what `cleanup` is asked to delete."""
        self.may_forget = True
        """Whether producers may go: not while the spool may hold journals that a daemon committed and, as it was killed
        then, did not delete. They would be taken for new ones."""
        self._store = store
        self._days = days
        self._clock_ns = clock_ns
        self._monotonic_s = monotonic_s
        self._jobs: dict[str, _Job] = {}
        self._due_at_s = 0.0

    @property
    def due_in_s(self) -> float:
        """Seconds until `turn` has something to do."""
        return max(0.0, self._due_at_s - self._monotonic_s())

    def cleanup(self, params: dict[str, Any]) -> tuple[int, bool]:
        """(events deleted so far, whether that is all). Raises QueryError."""
        asked = read(Cleanup, params)
        job = self._jobs.get(asked.job)
        if job is None:
            job = self._jobs[asked.job] = _Job(self._today() - asked.retention_days)
            self._due_at_s = 0.0
            while len(self._jobs) > MAX_JOBS:
                del self._jobs[next(iter(self._jobs))]
        return job.deleted, job.done

    def turn(self) -> None:
        """Do a step if it is time for one."""
        began_s = self._monotonic_s()
        if began_s < self._due_at_s:
            return
        try:
            more = self.step()
        except StoreUnavailable as error:
            log.warning("cannot delete old events now", extra={"problem": str(error)})
            self._due_at_s = began_s + RETRY_S
            return
        ended_s = self._monotonic_s()
        self._due_at_s = ended_s + (SHARE * (ended_s - began_s) if more else LOOK_S)

    def step(self) -> bool:
        """One small transaction; False: there was nothing to do. Raises StoreUnavailable."""
        for job in self._jobs.values():
            if not job.done:
                deleted = self._store.delete_events(job.before_day, EVENTS)
                job.deleted += deleted
                job.done = not deleted
                return True
        if self._days and self._store.delete_events(self._today() - self._days, EVENTS):
            return True
        if self._store.settle(RECENT):
            return True
        if self.may_forget and self._store.prune_producers(self._clock_ns() - PRODUCER_IDLE_NS, PRODUCERS):
            return True
        return self._store.give_back(PAGES, KEPT_FREE) > 0

    def _today(self) -> int:
        return self._clock_ns() // DAY_NS
