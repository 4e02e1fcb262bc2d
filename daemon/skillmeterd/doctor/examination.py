"""Examination: every group of checks in its order."""

import sqlite3
from collections.abc import Callable, Iterator
from typing import Final

from skillmeter.errors import SkillmeterError

from . import daemon, database, folders, ledger, settings, sinks, spool, system
from .finding import Finding, fail
from .patient import Patient

GROUPS: Final[dict[str, Callable[[Patient], Iterator[Finding]]]] = {
    "settings": settings.check,
    "daemon": daemon.check,
    "folders": folders.check,
    "spool": spool.check,
    "database": database.check,
    "ledger": ledger.check,
    "sinks": sinks.check,
    "system": system.check,
}


def examine(patient: Patient) -> Iterator[Finding]:
    """All findings, as they come."""
    for name, check in GROUPS.items():
        try:
            yield from check(patient)
        except PermissionError as error:
            yield fail(f"{name}.access", f"this user may not look: {error}", "run the doctor as the daemon's user")
        except (OSError, sqlite3.Error, SkillmeterError) as error:
            yield fail(f"{name}.access", f"cannot be looked at: {error}", "see the reason, and run the doctor again")
