"""Install: data sources, a folder and the dashboards, each looked at first and touched only if it is not as it should.

Everything has a uid of its own, so that a second run finds what the first one made, wherever people moved it to. What
is there under another uid is never replaced.
"""

from collections.abc import Iterator
from typing import Any, Final, Literal

import msgspec

from skillmeter._version import __version__

from .. import shipped
from ..errors import GrafanaError
from .api import Grafana, Refused

PLUGIN: Final = "frser-sqlite-datasource"
FOLDER: Final = {"uid": "skillmeter", "title": "skillmeter"}

Outcome = Literal["made", "updated", "unchanged"]


class Sources(msgspec.Struct, frozen=True):
    """What the dashboards are to read."""

    prometheus: bool
    """Whether the dashboard for Prometheus is wanted."""
    prometheus_url: str | None
    """Where Grafana reaches Prometheus; None if Grafana has a data source for it already."""
    sqlite_path: str | None
    """Where Grafana finds the database file; None if the dashboard for SQLite is not wanted."""


class Step(msgspec.Struct, frozen=True):
    """One thing that is now in place."""

    what: Literal["data source", "folder", "dashboard"]
    name: str
    outcome: Outcome
    where: str
    """The address of a page, or what a data source reads."""
    problem: str = ""
    """Why it does not work although it is in place."""


def install(grafana: Grafana, sources: Sources) -> Iterator[Step]:
    """Put everything in place, a step at a time. Raises GrafanaError; what was yielded before stays."""
    _check(grafana, sources)
    if sources.prometheus:
        source = _prometheus(sources.prometheus_url) if sources.prometheus_url else None
        yield from _with_dashboard(grafana, "prometheus", source)
    if sources.sqlite_path:
        yield from _with_dashboard(grafana, "sqlite", _sqlite(sources.sqlite_path))


def _check(grafana: Grafana, sources: Sources) -> None:
    """What can be known to be missing before anything is changed."""
    if sources.sqlite_path and _look(grafana, f"/api/plugins/{PLUGIN}/settings") is None:
        raise GrafanaError(
            f"Grafana has no plugin {PLUGIN}, which reads SQLite files: on its host, run"
            f" `grafana cli plugins install {PLUGIN}` and restart Grafana"
        )
    if sources.prometheus and not sources.prometheus_url:
        there = _look(grafana, "/api/datasources")
        if isinstance(there, list) and not any(_is_prometheus(one) for one in there):
            raise GrafanaError(
                "Grafana has no data source for Prometheus: give --prometheus URL, the address at which Grafana reaches"
                " your Prometheus, or --sqlite FILE"
            )


def _look(grafana: Grafana, path: str) -> Any:
    """What is there, None if nothing is. An Editor's token may not look: then there may be anything."""
    try:
        return grafana.ask("GET", path)
    except Refused as error:
        if error.status == 404:
            return None
        if error.status == 403:
            return {}
        raise


def _is_prometheus(source: Any) -> bool:
    return isinstance(source, dict) and source.get("type") == "prometheus"


def _prometheus(url: str) -> dict[str, Any]:
    return {
        **{"uid": "skillmeter-prometheus", "name": "skillmeter (Prometheus)", "type": "prometheus", "access": "proxy"},
        "url": url,
        "jsonData": {"httpMethod": "POST"},
    }


def _sqlite(path: str) -> dict[str, Any]:
    # Read-only: otherwise the plugin, as the last one to close the file, would fold the daemon's log into it.
    options = {"path": path, "pathPrefix": "file:", "pathOptions": "mode=ro"}
    return {
        **{"uid": "skillmeter-sqlite", "name": "skillmeter (SQLite)", "type": PLUGIN, "access": "proxy"},
        "jsonData": options,
    }


def _with_dashboard(grafana: Grafana, kind: str, source: dict[str, Any] | None) -> Iterator[Step]:
    """The data source, if it is ours to make, and the dashboard that reads it."""
    dashboard = shipped.dashboard(kind)
    if source is not None:
        yield _data_source(grafana, source)
        chosen = {"selected": True, "text": source["name"], "value": source["uid"]}
        next(one for one in dashboard["templating"]["list"] if one["name"] == "datasource")["current"] = chosen
    yield from _dashboard(grafana, dashboard)


