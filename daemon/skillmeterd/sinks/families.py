"""Families: metrics as plain values, between what is read from SQLite and how a backend writes it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple


class Point(NamedTuple):
    """A counter or gauge with one label set. A label that is absent has no key."""

    labels: Mapping[str, str]
    value: float
    created_ns: int | None = None
    """Since when a counter counts, Unix nanoseconds."""


class Histogram(NamedTuple):
    """A histogram with one label set."""

    labels: Mapping[str, str]
    counts: tuple[int, ...]
    """Observations by bucket, not cumulative: up to and with each bound, then the rest."""
    sum: float
    created_ns: int | None = None


@dataclass(frozen=True, slots=True)
class Family:
    """All series of one metric."""

    name: str
    """Without the `_total` of counters."""
    kind: Literal["counter", "gauge", "histogram"]
    help: str
    points: list[Point] | list[Histogram]
    unit: str = ""
    """The UCUM code that OTLP wants; `name` already says it in words."""
    bounds: tuple[int, ...] = ()
    """Upper bounds, inclusive, of a histogram's buckets."""
