"""The server: start-up, main loop and shut-down of the daemon.

The main thread is the ingest thread: it owns the ROUTER socket, the store and the orphans, and does nothing else.
Whatever reads (answers, metrics, exports) runs on threads and connections of its own.
"""

import contextlib
import gc
import logging
import os
import resource
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import zmq

from skillmeter._version import __version__

from . import report
from .answers import Answers
from .config import DaemonSettings
from .errors import AlreadyRunning, StoreBusy, StoreUnavailable
from .gate import Keys
from .instance import Instance
from .notify import Notifier
from .orphans import Orphans
from .quarantine import Quarantine
from .queries import Queries
from .receiver import Receiver
from .retention import Retention
from .sinks import Sinks, Source
from .store import Store
from .vitals import Vitals

if TYPE_CHECKING:
    from .http import Listener

log = logging.getLogger(__name__)

LOOK_S: Final = 1.0  # between two looks for orphans: a folder listing, and a lock tried for each journal
LOOK_SHARE: Final = 20  # with many journals, look for at most this part of the time
ADOPT_S: Final = 5.0  # at the end, take over the journals of processes that have just ended for so long
DRAIN_S: Final = 1.0  # at the end, take what is on its way for so long
CLOSE_S: Final = 2.0  # at the end, the HTTP listener may take so long to close its connections
STUCK_S: Final = 30.0  # a turn of the loop takes a fraction of a second; this long, and it hangs in the disk
EXPORT_S: Final = 5.0  # at the end, sinks may take so long for a last export
COLLECT_S: Final = 60.0  # the garbage collector runs only then, and only when there is nothing to do


