"""Comparison: two sides held against each other, number by number, and what came of it."""

import math
from collections.abc import Iterable
from typing import Final, Literal

import msgspec

MAX_SHOWN: Final = 20  # differences that are told one by one; all are counted
TOLERANCE: Final = 1e-6  # of sums of floating-point numbers, relative

Name = Literal["ledger", "rollups", "events", "metrics", "otlp"]
Verdict = Literal["equal", "differs", "skipped", "unknown"]
"""`skipped`: there is nothing to compare, as nobody asked for that view. `unknown`: it could not be compared."""


class Difference(msgspec.Struct, frozen=True):
    """One number that is not the same on both sides."""

    series: str
    """What is counted, as in `toolweaver_skill_executions_total{skill_id="a"}`."""
    here: float | None
    """In SQLite's totals. None: there is no such series."""
    there: float | None
    """On the other side."""


class Comparison(msgspec.Struct, frozen=True, kw_only=True):
    """What came of one comparison."""

    name: Name
    verdict: Verdict
    why: str = ""
    """Why it was skipped, or could not be made."""
    event_id: int | None = None
    """The newest event on both sides."""
    compared: int = 0
    """Numbers."""
    different: int = 0
    differences: list[Difference] = []
    """The first of them."""


class Tally:
    """Collects the numbers of one comparison."""

    def __init__(self, name: Name, event_id: int) -> None:
        self._name = name
        self._event_id = event_id
        self._compared = 0
        self._different = 0
        self._differences: list[Difference] = []

    def counts(self, series: str, here: float | None, there: float | None) -> None:
        """Two counts, equal to the event."""
        self._note(series, here, there, same=here == there)

    def sums(self, series: str, here: float, there: float, scale: float = 0.0) -> None:
        """Two sums of floating-point numbers. `scale` is the largest number that either was made from."""
        most = max(abs(here), abs(there), scale)
        self._note(series, here, there, same=math.isclose(here, there, rel_tol=0.0, abs_tol=TOLERANCE * most))

    def at_most(self, series: str, here: float, there: float) -> None:
        """A part, there, of a whole, here."""
        self._note(series, here, there, same=there <= here)

    def result(self) -> Comparison:
        """What came of it."""
        return Comparison(
            name=self._name,
            verdict="differs" if self._different else "equal",
            event_id=self._event_id,
            compared=self._compared,
            different=self._different,
            differences=self._differences,
        )

    def _note(self, series: str, here: float | None, there: float | None, *, same: bool) -> None:
        self._compared += 1
        if same:
            return
        self._different += 1
        if len(self._differences) < MAX_SHOWN:
            self._differences.append(Difference(series, here, there))


def skipped(name: Name, why: str) -> Comparison:
    """Nobody asked for that view."""
    return Comparison(name=name, verdict="skipped", why=why)


def unknown(name: Name, why: str) -> Comparison:
    """It could not be compared."""
    return Comparison(name=name, verdict="unknown", why=why)


def series(name: str, labels: Iterable[tuple[str, object]]) -> str:
    """A series as people write it; a label that is None is absent."""
    inside = ",".join(f'{key}="{value}"' for key, value in labels if value is not None)
    return f"{name}{{{inside}}}" if inside else name
