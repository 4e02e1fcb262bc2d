"""Fault points: named places where a test kills this process. Off, and free, unless SKILLMETER_FAULTS is set.

    SKILLMETER_FAULTS="store.before_commit"            kill at the first pass
    SKILLMETER_FAULTS="store.before_commit=3"          at the third
    SKILLMETER_FAULTS="store.*=0.01,journal.roll=0.1"  with a probability, drawn from SKILLMETER_FAULTS_SEED

The kill is a SIGKILL from within: nothing is flushed, no handler runs.
"""

import os
from typing import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:
    from collections.abc import Callable

POINTS = (
    "journal.created",  # the head exists, empty
    "journal.before_write",
    "journal.torn_write",  # half of a record is in the journal
    "journal.after_write",
    "journal.roll",  # a new segment exists, not yet taken
    "journal.sealed",  # the old segment is sealed, the new one not yet current
    "shipper.before_send",
    "shipper.after_send",
    "shipper.before_free",  # acknowledged, its segments not yet removed
    "shipper.after_free",
    "receiver.received",
    "store.before_rows",
    "store.before_rollups",
    "store.before_commit",
    "store.after_commit",
    "receiver.before_ack",
    "receiver.after_ack",
    "orphans.adopted",  # the lock of a dead producer's journal is held
    "orphans.committed",
    "orphans.before_unlink",
    "orphans.unlinked_segments",  # the segments are gone, the head is there
    "orphans.after_unlink",
)


def _parse(spec: str) -> dict[str, float]:
    import fnmatch  # here, like random below: nobody pays for them whose faults are off

    wanted: dict[str, float] = {}
    for part in filter(None, spec.split(",")):
        pattern, _, value = part.partition("=")
        names = fnmatch.filter(POINTS, pattern)
        if not names:
            raise ValueError(f"SKILLMETER_FAULTS: no fault point is called {pattern!r}; they are {', '.join(POINTS)}")
        wanted.update(dict.fromkeys(names, float(value or 1)))
    return wanted


_spec = os.environ.get("SKILLMETER_FAULTS")
_wanted = _parse(_spec) if _spec else {}
_passes = dict.fromkeys(_wanted, 0)

if _wanted:
    import functools
    import operator
    import random
    import signal  # not where it is needed: a child forked in the middle of an import waits for ever for its end

    _draw = random.Random(os.environ.get("SKILLMETER_FAULTS_SEED")).random  # noqa: S311 - a test's dice, no secret

ACTIVE = bool(_wanted)
"""Whether any point is on. Hot code asks this once, at start."""


def hit(name: str) -> bool:
    """Whether this pass of the point is to end in a kill."""
    at = _wanted.get(name)
    if at is None:
        return False
    if at < 1:
        return _draw() < at
    _passes[name] += 1
    return _passes[name] == at


def point(name: str) -> None:
    """Pass a fault point: dies here if the test asked for it."""
    if ACTIVE and hit(name):
        die()


def die(last: "Callable[[], object] | None" = None) -> NoReturn:
    """SIGKILL this process. If `last` is C code, it is called in the same breath, and no thread comes in between."""
    kill = functools.partial(os.kill, os.getpid(), signal.SIGKILL)
    calls: list[Callable[[], object]] = [last, kill] if last else [kill]
    list(map(operator.methodcaller("__call__"), calls))
    raise AssertionError("a SIGKILL does not return")
