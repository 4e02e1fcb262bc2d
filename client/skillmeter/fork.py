"""Fork: what a child does with the clients it inherits.

A child has copies of its parent's mappings and descriptors, whose lock they share, but not its threads. It closes the
copies, never unlocks, and each client starts over with a journal of its own when it first records. Until then, in
signal handlers and finalizers that run before its turn has come, the parent's journals are barred: see Journal.
"""

import contextlib
import os
import weakref
from typing import Final, Protocol

from . import journal, native, spool

IMPORT_WAIT_S: Final = 5.0  # a fork waits so long for an import in the background, which takes 0.1 s


class Forkable(Protocol):
    """Something to reset in a forked child."""

    def before_fork(self) -> None:
        """Let nothing be appended by the short way until the fork is over."""

    def after_fork_in_child(self) -> None:
        """Drop what belongs to the parent. Idempotent, since it may interrupt itself. Must not wait for anything: other
        threads are gone with their locks."""


_clients: "list[weakref.ref[Forkable]]" = []
_waited: list[bool] = []  # by each fork under way: whether it got hold of `native.importing`
_pid = os.getpid()


def register(client: Forkable) -> None:
    """Have `client` reset in every child that is forked from now on."""
    _clients.append(weakref.ref(client, _clients.remove))


def catch_up() -> None:
    """In a child that has not done so yet: do what is to be done there."""
    global _pid
    if _pid == os.getpid():
        return
    unfinished = spool.take_unfinished()
    for client in _registered():
        client.after_fork_in_child()
    _close_heads(unfinished)
    _pid = os.getpid()  # last: who interrupts this has to do it all


def _registered() -> list[Forkable]:
    return [client for reference in _clients.copy() if (client := reference()) is not None]


def _before() -> None:
    _waited.append(native.importing.acquire(timeout=IMPORT_WAIT_S))
    journal.forks.append(None)
    for client in _registered():
        client.before_fork()


def _after_in_parent() -> None:
    journal.forks.pop()
    if _waited.pop():
        native.importing.release()


def _after_in_child() -> None:
    catch_up()
    journal.forks.clear()
    if any(_waited):
        native.importing.release()
    else:
        native.importing = native.original("_thread", "RLock")()
    _waited.clear()


def _close_heads(names: set[str]) -> None:
    """Close heads that no client knows of yet: a thread of the parent was making them, and its lock would live as
    long as we do."""
    folder = "/proc/self/fd"
    if not names or not os.path.isdir(folder):
        return
    for name in os.listdir(folder):
        with contextlib.suppress(OSError):
            if os.path.basename(os.readlink(f"{folder}/{name}")) in names:
                os.close(int(name))


os.register_at_fork(before=_before, after_in_parent=_after_in_parent, after_in_child=_after_in_child)
