"""Events: the raw record in the order of commits, a bounded piece at a time, so that no read holds the WAL for long."""

from collections.abc import Iterator
from typing import Any, Final

from .reader import Reader

COLUMNS: Final = (
    *("event_id", "recorded_at", "kind", "skill_id", "user_id", "org_id", "success", "latency_ms", "rating", "score"),
    *("error_type", "skill_version", "attributes"),
)
"""Those of the public view `events`."""

PIECE: Final = 5000  # rows read in one go: 20 ms
LOOK: Final = 50_000  # events looked at in one go, of which few may be meant

_PIECE: Final = f"""
SELECT no, {", ".join(COLUMNS)} FROM event_rows
WHERE no > :after AND no <= :last
    AND (:skill_id IS NULL OR skill_id = :skill_id) AND (:org_id IS NULL OR org_id = :org_id)
ORDER BY no LIMIT :piece
"""

Row = tuple[Any, ...]
"""The columns, in order."""


def span(reader: Reader) -> tuple[int, int]:
    """The number before the first event, and that of the last; equal if there are none. Raises StoreUnavailable."""
    with reader.snapshot() as at:
        first, last = at.row("SELECT (SELECT min(id) FROM event_log), (SELECT max(id) FROM event_log)")
    return (0, 0) if first is None else (first - 1, last)


def pieces(
    reader: Reader, after: int, last: int, *, skill_id: str | None = None, org_id: str | None = None
) -> Iterator[tuple[int, list[Row]]]:
    """Events numbered after `after`, up to `last`: pieces, each with the number up to which it reads.

    Raises StoreUnavailable.
    """
    while after < last:
        end = min(last, after + LOOK)
        with reader.snapshot() as at:
            rows = at.rows(_PIECE, after=after, last=end, skill_id=skill_id, org_id=org_id, piece=PIECE)
        after = rows[-1][0] if len(rows) == PIECE else end
        yield after, [row[1:] for row in rows]
