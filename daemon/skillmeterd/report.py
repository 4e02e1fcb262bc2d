"""The report: what `skillmeter status` shows of a daemon - its ledger, backlog, files and health."""

import contextlib
import dataclasses
import os
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from .config import DaemonSettings
from .database import hint, open_reader
from .vitals import Vitals

_OUTCOMES: Final = dict.fromkeys(("attempted", "stored", "pending", "dropped", "rejected"))


def status(settings: DaemonSettings, vitals: Vitals) -> dict[str, Any]:
    """Plain data for one screen. What cannot be looked at says so in `problem`, and has no numbers."""
    return {
        "ready": vitals.ready,
        "backends": list(settings.backends),
        "metric_labels": list(settings.metric_labels),
        "vitals": dataclasses.asdict(vitals),
        "ledger": _look(lambda: _ledger_of(settings.db_path), {**_OUTCOMES, "balance": None, "reasons": {}}),
        "database": {
            "path": str(settings.db_path),
            **_look(lambda: database(settings.db_path), {"bytes": None, "wal_bytes": None}),
        },
        "spool": {"path": settings.spool_dir, **_spool_and_quarantine(Path(settings.spool_dir))},
    }


def _spool_and_quarantine(folder: Path) -> dict[str, Any]:
    """Both as far as they can be read: the quarantine is closed to more users than the spool."""
    waiting = _look(lambda: spool(folder), {"journals": None, "bytes": None})
    aside = _look(lambda: quarantine(folder), {"quarantined": None})
    return {**waiting, **aside, "problem": waiting["problem"] or aside["problem"]}


def _look(look: Callable[[], dict[str, Any]], unknown: dict[str, Any]) -> dict[str, Any]:
    try:
        return {**look(), "problem": ""}
    except OSError as error:
        return {**unknown, "problem": f"cannot be read: {error}"}
    except sqlite3.Error as error:
        return {**unknown, "problem": f"cannot be read: {error}; {hint(error)}"}


def _ledger_of(path: Path) -> dict[str, Any]:
    """The ledger, over a connection of its own."""
    with contextlib.closing(open_reader(path)) as db:
        return ledger(db)


def ledger(db: sqlite3.Connection) -> dict[str, Any]:
    """The ledger's sums, its reasons, and `balance`: attempted less everything that is accounted for, which is 0."""
    outcomes = dict.fromkeys(_OUTCOMES, 0)
    reasons: dict[str, int] = {}
    for outcome, reason, events in db.execute("SELECT outcome, reason, events FROM ledger ORDER BY outcome, reason"):
        if outcome in outcomes:
            outcomes[outcome] += events
        if reason or outcome not in outcomes:  # "sync_failed" is no outcome: such events are stored as well
            reasons[f"{outcome}.{reason}".rstrip(".")] = events
    balance = 2 * outcomes["attempted"] - sum(outcomes.values())
    return {**outcomes, "balance": balance, "reasons": reasons}


def spool(folder: Path) -> dict[str, int]:
    """How many journals and bytes are in the spool. Raises OSError."""
    journals = size = 0
    with contextlib.suppress(FileNotFoundError):
        for entry in os.scandir(folder):
            with contextlib.suppress(FileNotFoundError):
                if entry.name.endswith((".journal", ".seg")) and entry.is_file(follow_symlinks=False):
                    journals += entry.name.endswith(".journal")
                    size += entry.stat(follow_symlinks=False).st_blocks * 512
    return {"journals": journals, "bytes": size}


def quarantine(folder: Path) -> dict[str, int]:
    """How many files of a spool were set aside. Raises OSError."""
    with contextlib.suppress(FileNotFoundError):
        return {"quarantined": len(os.listdir(folder / "quarantine"))}
    return {"quarantined": 0}


def database(path: Path) -> dict[str, int]:
    """How large the database and its write-ahead log are."""
    return {"bytes": _size(path), "wal_bytes": _size(path.with_name(path.name + "-wal"))}


def _size(path: Path) -> int:
    with contextlib.suppress(FileNotFoundError):
        return path.stat().st_size
    return 0
