"""Each kind of setting takes what it says it takes, and refuses the rest with a ValueError that never repeats it."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skillmeter import parsers
from skillmeter.parsers import (
    Kind,
    Secret,
    choice,
    choices,
    leaves_the_host,
    masked,
    printable,
    seconds,
    show,
    size,
    whole,
)

KINDS = {
    "choice": choice("process", "fsync"),
    "choices": choices("sqlite", "otlp", needed=("sqlite",)),
    "whole": whole(0, 65_535),
    "seconds": seconds(0.1, 86_400),
    "size": size(256 * 1024),
    "flag": parsers.FLAG,
    "path": parsers.PATH,
    "existing_file": parsers.EXISTING_FILE,
    "text": parsers.TEXT,
    "token": parsers.TOKEN,
    "curve_key": parsers.CURVE_KEY,
    "curve_keys": parsers.CURVE_KEYS,
    "url": parsers.URL,
    "host": parsers.HOST,
    "endpoint": parsers.ENDPOINT,
}


@pytest.mark.parametrize(
    ("kind", "text", "value"),
    [
        ("choice", " FSYNC ", "fsync"),
        ("choices", "otlp, sqlite,otlp", ("otlp", "sqlite")),
        ("whole", "8000", 8000),
        ("seconds", "0.5", 0.5),
        ("size", "67108864", 2**26),
        ("size", "64MiB", 2**26),
        ("size", "64 mb", 64_000_000),
        ("size", "1GiB", 2**30),
        ("flag", "1", True),
        ("flag", "Off", False),
        ("path", "/var/lib/../tmp", "/var/tmp"),
        ("text", " tool weaver ", "tool weaver"),
        ("token", "s3cret!", "s3cret!"),
        ("curve_key", "rq:rM>}U?@Lns47E1%kR.o@n%FcmmsL/@{H8]yf7", "rq:rM>}U?@Lns47E1%kR.o@n%FcmmsL/@{H8]yf7"),
        ("url", "https://otlp.example:4318/otlp/", "https://otlp.example:4318/otlp"),
        ("url", "http://[::1]:4318", "http://[::1]:4318"),
        ("host", "::1", "::1"),
        ("endpoint", "ipc:///run/a b.sock", "ipc:///run/a b.sock"),
        ("endpoint", "tcp://localhost:5555", "tcp://127.0.0.1:5555"),
        ("endpoint", "tcp://[::1]:5555", "tcp://[::1]:5555"),
        ("endpoint", "tcp://*:5555", "tcp://*:5555"),
    ],
)
def test_takes(kind: str, text: str, value: object) -> None:
    """What a setting is documented to take becomes the value it stands for."""
    assert KINDS[kind].parse(text) == value


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("choice", "sometimes"),
        ("choices", "sqlite,mongo"),
        ("choices", ""),
        ("choices", "otlp"),
        ("whole", "65536"),
        ("whole", "-1"),
        ("whole", "1_000"),
        ("whole", "\u0661"),  # a digit to int(), not to a person who reads the file
        ("seconds", "nan"),
        ("seconds", "0.01"),
        ("size", "12"),
        ("size", "1 parsec"),
        ("size", "2TiB"),
        ("flag", "maybe"),
        ("path", " "),
        ("path", "/a\0b"),
        ("existing_file", "/no/such/file"),
        ("text", "a\nb"),
        ("token", "two words"),
        ("token", "tok\u00e9n"),
        ("curve_key", "short"),
        ("curve_key", "rq:rM>}U?@Lns47E1%kR.o@n%FcmmsL/@{H8],yf"),
        ("curve_key", "#####>}U?@Lns47E1%kR.o@n%FcmmsL/@{H8]yf7"),
        ("curve_keys", "rq:rM>}U?@Lns47E1%kR.o@n%FcmmsL/@{H8]yf7,"),
        ("url", "localhost:4318"),
        ("url", "https://user:pass@otlp.example"),
        ("url", "https://otlp.example/?token=x"),
        ("url", "http://host:otlp"),
        ("url", "http://host:0"),
        ("url", "http://host:65536"),
        ("url", "http://[::1"),
        ("url", "http://host/\u00e9"),
        ("host", "a b"),
        ("endpoint", "skillmeter.sock"),
        ("endpoint", "ipc://relative.sock"),
        ("endpoint", "ipc://@abstract"),
        ("endpoint", "ipc:///run/a\nb"),
        ("endpoint", "tcp://127.0.0.1"),
        ("endpoint", "tcp://127.0.0.1:0"),
        ("endpoint", "tcp://127.0.0.1:70000"),
        ("endpoint", "tcp://::1:5555"),
        ("endpoint", "udp://127.0.0.1:5555"),
    ],
)
def test_refuses(kind: str, text: str) -> None:
    """What a setting cannot mean is a ValueError."""
    with pytest.raises(ValueError, match=r"must|needs"):
        KINDS[kind].parse(text)


def test_the_longest_socket_path_fits_and_one_byte_more_does_not() -> None:
    """The bound on an ipc endpoint counts bytes, not characters, and the message says which setting to change."""
    longest = "/" + "é" * ((parsers.SOCKET_PATH_MAX_BYTES - 1) // 2)
    assert parsers.ENDPOINT.parse(f"ipc://{longest}") == f"ipc://{longest}"
    with pytest.raises(ValueError, match="ANALYTICS_RUNTIME_DIR"):
        parsers.ENDPOINT.parse(f"ipc://{longest}é")


def test_a_path_is_absolute_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A later chdir does not move a file that was named relative to the first folder."""
    monkeypatch.chdir(tmp_path)
    path = parsers.PATH.parse("events.db")
    monkeypatch.chdir("/")
    assert path == f"{os.path.realpath(tmp_path)}/events.db"


