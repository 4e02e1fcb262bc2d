"""The producer: what one process incarnation records with, made at the first record and let go at the end.

Threads, signal handlers and finalizers may be anywhere in here at once, so there is no lock. The first to append to
`_opened` decides in one step what was opened, or that nothing will be any more; the others give theirs back.
"""

import os
import time
from typing import Final

import msgspec

from .connection import Connection
from .errors import JournalError, meant_for_caller
from .journal import MAX_NESTED, Heir, Journal
from .ledger import Ledger
from .logs import logger
from .native import Depth
from .settings import ClientSettings
from .shipper import Shipper

REOPEN_S: Final = 1.0  # after a journal could not be made, drop for so long before trying again
POLL_S: Final = 0.002
STOP_S: Final = 0.5  # for a shipper to end, which takes milliseconds unless it is importing zmq


class Opened(msgspec.Struct, frozen=True):
    """A journal and who carries it."""

    journal: Journal
    shipper: Shipper


class Producer:
    """One incarnation of one client. Any thread."""

    def __init__(self, settings: ClientSettings, connection: Connection, heir: Heir) -> None:
        """`heir` takes what comes to the journal when it is over."""
        self.pid = os.getpid()
        self._settings = settings
        self._connection = connection
        self._heir = heir
        self._opened: list[Opened | None] = []
        self._homeless = Ledger.in_memory()
        self._opening = Depth(MAX_NESTED)
        self._retry_at_s = 0.0
        self._refusal = "dropped.busy"  # why there is no journal, unless trying to make one said more
        self._warned: set[str] = set()

    @property
    def opened(self) -> Opened | None:
        """The journal and its shipper, if they have been made."""
        return self._opened[0] if self._opened else None

    @property
    def ledger(self) -> Ledger:
        """What was counted, also before there was a journal and after it was closed."""
        return self.opened.journal.ledger if self.opened else self._homeless

    def open(self) -> Opened | None:
        """The journal and its shipper, made now if need be; None if they cannot be made."""
        if self._opened or time.monotonic() < self._retry_at_s:
            return self.opened
        try:
            if self._opening.enter():
                self._open()
        except JournalError as error:
            self._retry_at_s = time.monotonic() + REOPEN_S
            self._refusal = f"dropped.{error.reason}"
            self.warn(error.reason, f"events are dropped, and counted: no journal can be made ({error})")
        finally:
            self._opening.leave()
        return self.opened

    def refuse(self, name: str | None = None) -> None:
        """Count an event for which there is no journal, by default under the reason for that."""
        self._homeless[name or self._refusal]()
        self._homeless["attempted"]()

    def warn(self, topic: str, message: str) -> None:
        """Log a warning, once per topic."""
        if topic not in self._warned:
            self._warned.add(topic)
            try:
                logger().warning(message)
            except Exception:  # the application's log handlers may raise; it is counted too
                pass

    def flush(self, timeout_s: float) -> bool:
        """Wait until all is committed. False after `timeout_s`, or when nobody carries it any more."""
        if self.opened is None:
            return True
        journal, shipper = self.opened.journal, self.opened.shipper
        end = journal.end
        deadline_s = time.monotonic() + timeout_s
        while not (shipper.acked >= end and shipper.settled):
            if time.monotonic() >= deadline_s or not shipper.running:
                return shipper.acked >= end
            shipper.hurry()
            time.sleep(POLL_S)  # not a lock: under gevent this lets other greenlets run
        return True

    def close(self) -> None:
        """End the thread, within STOP_S, and let go of the journal. Idempotent."""
        self._opened.append(None)
        if self.opened is None:
            return
        journal, shipper = self.opened.journal, self.opened.shipper
        shipper.stop()
        deadline_s = time.monotonic() + STOP_S
        while shipper.running and time.monotonic() < deadline_s:
            time.sleep(POLL_S)
        if not shipper.running:
            shipper.close()
        journal.close()

    def forget(self) -> None:
        """In a forked child: close the copies of what is the parent's. Idempotent."""
        if self.opened is not None:
            self.opened.shipper.close()
            self.opened.journal.close_copy()

    def _open(self) -> None:
        settings = self._settings
        journal = Journal.create(
            settings.spool_dir,
            max_bytes=settings.spool_max_bytes,
            sync=settings.durability == "fsync",
            carried=self._homeless,
            heir=self._heir,
        )
        shipper = None
        try:
            shipper = Shipper(journal, self._connection)
            if os.getpid() == self.pid:  # else a signal handler has forked in between, and this is the child
                self._opened.append(Opened(journal, shipper))
        except OSError as error:
            if meant_for_caller(error):
                raise
            raise JournalError("spool_unavailable", f"no descriptors for it: {error}") from error
        finally:  # whatever a handler raises in between: what was opened is carried, and the rest is given back
            if shipper is not None and self.opened is not None and self.opened.shipper is shipper:
                self._begin(journal, shipper)
            else:
                self._give_back(journal, shipper)

    def _begin(self, journal: Journal, shipper: Shipper) -> None:
        try:
            shipper.start()
        except RuntimeError as error:  # the interpreter is ending: the daemon takes the journal
            if meant_for_caller(error):
                raise
            logger().debug("no shipper: %s", error)
        journal.noted()
        journal.ledger.take_over()

    def _give_back(self, journal: Journal, shipper: Shipper | None) -> None:
        if shipper is not None:
            shipper.close()
        if os.getpid() == self.pid:
            journal.discard()
        else:
            journal.close_copy()
