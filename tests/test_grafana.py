"""`skillmeter grafana` against a scripted Grafana: what is put in place, what stays, what is said when it cannot be."""

import contextlib
import json
import socket
import subprocess
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from skillmeter.parsers import Secret
from skillmeterd import shipped
from skillmeterd.cli import group
from skillmeterd.errors import GrafanaError
from skillmeterd.grafana import Grafana, Sources, install

from .grafana_server import PLUGIN, TOKEN, GrafanaServer
from .scripted import send

DB = "/var/lib/skillmeter/analytics.db"
PROMETHEUS = "http://prometheus:9090"
BOTH = ("--prometheus", PROMETHEUS, "--sqlite", DB)


@pytest.fixture
def server() -> Iterator[GrafanaServer]:
    """A fresh Grafana, with the plugin for SQLite."""
    with GrafanaServer() as running:
        yield running


def skillmeter(*words: str, **env: str) -> Result:
    """Run the command line in this process."""
    result = CliRunner().invoke(group, list(words), env=env, prog_name="skillmeter")
    assert TOKEN not in result.output  # in whatever test
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


def put(server: GrafanaServer, *words: str) -> Result:
    """Install into it."""
    return skillmeter("grafana", "install", "--url", server.url, *words, GRAFANA_TOKEN=TOKEN)


def steps(result: Result) -> list[tuple[str, str]]:
    """What it says it did."""
    assert result.exit_code == 0, result.output
    return [(step["name"], step["outcome"]) for step in json.loads(result.stdout)["steps"]]


def test_everything_is_put_in_place(server: GrafanaServer) -> None:
    """Two data sources, a folder, two dashboards in it, each of which reads its data source; and it says so."""
    result = put(server, *BOTH)
    assert result.exit_code == 0, result.output
    for text in ("skillmeter (Prometheus)", "skillmeter (SQLite)", PROMETHEUS, DB, "made", f"{server.url}/d/"):
        assert text in result.output
    prometheus, sqlite = server.sources["skillmeter-prometheus"], server.sources["skillmeter-sqlite"]
    assert (prometheus["type"], prometheus["access"], prometheus["url"]) == ("prometheus", "proxy", PROMETHEUS)
    assert (sqlite["type"], sqlite["jsonData"]["path"]) == (PLUGIN, DB)
    assert sqlite["jsonData"]["pathPrefix"] + DB + "?" + sqlite["jsonData"]["pathOptions"] == f"file:{DB}?mode=ro"
    assert list(server.folders) == ["skillmeter"]
    for kind in ("prometheus", "sqlite"):
        held = server.dashboards[f"skillmeter-{kind}"]
        assert held["meta"]["folderUid"] == "skillmeter"
        assert held["dashboard"]["panels"] == shipped.dashboard(kind)["panels"]
        (variable,) = [one for one in held["dashboard"]["templating"]["list"] if one["name"] == "datasource"]
        assert variable["current"]["value"] == f"skillmeter-{kind}"


def test_a_second_run_changes_nothing(server: GrafanaServer) -> None:
    """It says that all was there; nothing is sent that would make a new version."""
    put(server, *BOTH)
    before = len(server.changes)
    assert {outcome for _, outcome in steps(put(server, *BOTH, "--json"))} == {"unchanged"}
    assert len(server.changes) == before


def test_what_was_changed_is_put_right_where_it_is(server: GrafanaServer) -> None:
    """A dashboard is replaced in the folder that people moved it to; credentials of a data source stay."""
    put(server, *BOTH)
    board = server.dashboards["skillmeter-prometheus"]
    board["dashboard"]["panels"][0]["title"] = "Runs"
    board["meta"]["folderUid"] = "theirs"
    server.folders["theirs"] = {"uid": "theirs", "title": "Theirs"}
    server.sources["skillmeter-prometheus"] |= {"basicAuth": True, "basicAuthUser": "u"}
    server.sources["skillmeter-prometheus"]["jsonData"]["timeInterval"] = "30s"
    said = steps(put(server, "--prometheus", "http://other:9090", "--json"))
    assert said == [("skillmeter (Prometheus)", "updated")] * 2
    board = server.dashboards["skillmeter-prometheus"]
    assert board["dashboard"]["panels"][0]["title"] == "Executions"
    assert board["meta"]["folderUid"] == "theirs"
    source = server.sources["skillmeter-prometheus"]
    assert (source["url"], source["basicAuth"], source["basicAuthUser"]) == ("http://other:9090", True, "u")
    assert source["jsonData"] == {"httpMethod": "POST", "timeInterval": "30s"}


