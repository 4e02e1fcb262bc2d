"""Problems: what can go wrong with a demo, told to the person who runs it."""

from pathlib import Path
from typing import Final

from skillmeter.errors import SkillmeterError

_LINES: Final = 15


class DemoFailed(SkillmeterError):
    """The demo could not be played to its end, or its books do not balance. The message says why."""


def last_lines(log: Path) -> str:
    """The end of a log, where the reason usually is."""
    try:
        lines = log.read_text("utf-8", "replace").splitlines()
    except OSError as error:
        return str(error)
    return "\n".join(lines[-_LINES:])
