"""Sink: what every backend besides SQLite offers to the daemon, and the account each keeps of its exports."""

from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from .families import Family


@dataclass(slots=True)
class Progress:
    """Exports since this daemon started. Written by the sink that owns it, read by status and metrics."""

    exports: int = 0
    """That succeeded."""
    failures: int = 0
    last_success_ns: int | None = None
    last_failure_ns: int | None = None
    problem: str = ""
    """Why the last export failed; empty when it worked. Holds no secret."""

    def succeeded(self, now_ns: int) -> None:
        """Count an export that is done."""
        self.exports += 1
        self.last_success_ns = now_ns
        self.problem = ""

    def failed(self, now_ns: int, problem: str) -> None:
        """Count an export that is not."""
        self.failures += 1
        self.last_failure_ns = now_ns
        self.problem = problem


class Sink(Protocol):
    """A view of the record for others. It reads SQLite on threads of its own and is never on the way in."""

    @property
    def name(self) -> str:
        """The backend's name in ANALYTICS_BACKEND."""

    @property
    def progress(self) -> Progress:
        """Its account of exports."""

    @property
    def healthy(self) -> bool:
        """Whether it works as far as is known now. Looks at memory only: the ingest thread asks."""

    def start(self) -> None:
        """Begin to export. Raises DaemonError if it cannot; an unreachable peer is no reason."""

    def stop(self, timeout_s: float) -> None:
        """End within the time, exporting what is left if it can. Idempotent; also after a failed start."""

    def push(self) -> bool:
        """Export now and wait for it. True only if everything committed before the call has been exported."""

    def status(self) -> dict[str, Any]:
        """Plain data for people: at least what `progress` says. No secrets."""


@runtime_checkable
class Scraped(Protocol):
    """A sink that others come to: what `/metrics` shows."""

    def scrape(self) -> list[Family]:
        """All families, as of one commit. Raises sqlite3.Error."""
