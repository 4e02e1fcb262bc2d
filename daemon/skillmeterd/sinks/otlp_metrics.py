"""OTLP metrics: families as requests of the metrics service, cumulative, with the time since when each counts.

The messages are built as they go over the wire: by way of the SDK's metric classes and encoder the same bytes take
longer and the SDK's memory.

A receiver that keeps Prometheus's rules takes a series for stale 5 minutes after its last sample. So a series that did
not change may be left out between two full exports, and full exports are less than half of that apart: one may fail.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any, Final

from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
    ExportMetricsServiceResponse,
)
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, InstrumentationScope, KeyValue
from opentelemetry.proto.metrics.v1.metrics_pb2 import (
    AggregationTemporality,
    HistogramDataPoint,
    Metric,
    NumberDataPoint,
    ResourceMetrics,
    ScopeMetrics,
)
from opentelemetry.proto.resource.v1.resource_pb2 import Resource

from skillmeter._version import __version__

from .families import Family, Histogram, Point

FULL_EVERY_S: Final = 120.0
MAX_POINTS: Final = 1000  # about 0.4 MB as a rule, and below the usual limit of 4 MiB with the longest ids there are

_SCOPE: Final = InstrumentationScope(name="skillmeter", version=__version__)
_CUMULATIVE: Final = AggregationTemporality.AGGREGATION_TEMPORALITY_CUMULATIVE
_MAX_SENT: Final = 2_000_000  # series remembered, about 100 MB; with more every export is a full one

Row = tuple[Family, Point | Histogram]


@dataclass(frozen=True, slots=True)
class Piece:
    """One request, and the series in it."""

    body: bytes
    rows: list[Row]


class Sent:
    """Which series the receiver has as they are: by a hash of name, labels and values. One that is wrong, after a
    collision or a receiver's loss, is put right by the next full export."""

    def __init__(self) -> None:
        self._hashes: set[int] = set()

    def __contains__(self, row: Row) -> bool:
        return _hash(row) in self._hashes

    def add(self, rows: Iterable[Row]) -> None:
        """The receiver has these now."""
        self._hashes.update(map(_hash, rows))
        if len(self._hashes) > _MAX_SENT:
            self._hashes.clear()

    def clear(self) -> None:
        """Nothing is known of what the receiver has."""
        self._hashes.clear()


def _hash(row: Row) -> int:
    family, point = row
    return hash((family.name, tuple(point.labels.items()), *point[1:]))


def rows(families: Iterable[Family]) -> Iterator[Row]:
    """Every series of every family."""
    return ((family, point) for family in families for point in family.points)


def pieces(rows: Iterable[Row], resource: Resource, now_ns: int, max_points: int = MAX_POINTS) -> Iterator[Piece]:
    """The requests that carry these series, in their order, none with more than `max_points`."""
    rows = iter(rows)
    while part := list(islice(rows, max_points)):
        scope = ScopeMetrics(scope=_SCOPE, metrics=_metrics(part, now_ns))
        request = ExportMetricsServiceRequest(
            resource_metrics=[ResourceMetrics(resource=resource, scope_metrics=[scope])]
        )
        yield Piece(request.SerializeToString(), part)


def refusal(answer: bytes) -> tuple[int, str]:
    """How many points the receiver refused, and what it says. Raises google.protobuf.message.DecodeError."""
    partial = ExportMetricsServiceResponse.FromString(answer).partial_success
    return partial.rejected_data_points, partial.error_message


def attributes(values: Iterable[tuple[str, Any]]) -> list[KeyValue]:
    """Texts, numbers and truth values as attributes."""
    return [KeyValue(key=key, value=_value(value)) for key, value in values]


def _value(value: str | bool | int | float) -> AnyValue:
    if isinstance(value, str):
        return AnyValue(string_value=value)
    if isinstance(value, bool):
        return AnyValue(bool_value=value)
    return AnyValue(int_value=value) if isinstance(value, int) else AnyValue(double_value=value)


def _metrics(rows: Iterable[Row], now_ns: int) -> list[Metric]:
    metrics: dict[str, Metric] = {}
    for family, point in rows:
        metric = metrics.get(family.name)
        if metric is None:
            metric = metrics[family.name] = _metric(family)
        if isinstance(point, Histogram):
            metric.histogram.data_points.append(_histogram(family, point, now_ns))
        elif family.kind == "counter":
            metric.sum.data_points.append(_number(point, now_ns))
        else:
            metric.gauge.data_points.append(_number(point, now_ns))
    return list(metrics.values())


def _metric(family: Family) -> Metric:
    metric = Metric(name=family.name, description=family.help, unit=family.unit)
    if family.kind == "counter":
        metric.sum.aggregation_temporality = _CUMULATIVE
        metric.sum.is_monotonic = True
    elif family.kind == "histogram":
        metric.histogram.aggregation_temporality = _CUMULATIVE
    return metric


def _number(point: Point, now_ns: int) -> NumberDataPoint:
    number = NumberDataPoint(
        attributes=attributes(point.labels.items()),
        start_time_unix_nano=_start_ns(point.created_ns, now_ns),
        time_unix_nano=now_ns,
    )
    if isinstance(point.value, int):
        number.as_int = int(point.value)  # a truth value is an int to Python, not to protobuf
    else:
        number.as_double = point.value
    return number


def _histogram(family: Family, point: Histogram, now_ns: int) -> HistogramDataPoint:
    return HistogramDataPoint(
        attributes=attributes(point.labels.items()),
        start_time_unix_nano=_start_ns(point.created_ns, now_ns),
        time_unix_nano=now_ns,
        count=sum(point.counts),
        sum=point.sum,
        bucket_counts=point.counts,
        explicit_bounds=family.bounds,
    )


def _start_ns(created_ns: int | None, now_ns: int) -> int:
    """Never after `now_ns`: the clock may have been set back. 0 is for unknown."""
    return min(created_ns or 0, now_ns)
