"""Daemon: whether its socket is there and whose it is, whether it answers, can commit, and is of this release."""

import grp
import pwd
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from skillmeter._version import __version__

from .finding import Finding, fail, ok, warn
from .knock import Knock
from .patient import Patient

START: Final = "start it: `skillmeter run`, or your service manager"


def check(patient: Patient) -> Iterator[Finding]:
    """Findings `socket.*` and `daemon.*`."""
    if patient.socket is not None and patient.knock is not None:
        yield _socket(patient.socket, patient.knock)
    yield _answers(patient)
    if patient.health is not None:
        yield _commits(patient.health)
    if patient.status is not None:
        yield _version(patient.status)
        yield from _vitals(patient.status["vitals"])


def _socket(path: Path, knock: Knock) -> Finding:
    if knock.outcome == "listens":
        return ok("socket.file", f"{path}, {_named(knock)} listens")
    if knock.outcome == "denied":
        return _denied(path)
    what, advice = {
        "absent": (f"there is no socket {path}: no daemon listens there", START),
        "left": (
            f"nobody listens on {path}: it is left of a daemon that was killed",
            f"{START}; it takes the name over",
        ),
        "other": (f"{path} is no socket", "move it away, and start the daemon again"),
        "deaf": (f"{path} takes no connection: {knock.why}", "see the daemon's log"),
    }[knock.outcome]
    return fail("socket.file", what, advice)


def _denied(path: Path) -> Finding:
    """Another user's. The folder may say more than the socket, which cannot be looked at if the folder is closed."""
    for place in (path, path.parent):
        try:
            info = place.stat()
        except OSError:
            continue
        owner, group = user_name(info.st_uid), group_name(info.st_gid)
        advice = f"run this as {owner}, join the group {group}, or set ANALYTICS_RUNTIME_DIR to where your daemon is"
        return fail("socket.file", f"{path} belongs to {owner}, and this user may not connect", advice)
    return fail("socket.file", f"this user may not reach {path}", "run this as the daemon's user")


def _answers(patient: Patient) -> Finding:
    if patient.status is not None:
        up_s = (time.time_ns() - patient.status["vitals"]["started_ns"]) // 1_000_000_000
        what = f"process {patient.status['pid']} answers at {patient.status['endpoint']}, up for {up_s:,} s"
        return ok("daemon.answers", what)
    if patient.health is not None:
        what = f"it lives, but did not say how it is: {patient.silence}"
        return warn("daemon.answers", what, "ask again; see the daemon's log")
    if patient.knock is None or patient.knock.outcome != "listens":
        return fail("daemon.answers", patient.silence, START)
    advice = "it is stopped (kill -CONT), or waits for its disk, or speaks another protocol: see its log"
    return fail("daemon.answers", f"{_named(patient.knock)} has the socket, but: {patient.silence}", advice)


def _commits(health: dict[str, Any]) -> Finding:
    if health["ready"]:
        return ok("daemon.commits", "events can be committed")
    advice = "clients keep their events meanwhile; do what the reason says"
    return fail("daemon.commits", f"it cannot commit: {health['problem']}", advice)


def _version(status: dict[str, Any]) -> Finding:
    if status["version"] == __version__:
        return ok("daemon.version", f"{__version__}, as this command")
    what = f"the daemon is {status['version']}, this command {__version__}"
    return warn("daemon.version", what, "install the same release for both, and start the daemon again")


def _vitals(vitals: dict[str, Any]) -> Iterator[Finding]:
    for incident in vitals["incidents"]:
        yield warn("daemon.incident", incident, "see the daemon's log; what producers still had was sent again")
    if vitals["refused_messages"]:
        what = f"{vitals['refused_messages']:,} messages were not in the protocol"
        yield warn("daemon.messages", what, "find the program that sends them, or the client of another release")


def user_name(uid: int) -> str:
    """A user's name, or number if it has none."""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def group_name(gid: int) -> str:
    """A group's name, or number if it has none."""
    try:
        return grp.getgrgid(gid).gr_name
    except KeyError:
        return str(gid)


def _named(knock: Knock) -> str:
    if knock.pid is None or knock.uid is None:
        return "somebody"
    return f"process {knock.pid} of {user_name(knock.uid)}"
