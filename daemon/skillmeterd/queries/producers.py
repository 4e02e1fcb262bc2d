"""Producers: how far each one's journal is committed. An event before that offset is in the database, or was."""

from typing import Annotated, Final

import msgspec

from .params import Params
from .reader import Snapshot

MAX_PRODUCERS: Final = 1000  # in one question

Hex = Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{32}$")]


class Producers(Params, frozen=True):
    """About some producers, by their ids in hexadecimal digits."""

    producers: Annotated[list[Hex], msgspec.Meta(max_length=MAX_PRODUCERS)]


def committed(at: Snapshot, asked: Producers) -> dict[str, int]:
    """The committed offset of each producer that is known."""
    sql = "SELECT committed FROM producer WHERE producer = :producer"
    found = {name: at.value(sql, producer=bytes.fromhex(name)) for name in asked.producers}
    return {name: offset for name, offset in found.items() if offset is not None}
