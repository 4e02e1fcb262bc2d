"""W&B window: what happened to each skill between two moments, as the flat row that W&B charts.

What SQLite keeps are totals; a window is the difference of two of them, its percentiles those of the difference of two
sketches. W&B is made for some thousand metrics a run, so a run shows a bounded number of skills: those used most when
it began, then new ones as they come. The others are counted.
"""

import contextlib
import re
import sqlite3
import zlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from ..database import open_reader
from ..sketch import Sketch

MAX_SKILLS: Final = 500  # with ten metrics each
MAX_NAME_CHARS: Final = 64

_TOTALS: Final = """
SELECT skill.no, skill.skill_id, ifnull(executions, 0), ifnull(successes, 0),
    ifnull(r1, 0), ifnull(r2, 0), ifnull(r3, 0), ifnull(r4, 0), ifnull(r5, 0), skill_health.score
FROM skill
LEFT JOIN skill_total ON skill_total.skill_no = skill.no
LEFT JOIN skill_health ON skill_health.skill_id = skill.skill_id
ORDER BY executions DESC, skill.no
"""
_SKETCHES: Final = """
SELECT sketch FROM skill_sketch WHERE skill_no = :no
UNION ALL
SELECT sketch FROM skill_sketch_recent WHERE skill_no = :no
"""


@dataclass(slots=True)
class _Skill:
    """The totals of one skill."""

    no: int
    executions: int = 0
    successes: int = 0
    ratings: tuple[int, ...] = (0, 0, 0, 0, 0)
    health: float | None = None
    sketch: Sketch = field(default_factory=Sketch)


class Window:
    """One thread calls `row` and `next`. A window is open until `next`."""

    def __init__(self, db_path: Path) -> None:
        self.left_out = 0
        """Skills that are not shown."""
        self._db_path = db_path
        self._then: dict[str, _Skill] | None = None  # at the window's beginning; None before the first
        self._then_s = 0.0
        self._now: dict[str, _Skill] = {}
        self._now_s = 0.0

    @property
    def shown(self) -> int:
        """How many skills are shown."""
        return len(self._then or ())

    def row(self, now_s: float) -> dict[str, Any]:
        """The window so far, and the totals. The first one is empty but for these. Raises sqlite3.Error."""
        last_event_id = self._read()
        self._now_s = now_s
        then = self._now if self._then is None else self._then
        row: dict[str, Any] = {
            "window_s": round(now_s - self._then_s, 3) if self._then is not None else 0.0,
            "last_event_id": last_event_id,
            "skills_left_out": self.left_out,
            "executions_total": sum(skill.executions for skill in self._now.values()),
        }
        for skill_id, skill in self._now.items():
            row |= {f"skill/{metric_name(skill_id)}/{key}": value for key, value in _change(then.get(skill_id), skill)}
        return row

    def next(self) -> None:
        """The row was taken: the next window begins where it ended."""
        self._then, self._then_s = self._now, self._now_s

    def _read(self) -> int:
        """The totals as of one commit; returns its last event's id."""
        with contextlib.closing(open_reader(self._db_path)) as db:
            db.execute("BEGIN")
            now: dict[str, _Skill] = {}
            self.left_out = 0
            room = MAX_SKILLS - self.shown
            for no, skill_id, executions, successes, *ratings, health in db.execute(_TOTALS):
                if self._then is None or skill_id not in self._then:
                    if room <= 0:
                        self.left_out += 1
                        continue
                    room -= 1
                now[skill_id] = _Skill(no, executions, successes, tuple(ratings), health)
            self._read_sketches(db, now)
            return int(db.execute("SELECT ifnull(max(seq), 0) FROM sqlite_sequence").fetchone()[0])

    def _read_sketches(self, db: sqlite3.Connection, now: dict[str, _Skill]) -> None:
        """Only of those that were used since; the others' are known."""
        then = self._then or {}
        if any(now.get(skill_id, _Skill(0)).executions < skill.executions for skill_id, skill in then.items()):
            self._then = then = {}  # another database is in place: all of it is new
        for skill_id, skill in now.items():
            before = then.get(skill_id)
            if before is not None and before.executions == skill.executions:
                skill.sketch = before.sketch
            else:
                for (data,) in db.execute(_SKETCHES, {"no": skill.no}):
                    skill.sketch.merge(Sketch.decode(data))
        self._now = now


def metric_name(skill_id: str) -> str:
    """A skill's id as part of a metric's name, where W&B allows little; what had to be changed gets a hash."""
    name = re.sub("[^0-9A-Za-z_-]", "_", skill_id)[:MAX_NAME_CHARS]
    return name if name == skill_id else f"{name}-{zlib.crc32(skill_id.encode()):08x}"


def _change(then: _Skill | None, now: _Skill) -> Iterable[tuple[str, float]]:
    """What the row says of a skill; nothing of one that nothing happened to."""
    then = then or _Skill(now.no)
    executions = now.executions - then.executions
    ratings = [after - before for before, after in zip(then.ratings, now.ratings, strict=True)]
    if executions > 0:
        yield "executions", executions
        yield "success_rate", (now.successes - then.successes) / executions
        yield "executions_total", now.executions
        yield from _percentiles(then.sketch, now.sketch)
    if sum(ratings) > 0:
        yield "ratings", sum(ratings)
        yield "rating", sum(stars * count for stars, count in enumerate(ratings, 1)) / sum(ratings)
    if now.health is not None and now.health != then.health:
        yield "health_score", now.health


def _percentiles(then: Sketch, now: Sketch) -> Iterable[tuple[str, float]]:
    bins = {bin_: count - then.bins.get(bin_, 0) for bin_, count in now.bins.items()}
    window = Sketch({bin_: count for bin_, count in bins.items() if count > 0})
    for percent in (50, 95, 99):
        value = window.quantile(percent / 100)
        if value is not None:
            yield f"latency_p{percent}_ms", value