class Server:
    """One daemon. `run` blocks until `stop`; both may be used once."""

    def __init__(self, settings: DaemonSettings, on_reload: Callable[[], None] = lambda: None) -> None:
        self.settings = settings
        self.notifier = Notifier()
        self._on_reload = on_reload
        self.vitals = Vitals(started_ns=time.time_ns())
        self._http: Listener | None = None
        self._instance = Instance()
        self._stopping = False
        self._reload_asked = False
        self._turned_s = 0.0
        self._look_at_s = 0.0
        self._look_problem = ""
        self._collect_at_s = 0.0

    def run(self, on_ready: Callable[["Server"], None]) -> None:
        """Serve until `stop`. Raises AlreadyRunning, DaemonError or OSError if it cannot start."""
        self._start()
        try:
            on_ready(self)
            self.notifier.ready(self._headline())
            self._loop()
        finally:
            self._shut_down()

    def stop(self, *_: Any) -> None:
        """Ask the loop to end. Any thread, and a signal handler."""
        self._stopping = True
        self._receiver.wake()

    def reload(self, *_: Any) -> None:
        """Ask the loop to have the settings read again. Any thread, and a signal handler."""
        self._reload_asked = True
        self._receiver.wake()

    @property
    def endpoint(self) -> str:
        """Where clients reach it."""
        return self._receiver.endpoint

    # Start: locks, then the store, then the socket, so that nobody is let in before there is a place for his events.

    def _start(self) -> None:
        with contextlib.ExitStack() as started:
            self._start_parts(started)
            self._started = started.pop_all()
        gc.collect()
        gc.freeze()
        gc.disable()  # the loop makes no cycles; a collection in it costs a tenth of the rate

    def _start_parts(self, started: contextlib.ExitStack) -> None:
        """Start each part and leave behind how it is stopped, so that the last one started stops first."""
        settings = self.settings
        _raise_descriptor_limit()
        self._instance.claim_all(settings)
        self.notifier.starting("opening the database, and bringing it up to date after an upgrade")
        started.callback(self._instance.release)
        self._store = Store(settings.db_path)
        started.callback(self._store.close)
        try:
            self._store.connect()
        except StoreBusy as error:  # clients keep their events; the loop finds out when it is over
            self.vitals.store_failed(error)
        if self._store.replaced_corrupt is not None:
            self.vitals.incidents.append(f"the database was corrupt and is kept as {self._store.replaced_corrupt}")
            places = {"database": str(settings.db_path), "kept": str(self._store.replaced_corrupt)}
            log.error("the database was corrupt; a fresh one is begun, and the old one kept", extra=places)
        self._quarantine = Quarantine(Path(settings.spool_dir))
        self._bind(started)
        self._orphans = Orphans(Path(settings.spool_dir), self._store, self._quarantine)
        started.callback(self._orphans.release)
        self._retention = Retention(self._store, settings.retention_days, time.time_ns)
        self._queries = Queries(settings.db_path)
        started.callback(self._queries.close)
        self._answers = Answers(
            {"status": self._status, **self._queries.methods()},
            self._receiver.wake,
            quick={"health": self._health, "cleanup": self._retention.cleanup},
            slow={"push": self._push},
        )
        self._receiver.answers = self._answers
        self._answers.start()
        started.callback(self._answers.stop)
        self._sinks = Sinks.build(settings, Source(settings, self.vitals))
        started.callback(self._sinks.stop, EXPORT_S)
        self._sinks.start()
        self._listen(started)

    def _bind(self, started: contextlib.ExitStack) -> None:
        settings = self.settings
        secret, clients = settings.curve_secret, settings.curve_client_keys
        keys = Keys(secret, frozenset(clients)) if secret and clients else None
        self._receiver = Receiver(settings.endpoint, self._store, self._quarantine, self.vitals, keys=keys)
        started.callback(self._receiver.close)
        try:
            self._receiver.bind()
        except zmq.ZMQError as error:
            raise AlreadyRunning(f"cannot listen on {settings.endpoint} (ANALYTICS_ENDPOINT): {error}") from error

    def _listen(self, started: contextlib.ExitStack) -> None:
        if not self.settings.prometheus_enabled:
            return
        from .http import Listener, api, monitoring, page  # what it needs costs 8 MB: only if it is on

        routes = {
            **monitoring.routes(self.vitals, self._problem, self._sinks.scrape),
            **api.routes(self._queries, self._status),
            **page.routes(),
        }
        self._http = Listener(self.settings, routes)
        started.callback(self._http.stop, CLOSE_S)
        self._http.start()

    @property
    def http_url(self) -> str | None:
        """Where pages and metrics are, or None if HTTP is off."""
        return self._http.url if self._http else None

    # The loop: one group of batches, then one step of orphans, and so on.

    def _loop(self) -> None:
        while not self._stopping:
            self._turned_s = time.monotonic()
            self.notifier.beat(self._headline)
            self._receiver.serve(min(self._timeout_s(), self.notifier.interval_s))
            self._care_for_orphans()
            if self.vitals.ready:
                self._retention.may_forget = self.vitals.first_round_done
                self._retention.turn()
            self._collect_garbage()
            if self._reload_asked:
                self._reload()

    def _timeout_s(self) -> float:
        if self._receiver.retries:
            return LOOK_S
        if self._orphans.pending and self.vitals.ready:
            return 0.0
        look_in_s = max(0.0, self._look_at_s - time.monotonic())
        return min(look_in_s, self._retention.due_in_s) if self.vitals.ready else look_in_s

    def _care_for_orphans(self) -> None:
        if self._receiver.retries:  # the group that waits will tell when the store works; each try may take seconds
            return
        now_s = time.monotonic()
        try:
            if self._orphans.pending and self.vitals.ready:
                self._orphans.step()
            elif now_s >= self._look_at_s:
                self._orphans.look()
                if not self.vitals.first_round_done:  # said even if none of them can be committed
                    self.vitals.orphans_pending = self._orphans.pending
                self._look_at_s = now_s + LOOK_S + LOOK_SHARE * (time.monotonic() - now_s)
                self._orphans.step()
                self._see_whether_store_works()
            else:
                return
        except StoreUnavailable as error:
            self.vitals.store_failed(error)
            self._look_at_s = now_s + LOOK_S
        except OSError as error:
            if str(error) != self._look_problem:  # said once
                log.warning("cannot look for orphans", extra={"problem": str(error)})
            self._look_problem = str(error)
            self._look_at_s = now_s + LOOK_S
        else:
            self._look_problem = ""
            self._note_progress()

    def _see_whether_store_works(self) -> None:
        """After a failure, when no orphan shows it."""
        if not self.vitals.ready:
            self._store.commit([])
            self.vitals.store_worked()

    def _note_progress(self) -> None:
        vitals = self.vitals
        recovered = self._orphans.recovered - vitals.orphans_recovered
        vitals.orphans_recovered, vitals.orphans_pending = self._orphans.recovered, self._orphans.pending
        vitals.quarantined = self._quarantine.count
        if recovered and not vitals.orphans_pending:
            log.info("took over journals of ended processes", extra={"journals": vitals.orphans_recovered})
        vitals.first_round_done = vitals.first_round_done or not vitals.orphans_pending

    def _collect_garbage(self) -> None:
        now_s = time.monotonic()
        if now_s >= self._collect_at_s:
            self._collect_at_s = now_s + COLLECT_S
            gc.collect()

    def _reload(self) -> None:
        self._reload_asked = False
        with self.notifier.reloading():
            self._on_reload()

    # Shut-down: take what is on its way, then the reverse of the start.

    def _shut_down(self) -> None:
        self.notifier.stopping()
        deadline_s = time.monotonic() + DRAIN_S
        batches = -1
        while self.vitals.ready and batches != self.vitals.batches and time.monotonic() < deadline_s:
            batches = self.vitals.batches
            self._receiver.serve(0.05)
        self._adopt_last()
        self._started.close()
        gc.enable()

    def _adopt_last(self) -> None:
        """Take over who ended just before us. In a pod the spool ends with us, and no other daemon will come for it."""
        deadline_s = time.monotonic() + ADOPT_S
        try:
            self._orphans.look()
            while self.vitals.ready and self._orphans.step() and time.monotonic() < deadline_s:
                pass
        except (StoreUnavailable, OSError) as error:
            log.warning("journals stay in the spool for the next start", extra={"problem": str(error)})

    # Questions.

    def _health(self, params: dict[str, Any]) -> dict[str, Any]:  # noqa: ARG002 - takes none
        problem = self._problem()
        return {"ready": not problem, "sinks": {"sqlite": not problem, **self._healthy()}, "problem": problem}

    def _healthy(self) -> dict[str, bool]:
        return self._as_served(self._sinks.healthy())

    def _as_served(self, works: dict[str, bool]) -> dict[str, bool]:
        """The same, but what nobody can scrape does not work."""
        if "prometheus" in works and not (self._http and self._http.is_serving):
            works["prometheus"] = False
        return works

    def _problem(self) -> str:
        """Why nothing can be committed, or an empty text."""
        idle_s = time.monotonic() - self._turned_s
        if self._turned_s and idle_s > STUCK_S:
            return f"the daemon has been at one commit for {idle_s:.0f} s: check its disk"
        return self.vitals.store_problem

    def _headline(self) -> str:
        """How it is doing, in a line for people."""
        vitals = self.vitals
        if not vitals.ready:
            return f"cannot commit: {vitals.store_problem}"
        if vitals.orphans_pending:
            return f"taking over {vitals.orphans_pending:,} journals of ended processes"
        return f"serving; {vitals.events:,} events in {vitals.commits:,} commits since the start"

    def _push(self, params: dict[str, Any]) -> dict[str, Any]:  # noqa: ARG002 - takes none
        return {"sinks": {"sqlite": self.vitals.ready, **self._as_served(self._sinks.push())}}

    def _status(self, params: dict[str, Any]) -> dict[str, Any]:  # noqa: ARG002 - takes none
        return {
            "version": __version__,
            "pid": os.getpid(),
            "endpoint": self.endpoint,
            "http": self.http_url,
            "sinks": self._sinks.status(),
            **report.status(self.settings, self.vitals),
        }


def serve(settings: DaemonSettings, on_ready: Callable[[Server], None], on_reload: Callable[[], None]) -> None:
    """Run a daemon in this process until SIGTERM or SIGINT; the signals are put back as found.

    SIGHUP calls `on_reload` under a service manager. Elsewhere it means that the terminal is gone, and ends the daemon.
    """
    server = Server(settings, on_reload)
    handlers = {signal.SIGTERM: server.stop, signal.SIGINT: server.stop}
    if server.notifier.is_heard:
        handlers[signal.SIGHUP] = server.reload
    before = {number: signal.getsignal(number) for number in handlers}

    def ready(server: Server) -> None:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        on_ready(server)

    try:
        server.run(ready)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _raise_descriptor_limit() -> None:
    """As many descriptors as are allowed: each client of an ipc or tcp socket takes one."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
