"""Page: the files that a browser is given. They hold no data: that comes through the API, with the token if need be."""

from importlib import resources
from importlib.resources.abc import Traversable
from typing import Final

from .messages import Response, Route, Routes

POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self';"
    " base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types"
)
"""Nothing but our own files runs, and no text can become markup: the last two forbid what would do so."""

_TYPES: Final = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}


def routes() -> Routes:
    """`/` and what it loads, read once. Open, because a browser asks for a page before it can be given a token."""
    folder = resources.files("skillmeterd") / "page"
    files = {f"/{path}": _route(file) for path, file in _walk(folder, "") if _suffix(path) in _TYPES}
    return {"/": files.pop("/index.html"), **files}


def _walk(folder: Traversable, prefix: str) -> list[tuple[str, Traversable]]:
    found = []
    for entry in folder.iterdir():
        path = prefix + entry.name
        found += _walk(entry, f"{path}/") if entry.is_dir() else [(path, entry)]
    return found


def _route(file: Traversable) -> Route:
    response = Response(
        200, file.read_bytes(), f"{_TYPES[_suffix(file.name)]}; charset=utf-8", {"content-security-policy": POLICY}
    )
    return Route(lambda _: response, is_open=True, is_quick=True)


def _suffix(name: str) -> str:
    return name[name.rfind(".") :]
