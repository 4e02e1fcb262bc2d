"""The client: what an application calls. Records into this process's journal and asks the daemon.

Nothing happens when a client is made. The first record call creates the journal and starts the shipper. From then on
`_accept` is a short cut, the journal's own `append`, so that a record call is validation, encoding and one write.
A short cut may be out of date at any time (somebody kept it, or was just taking it). Then it leads to a journal that is
over and hands on to its heir, which is the client again: `_accept_now` and `_count_now` look at how things are.
"""

import os
from collections.abc import Callable
from types import TracebackType
from typing import Any, Final, Self

from . import fork
from .connection import Connection
from .errors import SkillmeterError
from .journal import Heir, Journal
from .plain import record_plain
from .producer import Producer
from .queries import Asker
from .recording import Recorder
from .settings import ClientSettings

HEALTH_TIMEOUT_S: Final = 2.0


class AnalyticsClient(Recorder, Asker):
    """Records events and answers questions about them. One per process and settings is enough; any thread may use it.

    After a fork the child's copy starts a journal of its own. Not calling `close` loses nothing.
    """

    def __init__(self, settings: ClientSettings) -> None:
        super().__init__(strict=settings.strict)
        self.settings = settings
        self._closed = False
        self._connection = Connection.to(settings)
        self._producer = self._incarnate()
        self._take_no_short_cut()
        fork.register(self)

    def flush(self, timeout_s: float = 5.0) -> bool:
        """Wait until all that this process recorded is committed, at most `timeout_s` seconds. False on timeout."""
        return self._producer.flush(timeout_s)

    def close(self, timeout_s: float = 1.0) -> None:
        """Flush for at most `timeout_s` seconds, then end the thread and let go of the journal. Idempotent.

        What was not committed stays in the spool, from where the daemon takes it. Later record calls return False and
        are counted in this process alone, in the ledger of `get_config_summary`: the daemon never hears of them.
        """
        if self._closed:
            return
        self._producer.flush(timeout_s)
        self._closed = True
        self._take_no_short_cut()
        key = _identity(self.settings)
        if _shared.get(key) is self:
            del _shared[key]
        self._producer.close()
        self._connection.close()

    def health_check(self) -> bool:
        """Whether the daemon answers, its last commit worked, and this client's backends are healthy."""
        try:
            answer = self._connection.ask("health", timeout_s=HEALTH_TIMEOUT_S)
        except SkillmeterError:  # nobody answers, or the client is closed
            return False
        sinks = answer["sinks"]
        return bool(answer["ready"]) and all(sinks.get(backend, False) for backend in self.settings.backends)

    def get_config_summary(self) -> dict[str, Any]:
        """The settings in force and how recording goes; secrets are shown as [REDACTED]."""
        settings, opened = self.settings, self._producer.opened
        return {
            "backend": ",".join(settings.backends),
            "endpoint": settings.endpoint,
            "spool_dir": settings.spool_dir,
            "spool_max_bytes": settings.spool_max_bytes,
            "spool_bytes": opened.journal.disk_bytes if opened else 0,
            "durability": settings.durability,
            "strict": settings.strict,
            "curve_server_key": settings.curve_server_key,
            "curve_client_secret": None if settings.curve_client_secret is None else str(settings.curve_client_secret),
            "config_path": settings.config_path,
            "ledger": self._producer.ledger.named(),
            "unacknowledged_bytes": max(0, opened.journal.end - opened.shipper.acked) if opened else 0,
            "closed": self._closed,
            "healthy": False if self._closed else self.health_check(),
        }

    def before_fork(self) -> None:
        """See fork.py."""
        opened = self._producer.opened
        if opened is not None:
            opened.journal.bar()

    def after_fork_in_child(self) -> None:
        """See fork.py."""
        parents = self._producer
        if parents.pid == os.getpid():
            return
        self._connection.forget()
        mine = self._incarnate()
        if self._producer is parents:  # else a signal handler has been here in between
            self._producer = mine
        self._take_no_short_cut()
        parents.forget()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<AnalyticsClient {','.join(self.settings.backends)} at {self.settings.endpoint}>"

    def _incarnate(self) -> Producer:
        return Producer(self.settings, self._connection, Heir(self._accept_now, self._count_now))

    # The long way, as heir to a journal that is over and until there is one.

    def _accept_now(self, payload: bytes) -> bool:
        fork.catch_up()
        opened = None if self._closed else self._producer.open()
        if opened is not None:
            if self._accept != opened.journal.append:
                self._take_short_cut(opened.journal)
            return opened.journal.append(payload)
        if self._closed:
            self._producer.warn("closed", "an event came after close(); it and later ones are dropped, and counted")
        self._producer.refuse("dropped.closed" if self._closed else None)
        return False

    def _count_now(self, name: str) -> None:
        fork.catch_up()
        opened = None if self._closed else self._producer.open()
        if opened is not None:
            opened.journal.count(name)
        else:
            self._producer.refuse(name)

    def _take_no_short_cut(self) -> None:
        self.__dict__.pop("record_skill_execution", None)
        self._accept: Callable[[bytes], bool] = self._accept_now
        self._count: Callable[[str], None] = self._count_now

    def _take_short_cut(self, journal: Journal) -> None:
        self._accept, self._count = journal.append, journal.count
        if journal.plain and type(self).record_skill_execution is Recorder.record_skill_execution:
            self.record_skill_execution = record_plain(journal, super().record_skill_execution)  # type: ignore[method-assign]


_shared: dict[tuple[object, ...], AnalyticsClient] = {}


def create_analytics_client(backend: str | None = None, **settings: Any) -> AnalyticsClient:
    """This process's client for these settings; the same one until it is closed.

    `backend` is what the application counts on: "sqlite", "otlp", "prometheus", "wandb", or several with commas; by
    default ANALYTICS_BACKEND. Other settings go by the variable's name in lower case without "analytics_", such as
    `spool_dir=...`, and win over the environment. Raises ConfigError, a ValueError, with every mistake.
    """
    read = ClientSettings.from_environment(backend=backend, **settings)
    key = _identity(read)
    return _shared.get(key) or _shared.setdefault(key, AnalyticsClient(read))


def _identity(settings: ClientSettings) -> tuple[object, ...]:
    return (
        settings.backends,
        settings.endpoint,
        settings.spool_dir,
        settings.spool_max_bytes,
        settings.durability,
        settings.strict,
        settings.curve_server_key,
        settings.curve_client_secret,
    )
