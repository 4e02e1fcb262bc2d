"""Rows: an event as a row of named values, as in the public view `events`, and back with the client's validation."""

import datetime
import re
from collections.abc import Callable, Mapping
from typing import Any, Final

import msgspec

from skillmeter.errors import InvalidEventError
from skillmeter.events import Event, Execution, Health, Rating

from ..queries.events import COLUMNS

NEEDED: Final = ("recorded_at", "kind", "skill_id")
KINDS: Final = {"execution": (1, Execution), "rating": (2, Rating), "health": (3, Health)}
_EVENT_ID: Final = re.compile("([0-9a-f]{32})-([0-9a-f]{1,16})")
_NANOSECONDS: Final = 1_000_000_000
_MAX_DIGITS: Final = 19  # of the last nanosecond that an event may have


def event_of(row: Mapping[str, Any]) -> Event:
    """The event of a row; numbers may be text, absent values None or empty. Raises InvalidEventError.

    `recorded_at` is Unix nanoseconds, or ISO 8601 with a time zone. `event_id` is no part of an event: see `place_of`.
    """
    kind = row.get("kind")
    if not isinstance(kind, str) or kind not in KINDS:
        raise InvalidEventError("kind", f"kind must be one of {', '.join(KINDS)}, not {_shown(kind)}")
    number, struct = KINDS[kind]
    names = struct.__struct_fields__
    values = [_VALUES.get(name, _text)(_name(name), row.get(_name(name))) for name in names]
    try:
        found: Event = msgspec.convert([number, *values], struct)
    except msgspec.ValidationError as error:
        raise InvalidEventError("value", _said(str(error), names)) from None
    return found


def place_of(row: Mapping[str, Any]) -> tuple[str, int] | None:
    """The producer and the offset that a row's `event_id` says; None without, or if another program made it."""
    found = _EVENT_ID.fullmatch(str(row.get("event_id")))
    return (found[1], int(found[2], 16)) if found else None


def _name(field: str) -> str:
    """A field's column."""
    return "recorded_at" if field == "recorded_at_ns" else field


def _said(message: str, names: tuple[str, ...]) -> str:
    """msgspec's words, with the column's name for its position."""
    problem, _, path = message.partition(" - at `$[")
    position = path.rstrip("`]")
    column = _name(names[int(position) - 1]) if position.isdigit() else "event"
    problem = problem.replace("`", "")
    return f"{column}: {problem[0].lower()}{problem[1:]}"


def _text(name: str, value: Any) -> Any:  # noqa: ARG001 - as the others
    return None if value == "" else value


def _time_ns(name: str, value: Any) -> Any:
    if not isinstance(value, str):
        return value
    if value.isascii() and value.isdigit() and len(value) <= _MAX_DIGITS:
        return int(value)
    try:
        at = datetime.datetime.fromisoformat(value)
    except ValueError:
        at = None
    if at is None or at.tzinfo is None:
        raise InvalidEventError(name, f"{name}: must be Unix nanoseconds or ISO 8601 with a time zone")
    since = at - datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)
    return (since.days * 86_400 + since.seconds) * _NANOSECONDS + since.microseconds * 1000


def _number(kind: type[int] | type[float]) -> Callable[[str, Any], Any]:
    def value_of(name: str, value: Any) -> Any:
        if not isinstance(value, str):
            return value
        try:
            if "_" not in value:  # which Python's literals may have
                return kind(value)
        except ValueError:
            pass
        raise InvalidEventError(name, f"{name}: expected {kind.__name__}, not {_shown(value)}")

    return value_of


def _flag(name: str, value: Any) -> Any:
    given = value.lower() if isinstance(value, str) else value
    for flag, names in ((True, ("1", "true", 1)), (False, ("0", "false", 0))):
        if given in names:
            return flag
    raise InvalidEventError(name, f"{name}: expected 1 or 0, not {_shown(value)}")


def _attributes(name: str, value: Any) -> Any:
    try:
        if isinstance(value, dict):  # of Parquet; JSON lines give their text
            return msgspec.json.encode(value).decode()
        text = bytes(value).decode() if isinstance(value, msgspec.Raw) else value
        if text and text[0] == '"':
            text = msgspec.json.decode(text, type=str)
        if text in (None, "", "null"):
            return None
        msgspec.json.decode(text, type=dict[str, msgspec.Raw])
    except (msgspec.DecodeError, TypeError, UnicodeError, RecursionError):
        raise InvalidEventError(name, f"{name}: must be a JSON object") from None
    return text


def _shown(value: Any) -> str:
    return ascii(value)[:60]


_VALUES: Final[Mapping[str, Callable[[str, Any], Any]]] = {
    "recorded_at_ns": _time_ns,
    "success": _flag,
    "latency_ms": _number(float),
    "rating": _number(int),
    "score": _number(float),
    "attributes": _attributes,
}

__all__ = ["COLUMNS", "NEEDED", "event_of", "place_of"]
