"""A scripted Grafana on loopback: as much of its HTTP API as an install uses, with its status codes and messages."""

import json
import ssl
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

from .scripted import ScriptedServer, send

TOKEN = "glsa_s3cr3tServiceAccountToken"
PLUGIN = "frser-sqlite-datasource"

Act = Callable[[BaseHTTPRequestHandler], None]
Reply = tuple[int, Any]


class GrafanaServer(ScriptedServer):
    """Holds what it is given. A test may take away rights or plugins, or say what happens to a request.

    A data source works unless `sick` has its uid, with what Grafana says of it.
    """

    def __init__(self, *, certificates: Path | None = None, base: str = "") -> None:
        tls = None
        if certificates is not None:
            tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            tls.load_cert_chain(certificates / "cert.pem", certificates / "key.pem")
        super().__init__(tls)
        self.role = "Admin"
        self.plugins = {PLUGIN}
        self.sick: dict[str, str] = {}
        self.sources: dict[str, dict[str, Any]] = {}
        self.folders: dict[str, dict[str, Any]] = {}
        self.dashboards: dict[str, dict[str, Any]] = {}
        self.asked: list[str] = []
        self.instead: dict[str, Reply | Act] = {}
        """By method and path, what happens instead; for `*`, to every request."""
        self._base = base

    @property
    def url(self) -> str:
        """Where its start page would be."""
        return f"{super().url}{self._base}"

    @property
    def changes(self) -> list[str]:
        """The requests that were to change something."""
        return [line for line in self.asked if not line.startswith("GET")]

    def hang(self, _: BaseHTTPRequestHandler) -> None:
        """No answer until the test is over."""
        self.released.wait()

    def serve(self, handler: BaseHTTPRequestHandler) -> None:
        """By what happens instead, or else as Grafana would."""
        content = handler.rfile.read(int(handler.headers.get("Content-Length") or 0))
        path = handler.path.removeprefix(self._base)
        line = f"{handler.command} {path}"
        self.asked.append(line)
        reply = self.instead.get(line) or self.instead.get("*")
        if callable(reply):
            handler.close_connection = True
            reply(handler)
            return
        if reply is None:
            known = handler.headers.get("Authorization") == f"Bearer {TOKEN}"
            reply = self._answer(handler.command, path, json.loads(content or "null"), known)
        status, content = reply
        send(handler, status, {}, content if isinstance(content, bytes) else json.dumps(content).encode())

    def _answer(self, method: str, path: str, body: Any, known: bool) -> Reply:
        if path == "/api/health":
            return 200, {"commit": "abc", "database": "ok", "version": "11.1.0"}
        if not known:
            return 401, {"message": "Invalid API key"}
        part, _, rest = path.removeprefix("/api/").partition("/")
        if self.role != "Admin" and part == "datasources":
            return 403, {"message": "You'll need additional permissions to perform this action."}
        if self.role == "Viewer" and method != "GET":
            return 403, {"message": "Access denied"}
        reply = self._known(part, method, rest, body)
        if reply[0] == 404 and self.role != "Admin" and part in ("folders", "dashboards"):
            return 403, {"message": "You'll need additional permissions to perform this action."}
        return reply

    def _known(self, part: str, method: str, rest: str, body: Any) -> Reply:
        known_parts = {
            "datasources": self._sources,
            "folders": self._folders,
            "dashboards": self._dashboards,
            "plugins": self._plugin,
        }
        return known_parts[part](method, rest, body)

    def _plugin(self, _method: str, rest: str, _body: Any) -> Reply:
        if rest.removesuffix("/settings") in self.plugins:
            return 200, {"id": rest, "type": "datasource"}
        return 404, {"message": "Plugin not found, no installed plugin with that id"}

    def _sources(self, method: str, rest: str, body: Any) -> Reply:
        uid = rest.removeprefix("uid/").removesuffix("/health")
        if method == "POST":
            if any(one["name"] == body["name"] for one in self.sources.values()):
                return 409, {"message": "data source with the same name already exists"}
            self.sources[body["uid"]] = {**body, "id": 1, "version": 1, "readOnly": False, "basicAuth": False}
            return 200, {"message": "Datasource added", "datasource": self.sources[body["uid"]]}
        if not rest:
            return 200, list(self.sources.values())
        if uid not in self.sources:
            return 404, {"message": "Data source not found"}
        if rest.endswith("/health"):
            if uid in self.sick:
                return 400, {"status": "ERROR", "message": self.sick[uid]}
            return 200, {"status": "OK", "message": "Data source is working"}
        if method == "PUT":
            self.sources[uid] = {**body, "version": 2}
        return 200, self.sources[uid]

    def _folders(self, method: str, rest: str, body: Any) -> Reply:
        if method == "POST":
            if any(one["title"] == body["title"] for one in self.folders.values()):
                return 409, {"message": "a folder with the same name already exists in the current location"}
            self.folders[body["uid"]] = {**body, "id": 2, "url": f"{self._base}/dashboards/f/{body['uid']}/x"}
            return 200, self.folders[body["uid"]]
        return (200, self.folders[rest]) if rest in self.folders else (404, {"message": "folder not found"})

    def _dashboards(self, method: str, rest: str, body: Any) -> Reply:
        if method == "POST":
            return self._save(body)
        uid = rest.removeprefix("uid/")
        if uid in self.dashboards:
            return 200, self.dashboards[uid]
        return 404, {"message": "Dashboard not found", "status": "not-found"}

    def _save(self, body: Any) -> Reply:
        dashboard, folder = body["dashboard"], body["folderUid"]
        uid = dashboard["uid"]
        if folder and folder not in self.folders:
            return 400, {"message": "folder not found"}
        there = self.dashboards.get(uid)
        if there and there["meta"]["provisioned"]:
            return 400, {"message": "Cannot save provisioned dashboard"}
        titles = {one["dashboard"]["title"]: key for key, one in self.dashboards.items()}
        if not body["overwrite"] and (there or dashboard["title"] in titles):
            status = "version-mismatch" if there else "name-exists"
            return 412, {"message": "A dashboard with the same name in the folder already exists", "status": status}
        version = there["dashboard"]["version"] + 1 if there else 1
        url = f"{self._base}/d/{uid}/x"
        meta = {"url": url, "folderUid": folder, "provisioned": False, "version": version}
        # Grafana adds keys of its own and leaves out some that are empty.
        kept = {key: value for key, value in dashboard.items() if value != []}
        self.dashboards[uid] = {"dashboard": {**kept, "id": 3, "version": version}, "meta": meta}
        return 200, {"id": 3, "uid": uid, "url": url, "status": "success", "version": version}
