"""A log line is one line, whatever a client sent, and says time, level, message and fields."""

import io
import logging
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skillmeter.parsers import Secret
from skillmeterd.log import LOGGERS, LineFormatter, configure


@pytest.fixture(autouse=True)
def _logging_as_it_was() -> Iterator[None]:
    """Other tests find the loggers as they left them."""
    loggers = [logging.getLogger(name) for name in ("", *LOGGERS)]
    before = [(logger.level, logger.handlers[:]) for logger in loggers]
    yield
    for logger, (level, handlers) in zip(loggers, before, strict=True):
        logger.setLevel(level)
        logger.handlers[:] = handlers


def line(message: str, **fields: object) -> str:
    """The line of an event at the epoch."""
    record = logging.makeLogRecord({"levelno": logging.INFO, "levelname": "INFO", "msg": message, **fields})
    record.created, record.msecs = 0.0, 7.0
    return LineFormatter().format(record)


def test_the_line() -> None:
    """Time in UTC to the millisecond, level, message, then the fields in the order given."""
    assert line("committed", events=3, took_ms=1.25) == "1970-01-01T00:00:00.007Z info committed events=3 took_ms=1.25"


def test_values_are_quoted_where_they_could_be_misread() -> None:
    """A value with a space, an equals sign, a quote or nothing at all is one value."""
    assert line("x", a="b c", d="e=f", g="", h='"', i="\\").endswith(r'x a="b c" d="e=f" g="" h="\"" i="\\"')


def test_a_secret_is_redacted() -> None:
    """A secret that gets into a field stays one."""
    assert line("x", token=Secret("hunter2")).endswith("token=[REDACTED]")


@given(message=st.text(), field=st.text())
def test_nothing_forges_a_line(message: str, field: str) -> None:
    """Whatever is logged, it is one line of visible characters."""
    assert line(message, skill_id=field).isprintable()


def test_a_traceback_stays_on_its_line() -> None:
    """An exception's text cannot forge a line either, and its traceback is there."""
    stream = io.StringIO()
    configure("info", stream=stream, env={})
    try:
        raise ValueError("bad\n1970-01-01T00:00:00.000Z info all is well")
    except ValueError:
        logging.getLogger("skillmeterd.store").exception("failed")
    (only,) = stream.getvalue().splitlines()
    assert "error failed traceback=" in only
    assert "ValueError: bad\\n1970" in only


def test_levels_and_repeated_configuration() -> None:
    """The level counts for skillmeter; libraries speak from warning on; configuring twice does not log twice."""
    first, second = io.StringIO(), io.StringIO()
    configure("info", stream=first, env={})
    configure("debug", stream=second, env={})
    for name in ("skillmeter", "skillmeterd.http", "urllib3"):
        logging.getLogger(name).debug("quiet")
        logging.getLogger(name).warning("loud")
    assert first.getvalue() == ""
    assert [text.split()[1:] for text in second.getvalue().splitlines()] == [
        ["debug", "quiet"],
        ["warning", "loud"],
        ["debug", "quiet"],
        ["warning", "loud"],
        ["warning", "loud"],
    ]


def test_priorities_under_the_journal(tmp_path: Path) -> None:
    """The line starts with its priority exactly if the stream is the one systemd names in JOURNAL_STREAM."""
    path = tmp_path / "journal"
    with path.open("w") as stream:
        status = os.fstat(stream.fileno())
        configure("info", stream=stream, env={"JOURNAL_STREAM": f"{status.st_dev}:{status.st_ino}"})
        logging.getLogger("skillmeterd").error("a")
        configure("info", stream=stream, env={"JOURNAL_STREAM": "1:1"})
        logging.getLogger("skillmeterd").error("b")
    assert [text[:3] for text in path.read_text().splitlines()] == ["<3>", "202"]
