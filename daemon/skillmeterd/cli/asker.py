"""Askers: the queries of a client, answered from the database file, or by a daemon that is elsewhere."""

from pathlib import Path
from typing import TypeVar

from skillmeter.connection import Connection
from skillmeter.queries import Asker
from skillmeter.settings import ClientSettings

from ..queries import Queries

T = TypeVar("T")


class FileAsker(Asker):
    """Reads the file: no daemon has to run."""

    def __init__(self, path: Path) -> None:
        self._queries = Queries(path)

    def _ask(self, method: str, answer: type[T], timeout_s: float | None = None, **params: object) -> T:  # noqa: ARG002
        found: T = self._queries.ask(method, params)
        return found

    def close(self) -> None:
        """Let go of the file."""
        self._queries.close()


class DaemonAsker(Asker):
    """Asks the daemon over its socket, as clients do."""

    def __init__(self, settings: ClientSettings) -> None:
        self._connection = Connection.to(settings)

    def close(self) -> None:
        """Hang up."""
        self._connection.close()
