"""Events: what may be recorded, how it is validated, and its bytes in msgpack.

An event is a msgpack array whose first element is its kind:

    [1, recorded_at_ns, skill_id, user_id, org_id, success, latency_ms, error_type?, skill_version?, attributes?]
    [2, recorded_at_ns, skill_id, user_id, org_id, rating]
    [3, recorded_at_ns, skill_id, score]

`recorded_at_ns` is Unix time in nanoseconds, `latency_ms` milliseconds, `attributes` a JSON object as text.
The `encode_*` functions run on the caller's thread: they validate with plain comparisons and encode a tuple.
The structs are what the daemon decodes; their constraints are the same rules, so that a client that skips the
validation is refused there. This module opens nothing.
"""

import datetime
import time
from typing import Annotated, Any, Final

import msgspec

from .errors import InvalidEventError, meant_for_caller

MAX_ID_CHARS: Final = 256
MAX_LATENCY_MS: Final = 1e15  # 30,000 years; sums of it stay finite
MAX_ATTRIBUTES_BYTES: Final = 8192  # of JSON text, so that the largest event stays far below a record's 64 KiB
MAX_TIMESTAMP_S: Final = 9_223_372_036  # the year 2262, where 63 bits of nanoseconds end

REJECT_REASONS: Final = (
    "invalid_skill_id",
    "invalid_user_id",
    "invalid_org_id",
    "invalid_success",
    "invalid_latency",
    "invalid_rating",
    "invalid_score",
    "invalid_error_type",
    "invalid_skill_version",
    "invalid_attributes",
    "invalid_timestamp",
)

Id = Annotated[str, msgspec.Meta(min_length=1, max_length=MAX_ID_CHARS)]
Nanoseconds = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]
LatencyMs = Annotated[float, msgspec.Meta(ge=0, le=MAX_LATENCY_MS)]
AttributesText = Annotated[str, msgspec.Meta(max_length=MAX_ATTRIBUTES_BYTES)]


class Execution(msgspec.Struct, array_like=True, tag=1, gc=False):
    """One call of a skill."""

    recorded_at_ns: Nanoseconds
    skill_id: Id
    user_id: Id | None
    org_id: Id | None
    success: bool
    latency_ms: LatencyMs
    error_type: Id | None = None
    skill_version: Id | None = None
    attributes: AttributesText | None = None


class Rating(msgspec.Struct, array_like=True, tag=2, gc=False):
    """One person's rating of a skill, 1 to 5."""

    recorded_at_ns: Nanoseconds
    skill_id: Id
    user_id: Id | None
    org_id: Id | None
    rating: Annotated[int, msgspec.Meta(ge=1, le=5)]


class Health(msgspec.Struct, array_like=True, tag=3, gc=False):
    """A health score somebody gave a skill, 0 to 100."""

    recorded_at_ns: Nanoseconds
    skill_id: Id
    score: Annotated[float, msgspec.Meta(ge=0, le=100)]


Event = Execution | Rating | Health

event_decoder: Final = msgspec.msgpack.Decoder(Event)
encode: Final = msgspec.msgpack.Encoder().encode
"""The bytes of an event given as a tuple; for values that are known to be valid."""
_encode_json = msgspec.json.Encoder().encode
_now_ns = time.time_ns


def encode_execution(
    skill_id: str,
    success: bool,
    latency_ms: float,
    user_id: str | None,
    org_id: str | None,
    error_type: str | None = None,
    skill_version: str | None = None,
    attributes: dict[str, Any] | None = None,
    timestamp: float | datetime.datetime | None = None,
) -> bytes:
    """The bytes of an execution; latency in milliseconds. Raises InvalidEventError."""
    if type(skill_id) is not str or not 0 < len(skill_id) <= MAX_ID_CHARS:
        raise _bad_id("skill_id", skill_id)
    if user_id is not None and (type(user_id) is not str or not 0 < len(user_id) <= MAX_ID_CHARS):
        raise _bad_id("user_id", user_id)
    if org_id is not None and (type(org_id) is not str or not 0 < len(org_id) <= MAX_ID_CHARS):
        raise _bad_id("org_id", org_id)
    if success is not True and success is not False:
        raise InvalidEventError("invalid_success", f"success must be True or False, not {_show(success)}")
    if type(latency_ms) is not float:
        latency_ms = _as_float(latency_ms, "invalid_latency", "latency_ms")
    if not 0.0 <= latency_ms <= MAX_LATENCY_MS:
        raise InvalidEventError(
            "invalid_latency", f"latency_ms must be 0 to {MAX_LATENCY_MS:g}, not {_show(latency_ms)}"
        )
    at_ns = _now_ns() if timestamp is None else _timestamp_ns(timestamp)
    try:
        if error_type is None and skill_version is None and attributes is None:
            return encode((1, at_ns, skill_id, user_id, org_id, success, latency_ms))
        extras = _extras(error_type, skill_version, attributes)
        return encode((1, at_ns, skill_id, user_id, org_id, success, latency_ms, *extras))
    except UnicodeEncodeError:
        raise _lone_surrogate(skill_id=skill_id, user_id=user_id, org_id=org_id) from None


