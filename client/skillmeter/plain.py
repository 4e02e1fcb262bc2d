"""The plain case of a record call in one piece: no extras, values that need no conversion, room in the segment.

Nearly every call is one. Taking it through validation, encoding and appending as one function, with everything in local
names, saves a third of its time. Whatever is not plain, and whatever fails, goes the general way, which validates,
converts, counts and explains; nothing has been written or counted by then.
"""

import functools
import struct
import time
import zlib
from collections.abc import Callable
from typing import Any, Final

from .errors import came_between, meant_for_caller
from .events import MAX_ID_CHARS, MAX_LATENCY_MS, encode
from .journal import Journal
from .records import RECORD_MAGIC

MAX_KNOWN: Final = 4096  # ids remembered as valid, of skills and of others
MAX_PLAIN_BYTES: Final = 512  # of a payload; three ids of 36 characters make 140


def record_plain(journal: Journal, general: Callable[..., bool]) -> Callable[..., bool]:
    """`general`, with a short way to `journal` for the plain case; only for a journal that is `plain`."""
    attempted = journal.attempted
    now_ns, crc32, slowest = time.time_ns, zlib.crc32, MAX_LATENCY_MS
    # Ids that were found valid: looking one up costs a third of checking it again.
    skills: set[str] = set()
    others: set[str | None] = {None}

    def valid(known: set[Any], name: object) -> bool:
        if type(name) is not str or not 0 < len(name) <= MAX_ID_CHARS:
            return False
        if len(known) >= MAX_KNOWN:
            known.intersection_update((None,))
        known.add(name)
        return True

    # Header and payload in one call, by the payload's size: a third less than packing one and adding the other.
    frames: list[Callable[..., bytes] | None] = [None] * MAX_PLAIN_BYTES

    def framing(size: int) -> Callable[..., bytes]:
        frames[size] = frame = struct.Struct(f"<IHH{size}s").pack
        return frame

    @functools.wraps(general)
    def record_skill_execution(
        skill_id: str,
        success: bool,
        latency_ms: float,
        user_id: str | None = None,
        org_id: str | None = None,
        **extras: Any,  # naming each keyword here would cost every call a look-up of its default
    ) -> bool:
        try:
            if extras or not (
                (skill_id in skills or valid(skills, skill_id))
                and (user_id in others or valid(others, user_id))
                and (org_id in others or valid(others, org_id))
                and (success is True or success is False)  # type: ignore[redundant-expr]  # callers may err
                and latency_ms.__class__ is float
                and 0.0 <= latency_ms <= slowest
            ):
                raise ValueError
            payload = encode((1, now_ns(), skill_id, user_id, org_id, success, latency_ms))
            size = len(payload)
            record = (frames[size] or framing(size))(crc32(payload, size), size, RECORD_MAGIC, payload)
        except Exception as error:  # not plain: the general way says what is wrong with it
            if meant_for_caller(error):
                raise
            return general(skill_id, success, latency_ms, user_id, org_id, **extras)
        try:
            put = journal.put  # a call of an attribute that is no method is slower in one step
            put(record)
        except ValueError as error:
            if came_between(error):
                raise
            return journal.write(record)
        try:
            attempted()
            if journal.idle:
                journal.wake()
        except ValueError as error:  # closed meanwhile
            if meant_for_caller(error):
                raise
        except RecursionError:  # the caller's stack is full, for a question too: somebody else will wake the shipper
            pass
        return True

    return record_skill_execution
