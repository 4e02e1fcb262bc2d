"""Comparison: an answer in plain data with what it has to be, where that is more than being equal."""

import datetime
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import msgspec


@dataclass(frozen=True)
class About:
    """A latency within 1 % of this; below a microsecond it may be zero."""

    value: float

    def check(self, found: Any, where: str) -> None:
        """AssertionError if it is not."""
        assert isinstance(found, float), (where, found, self)
        assert math.isclose(found, self.value, rel_tol=0.010001, abs_tol=0.001), (where, found, self)


class Anything:
    """What is not looked at here."""

    def check(self, found: Any, where: str) -> None:
        """Right, whatever it is."""


@dataclass(frozen=True)
class Parts:
    """The ten largest of these: (executions, failures) by name."""

    parts: Mapping[str | None, tuple[int, int]]

    def check(self, found: Any, where: str) -> None:
        """In falling order, each once; which of equal ones are told does not matter."""
        told = {part["name"]: (part["executions"], part["failures"]) for part in found}
        assert len(told) == len(found), (where, found)
        assert told.items() <= self.parts.items(), (where, found, self)
        sizes = sorted((executions for executions, _ in self.parts.values()), reverse=True)
        assert [part["executions"] for part in found] == sizes[:10], (where, found, self)


@dataclass(frozen=True)
class Bins:
    """Latencies in bins."""

    latencies: Sequence[float]

    def check(self, found: Any, where: str) -> None:
        """Few bins, the next where the last ends, each with the latencies that are in it."""
        assert len(found) <= 41, where
        assert sum(bin_["executions"] for bin_ in found) == len(self.latencies), (where, found, self)
        ends = [bin_ for bin_ in found if bin_["from_ms"]]
        assert all(math.isclose(one["to_ms"], other["from_ms"]) for one, other in pairwise(ends)), (where, found)
        for bin_ in found:
            low, high = bin_["from_ms"], bin_["to_ms"]
            surely = sum(low * 1.0001 < ms <= high * 0.9999 for ms in self.latencies)
            perhaps = sum(low * 0.9999 <= ms <= high * 1.0001 for ms in self.latencies)
            assert surely <= bin_["executions"] <= perhaps, (where, bin_, self)


def check(found: Any, wanted: Any, where: str = "") -> None:
    """AssertionError, with the path to what differs, unless an answer in plain data is what was computed."""
    if isinstance(wanted, About | Anything | Parts | Bins):
        wanted.check(found, where)
    elif isinstance(wanted, dict):
        assert isinstance(found, dict), (where, found)
        assert found.keys() == wanted.keys(), (where, found.keys() ^ wanted.keys())
        for key, value in wanted.items():
            check(found[key], value, f"{where}.{key}")
    elif isinstance(wanted, list):
        assert isinstance(found, list), (where, found)
        assert len(found) == len(wanted), (where, found, wanted)
        for index, value in enumerate(wanted):
            check(found[index], value, f"{where}[{index}]")
    elif isinstance(wanted, float):
        assert isinstance(found, float), (where, found, wanted)
        assert math.isclose(found, wanted, rel_tol=1e-9, abs_tol=1e-9), (where, found, wanted)
    else:
        assert type(found) is type(wanted), (where, found, wanted)
        assert found == wanted, (where, found, wanted)


def plain(answer: Any) -> Any:
    """An answer as `check` takes it: structs as dicts, times as they are."""
    return msgspec.to_builtins(answer, builtin_types=(datetime.datetime, datetime.date))
