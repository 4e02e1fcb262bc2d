"""Group: the sinks of a daemon taken together."""

import importlib
import logging
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final, Self

from ..config import DaemonSettings
from ..errors import MissingExtra
from .families import Family
from .sink import Scraped, Sink
from .source import Source

log = logging.getLogger(__name__)

EXTRAS: Final = {"prometheus": "daemon", "otlp": "daemon", "wandb": "wandb"}
"""Backends, and the extra of the distribution that each one's packages come with."""


class Sinks:
    """Any thread may ask; the one that made it starts and stops."""

    def __init__(self, sinks: list[Sink]) -> None:
        self.all = sinks
        self.scrape: Callable[[], list[Family]] | None = next(
            (sink.scrape for sink in sinks if isinstance(sink, Scraped)), None
        )
        """Makes the families for a scrape; None if prometheus is not among the backends."""

    @classmethod
    def build(cls, settings: DaemonSettings, source: Source) -> Self:
        """The sinks of ANALYTICS_BACKEND, none of them started. Raises MissingExtra or DaemonError."""
        source.sinks = [_create(name, source) for name in settings.backends if name in EXTRAS]
        return cls(list(source.sinks))

    def start(self) -> None:
        """Start each. Raises DaemonError."""
        for sink in self.all:
            sink.start()

    def stop(self, timeout_s: float) -> None:
        """Stop each, all within the time, whether it was started or not."""
        deadline_s = time.monotonic() + timeout_s
        for sink in reversed(self.all):
            try:
                sink.stop(max(0.0, deadline_s - time.monotonic()))
            except Exception:  # a sink that fails to stop must not keep the others, or the store, from it
                log.exception("a sink failed to stop", extra={"sink": sink.name})

    def push(self) -> dict[str, bool]:
        """Have all export now, side by side: who hangs does not hold up the others. Whether each has."""
        if not self.all:
            return {}
        with ThreadPoolExecutor(len(self.all), "push") as pool:
            return dict(
                zip([sink.name for sink in self.all], pool.map(lambda sink: sink.push(), self.all), strict=True)
            )

    def healthy(self) -> dict[str, bool]:
        """Whether each works, as far as is known."""
        return {sink.name: sink.healthy for sink in self.all}

    def status(self) -> dict[str, Any]:
        """Each one's status."""
        return {sink.name: sink.status() for sink in self.all}


def _create(name: str, source: Source) -> Sink:
    """A backend's packages are imported only if it is chosen: they cost memory."""
    try:
        sink: Sink = importlib.import_module(f"{__package__}.{name}").create(source)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] == "skillmeterd":
            raise
        raise MissingExtra(
            f"ANALYTICS_BACKEND has {name}, but {error.name} is not installed: pip install 'skillmeter[{EXTRAS[name]}]'"
        ) from error
    return sink
