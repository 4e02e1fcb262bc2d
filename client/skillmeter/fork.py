"""Fork: what a child does with the clients it inherits.

A child has copies of its parent's mappings and descriptors, whose lock they share, but not its threads. It closes the
copies, never unlocks, and each client starts over with a journal of its own when it first records.
"""

import contextlib
import os
import weakref
from typing import Protocol

from . import journal


class Forkable(Protocol):
    """Something to reset in a forked child."""

    def after_fork_in_child(self) -> None:
        """Drop what belongs to the parent. Must not wait for anything: other threads are gone with their locks."""


_clients: "weakref.WeakSet[Forkable]" = weakref.WeakSet()


def register(client: Forkable) -> None:
    """Have `client` reset in every child that is forked from now on."""
    _clients.add(client)


def _after_fork_in_child() -> None:
    for client in list(_clients):
        client.after_fork_in_child()
    if journal.creating:
        _close_unfinished_heads({str(path) for path in journal.creating})
        journal.creating.clear()


def _close_unfinished_heads(paths: set[str]) -> None:
    """Close the descriptors of heads that a thread of the parent was making: its lock would live as long as we do."""
    folder = "/proc/self/fd"
    if not os.path.isdir(folder):
        return
    for name in os.listdir(folder):
        with contextlib.suppress(OSError):
            if os.readlink(f"{folder}/{name}") in paths:
                os.close(int(name))


os.register_at_fork(after_in_child=_after_fork_in_child)
