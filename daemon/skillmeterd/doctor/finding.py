"""Finding: what a check came to, and what a person should do about it."""

from collections.abc import Iterable
from typing import Literal

import msgspec

State = Literal["ok", "warn", "fail"]
"""`warn`: it works, but somebody should look. `fail`: it does not work, or the record cannot be trusted."""


class Finding(msgspec.Struct, frozen=True):
    """One line of the doctor's. Holds no secret."""

    check: str
    """The group and the check, as in `spool.quarantine`; programs may rely on it."""
    state: State
    what: str
    advice: str = ""
    """What to do, in one line; empty where nothing has to be done."""

    @property
    def group(self) -> str:
        """The part of `check` before the dot."""
        return self.check.partition(".")[0]


def ok(check: str, what: str) -> Finding:
    """All is well."""
    return Finding(check, "ok", what)


def warn(check: str, what: str, advice: str) -> Finding:
    """It works, but somebody should look."""
    return Finding(check, "warn", what, advice)


def fail(check: str, what: str, advice: str) -> Finding:
    """It does not work."""
    return Finding(check, "fail", what, advice)


def worst(findings: Iterable[Finding]) -> State:
    """The gravest state of all."""
    states = {finding.state for finding in findings}
    return "fail" if "fail" in states else "warn" if "warn" in states else "ok"
