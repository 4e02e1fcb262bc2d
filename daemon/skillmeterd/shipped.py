"""Shipped: the files for other programs that come with the package - dashboards, recording rules, alerts."""

import json
from importlib import resources
from typing import Any, Final

FILES: Final = {
    "prometheus.json": "grafana/prometheus.json",
    "sqlite.json": "grafana/sqlite.json",
    "rules.yml": "prometheus/rules.yml",
    "alerts.yml": "prometheus/alerts.yml",
}
"""Their names, and where they are under `assets`: Grafana's dashboards by data source, then Prometheus's rules."""


def text(name: str) -> str:
    """A file's text. Raises KeyError for a name that is not in FILES."""
    return resources.files("skillmeterd").joinpath("assets", FILES[name]).read_text("utf-8")


def dashboard(source: str) -> dict[str, Any]:
    """The dashboard for a data source, `prometheus` or `sqlite`."""
    whole: dict[str, Any] = json.loads(text(f"{source}.json"))
    return whole