def test_a_data_source_of_theirs_is_enough(server: GrafanaServer) -> None:
    """Without an address the dashboard reads what Grafana has; an Editor's token, which may not look, is enough."""
    refused = put(server)
    assert refused.exit_code == 1
    assert "--prometheus URL" in refused.output
    assert server.changes == []
    server.sources["x"] = {"uid": "x", "name": "Mimir", "type": "prometheus"}
    assert steps(put(server, "--json")) == [("skillmeter", "made"), ("skillmeter (Prometheus)", "made")]
    server.role = "Editor"
    server.dashboards.clear()
    assert steps(put(server, "--json")) == [("skillmeter", "unchanged"), ("skillmeter (Prometheus)", "made")]


def test_only_the_file(server: GrafanaServer) -> None:
    """With --sqlite alone nothing of Prometheus is asked for or made."""
    assert [name for name, _ in steps(put(server, "--sqlite", DB, "--json"))] == [
        *("skillmeter (SQLite)", "skillmeter", "skillmeter (SQLite)")
    ]
    assert list(server.dashboards) == ["skillmeter-sqlite"]


def test_without_the_plugin(server: GrafanaServer) -> None:
    """It says how to have it, before anything is changed."""
    server.plugins.clear()
    result = put(server, *BOTH)
    assert result.exit_code == 1
    assert f"grafana cli plugins install {PLUGIN}" in result.output
    assert server.changes == []


def test_a_data_source_that_cannot_read_is_told(server: GrafanaServer) -> None:
    """All is in place, and the exit code says that it does not work yet."""
    server.sick["skillmeter-sqlite"] = "error checking db: no file exists at the file path"
    result = put(server, *BOTH)
    assert result.exit_code == 1
    assert "no file exists at the file path" in result.output
    assert len(server.dashboards) == 2


@pytest.mark.parametrize("status", [404, 500])
def test_a_grafana_that_cannot_check_a_data_source(server: GrafanaServer, status: int) -> None:
    """What is not known is no problem: older ones have no check for Prometheus."""
    server.instead["GET /api/datasources/uid/skillmeter-prometheus/health"] = (status, {"message": "Not found"})
    assert put(server, "--prometheus", PROMETHEUS).exit_code == 0


@pytest.mark.parametrize(
    ("role", "asked", "hint"), [("Editor", BOTH, "Admin for data sources"), ("Viewer", (), "Editor for dashboards")]
)
def test_a_token_without_the_rights(server: GrafanaServer, role: str, asked: tuple[str, ...], hint: str) -> None:
    """It says which role is missing."""
    server.role = role
    server.sources["x"] = {"uid": "x", "name": "Mimir", "type": "prometheus"}
    result = put(server, *asked)
    assert result.exit_code == 1
    assert "HTTP 403" in result.output
    assert hint in result.output


def test_a_wrong_token(server: GrafanaServer) -> None:
    """It is not shown, even if Grafana repeats it."""
    wrong = "glsa_wrong"
    server.instead["GET /api/datasources"] = (401, {"message": f"no such token: {wrong}"})
    result = skillmeter("grafana", "install", "--url", server.url, "--token", wrong)
    assert result.exit_code == 1
    assert "make one for a service account" in result.output
    assert wrong not in result.output


