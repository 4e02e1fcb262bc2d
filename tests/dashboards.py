"""Dashboards: the shipped ones, taken apart for tests, with Grafana's variables replaced as Grafana replaces them."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from skillmeterd import shipped

SOURCES: Final = ("prometheus", "sqlite")
VARIABLES: Final = ("skill", "org", "instance")

Chosen = Mapping[str, Sequence[str]]
"""The values that are chosen of each variable; of one that is not in it, All."""
NOTHING: Final[Chosen] = {}


def panels(dashboard: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Every panel, those of a collapsed row after it."""
    for panel in dashboard["panels"]:
        yield panel
        yield from panel.get("panels", ())


def queries(source: str) -> list[tuple[str, str]]:
    """The title and the text of each query of a dashboard."""
    key = {"prometheus": "expr", "sqlite": "rawQueryText"}[source]
    return [
        (f"{panel['title']} ({target['refId']})", target[key])
        for panel in panels(shipped.dashboard(source))
        for target in panel.get("targets", ())
    ]


def variable(source: str, name: str) -> dict[str, Any]:
    """A variable of a dashboard."""
    found = shipped.dashboard(source)["templating"]["list"]
    return next(one for one in found if one["name"] == name)


def promql(text: str, chosen: Chosen = NOTHING) -> str:
    """PromQL as Grafana sends it: the values that are chosen joined for a regular expression, or the one for All."""
    text = text.replace("$__rate_interval", "10s").replace("$__range", "5m")
    for name in VARIABLES:
        values = chosen.get(name)
        text = text.replace(f"${name}", "|".join(values) if values else variable("prometheus", name)["allValue"])
    return text


def sql(text: str, from_ms: int, to_ms: int, chosen: Chosen = NOTHING) -> str:
    """SQL as Grafana sends it: values quoted for SQL; the one for All is put in as it is."""
    text = text.replace("$__from", str(from_ms)).replace("$__to", str(to_ms))
    for name in ("skill", "org"):
        values = chosen.get(name)
        quoted = ",".join("'" + value.replace("'", "''") + "'" for value in values) if values else None
        text = text.replace(f"${{{name}:sqlstring}}", quoted or variable("sqlite", name)["allValue"])
    return text
