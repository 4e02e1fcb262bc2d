"""Reload: what a running daemon takes over when it is told to read its settings again.

That is the level of its log. Everything else is in use - sockets, files, threads that were started with it - so a
change is checked and named, and takes effect at the next restart, which loses nothing.
"""

import logging
from collections.abc import Callable

from skillmeter.errors import ConfigError

from . import log as logs
from .config import TABLE, DaemonSettings

log = logging.getLogger(__name__)


def reload(started_with: DaemonSettings, read: Callable[[], DaemonSettings]) -> None:
    """Read the settings again, take over what can be, and log what cannot. A mistake in them changes nothing."""
    try:
        settings = read()
    except ConfigError as error:
        log.error("the settings have mistakes; nothing was changed", extra={"mistakes": "; ".join(error.problems)})
        return
    logs.configure(settings.log_level)
    waiting = [name for name in changed(started_with, settings) if name != "ANALYTICS_LOG_LEVEL"]
    if waiting:
        log.warning("settings have changed that need a restart", extra={"settings": ",".join(waiting)})
    log.info("read the settings again", extra={"log_level": settings.log_level})


def changed(before: DaemonSettings, after: DaemonSettings) -> list[str]:
    """The variables whose values differ."""
    return [row.name for row in TABLE if getattr(before, row.field) != getattr(after, row.field)]
