"""Grafana: puts data sources and the shipped dashboards in place through its HTTP API."""

from .api import Grafana
from .install import Sources, Step, install

__all__ = ["Grafana", "Sources", "Step", "install"]
