"""Parsers: the text of a setting turned into its value.

A parser raises ValueError that says what the value must be. It never repeats the value, which may be a secret: whoever
reports the mistake decides whether to show it. Nothing is opened; `EXISTING_FILE` looks whether its file exists.
"""

import os
import re
import sys
from collections.abc import Callable
from typing import Any, Final

import msgspec

SOCKET_PATH_MAX_BYTES: Final = 103 if sys.platform == "darwin" else 107  # sun_path, less its closing zero byte
SIZE_MAX_BYTES: Final = 2**40
_UNITS: Final = {
    "": 1,
    "b": 1,
    "kb": 10**3,
    "mb": 10**6,
    "gb": 10**9,
    "tb": 10**12,
    "kib": 2**10,
    "mib": 2**20,
    "gib": 2**30,
    "tib": 2**40,
}
_Z85: Final = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ.-:+=^!/*?&<>()[]{}@%$#"
_TRUE: Final = ("1", "true", "yes", "on")
_FALSE: Final = ("0", "false", "no", "off")


class Kind(msgspec.Struct, frozen=True):
    """What a setting holds: its parser, and the types that TOML and Python may give it in besides text."""

    parse: Callable[[str], Any]
    types: tuple[type, ...] = ()
    is_path: bool = False

    def text_of(self, value: object) -> str:
        """A value from TOML or from Python as the text that the parser takes. Raises ValueError."""
        if isinstance(value, str):
            return value
        if self.is_path and isinstance(value, os.PathLike):
            return str(os.fspath(value))
        if type(value) not in self.types:
            raise ValueError(f"must be {' or '.join(_NAMES[kind] for kind in (str, *self.types) if kind in _NAMES)}")
        if isinstance(value, (list, tuple)):
            return ",".join(self._texts(value))
        return str(value).lower()

    @staticmethod
    def _texts(values: list[object] | tuple[object, ...]) -> list[str]:
        texts = [value for value in values if isinstance(value, str)]
        if len(texts) < len(values):
            raise ValueError("must be a list of texts")
        return texts


_NAMES: Final[dict[type, str]] = {
    str: "text",
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    list: "a list",
}


class Secret:
    """A text that nothing prints: only `reveal` gives it out."""

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        self._text = text

    def reveal(self) -> str:
        """The text itself, for the one place that needs it."""
        return self._text

    def __repr__(self) -> str:
        return "[REDACTED]"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and self._text == other._text

    def __hash__(self) -> int:
        return hash(self._text)


def printable(text: str) -> str:
    """Text on one line: whatever could move a cursor, end a line or hide itself is escaped."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


def masked(text: str) -> str:
    """Text without the user and password that a URL may hold."""
    return re.sub(r"//.*@", "//[REDACTED]@", text, flags=re.DOTALL)


def show(text: str) -> str:
    """A value in an error message: on one line, no password of a URL, not endless."""
    text = masked(text)
    return repr(text if len(text) <= 120 else f"{text[:120]}...")


def choice(*names: str) -> Kind:
    """One of these names, which are in lower case."""

    def parse(text: str) -> str:
        name = text.strip().lower()
        if name not in names:
            raise ValueError(f"must be one of {', '.join(names)}")
        return name

    return Kind(parse)


def choices(*names: str, needed: tuple[str, ...] = ()) -> Kind:
    """One or several of these lower-case names, comma-separated; each kept once, in the order given."""

    def parse(text: str) -> tuple[str, ...]:
        found = tuple(dict.fromkeys(part.strip().lower() for part in text.split(",")))
        if not set(found) <= set(names):
            raise ValueError(f"must be one of {', '.join(names)}, or several of them, comma-separated")
        if not set(needed) <= set(found):
            raise ValueError(f"must hold {', '.join(needed)}")
        return found

    return Kind(parse, types=(list, tuple))


def whole(least: int, most: int) -> Kind:
    """A whole number within bounds, both included."""

    def parse(text: str) -> int:
        if not re.fullmatch("[0-9]{1,18}", text.strip()) or not least <= int(text) <= most:
            raise ValueError(f"must be a whole number from {least} to {most}")
        return int(text)

    return Kind(parse, types=(int,))


def seconds(least: float, most: float) -> Kind:
    """A number of seconds within bounds, both included."""

    def parse(text: str) -> float:
        if not re.fullmatch(r"[0-9]{1,9}(\.[0-9]{1,9})?", text.strip()) or not least <= float(text) <= most:
            raise ValueError(f"must be a number of seconds from {least:g} to {most:g}")
        return float(text)

    return Kind(parse, types=(int, float))


def size(least_bytes: int) -> Kind:
    """A number of bytes, with or without a unit: 67108864, 64MiB, 64 MB."""

    def parse(text: str) -> int:
        # No regular expression: compiling one would take a third of the time in which a client is made.
        number = text.strip().lower().rstrip("bgikmt")
        unit, digits = text.strip().lower().removeprefix(number), number.rstrip()
        if unit not in _UNITS or not (digits.isascii() and digits.isdigit() and len(digits) <= 18):
            raise ValueError("must be a number of bytes such as 64MiB, 64MB or 67108864")
        size_bytes = int(digits) * _UNITS[unit]
        if not least_bytes <= size_bytes <= SIZE_MAX_BYTES:
            raise ValueError(f"must be at least {least_bytes // 1024} KiB and at most {SIZE_MAX_BYTES // 2**40} TiB")
        return size_bytes

    return Kind(parse, types=(int,))


def _flag(text: str) -> bool:
    word = text.strip().lower()
    if word not in _TRUE + _FALSE:
        raise ValueError("must be true or false (1 or 0, yes or no, on or off)")
    return word in _TRUE


def _path(text: str) -> str:
    if not text.strip() or "\0" in text:
        raise ValueError("must be a path")
    return os.path.abspath(text)  # at once, so that a later chdir does not move it


def _existing_file(text: str) -> str:
    path = _path(text)
    if not os.path.isfile(path):
        raise ValueError("must be a file that exists and may be reached")
    return path


def _text(text: str) -> str:
    if not 0 < len(text.strip()) <= 1024 or not text.isprintable():
        raise ValueError("must be 1 to 1024 printable characters")
    return text.strip()


def _token(text: str) -> str:
    if not re.fullmatch("[!-~]{1,4096}", text):
        raise ValueError("must be 1 to 4096 visible ASCII characters without spaces")
    return text


def _curve_key(text: str) -> str:
    if len(text) != 40 or not all(_is_z85(text[first : first + 5]) for first in range(0, 40, 5)):
        raise ValueError("must be a CURVE key, 40 characters in Z85: `skillmeter keys new` makes them")
    return text


def _is_z85(group: str) -> bool:
    """Whether five characters are a number of 32 bits; libzmq does not take more."""
    number = 0
    for char in group:
        number = number * 85 + _Z85.find(char)
    return set(group) <= set(_Z85) and number < 2**32


def _curve_keys(text: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(_curve_key(key.strip()) for key in text.split(",")))


def _url(text: str) -> str:
    url = text.strip().rstrip("/")
    match = re.fullmatch(r"https?://(\[[0-9A-Fa-f:.]+\]|[0-9A-Za-z._-]+)(:[0-9]{1,5})?(/[!-~]*)?", url)
    if not match or set(match[3] or "") & set("?#"):
        raise ValueError("must be an http:// or https:// address in ASCII without user, password, query or fragment")
    if match[2] and not 1 <= int(match[2][1:]) <= 65535:
        raise ValueError("must have a port from 1 to 65535")
    return url


def _host(text: str) -> str:
    if not re.fullmatch(r"[0-9A-Za-z._:-]{1,255}", text.strip()):
        raise ValueError("must be a host name or an IP address")
    return text.strip()


def _endpoint(text: str) -> str:
    scheme, _, rest = text.partition("://")
    if scheme == "ipc":
        return f"ipc://{_socket_path(rest)}"
    if scheme == "tcp":
        return f"tcp://{_address(rest)}"
    raise ValueError("must be ipc://PATH or tcp://HOST:PORT")


def _socket_path(path: str) -> str:
    if (
        not path.startswith("/") or not path.isprintable()
    ):  # "@name" too: file permissions guard the socket, and that has none
        raise ValueError("must name the socket by an absolute path, as in ipc:///run/skillmeter/skillmeter.sock")
    path_bytes = len(os.fsencode(path))
    if path_bytes > SOCKET_PATH_MAX_BYTES:
        raise ValueError(
            f"has a path of {path_bytes} bytes, and the system takes at most {SOCKET_PATH_MAX_BYTES} for a socket:"
            " choose a shorter ANALYTICS_RUNTIME_DIR or ANALYTICS_ENDPOINT"
        )
    return path


def _address(address: str) -> str:
    match = re.fullmatch(r"(\*|[0-9A-Za-z._-]{1,255}|\[[0-9A-Fa-f:.]+\]):([0-9]{1,5})", address)
    if not match or not 1 <= int(match[2]) <= 65535:
        raise ValueError("must be tcp://HOST:PORT with a port from 1 to 65535 (an IPv6 address in brackets)")
    host = "127.0.0.1" if match[1] == "localhost" else match[1]  # ZeroMQ binds to addresses, not to names
    return f"{host}:{match[2]}"


FLAG: Final = Kind(_flag, types=(bool, int))
PATH: Final = Kind(_path, is_path=True)
EXISTING_FILE: Final = Kind(_existing_file, is_path=True)
TEXT: Final = Kind(_text)
TOKEN: Final = Kind(_token)
CURVE_KEY: Final = Kind(_curve_key)
CURVE_KEYS: Final = Kind(_curve_keys, types=(list, tuple))
URL: Final = Kind(_url)
HOST: Final = Kind(_host)
ENDPOINT: Final = Kind(_endpoint)


def leaves_the_host(endpoint: str) -> bool:
    """Whether an endpoint can be reached from other machines."""
    if not endpoint.startswith("tcp://"):
        return False
    import ipaddress  # only for tcp: most processes never need it

    try:
        return not ipaddress.ip_address(endpoint[6:].rpartition(":")[0].strip("[]")).is_loopback
    except ValueError:
        return True
