"""A scripted OTLP receiver on loopback, and a database to export: what tests of the OTLP sink talk to."""

import gzip
import os
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest, ExportLogsServiceResponse
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
    ExportMetricsServiceResponse,
)
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.logs.v1.logs_pb2 import LogRecord
from opentelemetry.proto.metrics.v1.metrics_pb2 import Metric

from skillmeter.events import encode_execution, encode_health, encode_rating
from skillmeterd.config import DaemonSettings
from skillmeterd.sinks import Source
from skillmeterd.store import Chunk, Store
from skillmeterd.vitals import Vitals

from .scripted import ScriptedServer, send


@dataclass(frozen=True)
class Posted:
    """A request as it came."""

    path: str
    headers: Mapping[str, str]
    body: bytes


@dataclass(frozen=True)
class Answer:
    """What the receiver does with a request: `act` may hang, trickle or cut instead of answering."""

    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""
    act: Callable[[BaseHTTPRequestHandler], None] | None = None


OK = Answer()
Script = Callable[[Posted], Answer]


class Receiver(ScriptedServer):
    """Answers by its script: one answer a request, then OK; or a function of the request."""

    def __init__(self, *answers: Answer, script: Script | None = None) -> None:
        super().__init__()
        self.posted: list[Posted] = []
        self._answers = list(answers)
        self._script = script
        self._lock = threading.Lock()

    def then(self, *answers: Answer) -> None:
        """Answer the next requests so."""
        with self._lock:
            self._answers = list(answers)
            self._script = None

    def hang(self) -> Answer:
        """No answer until the test is over."""

        def act(_: BaseHTTPRequestHandler) -> None:
            self.released.wait()

        return Answer(act=act)

    def metrics(self) -> list[ExportMetricsServiceRequest]:
        return [ExportMetricsServiceRequest.FromString(post.body) for post in self.posted if "metrics" in post.path]

    def logs(self) -> list[ExportLogsServiceRequest]:
        return [ExportLogsServiceRequest.FromString(post.body) for post in self.posted if "logs" in post.path]

    def serve(self, handler: BaseHTTPRequestHandler) -> None:
        """By the script."""
        body = handler.rfile.read(int(handler.headers["Content-Length"]))
        if handler.headers.get("Content-Encoding") == "gzip":
            body = gzip.decompress(body)
        post = Posted(handler.path, dict(handler.headers), body)
        with self._lock:
            answer = self._script(post) if self._script else self._answers.pop(0) if self._answers else OK
            self.posted.append(post)
        if answer.act is not None:
            handler.close_connection = True
            answer.act(handler)
            return
        send(handler, answer.status, answer.headers, answer.body)


def refused_points(count: int, message: str) -> Answer:
    """A partial success for metrics."""
    answer = ExportMetricsServiceResponse()
    answer.partial_success.rejected_data_points = count
    answer.partial_success.error_message = message
    return Answer(body=answer.SerializeToString())


def refused_records(count: int, message: str) -> Answer:
    """A partial success for log records."""
    answer = ExportLogsServiceResponse()
    answer.partial_success.rejected_log_records = count
    answer.partial_success.error_message = message
    return Answer(body=answer.SerializeToString())


def raw(answer: bytes) -> Answer:
    """These bytes, and the end of the connection."""

    def act(handler: BaseHTTPRequestHandler) -> None:
        handler.wfile.write(answer)

    return Answer(act=act)


def lost(handler: BaseHTTPRequestHandler) -> None:
    """The request was taken, and the connection breaks before the answer."""
    handler.connection.shutdown(socket.SHUT_RDWR)


# What came, as plain values.


def attributes(pairs: Iterable[KeyValue]) -> dict[str, Any]:
    """By key."""
    return {pair.key: plain(pair.value) for pair in pairs}


def plain(value: AnyValue) -> Any:
    """What it holds."""
    kind = value.WhichOneof("value")
    return None if kind is None else getattr(value, kind)


def every_metric(requests: Iterable[ExportMetricsServiceRequest]) -> Iterator[Metric]:
    """In the order in which they came."""
    for request in requests:
        for resource in request.resource_metrics:
            for scope in resource.scope_metrics:
                yield from scope.metrics


def every_record(requests: Iterable[ExportLogsServiceRequest]) -> Iterator[LogRecord]:
    """In the order in which they came."""
    for request in requests:
        for resource in request.resource_logs:
            for scope in resource.scope_logs:
                yield from scope.log_records


def series(requests: Iterable[ExportMetricsServiceRequest]) -> dict[tuple[str, frozenset[tuple[str, str]]], Any]:
    """What a receiver would hold: the last point of each series, by metric and labels."""
    held: dict[tuple[str, frozenset[tuple[str, str]]], Any] = {}
    for metric in every_metric(requests):
        for point in getattr(metric, metric.WhichOneof("data") or "").data_points:
            held[metric.name, frozenset(attributes(point.attributes).items())] = point
    return held


def value(requests: Iterable[ExportMetricsServiceRequest], name: str, **labels: str) -> float:
    """The last value, or count, of a series."""
    point = series(requests)[name, frozenset(labels.items())]
    return point.count if hasattr(point, "explicit_bounds") else getattr(point, point.WhichOneof("value"))


# A database.


class Database:
    """Events committed by hand."""

    def __init__(self, folder: Path, clock_ns: Callable[[], int] = time.time_ns) -> None:
        self._producer = os.urandom(16)
        self.path = folder / "analytics.db"
        self.store = Store.open(self.path, clock_ns=clock_ns)
        self._offset = 0

    def close(self) -> None:
        self.store.close()

    def replace(self, other: Path | None) -> None:
        """Put another database file, or a fresh one, in its place; who records in it is another producer."""
        self.store.close()
        self.path.unlink()
        if other is not None:
            other.rename(self.path)
        self.store = Store.open(self.path)
        self._producer = os.urandom(16)
        self._offset = 0

    def execute(self, skill: str = "s", times: int = 1, *, success: bool = True, ms: float = 1.0, **more: Any) -> None:
        """Commit executions, all in one group."""
        self.commit(*(self.execution(skill, success=success, ms=ms, **more) for _ in range(times)))

    @staticmethod
    def execution(
        skill: str,
        *,
        success: bool = True,
        ms: float = 1.0,
        user: str | None = None,
        org: str | None = None,
        **more: Any,
    ) -> bytes:
        return encode_execution(skill, success, ms, user, org, **more)

    def rate(self, skill: str, rating: int) -> None:
        self.commit(encode_rating(skill, rating, "u1", None))

    def health(self, skill: str, score: float) -> None:
        self.commit(encode_health(skill, score))

    def commit(self, *payloads: bytes) -> None:
        offsets = [self._offset + 100 * index for index in range(len(payloads))]
        self._offset += 100 * len(payloads)
        self.store.commit([Chunk(self._producer, self._offset, offsets, list(payloads))])

    def source(self, **env: str) -> Source:
        """What a sink reads, with settings from these variables."""
        folder = str(self.path.parent)
        base = {"HOME": folder, "ANALYTICS_DB_PATH": str(self.path), "ANALYTICS_SPOOL_DIR": f"{folder}/spool"}
        return Source(DaemonSettings.from_environment({**base, **env}), Vitals(started_ns=1))
