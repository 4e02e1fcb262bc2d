"""System: Python, SQLite and libzmq, how many files may be open, and the clock."""

import platform
import resource
import sqlite3
import time
from collections.abc import Iterator
from typing import Final

import zmq

from .finding import Finding, fail, ok, warn
from .patient import Patient

LEAST_SQLITE: Final = (3, 35)  # RETURNING
LEAST_DESCRIPTORS: Final = 1024  # each client of the daemon takes one
MADE_S: Final = 1_735_689_600  # 2025-01-01: this release is younger


def check(patient: Patient) -> Iterator[Finding]:
    """Findings `system.*`."""
    yield ok("system.python", f"Python {platform.python_version()} on {platform.system()} {platform.release()}")
    yield _sqlite()
    yield _libzmq(patient)
    yield _descriptors()
    yield _clock()


def _sqlite() -> Finding:
    if sqlite3.sqlite_version_info < LEAST_SQLITE:
        what = f"SQLite {sqlite3.sqlite_version} is too old"
        return fail("system.sqlite", what, f"use a Python with SQLite {'.'.join(map(str, LEAST_SQLITE))} or newer")
    return ok("system.sqlite", f"SQLite {sqlite3.sqlite_version}")


def _libzmq(patient: Patient) -> Finding:
    has = f"libzmq {zmq.zmq_version()}, pyzmq {zmq.pyzmq_version()}"
    wants_curve = patient.settings.curve_secret is not None or patient.settings.curve_server_key is not None
    for feature, wanted in (("ipc", patient.socket is not None), ("curve", wants_curve)):
        if wanted and not zmq.has(feature):
            return fail("system.libzmq", f"{has}, without {feature}", "install pyzmq's own wheel: pip install -U pyzmq")
    return ok("system.libzmq", has)


def _descriptors() -> Finding:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < LEAST_DESCRIPTORS:
        what = f"at most {hard:,} files may be open, and each client of a daemon takes one"
        return warn("system.descriptors", what, "raise the hard limit: ulimit -Hn, or LimitNOFILE= in systemd")
    return ok("system.descriptors", f"{'any number of' if hard == resource.RLIM_INFINITY else f'{hard:,}'} open files")


def _clock() -> Finding:
    now_s = time.time()
    if now_s < MADE_S:
        what = f"the clock says {time.strftime('%Y-%m-%d', time.gmtime(now_s))}, which is before this release was made"
        return fail("system.clock", what, "set it: events are filed under the day that it says")
    return ok("system.clock", f"{time.strftime('%Y-%m-%d %H:%M:%SZ', time.gmtime(now_s))}")
