"""Producers: how far each one's journal is committed.

An event before that offset is in the database, or was, unless it is one of those that the producer is known to lack:
which these are nobody wrote down.
"""

from typing import Annotated, Final

import msgspec

from .params import Params
from .reader import Snapshot

MAX_PRODUCERS: Final = 1000  # in one question

Hex = Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{32}$")]


class Producers(Params, frozen=True):
    """About some producers, by their ids in hexadecimal digits."""

    producers: Annotated[list[Hex], msgspec.Meta(max_length=MAX_PRODUCERS)]


def committed(at: Snapshot, asked: Producers) -> dict[str, tuple[int, bool]]:
    """The committed offset of each producer that is known, and whether events before it are lost or corrupt."""
    sql = "SELECT committed, lost OR corrupt FROM producer WHERE producer = :producer"
    found = {name: at.row(sql, producer=bytes.fromhex(name)) for name in asked.producers}
    return {name: (row[0], bool(row[1])) for name, row in found.items() if row is not None}
