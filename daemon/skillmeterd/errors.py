"""The errors of the daemon, split by who has to act on them."""

from skillmeter.errors import SkillmeterError


class DaemonError(SkillmeterError):
    """Base of everything the daemon raises on purpose."""


class AlreadyRunning(DaemonError):
    """Another daemon serves this socket or database. This one must not start."""


class CannotUse(DaemonError):
    """The socket, the database or the spool is to be where this user cannot have it."""


class StoreUnavailable(DaemonError):
    """SQLite cannot take anything now. Nothing was changed; the same call may be made again.

    `reason` is SQLite's, `hint` says what a person can do.
    """

    def __init__(self, reason: str, hint: str) -> None:
        super().__init__(f"{reason}; {hint}")
        self.reason = reason
        self.hint = hint


class StoreBusy(StoreUnavailable):
    """The disk is full, or another program holds the database's lock: that passes, and needs no new start."""


class StaleChunks(StoreUnavailable):
    """What was to be committed does not continue what is committed. It has to be made anew, from `Store.committed`."""


class StoreReplaced(StaleChunks):
    """The database was corrupt, deleted or exchanged, and another has taken its place.

    The store works again, but it may know no producer, or less of each.
    """


class SchemaTooNew(StoreUnavailable):
    """The database was written by a newer release. It is left as it is."""


class ForeignDatabase(StoreUnavailable):
    """The file is a database of another program. It is left as it is."""


class NetworkFileSystem(StoreUnavailable):
    """The database would lie on a network file system, where SQLite's WAL loses data."""


class TookTooLong(DaemonError):
    """A question could not be answered in the time that one may take."""


class MissingExtra(DaemonError):
    """A backend was chosen whose packages are not installed."""


class CannotListen(DaemonError):
    """The HTTP listener cannot have its address, or its certificates."""


class GrafanaError(DaemonError):
    """Grafana cannot be asked, or does not do what it is asked to. The message says what a person can do."""