def test_names_that_others_have(server: GrafanaServer) -> None:
    """What skillmeter did not make is not replaced; what was done before is said."""
    server.sources["x"] = {"uid": "x", "name": "skillmeter (Prometheus)", "type": "prometheus"}
    result = put(server, "--prometheus", PROMETHEUS)
    assert result.exit_code == 1
    assert "the same name already exists" in result.output
    assert "rename or delete it" in result.output
    server.sources.clear()
    server.folders["y"] = {"uid": "y", "title": "skillmeter"}
    result = put(server, "--prometheus", PROMETHEUS)
    assert result.exit_code == 1
    assert "data source" in result.output
    server.folders.clear()
    server.dashboards["z"] = {"dashboard": {"title": "skillmeter (Prometheus)"}, "meta": {"provisioned": False}}
    result = put(server, "--prometheus", PROMETHEUS)
    assert result.exit_code == 1
    assert list(server.dashboards) == ["z"]


def test_what_comes_from_files_is_left_to_them(server: GrafanaServer) -> None:
    """Of a provisioned data source or dashboard it says that its file has to change."""
    put(server, *BOTH)
    server.sources["skillmeter-prometheus"]["readOnly"] = True
    result = put(server, "--prometheus", "http://other")
    assert result.exit_code == 1
    assert "comes from a file" in result.output
    server.dashboards["skillmeter-prometheus"]["meta"]["provisioned"] = True
    assert put(server, "--prometheus", PROMETHEUS).exit_code == 0
    server.dashboards["skillmeter-prometheus"]["dashboard"]["refresh"] = "1h"
    result = put(server, "--prometheus", PROMETHEUS)
    assert result.exit_code == 1
    assert "replace that file" in result.output


def test_under_a_path() -> None:
    """A Grafana that is not at the root of its host."""
    with GrafanaServer(base="/grafana") as server:
        result = put(server, "--prometheus", PROMETHEUS)
        assert result.exit_code == 0, result.output
        assert f"{server.url}/d/skillmeter-prometheus" in result.output


# Who is not there, or not Grafana.


def redirect(handler: BaseHTTPRequestHandler) -> None:
    """Send on to the login page of somebody else."""
    send(handler, 302, {"Location": f"http://evil.example/?{handler.headers['Authorization']}"}, b"")


@pytest.mark.parametrize(
    ("instead", "hint"),
    [
        ((404, b"<html>nothing</html>"), "no Grafana answers"),
        ((200, b"<html>hello</html>"), "no Grafana answers"),
        ((200, [1]), "no Grafana answers"),
        ((502, b"\xff\xfe"), "HTTP 502"),
        (redirect, "where the token is not taken"),
        (lambda handler: handler.connection.shutdown(socket.SHUT_RDWR), "cannot reach"),
        (lambda handler: handler.wfile.write(b"hello\r\n\r\n"), "does not speak HTTP"),
    ],
    ids=["404", "page", "list", "proxy", "redirect", "cut", "no HTTP"],
)
def test_who_is_not_grafana(server: GrafanaServer, instead: Any, hint: str) -> None:
    """It says what came instead, and sends the token nowhere else."""
    server.instead["*"] = instead
    result = put(server, *BOTH)
    assert result.exit_code == 1
    assert hint in result.output
    assert len(server.asked) == 1


def test_nobody_there() -> None:
    """Refused at once, with the address."""
    with contextlib.closing(socket.create_server(("127.0.0.1", 0))) as taken:
        port = taken.getsockname()[1]
    result = skillmeter("grafana", "install", "--url", f"http://127.0.0.1:{port}", GRAFANA_TOKEN=TOKEN)
    assert result.exit_code == 1
    assert f"cannot reach http://127.0.0.1:{port}" in result.output


def trickle(server: GrafanaServer) -> Callable[[BaseHTTPRequestHandler], None]:
    """A byte now and then, for ever."""

    def act(handler: BaseHTTPRequestHandler) -> None:
        handler.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n")
        while not server.released.wait(0.05):
            with contextlib.suppress(OSError):
                handler.wfile.write(b" ")

    return act


