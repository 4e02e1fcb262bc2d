"""Prometheus: what a scrape shows, made anew for each from what SQLite holds at that moment."""

import dataclasses
import sqlite3
import time
from typing import Any

from .families import Family
from .sink import Progress, Sink
from .source import Source


class Prometheus:
    """Answers scrapes. It has no thread: Prometheus asks, on those of the HTTP listener."""

    name = "prometheus"

    def __init__(self, source: Source) -> None:
        self.progress = Progress()
        self._source = source

    @property
    def healthy(self) -> bool:
        """Whether the last scrape, if there was any, could be answered."""
        return not self.progress.problem

    def start(self) -> None:
        """Nothing to start: the listener is the daemon's."""

    def stop(self, timeout_s: float) -> None:
        """Nothing to stop."""

    def push(self) -> bool:
        """Whether a scrape now would show everything that is committed: there is nothing to send."""
        try:
            self.scrape()
        except sqlite3.Error:
            return False
        return True

    def status(self) -> dict[str, Any]:
        """Its account of scrapes."""
        return {"healthy": self.healthy, **dataclasses.asdict(self.progress)}

    def scrape(self) -> list[Family]:
        """All families, as of one commit. Raises sqlite3.Error."""
        try:
            totals = self._source.totals()
        except sqlite3.Error as error:
            self.progress.failed(time.time_ns(), str(error))
            raise
        self.progress.succeeded(time.time_ns())
        return [*totals.families, *self._source.own(totals)]


def create(source: Source) -> Sink:
    """The sink of backend `prometheus`."""
    return Prometheus(source)
