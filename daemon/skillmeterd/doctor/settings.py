"""Settings: every mistake, variables that mean nothing, secrets that others may read."""

import os
import stat
from collections.abc import Iterator
from pathlib import Path

from skillmeter.errors import ConfigError

from ..config import TABLE, unknown_variables
from ..sinks.otlp_target import resolve_all
from .finding import Finding, fail, ok, warn
from .patient import Patient


def check(patient: Patient) -> Iterator[Finding]:
    """Findings `settings.*`."""
    mistakes = [*patient.mistakes, *_otlp_mistakes(patient)]
    for mistake in mistakes:
        yield fail("settings.mistake", mistake, "correct it; the checks below take the default instead")
    if not mistakes:
        path = patient.settings.config_path
        yield ok("settings.mistake", f"no mistake{f'; file {path}' if path else ''}")
    for name in unknown_variables(patient.env):
        yield warn("settings.unknown", f"the variable {name}", "it does nothing: correct its name, or take it away")
    for name, (theirs, ours) in patient.elsewhere.items():
        yield warn(
            "settings.daemon",
            f"the daemon has {name}={theirs}, this command {ours}; the checks below look at the daemon's",
            f"give both the same settings: {name}, or one file for both (ANALYTICS_CONFIG)",
        )
    yield from _open_secrets(patient)


def _otlp_mistakes(patient: Patient) -> list[str]:
    """In the standard variables, which the daemon reads when it starts."""
    if "otlp" not in patient.settings.backends or patient.mistakes:
        return []
    try:
        resolve_all(patient.settings, patient.env)
    except ConfigError as error:
        return error.problems
    return []


def _open_secrets(patient: Patient) -> Iterator[Finding]:
    for path in sorted(_secret_files(patient)):
        mode = stat.S_IMODE(path.stat().st_mode) if path.exists() else 0
        if mode & 0o007:
            what = f"anybody may read {path}, which holds a secret (mode {mode:o})"
            yield fail("settings.secrets", what, f"chmod o= {path}")


def _secret_files(patient: Patient) -> set[Path]:
    """The TOML file if it holds one, and the files that secrets are read from."""
    settings, files = patient.settings, set()
    secrets = [row for row in TABLE if row.secret and getattr(settings, row.field) is not None]
    for row in secrets:
        if patient.env.get(f"{row.name}_FILE"):
            files.add(Path(os.path.expanduser(patient.env[f"{row.name}_FILE"])))
        if settings.config_path is not None and settings.sources[row.name] == settings.config_path:
            files.add(Path(settings.config_path))
    return files
