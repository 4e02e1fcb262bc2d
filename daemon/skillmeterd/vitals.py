"""Vitals: how the daemon is doing, as numbers that the ingest thread writes and everybody may read."""

import logging
from dataclasses import dataclass, field

from .errors import StoreUnavailable

log = logging.getLogger(__name__)


@dataclass(slots=True)
class Vitals:
    """Counts since this daemon started. Only the ingest thread writes; a reader may see two that do not yet agree."""

    started_ns: int
    commits: int = 0
    events: int = 0
    batches: int = 0
    duplicates: int = 0
    rewinds: int = 0
    commit_seconds: float = 0.0
    last_commit_ns: int | None = None
    refused_messages: int = 0
    """Messages that were not in the protocol."""
    refused_connections: int = 0
    """Connections without a CURVE key, or with one that is not allowed."""
    orphans_recovered: int = 0
    orphans_pending: int = 0
    quarantined: int = 0
    first_round_done: bool = False
    """Whether every orphan that was there at the start has been looked at."""
    store_problem: str = ""
    """Why the last commit failed; empty when it worked."""
    incidents: list[str] = field(default_factory=list)

    @property
    def ready(self) -> bool:
        """Whether events can be committed."""
        return not self.store_problem

    def store_failed(self, error: StoreUnavailable) -> None:
        """The store cannot take anything now. Each new problem is logged once."""
        if self.store_problem != str(error):
            log.error("cannot commit; clients keep their events until it works again", extra={"problem": str(error)})
        self.store_problem = str(error)

    def store_worked(self) -> None:
        """The store has just taken something."""
        if self.store_problem:
            log.info("the store works again")
        self.store_problem = ""
