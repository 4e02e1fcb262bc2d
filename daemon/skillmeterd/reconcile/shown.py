"""Shown: what a view shows of the skills' totals, read from the text format of /metrics."""

import re
from collections import defaultdict
from dataclasses import dataclass, field
from typing import Final

from ..sinks.totals import EXECUTIONS, FAILURES, HEALTH, LATENCY, RATING, SUCCESS
from .history import Labels

LAST_EVENT: Final = "skillmeter_last_event_id"
OVERFLOW: Final[Labels] = frozenset({("overflow", "true")})

_SAMPLE: Final = re.compile(r"([a-zA-Z_:][a-zA-Z0-9_:]*)(?:\{(.*)\})? (\S+)")
_LABEL: Final = re.compile(r'([a-zA-Z_][a-zA-Z0-9_]*)="((?:[^"\\]|\\.)*)",?', re.DOTALL)
_ESCAPED: Final = re.compile(r"\\(.)", re.DOTALL)

Table = dict[Labels, list[float]]
MISSING: Final = -1.0
"""In the place of a number that is not shown; no number is negative."""


@dataclass(slots=True)
class Shown:
    """By labels, in the order of the totals' columns."""

    event_id: int
    used: Table = field(default_factory=dict)
    """[executions, successes, failures]"""
    latency: Table = field(default_factory=dict)
    """[count, sum, cumulative buckets up to the last bound ...]"""
    rated: Table = field(default_factory=dict)
    """[cumulative buckets 1 ... 5]"""
    health: Table = field(default_factory=dict)
    """[score]"""


def parse(text: str, event_id: int | None = None) -> Shown:
    """What a page of the text format shows; it carries the event itself, or somebody has noted it.

    Raises ValueError if it is no such page.
    """
    samples: dict[str, dict[Labels, float]] = defaultdict(dict)
    for line in text.split("\n"):
        if line and not line.startswith("#"):
            name, labels, value = _sample(line)
            samples[name][labels] = value
    if event_id is None:
        event_id = int(samples[LAST_EVENT][frozenset()]) if samples[LAST_EVENT] else -1
    if event_id < 0:
        raise ValueError(f"it has no {LAST_EVENT}")
    return Shown(
        event_id,
        used=_side_by_side(samples, [f"{name}_total" for name in (EXECUTIONS, SUCCESS, FAILURES)]),
        latency=_with_buckets(samples, LATENCY),
        rated={labels: counts[2:] for labels, counts in _with_buckets(samples, RATING).items()},
        health=_side_by_side(samples, [HEALTH]),
    )


def _sample(line: str) -> tuple[str, Labels, float]:
    match = _SAMPLE.fullmatch(line)
    if match is None:
        raise ValueError(f"this is no sample: {line[:80]!r}")
    name, inside, value = match.groups()
    pairs = _LABEL.findall(inside or "")
    return name, frozenset((key, _ESCAPED.sub(_unescape, text)) for key, text in pairs), float(value)


def _unescape(match: "re.Match[str]") -> str:
    return "\n" if match[1] == "n" else match[1]


def _side_by_side(samples: dict[str, dict[Labels, float]], names: list[str]) -> Table:
    """A number of each metric, or MISSING."""
    every = dict.fromkeys(labels for name in names for labels in samples[name])
    return {labels: [samples[name].get(labels, MISSING) for name in names] for labels in every}


def _with_buckets(samples: dict[str, dict[Labels, float]], name: str) -> Table:
    """[count, sum, buckets without the last one, whose number is the count]"""
    buckets: dict[Labels, dict[float, float]] = defaultdict(dict)
    for labels, value in samples[f"{name}_bucket"].items():
        (bound,) = (text for key, text in labels if key == "le")
        buckets[labels - {("le", bound)}][float(bound)] = value
    table = _side_by_side(samples, [f"{name}_count", f"{name}_sum"])
    for labels, numbers in table.items():
        numbers += [buckets[labels][bound] for bound in sorted(buckets[labels])[:-1]]
    return table
