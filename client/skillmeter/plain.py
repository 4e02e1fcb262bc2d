"""The plain case of a record call in one piece: no extras, values that need no conversion, room in the segment.

Nearly every call is one. Taking it through validation, encoding and appending as one function, with everything in local
names, saves a third of its time. Whatever is not plain, and whatever fails, goes the general way, which validates,
converts, counts and explains; nothing has been written or counted by then.
"""

import datetime
import functools
import struct
import time
import zlib
from typing import Any, Final, Protocol

from .errors import came_between, raised_by_signal_handler
from .events import MAX_ID_CHARS, MAX_LATENCY_MS, encode
from .journal import Journal
from .records import RECORD_MAGIC

MAX_KNOWN: Final = 4096  # ids remembered as valid, of skills and of others


class RecordExecution(Protocol):
    """The signature of `record_skill_execution`."""

    def __call__(
        self,
        skill_id: str,
        success: bool,
        latency_ms: float,
        user_id: str | None = None,
        org_id: str | None = None,
        *,
        error_type: str | None = None,
        skill_version: str | None = None,
        attributes: dict[str, Any] | None = None,
        timestamp: float | datetime.datetime | None = None,
    ) -> bool:
        """See Recorder."""


def record_plain(journal: Journal, general: RecordExecution) -> RecordExecution:
    """`general`, with a short way to `journal` for the plain case; only for a journal that is `plain`."""
    attempted = journal.attempted
    now_ns, crc32, pack, slowest = time.time_ns, zlib.crc32, struct.Struct("<IHH").pack, MAX_LATENCY_MS
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

    @functools.wraps(general)
    def record_skill_execution(
        skill_id: str,
        success: bool,
        latency_ms: float,
        user_id: str | None = None,
        org_id: str | None = None,
        *,
        error_type: str | None = None,
        skill_version: str | None = None,
        attributes: dict[str, Any] | None = None,
        timestamp: float | datetime.datetime | None = None,
    ) -> bool:
        try:
            if not (
                (skill_id in skills or valid(skills, skill_id))
                and (user_id in others or valid(others, user_id))
                and (org_id in others or valid(others, org_id))
                and (success is True or success is False)  # type: ignore[redundant-expr]  # callers may err
                and latency_ms.__class__ is float
                and 0.0 <= latency_ms <= slowest
                and error_type is None
                and skill_version is None
                and attributes is None
                and timestamp is None
            ):
                raise ValueError
            payload = encode((1, now_ns(), skill_id, user_id, org_id, success, latency_ms))
            size = len(payload)
            record = pack(crc32(payload, size), size, RECORD_MAGIC) + payload
        except Exception as error:  # not plain: the general way says what is wrong with it
            if raised_by_signal_handler(error):
                raise
            return general(
                skill_id,
                success,
                latency_ms,
                user_id,
                org_id,
                error_type=error_type,
                skill_version=skill_version,
                attributes=attributes,
                timestamp=timestamp,
            )
        try:
            journal.put(record)
        except ValueError as error:
            if came_between(error):
                raise
            return journal.write(record)
        try:
            attempted()
            if journal.idle:
                journal.wake()
        except (ValueError, RecursionError) as error:  # closed meanwhile, or the caller's stack is full
            if raised_by_signal_handler(error):
                raise
        return True

    return record_skill_execution
