"""Messages: a request and a response as handlers see them, and the table that says who handles what."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec

JSON: Final = "application/json"
PLAIN: Final = "text/plain; charset=utf-8"


@dataclass(frozen=True, slots=True)
class Request:
    """A GET, or a HEAD, which is answered in the same way."""

    path: str
    query: str
    """As it came."""
    headers: Mapping[str, str]
    """By name, in lower case."""

    @property
    def has_body(self) -> bool:
        """Nobody reads it. Its connection serves no other request, for which somebody else's body might be taken."""
        return "transfer-encoding" in self.headers or self.headers.get("content-length", "0") != "0"

    def accepts(self, name: str, wanted: str) -> float:
        """The weight, 0 to 1, that an Accept header gives to a value it names; 0 if it does not name it."""
        for item in self.headers.get(name, "").split(","):
            value, *parameters = (part.strip().lower() for part in item.split(";"))
            if value == wanted:
                return next((_weight(p[2:]) for p in parameters if p.startswith("q=")), 1.0)
        return 0.0


@dataclass(frozen=True, slots=True)
class Response:
    """What a handler answers. A body in pieces is put together, or compressed, piece by piece."""

    status: int
    body: bytes | Iterable[str] = b""
    content_type: str = PLAIN
    headers: Mapping[str, str] = field(default_factory=dict)
    """By name, in lower case. They replace the ones that every response has."""

    @classmethod
    def json(cls, value: Any, status: int = 200) -> "Response":
        """Plain data or structs."""
        return cls(status, msgspec.json.encode(value), JSON)

    @classmethod
    def problem(cls, status: int, text: str, **headers: str) -> "Response":
        """An error, in a sentence for people; underscores in header names stand for hyphens."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return cls(status, msgspec.json.encode({"error": text}), JSON, named)


Handler = Callable[[Request], Response]


@dataclass(frozen=True, slots=True)
class Route:
    """Who answers a path."""

    handler: Handler
    is_open: bool = False
    """For monitoring: needs no token off loopback, and has threads of its own, so that no long query holds it up."""
    is_quick: bool = False
    """Looks at memory only, and is answered at once."""


Routes = dict[str, Route]
"""By path, exactly."""


def _weight(text: str) -> float:
    try:
        return min(1.0, max(0.0, float(text)))
    except ValueError:
        return 0.0
