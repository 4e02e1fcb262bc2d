"""Prometheus: the exposition of the families, made anew for each scrape from what SQLite holds at that moment."""

import dataclasses
import sqlite3
import time
from collections.abc import Iterable
from itertools import accumulate
from typing import Any, Final

from prometheus_client import CollectorRegistry, Metric, exposition
from prometheus_client.openmetrics import exposition as openmetrics
from prometheus_client.samples import Sample
from prometheus_client.utils import floatToGoString

from .families import Family, Histogram, Point
from .sink import Progress, Sink
from .source import Source

NS: Final = 1e9


class Prometheus:
    """Renders scrapes. It has no thread: Prometheus asks, over HTTP, on the listener's threads."""

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
            self._source.totals()
        except sqlite3.Error as error:
            self.progress.failed(time.time_ns(), str(error))
            return False
        return True

    def status(self) -> dict[str, Any]:
        """Its account of scrapes."""
        return {"healthy": self.healthy, **dataclasses.asdict(self.progress)}

    def scrape(self, *, as_openmetrics: bool) -> tuple[bytes, str]:
        """The exposition and its content type. Raises sqlite3.Error; a scrape never shows a part, or an older state."""
        try:
            totals = self._source.totals()
            families = [*totals.families, *self._source.own(totals)]
        except sqlite3.Error as error:
            self.progress.failed(time.time_ns(), str(error))
            raise
        page = render(families, as_openmetrics=as_openmetrics)
        self.progress.succeeded(time.time_ns())
        return page


class _Collector:
    """What prometheus_client renders."""

    def __init__(self, families: Iterable[Family]) -> None:
        self._families = families

    def collect(self) -> Iterable[Metric]:
        return map(_metric, self._families)

    def describe(self) -> Iterable[Metric]:
        return ()


def render(families: Iterable[Family], *, as_openmetrics: bool) -> tuple[bytes, str]:
    """The families as Prometheus's text, or as OpenMetrics, and the content type."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Collector(families))
    if as_openmetrics:
        return openmetrics.generate_latest(registry), openmetrics.CONTENT_TYPE_LATEST
    return exposition.generate_latest(registry), exposition.CONTENT_TYPE_PLAIN_0_0_4


def _metric(family: Family) -> Metric:
    metric = Metric(family.name, family.help, family.kind)
    for point in family.points:
        if isinstance(point, Histogram):
            metric.samples.extend(_histogram(family, point))
        elif family.kind == "counter":
            metric.samples.append(Sample(f"{family.name}_total", dict(point.labels), point.value))
            metric.samples.extend(_created(family.name, point))
        else:
            metric.samples.append(Sample(family.name, dict(point.labels), point.value))
    return metric


def _histogram(family: Family, point: Histogram) -> Iterable[Sample]:
    name, labels = family.name, dict(point.labels)
    bounds = [*map(floatToGoString, family.bounds), "+Inf"]
    for bound, count in zip(bounds, accumulate(point.counts), strict=True):
        yield Sample(f"{name}_bucket", {**labels, "le": bound}, count)
    yield Sample(f"{name}_count", labels, sum(point.counts))
    yield Sample(f"{name}_sum", labels, point.sum)
    yield from _created(name, point)


def _created(name: str, point: Point | Histogram) -> Iterable[Sample]:
    if point.created_ns is not None:
        yield Sample(f"{name}_created", dict(point.labels), point.created_ns / NS)


def create(source: Source) -> Sink:
    """The sink of backend `prometheus`."""
    return Prometheus(source)