@pytest.mark.parametrize("how", ["hang", "trickle"])
def test_whoever_is_slow_is_not_waited_for(server: GrafanaServer, how: str) -> None:
    """The time is for the whole answer."""
    server.instead["*"] = server.hang if how == "hang" else trickle(server)
    grafana = Grafana(server.url, Secret(TOKEN), timeout_s=0.3)
    with contextlib.closing(grafana), pytest.raises(GrafanaError, match=r"within 0\.3 s"):
        grafana.version()


def test_an_endless_answer_is_not_kept(server: GrafanaServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory is bounded."""
    monkeypatch.setattr("skillmeterd.grafana.api.MAX_ANSWER_BYTES", 1000)
    server.instead["GET /api/datasources"] = (200, [{"x": "y" * 2000}])
    with contextlib.closing(Grafana(server.url, Secret(TOKEN))) as grafana, pytest.raises(GrafanaError):
        list(install(grafana, Sources(True, None, None)))


def test_tls_is_verified(tmp_path: Path) -> None:
    """An unknown authority is refused, and the message says how to name it; named, it works."""

    def openssl(*words: str) -> None:
        subprocess.run(["openssl", *words], cwd=tmp_path, check=True, capture_output=True)

    key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-keyout", "key.pem")
    names = ("-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost")
    openssl("req", "-x509", *key, "-out", "cert.pem", "-days", "2", *names)
    with GrafanaServer(certificates=tmp_path) as server:
        refused = put(server, "--prometheus", PROMETHEUS)
        assert refused.exit_code == 1
        assert "SSL_CERT_FILE" in refused.output
        assert server.asked == []
        words = ("grafana", "install", "--url", server.url, "--prometheus", PROMETHEUS)
        taken = skillmeter(*words, GRAFANA_TOKEN=TOKEN, SSL_CERT_FILE=str(tmp_path / "cert.pem"))
        assert taken.exit_code == 0, taken.output


# The command line.


def test_the_token_from_a_file(server: GrafanaServer, tmp_path: Path) -> None:
    """Named by an option or a variable; its last line end is no part of it."""
    file = tmp_path / "token"
    file.write_text(f"{TOKEN}\n")
    words = ("grafana", "install", "--url", server.url, "--prometheus", PROMETHEUS)
    assert skillmeter(*words, "--token-file", str(file)).exit_code == 0
    assert skillmeter(*words, GRAFANA_TOKEN_FILE=str(file)).exit_code == 0


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        ((), "GRAFANA_URL (default): is needed, or --url"),
        (("--url", "http://g"), "GRAFANA_TOKEN (default): is needed, or --token"),
        (("--url", "grafana:3000", "--token", "a b"), "GRAFANA_TOKEN (flag): must be"),
        (("--url", "http://u:p@g", "--token", "t"), "GRAFANA_URL (flag): must be"),
        (("--url", "http://g:99999", "--token", "t"), "a port from 1 to 65535"),
        (("--url", "http://g", "--token", "t", "--sqlite", "analytics.db"), "absolute path"),
        (("--url", "http://g", "--token", "t", "--sqlite", "/a?mode=rw"), "absolute path"),
        (("--url", "http://g", "--token", "t", "--prometheus", "prometheus:9090"), "--prometheus"),
    ],
)
def test_mistakes_are_told_before_anything_is_asked(words: tuple[str, ...], hint: str) -> None:
    """Each with its name; a password in an address is not shown."""
    result = skillmeter("grafana", "install", *words)
    assert result.exit_code in (1, 2)
    assert hint in result.output
    assert "u:p@" not in result.output


def test_a_token_in_the_open_is_warned_of() -> None:
    """Over http to anybody but this machine's own names."""
    asked = ("grafana", "install", "--url", "http://127.0.0.2:1")
    assert "who is on the way can read the token" in skillmeter(*asked, GRAFANA_TOKEN=TOKEN).stderr


@pytest.mark.parametrize("name", list(shipped.FILES))
def test_show_prints_a_shipped_file(name: str) -> None:
    """As it is, for Grafana's and Prometheus's own folders."""
    assert skillmeter("grafana", "show", name).stdout == shipped.text(name)
