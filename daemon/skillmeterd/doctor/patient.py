"""Patient: what the checks look at - the settings, as far as they are right, and what the daemon says of itself."""

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import msgspec

from skillmeter.connection import Connection
from skillmeter.errors import DaemonUnavailable, QueryError

from ..config import DaemonSettings
from .knock import Knock, knock

HEALTH_S: Final = 3.0  # the ingest thread answers, between two commits
STATUS_S: Final = 5.0  # behind the questions of others


@dataclass
class Patient:
    """Every group gets the same one."""

    settings: DaemonSettings
    """Of paths the daemon's, where one answers: it may have been started with other settings than this command."""
    env: Mapping[str, str]
    mistakes: list[str] = field(default_factory=list)
    """In the settings."""
    elsewhere: dict[str, tuple[str, str]] = field(default_factory=dict)
    """Settings that the daemon has otherwise: by variable, its value and the one of this command."""
    knock: Knock | None = None
    """What is at the socket of an ipc endpoint."""
    health: dict[str, Any] | None = None
    status: dict[str, Any] | None = None
    """The daemon's answers, None without one."""
    silence: str = ""
    """Why there is no answer."""

    @property
    def socket(self) -> Path | None:
        """Of an ipc endpoint."""
        endpoint = self.settings.endpoint
        return Path(endpoint.removeprefix("ipc://")) if endpoint.startswith("ipc://") else None


def admit(settings: DaemonSettings, mistakes: list[str], env: Mapping[str, str]) -> Patient:
    """Ask the daemon, if there is one, and take its paths for those to be looked at."""
    patient = Patient(settings, env, mistakes)
    if patient.socket is not None:
        patient.knock = knock(patient.socket)
    if patient.knock is None or patient.knock.outcome == "listens":
        _ask(patient)
    else:
        patient.silence = f"no daemon can be asked at {settings.endpoint}"
    if patient.status is not None:
        _follow(patient, patient.status)
    return patient


def _ask(patient: Patient) -> None:
    with contextlib.closing(Connection.to(patient.settings)) as connection:
        try:
            patient.health = connection.ask("health", timeout_s=HEALTH_S)
            patient.status = connection.ask("status", timeout_s=STATUS_S)
        except (DaemonUnavailable, QueryError) as error:
            patient.silence = str(error)


def _follow(patient: Patient, status: dict[str, Any]) -> None:
    settings = patient.settings
    theirs: dict[str, tuple[str, Path | str | tuple[str, ...]]] = {
        "ANALYTICS_DB_PATH": ("db_path", Path(status["database"]["path"])),
        "ANALYTICS_SPOOL_DIR": ("spool_dir", str(status["spool"].get("path", settings.spool_dir))),
        "ANALYTICS_BACKEND": ("backends", tuple(status["backends"])),
        "ANALYTICS_METRIC_LABELS": ("metric_labels", tuple(status.get("metric_labels", settings.metric_labels))),
    }
    for name, (attribute, value) in theirs.items():
        if value != getattr(settings, attribute):
            patient.elsewhere[name] = (_text(value), _text(getattr(settings, attribute)))
    patient.settings = msgspec.structs.replace(settings, **dict(theirs.values()))


def _text(value: Path | str | tuple[str, ...]) -> str:
    return ",".join(value) if isinstance(value, tuple) else str(value)
