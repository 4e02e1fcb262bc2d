"""The client: what an application calls. Records into this process's journal and asks the daemon.

Nothing happens when a client is made. The first record call creates the journal and starts the shipper; from then on
`_accept` is the journal's own `append`, so that a record call is validation, encoding and one write.
"""

import functools
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any, Final, Self

from . import fork
from .connection import Connection
from .errors import DaemonUnavailable, JournalError
from .journal import Journal
from .ledger import Ledger
from .logs import logger
from .plain import record_plain
from .queries import Asker
from .recording import Recorder
from .settings import ClientSettings
from .shipper import Shipper

REOPEN_S: Final = 1.0  # after a journal could not be made, drop for so long before trying again
POLL_S: Final = 0.002
HEALTH_TIMEOUT_S: Final = 2.0


class AnalyticsClient(Recorder, Asker):
    """Records events and answers questions about them. One per process and settings is enough; any thread may use it.

    After a fork the child's copy starts a journal of its own. Not calling `close` loses nothing.
    """

    def __init__(self, settings: ClientSettings) -> None:
        super().__init__(strict=settings.strict)
        self.settings = settings
        self._closed = False
        self._connection = self._connect()
        self._start_over()
        fork.register(self)

    def flush(self, timeout_s: float = 5.0) -> bool:
        """Wait until all that this process recorded is committed, at most `timeout_s` seconds. False on timeout."""
        if self._shipper is None or self._journal is None:
            return True
        end = self._journal.end
        shipper = self._shipper
        deadline_s = time.monotonic() + timeout_s
        while not (shipper.acked >= end and shipper.settled):
            if time.monotonic() >= deadline_s or not shipper.running:
                return shipper.acked >= end
            shipper.hurry()
            time.sleep(POLL_S)  # not a lock: under gevent this lets other greenlets run
        return True

    def close(self, timeout_s: float = 1.0) -> None:
        """Flush for at most `timeout_s` seconds, then end the thread and let go of the journal. Idempotent.

        What was not committed stays in the spool, from where the daemon takes it. Later record calls return False.
        """
        if self._closed:
            return
        self.flush(timeout_s)
        self._closed = True
        self.__dict__.pop("record_skill_execution", None)
        self._accept, self._count = self._refuse_closed, self._homeless_count
        _shared.pop(_identity(self.settings), None)
        shipper, journal = self._shipper, self._journal
        if shipper is not None:
            shipper.stop()
            _wait_until(lambda: not shipper.running, timeout_s)
            if not shipper.running:
                shipper.close_pipe()
        if journal is not None:
            journal.close()
        if shipper is None or not shipper.running:
            self._connection.close()

    def health_check(self) -> bool:
        """Whether the daemon answers, its last commit worked, and this client's backends are healthy."""
        try:
            answer = self._connection.ask("health", timeout_s=HEALTH_TIMEOUT_S)
        except DaemonUnavailable:
            return False
        sinks = answer["sinks"]
        return bool(answer["ready"]) and all(sinks.get(backend, False) for backend in self.settings.backends)

    def get_config_summary(self) -> dict[str, Any]:
        """The settings in force and how recording goes; secrets are shown as [REDACTED]."""
        settings, journal, shipper = self.settings, self._journal, self._shipper
        return {
            "backend": ",".join(settings.backends),
            "endpoint": settings.endpoint,
            "spool_dir": str(settings.spool_dir),
            "spool_max_bytes": settings.spool_max_bytes,
            "spool_bytes": journal.disk_bytes if journal else 0,
            "durability": settings.durability,
            "strict": settings.strict,
            "curve_server_key": None if settings.curve_server_key is None else str(settings.curve_server_key),
            "config_path": None if settings.config_path is None else str(settings.config_path),
            "ledger": (journal.ledger if journal and not self._closed else self._homeless).named(),
            "unacknowledged_bytes": max(0, journal.end - shipper.acked) if journal and shipper else 0,
            "closed": self._closed,
            "healthy": False if self._closed else self.health_check(),
        }

    def after_fork_in_child(self) -> None:
        """Leave what belongs to the parent: its journal, thread and sockets. See fork.py."""
        if self._closed:
            return
        self._connection.forget()
        if self._shipper is not None:
            self._shipper.close_pipe()
        if self._journal is not None:
            self._journal.close_copy()
        self._start_over()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<AnalyticsClient {','.join(self.settings.backends)} at {self.settings.endpoint}>"

    def _connect(self) -> Connection:
        key = self.settings.curve_server_key
        return Connection(self.settings.endpoint, None if key is None else key.reveal())

    def _start_over(self) -> None:
        self._closed = False
        self._journal: Journal | None = None
        self._shipper: Shipper | None = None
        self._opened: list[Journal] = []
        self._homeless = Ledger.in_memory()
        self._reopen_at_s = 0.0
        self.__dict__.pop("record_skill_execution", None)
        self._accept: Callable[[bytes], bool] = self._accept_first
        self._count: Callable[[str], None] = self._count_first

    # The first record, and what happens while there is no journal.

    def _accept_first(self, payload: bytes) -> bool:
        journal = self._open()
        if journal is None:
            self._homeless_count("dropped.spool_unavailable" if not self._disk_full else "dropped.disk_full")
            return False
        return journal.append(payload)

    def _count_first(self, name: str) -> None:
        journal = self._open()
        self._homeless_count(name) if journal is None else journal.count(name)

    def _open(self) -> Journal | None:
        """The journal, made now if need be. Several threads may be here at once: the first to note its own wins."""
        if self._opened:
            return self._opened[0]
        if time.monotonic() < self._reopen_at_s:
            return None
        try:
            journal = Journal.create(
                self.settings.spool_dir,
                max_bytes=self.settings.spool_max_bytes,
                sync=self.settings.durability == "fsync",
                carried=self._homeless,
            )
        except JournalError as error:
            self._reopen_at_s = time.monotonic() + REOPEN_S
            self._disk_full = error.reason == "disk_full"
            if error.reason not in self._warned:
                self._warned.add(error.reason)
                logger().warning("events are dropped, and counted: no journal can be made (%s)", error)
            return None
        self._opened.append(journal)
        if self._opened[0] is not journal:
            journal.discard()
            return self._opened[0]
        self._journal = journal
        self._shipper = Shipper(journal, self._connection)
        self._accept, self._count = journal.append, journal.count
        if journal.plain:
            general = functools.partial(Recorder.record_skill_execution, self)
            self.record_skill_execution = record_plain(journal, general)  # type: ignore[method-assign]
        try:
            self._shipper.start()
        except RuntimeError as error:  # the interpreter is ending: the daemon takes the journal
            logger().debug("no shipper: %s", error)
        return journal

    _disk_full = False

    def _refuse_closed(self, payload: bytes) -> bool:  # noqa: ARG002 - stands in for Journal.append
        self._homeless_count("dropped.closed")
        if "closed" not in self._warned:
            self._warned.add("closed")
            logger().warning("an event was recorded after close(); it and later ones are dropped, and counted")
        return False

    def _homeless_count(self, name: str) -> None:
        self._homeless["attempted"]()
        self._homeless[name]()


_shared: dict[tuple[object, ...], AnalyticsClient] = {}


def create_analytics_client(backend: str | None = None, **settings: Any) -> AnalyticsClient:
    """This process's client for these settings; the same one until it is closed.

    `backend` is what the application counts on: "sqlite", "otlp", "prometheus", "wandb", or several with commas; by
    default ANALYTICS_BACKEND. Other settings go by the variable's name in lower case without "analytics_", such as
    `spool_dir=...`, and win over the environment. Raises ConfigError, a ValueError, with every mistake.
    """
    read = ClientSettings.from_environment(backend=backend, **settings)
    return _shared.setdefault(_identity(read), AnalyticsClient(read))


def _identity(settings: ClientSettings) -> tuple[object, ...]:
    key = settings.curve_server_key
    return (
        settings.backends,
        settings.endpoint,
        settings.spool_dir,
        settings.spool_max_bytes,
        settings.durability,
        settings.strict,
        None if key is None else key.reveal(),
    )


def _wait_until(condition: Callable[[], bool], timeout_s: float) -> None:
    deadline_s = time.monotonic() + timeout_s
    while not condition() and time.monotonic() < deadline_s:
        time.sleep(POLL_S)