def _data_source(grafana: Grafana, wanted: dict[str, Any]) -> Step:
    path = f"/api/datasources/uid/{wanted['uid']}"
    there = grafana.find(path)
    outcome: Outcome = "unchanged"
    if there is None:
        outcome = "made"
        _save(grafana, "POST", "/api/datasources", wanted)
    elif not _holds(there, wanted):
        outcome = "updated"
        if there.get("readOnly"):
            raise GrafanaError(f"the data source {wanted['name']} comes from a file of Grafana's: change it there")
        # What people added, credentials for one, stays: Grafana keeps the secrets that are not sent.
        options = {**(there.get("jsonData") or {}), **wanted["jsonData"]}
        kept = {key: value for key, value in there.items() if key != "version"}
        _save(grafana, "PUT", path, {**kept, **wanted, "jsonData": options})
    reads = wanted.get("url") or wanted["jsonData"]["path"]
    return Step("data source", wanted["name"], outcome, reads, _health(grafana, path))


def _health(grafana: Grafana, path: str) -> str:
    """What is wrong with a data source, as far as Grafana can tell."""
    try:
        grafana.ask("GET", f"{path}/health")
    except Refused as error:
        return str(error) if error.status == 400 else ""  # others: this Grafana has no such check, or not for the token
    return ""


def _dashboard(grafana: Grafana, wanted: dict[str, Any]) -> Iterator[Step]:
    there = grafana.find(f"/api/dashboards/uid/{wanted['uid']}")
    if there is None:
        yield _folder(grafana)
        yield _saved(grafana, wanted, FOLDER["uid"], "made")
        return
    meta = there.get("meta") or {}
    if _holds(there.get("dashboard"), wanted):
        yield Step("dashboard", wanted["title"], "unchanged", grafana.link(str(meta.get("url", ""))))
    elif meta.get("provisioned"):
        raise GrafanaError(f"the dashboard {wanted['title']} comes from a file of Grafana's: replace that file")
    else:
        yield _saved(grafana, wanted, meta.get("folderUid") or "", "updated")


def _folder(grafana: Grafana) -> Step:
    there = grafana.find(f"/api/folders/{FOLDER['uid']}")
    outcome: Outcome = "unchanged"
    if there is None:
        outcome = "made"
        there = _save(grafana, "POST", "/api/folders", FOLDER)
    return Step("folder", there.get("title") or FOLDER["title"], outcome, grafana.link(there.get("url") or ""))


def _saved(grafana: Grafana, dashboard: dict[str, Any], folder: str, outcome: Outcome) -> Step:
    # Ours is replaced, whoever changed it; a new one takes the place of nothing that has its title.
    body = {
        "dashboard": dashboard,
        "folderUid": folder,
        "overwrite": outcome == "updated",
        "message": f"skillmeter {__version__}",
    }
    saved = _save(grafana, "POST", "/api/dashboards/db", body)
    return Step("dashboard", dashboard["title"], outcome, grafana.link(saved.get("url") or ""))


def _save(grafana: Grafana, method: str, path: str, body: dict[str, Any]) -> dict[str, Any]:
    try:
        answer = grafana.ask(method, path, body)
    except Refused as error:
        if error.status in (409, 412):
            name = body.get("name") or body.get("title") or body["dashboard"]["title"]
            raise GrafanaError(
                f"{error}. Something of the name {name} is there that skillmeter did not make: rename or delete it,"
                " then run this again"
            ) from error
        raise
    return answer if isinstance(answer, dict) else {}


def _holds(theirs: Any, ours: Any) -> bool:
    """Whether all of ours is in theirs. Grafana adds keys of its own, and leaves out what is empty."""
    if isinstance(ours, dict) and isinstance(theirs, dict):
        return all(_holds(theirs[key], value) if key in theirs else not value for key, value in ours.items())
    if isinstance(ours, list) and isinstance(theirs, list) and len(ours) == len(theirs):
        return all(_holds(one, other) for one, other in zip(theirs, ours, strict=True))
    return bool(theirs == ours)