def encode_rating(skill_id: str, rating: int, user_id: str | None, org_id: str | None) -> bytes:
    """The bytes of a rating, 1 to 5. Raises InvalidEventError."""
    _check_id("skill_id", skill_id)
    if user_id is not None:
        _check_id("user_id", user_id)
    if org_id is not None:
        _check_id("org_id", org_id)
    if type(rating) is not int or not 1 <= rating <= 5:
        raise InvalidEventError("invalid_rating", f"rating must be a whole number from 1 to 5, not {_show(rating)}")
    return encode((2, _now_ns(), skill_id, user_id, org_id, rating))


def encode_health(skill_id: str, score: float) -> bytes:
    """The bytes of a health score, 0 to 100. Raises InvalidEventError."""
    _check_id("skill_id", skill_id)
    score = _as_float(score, "invalid_score", "score")
    if not 0.0 <= score <= 100.0:
        raise InvalidEventError("invalid_score", f"score must be 0 to 100, not {_show(score)}")
    return encode((3, _now_ns(), skill_id, score))


def _extras(
    error_type: str | None, skill_version: str | None, attributes: dict[str, Any] | None
) -> tuple[str | None, str | None, str | None]:
    if error_type is not None:
        _check_id("error_type", error_type)
    if skill_version is not None:
        _check_id("skill_version", skill_version)
    return error_type, skill_version, None if attributes is None else _attributes_text(attributes)


def _attributes_text(attributes: dict[str, Any]) -> str:
    if type(attributes) is not dict:
        raise InvalidEventError("invalid_attributes", f"attributes must be a dict, not {_show(attributes)}")
    try:
        text = _encode_json(attributes)
    except (TypeError, ValueError, RecursionError) as error:
        if meant_for_caller(error):
            raise
        raise InvalidEventError("invalid_attributes", f"attributes must be plain JSON data: {error}") from None
    if len(text) > MAX_ATTRIBUTES_BYTES:
        raise InvalidEventError(
            "invalid_attributes", f"attributes take {len(text)} bytes as JSON; at most {MAX_ATTRIBUTES_BYTES} are kept"
        )
    return text.decode()


def _timestamp_ns(timestamp: float | datetime.datetime) -> int:
    if isinstance(timestamp, datetime.datetime):
        if timestamp.tzinfo is None:
            raise InvalidEventError("invalid_timestamp", "timestamp must have a time zone")
        timestamp = timestamp.timestamp()
    if type(timestamp) not in (int, float) or not 0 <= timestamp <= MAX_TIMESTAMP_S:
        raise InvalidEventError(
            "invalid_timestamp", f"timestamp must be Unix seconds or an aware datetime, not {_show(timestamp)}"
        )
    return int(timestamp * 1_000_000_000)


def _as_float(value: object, reason: str, name: str) -> float:
    if type(value) is float:
        return value
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        try:
            return float(value)
        except OverflowError:
            pass
    raise InvalidEventError(reason, f"{name} must be a number, not {_show(value)}")


def _check_id(name: str, value: object) -> None:
    if type(value) is not str or not 0 < len(value) <= MAX_ID_CHARS:
        raise _bad_id(name, value)
    if not value.isascii() and not _is_unicode(value):
        raise _lone_surrogate(**{name: value})


def _bad_id(name: str, value: object) -> InvalidEventError:
    return InvalidEventError(
        f"invalid_{name}", f"{name} must be text of 1 to {MAX_ID_CHARS} characters, not {_show(value)}"
    )


def _lone_surrogate(**texts: str | None) -> InvalidEventError:
    name = next(name for name, text in texts.items() if text is not None and not _is_unicode(text))
    return InvalidEventError(f"invalid_{name}", f"{name} must be valid Unicode; it holds a lone surrogate")


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _show(value: object) -> str:
    """A value in an error message: its type and at most a few characters of it, never code of its own."""
    if type(value) in (str, int, float, bool, bytes):
        if type(value) is int and value.bit_length() > 128:
            return f"int of {value.bit_length()} bits"
        text = ascii(value[:40] if isinstance(value, (str, bytes)) else value)
        return f"{type(value).__name__} {text}"
    return type(value).__name__
