"""Sinks: the backends that are added to SQLite. Each is a module of this package with a `create(source)`."""

from .group import Sinks
from .sink import Progress, Sink
from .source import Source

__all__ = ["Progress", "Sink", "Sinks", "Source"]