@given(kind=st.sampled_from(sorted(KINDS)), text=st.text(max_size=200) | st.from_regex(r"(ipc|tcp|https?)://.*"))
def test_nothing_but_a_value_error(kind: str, text: str) -> None:
    """Whatever the text, a parser returns or raises ValueError."""
    try:
        KINDS[kind].parse(text)
    except ValueError:
        pass


@pytest.mark.parametrize(
    "value", [3.5, None, {"a": 1}, [1], b"x", pytest.param(2**20000, id="more digits than str() writes")]
)
@pytest.mark.parametrize("kind", [kind for kind in KINDS.values() if float not in kind.types])
def test_a_value_of_a_wrong_type_is_a_value_error(kind: Kind, value: object) -> None:
    """TOML and Python can hold what no setting means; that is a mistake like any other."""
    with pytest.raises(ValueError, match=r".+"):
        kind.parse(kind.text_of(value))


def test_a_path_object_is_a_path_and_nothing_else() -> None:
    """A Path may be given for a setting that is one."""
    assert parsers.PATH.parse(parsers.PATH.text_of(Path("/x"))) == "/x"
    with pytest.raises(ValueError, match="must be text"):
        parsers.TEXT.text_of(Path("/x"))


@pytest.mark.parametrize(
    ("endpoint", "leaves"),
    [
        ("ipc:///run/x.sock", False),
        ("tcp://127.0.0.1:1", False),
        ("tcp://127.8.0.1:1", False),
        ("tcp://[::1]:1", False),
        ("tcp://*:1", True),
        ("tcp://0.0.0.0:1", True),
        ("tcp://10.0.0.1:1", True),
        ("tcp://127.0.0.1.example:1", True),
    ],
)
def test_what_leaves_the_host(endpoint: str, leaves: bool) -> None:
    """Only ipc and the loopback network are known to stay on this machine; a name could be anything."""
    assert leaves_the_host(endpoint) is leaves


@pytest.mark.parametrize("to_text", [str, repr, "{}".format, "{!r:>20}".format, lambda secret: f"{[secret]}"])
def test_a_secret_does_not_show_itself(to_text: Callable[[object], str]) -> None:
    """However a secret is turned into text, none of it is there; only reveal() gives it out."""
    secret = Secret("hunter2")
    assert "hunter2" not in to_text(secret)
    assert "[REDACTED]" in to_text(secret)
    assert secret.reveal() == "hunter2"
    assert secret == Secret("hunter2") != Secret("hunter3")
    assert len({secret, Secret("hunter2")}) == 1


@given(st.text())
def test_printable_is_one_line_of_visible_characters(text: str) -> None:
    """Escaped text moves no cursor and ends no line; text that needs no escape is left alone."""
    assert printable(text).isprintable()
    assert not text.isprintable() or printable(text) == text
    assert show(text).isprintable()


def test_masked_hides_every_credential_of_a_url() -> None:
    """User and password of a URL are hidden even if they hold the characters that end them."""
    assert masked("https://user:p@ss/word@host/x") == "https://[REDACTED]@host/x"
    assert len(show("x" * 10_000)) < 200
