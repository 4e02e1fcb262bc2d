"""Source: where sinks read - the totals in SQLite and the daemon's own numbers, as families."""

from collections.abc import Sequence

from ..config import DaemonSettings
from ..vitals import Vitals
from . import own, totals
from .families import Family
from .sink import Sink
from .totals import Totals


class Source:
    """Any thread may read; each call opens its own connection. Raises sqlite3.Error."""

    def __init__(self, settings: DaemonSettings, vitals: Vitals) -> None:
        self.settings = settings
        self.vitals = vitals
        self.sinks: Sequence[Sink] = ()
        """Whose exports are counted; set once they are built."""

    def totals(self) -> Totals:
        """Every skill's metrics, as of one commit."""
        return totals.read(self.settings.db_path, self.settings.metric_labels, self.settings.max_series)

    def own(self, totals: Totals) -> list[Family]:
        """How the daemon itself is doing, under `skillmeter_`; its ledger is the one of `totals`."""
        return own.families(self.settings, self.vitals, self.sinks, totals)
