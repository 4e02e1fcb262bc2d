"""The client's logger, imported when there is something to say: logging costs a short process several milliseconds."""

from typing import TYPE_CHECKING

from .native import load

if TYPE_CHECKING:
    import logging


def logger() -> "logging.Logger":
    """The logger `skillmeter`."""
    found: logging.Logger = load("logging").getLogger("skillmeter")
    return found
