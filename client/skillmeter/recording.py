"""Recording: the calls that record events, the same for every client.

A call validates, encodes, and hands the bytes on; it never blocks. It never raises, whatever it is given, except
in strict mode. What becomes of the bytes, and of the counts, is the subclass's.

An error that only passes through goes on to the caller: what a signal handler raises, and the timeout that a job queue
puts into this thread from another. The latter is known by its type: one of Python's own (a bare TimeoutError) cannot be
told from what our own code may raise, nor can one that arrives while code of a value given is running, such as a
`__hash__`, or a log handler. Those may be taken for a fault and counted as such.
"""

import datetime
from collections.abc import Callable
from typing import Any

from .errors import InvalidEventError, meant_for_caller
from .events import encode_execution, encode_health, encode_rating
from .logs import logger
from .track import Tracker


class Recorder:
    """The recording half of a client. Any thread may call it, signal handlers and finalizers too."""

    _accept: Callable[[bytes], bool]
    """Supplied by the subclass: keep an event's bytes and count the attempt. False if there was no room, which
    it has then counted too. If it raises, it has kept and counted nothing."""

    _count: Callable[[str], None]
    """Supplied by the subclass: count one attempt that ended under this name of records.LEDGER, such as
    "rejected.invalid_rating" or "dropped.internal"."""

    def __init__(self, *, strict: bool = False) -> None:
        self._strict = strict
        self._warned: set[str] = set()

    def record_skill_execution(
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
        """Record one execution of a skill. True: the event is kept; False: it is counted as refused.

        `latency_ms` is in milliseconds; `attributes` a dict of plain JSON data; `timestamp` Unix seconds or an aware
        datetime, by default now. In strict mode an invalid value raises InvalidEventError.
        """
        try:
            return self._accept(
                encode_execution(
                    skill_id, success, latency_ms, user_id, org_id, error_type, skill_version, attributes, timestamp
                )
            )
        except Exception as error:  # the top of a record call: counted, and logged with its traceback
            return self._refuse(error)

    def record_skill_usage(
        self,
        skill_id: str,
        user_id: str | None,
        org_id: str | None = None,
        success: bool = True,
        latency_ms: float = 0.0,
    ) -> bool:
        """The same event as `record_skill_execution`, for callers that begin with the user."""
        return self.record_skill_execution(skill_id, success, latency_ms, user_id, org_id)

    def record_skill_rating(
        self, skill_id: str, rating: int, user_id: str | None = None, org_id: str | None = None
    ) -> bool:
        """Record a rating of a skill, a whole number from 1 to 5. Returns and raises as `record_skill_execution`."""
        try:
            return self._accept(encode_rating(skill_id, rating, user_id, org_id))
        except Exception as error:
            return self._refuse(error)

    def rate_skill(self, skill_id: str, rating: int, org_id: str | None = None, user_id: str | None = None) -> bool:
        """The same event as `record_skill_rating`, for callers that begin with the organisation."""
        return self.record_skill_rating(skill_id, rating, user_id, org_id)

    def update_health_score(self, skill_id: str, score: float) -> bool:
        """Record a skill's health, 0 to 100, taken literally. Returns and raises as `record_skill_execution`."""
        try:
            return self._accept(encode_health(skill_id, score))
        except Exception as error:
            return self._refuse(error)

    def track(
        self,
        skill_id: str,
        user_id: str | None = None,
        org_id: str | None = None,
        *,
        skill_version: str | None = None,
        attributes: dict[str, Any] | None = None,
    ) -> Tracker:
        """A context manager and decorator that times and records each run. See `skillmeter.track`."""
        return Tracker(
            self.record_skill_execution, skill_id, user_id, org_id, skill_version=skill_version, attributes=attributes
        )

    def _refuse(self, error: Exception) -> bool:
        """Count an event that was not kept, warn once per reason, and raise the error in strict mode."""
        if meant_for_caller(error):
            raise error
        invalid = isinstance(error, InvalidEventError)
        reason = f"rejected.{error.reason}" if isinstance(error, InvalidEventError) else "dropped.internal"
        self._count(reason)
        if self._strict:
            raise error
        if reason not in self._warned:
            self._warned.add(reason)
            self._warn(error, with_traceback=not invalid)
        return False

    def _warn(self, error: Exception, *, with_traceback: bool) -> None:
        try:
            logger().warning(
                "An event was refused, and later ones like it will be without a word: %s",
                error,
                exc_info=error if with_traceback else None,
            )
        except Exception:  # the application's log handlers may raise; the count stands
            pass
