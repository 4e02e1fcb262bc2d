"""Log: one line an event on stderr, through stdlib logging.

    2026-01-01T00:00:00.000Z info committed events=1000 took_ms=12.5

Fields are given as `extra={...}`. Whatever text a client sent stays on its line: control characters are escaped, and a
value that could be read as something else is quoted. Under journald each line starts with its priority, as sd-daemon(3)
has it, so that `journalctl -p err` works.
"""

import logging
import os
import sys
import time
from collections.abc import Mapping
from typing import Final, TextIO

from skillmeter.parsers import printable

LOGGERS: Final = ("skillmeter", "skillmeterd")
_STANDARD: Final = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
_PRIORITIES: Final = {logging.DEBUG: 7, logging.INFO: 6, logging.WARNING: 4, logging.ERROR: 3, logging.CRITICAL: 2}


class LineFormatter(logging.Formatter):
    """A record as one line: time in UTC, level, message, then its extra fields in the order given."""

    def __init__(self, *, priorities: bool = False) -> None:
        super().__init__()
        self._priorities = priorities

    def format(self, record: logging.LogRecord) -> str:
        """The line, without its end."""
        fields = [(key, value) for key, value in vars(record).items() if key not in _STANDARD]
        if record.exc_info:
            fields.append(("traceback", self.formatException(record.exc_info)))
        prefix = f"<{_PRIORITIES.get(record.levelno, 6)}>" if self._priorities else ""
        parts = [_time(record), record.levelname.lower(), printable(record.getMessage())]
        return prefix + " ".join(parts + [f"{printable(key)}={_value(value)}" for key, value in fields])


def configure(level: str, *, env: Mapping[str, str] = os.environ, stream: TextIO | None = None) -> None:
    """Send what skillmeter and its libraries log to stderr, from this level on. Calling it again replaces the first."""
    stream = stream or sys.stderr
    handler = logging.StreamHandler(stream)
    handler.setFormatter(LineFormatter(priorities=_is_journal(stream, env)))
    root = logging.getLogger()
    for old in [old for old in root.handlers if isinstance(old.formatter, LineFormatter)]:
        root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(max(logging.WARNING, _level(level)))  # of the libraries only what may need somebody
    for name in LOGGERS:
        logging.getLogger(name).setLevel(_level(level))


def _level(name: str) -> int:
    return logging.getLevelNamesMapping()[name.upper()]


def _time(record: logging.LogRecord) -> str:
    return f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(record.created))}.{int(record.msecs):03d}Z"


def _value(value: object) -> str:
    text = f"{value:g}" if isinstance(value, float) else str(value)
    if text and text.isprintable() and not set(text) & set(' ="\\'):
        return text
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{printable(escaped)}"'


def _is_journal(stream: TextIO, env: Mapping[str, str]) -> bool:
    """Whether the stream is the one that systemd connected to its journal: JOURNAL_STREAM is device:inode."""
    try:
        status = os.fstat(stream.fileno())
    except (OSError, ValueError):
        return False
    return env.get("JOURNAL_STREAM") == f"{status.st_dev}:{status.st_ino}"
