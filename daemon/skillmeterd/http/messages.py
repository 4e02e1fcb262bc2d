"""Messages: a request and a response as handlers see them, and the table that says who handles what."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from email.utils import formatdate
from typing import Any, Final

import msgspec

JSON: Final = "application/json"
PLAIN: Final = "text/plain; charset=utf-8"

MAX_HEAD_BYTES: Final = 16_384  # a request's line and headers; four names of 256 characters, encoded, have 12 KB

HEADERS: Final = {
    "cache-control": "no-store",
    "content-security-policy": "default-src 'none'; frame-ancestors 'none'",
    "cross-origin-resource-policy": "same-origin",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
}
"""Of every response, unless its handler says otherwise."""


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

    def head(self, body_bytes: int, **more: str) -> list[tuple[bytes, bytes]]:
        """All its headers, as they are sent; underscores in the names of `more` stand for hyphens."""
        headers = {
            **HEADERS,
            "content-type": self.content_type,
            "date": formatdate(usegmt=True),
            **{name.replace("_", "-"): value for name, value in more.items()},
            **self.headers,
            "vary": "accept, accept-encoding",
            "content-length": str(body_bytes),
        }
        return [(name.encode(), value.encode("latin-1", "replace")) for name, value in headers.items()]


TOO_LONG: Final = Response.problem(
    431, f"a request's first line and headers have at most {MAX_HEAD_BYTES} bytes", connection="close"
)

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
