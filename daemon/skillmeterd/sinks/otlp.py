"""OTLP: the sink of backend `otlp`. Pushes the totals as metrics, and forwards events as log records if wanted.

Metrics are cumulative: a push that fails costs nothing, since the next one carries the totals. Each kind has a thread,
a connection and an account of its own, so that a backlog of log records never holds up the metrics.
"""

import dataclasses
import logging
import os
import sqlite3
import threading
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

from opentelemetry.proto.resource.v1.resource_pb2 import Resource

from ..config import DaemonSettings
from ..errors import DaemonError
from .otlp_logs import Forwarder
from .otlp_metrics import attributes
from .otlp_pusher import MetricsPusher
from .otlp_state import State
from .otlp_target import Signal, Target, resolve_all
from .otlp_transport import Transport
from .periodic import Periodic
from .sink import Progress, Sink
from .source import Source

log = logging.getLogger(__name__)

LATE: Final = 3  # intervals without a success until the sink counts as not healthy, whatever it is doing
CUT_S: Final = 1.0  # for a thread to notice that its connection is gone


class Otlp:
    """The sink. One thread starts and stops it; the rest may be called from any."""

    name = "otlp"

    def __init__(self, source: Source, targets: Mapping[Signal, Target]) -> None:
        """Raises OSError or sqlite3.Error if a certificate or the state beside the database cannot be used."""
        settings = source.settings
        self._interval_s = settings.otlp_push_interval_s
        self._targets = targets
        self._stopping = threading.Event()
        state = State(settings.db_path, time.time_ns())
        resource = _resource(settings, state)
        self._transports = {signal: Transport(target, self._stopping.wait) for signal, target in targets.items()}
        self._metrics = MetricsPusher(source, state, self._transports["metrics"], resource)
        self._threads = [self._thread("metrics", self._metrics)]
        self._logs: Forwarder | None = None
        if "logs" in targets:
            self._logs = Forwarder(settings.db_path, state, self._transports["logs"], resource, self._stopping)
            self._threads.append(self._thread("logs", self._logs))

    @property
    def progress(self) -> Progress:
        """Of metrics and log records together; the last success is that of the one further behind."""
        first, *others = self._parts()
        together = dataclasses.replace(first)
        for other in others:
            together.exports += other.exports
            together.failures += other.failures
            together.last_success_ns = _least(together.last_success_ns, other.last_success_ns)
            together.last_failure_ns = max(together.last_failure_ns or 0, other.last_failure_ns or 0) or None
            together.problem = "; ".join(filter(None, (together.problem, other.problem)))
        return together

    @property
    def healthy(self) -> bool:
        """Whether the last export worked, and that is not long ago."""
        progress = self.progress
        if progress.problem or progress.last_success_ns is None:
            return False
        return time.time_ns() - progress.last_success_ns < LATE * (self._interval_s + self._slowest_s()) * 1e9

    def start(self) -> None:
        """Start to export, at once the first time."""
        for signal, target in self._targets.items():
            if target.headers and target.is_open:
                log.warning("credentials go unencrypted: the address is not https", extra={"signal": signal})
        for thread in self._threads:
            thread.start()

    def stop(self, timeout_s: float) -> None:
        """Export once more within the time. An export that hangs is cut off."""
        deadline_s = time.monotonic() + timeout_s
        self._stopping.set()
        for thread, transport in zip(self._threads, self._transports.values(), strict=True):
            if not thread.stop(max(0.0, deadline_s - time.monotonic())):
                transport.abandon()
                thread.stop(CUT_S)

    def push(self) -> bool:
        """Export everything now. True only if the receiver has taken what was committed before the call."""
        self._metrics.full_wanted = True
        with ThreadPoolExecutor(len(self._threads)) as pool:
            return all(list(pool.map(Periodic.push, self._threads)))

    def status(self) -> dict[str, Any]:
        """Where it sends, how that goes, what failed by kind. No header, no token."""
        signals: dict[str, dict[str, Any]] = {}
        for (signal, target), progress in zip(self._targets.items(), self._parts(), strict=True):
            failures = dict(self._transports[signal].failures)
            signals[signal] = {"endpoint": target.url, **dataclasses.asdict(progress), "failures_by_kind": failures}
        signals["metrics"] |= self._metrics.status()
        if self._logs is not None:
            signals["logs"] |= self._logs.status()
        return {"healthy": self.healthy, **dataclasses.asdict(self.progress), **signals}

    def _thread(self, signal: Signal, exporter: MetricsPusher | Forwarder) -> Periodic:
        return Periodic(f"otlp {signal}", self._interval_s, exporter.export, exporter.progress, self._stopping)

    def _parts(self) -> list[Progress]:
        return [self._metrics.progress] if self._logs is None else [self._metrics.progress, self._logs.progress]

    def _slowest_s(self) -> float:
        return max(target.timeout_s for target in self._targets.values())


def create(source: Source) -> Sink:
    """The sink of backend `otlp`. Raises ConfigError for mistakes in the standard variables, or DaemonError."""
    targets = resolve_all(source.settings, os.environ)
    try:
        return Otlp(source, targets)
    except (OSError, sqlite3.Error) as error:
        raise DaemonError(f"the sink otlp cannot start: {error}") from error


def _resource(settings: DaemonSettings, state: State) -> Resource:
    return Resource(
        attributes=attributes(
            [
                ("service.name", settings.otlp_service_name),
                ("service.version", settings.otlp_service_version),
                ("service.instance.id", state.instance_id()),
            ]
        )
    )


def _least(one_ns: int | None, other_ns: int | None) -> int | None:
    """The earlier time; None if one has not been."""
    return None if one_ns is None or other_ns is None else min(one_ns, other_ns)
