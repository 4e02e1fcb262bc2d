"""HTTP: who is let in, what is answered, and that nobody who is slow or hostile keeps others from it."""

import contextlib
import errno
import gzip
import http.client
import json
import os
import resource
import socket
import sqlite3
import ssl
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import h11
import pytest

from skillmeterd.config import DaemonSettings
from skillmeterd.errors import CannotListen
from skillmeterd.http import Listener, Request, Response, Route, Routes, app, connection
from skillmeterd.http import listener as listener_module
from skillmeterd.http.guard import Guard, host_name, is_bearer
from skillmeterd.http.messages import MAX_HEAD_BYTES
from skillmeterd.http.monitoring import routes as monitoring_routes
from skillmeterd.vitals import Vitals
from tests.journals import event, write_journal
from tests.support import HTTP, DaemonProcess, assert_exactly, query, read, run_client, wait_until

BIG = b"0123456789abcdef" * 2**18  # 4 MiB: more than the sockets on both sides hold
TOKEN = "correct-horse-battery-staple"


def page(request: Request) -> Response:
    """A route that tells what it was asked."""
    return Response.json({"query": request.query})


ROUTES: Routes = {
    "/healthz": Route(lambda _: Response.json({"alive": True}), is_open=True, is_quick=True),
    "/open": Route(lambda _: Response(200, b"open"), is_open=True),
    "/page": Route(page),
    "/big": Route(lambda _: Response(200, BIG)),
    "/pieces": Route(lambda _: Response(200, (f"line {number}\n" for number in range(50_000)))),
}

Serve = Callable[..., Listener]


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Serve]:
    """Starts listeners on free ports, with the routes and settings given; stops them at the end."""
    with contextlib.ExitStack() as stack:

        def start(routes: Routes | None = None, **settings: object) -> Listener:
            chosen = {"prometheus_port": 0, **settings}
            made = DaemonSettings.from_environment({"HOME": str(tmp_path)}, **chosen)
            listener = Listener(made, ROUTES if routes is None else routes)
            listener.start()
            stack.callback(listener.stop, 10)
            return listener

        yield start


def port(listener: Listener) -> int:
    """Where it listens."""
    return int(listener.url.rpartition(":")[2])


def get(listener: Listener, path: str, method: str = "GET", **headers: str) -> tuple[int, bytes, dict[str, str]]:
    """Ask over a connection of its own: status, body, headers by lower-case name. Underscores stand for hyphens."""
    client = http.client.HTTPConnection("127.0.0.1", port(listener), timeout=30)
    with contextlib.closing(client):
        client.request(method, path, headers={name.replace("_", "-"): value for name, value in headers.items()})
        answer = client.getresponse()
        return answer.status, answer.read(), {name.lower(): value for name, value in answer.getheaders()}


def connect(listener: Listener, sent: bytes = b"") -> socket.socket:
    """A bare connection, with this sent."""
    client = socket.create_connection(("127.0.0.1", port(listener)), timeout=30)
    client.sendall(sent)
    return client


def answer_to(listener: Listener, sent: bytes) -> bytes:
    """All that comes back for some bytes until the server closes; nothing if it just drops the connection."""
    with contextlib.closing(connect(listener, sent)) as client:
        received = b""
        with contextlib.suppress(ConnectionError):
            while part := client.recv(65536):
                received += part
        return received


def status_of(listener: Listener, sent: bytes) -> int:
    """The status that comes back for some bytes; 0 if the connection is dropped without one."""
    with contextlib.closing(connect(listener, sent)) as client:
        try:
            first = client.recv(12)
        except ConnectionError:
            return 0
        return int(first[9:]) if first else 0


HEAD = b"GET /open HTTP/1.1\r\nHost: localhost\r\n"

# What is answered.


def test_a_route_is_answered(serve: Serve) -> None:
    """Path and query reach the handler; the answer comes back with the headers that every answer has."""
    status, body, headers = get(serve(), "/page?skill=a%2Fb&days=")
    assert (status, json.loads(body)) == (200, {"query": "skill=a%2Fb&days="})
    assert headers["content-type"] == "application/json"
    assert headers["date"].endswith("GMT")
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["x-frame-options"] == "DENY"
    assert headers["referrer-policy"] == "no-referrer"
    assert "default-src 'none'" in headers["content-security-policy"]
    assert "server" not in headers


def test_errors_have_the_security_headers_too(serve: Serve) -> None:
    """A refusal is as hard to misuse as an answer."""
    status, _, headers = get(serve(), "/nothing")
    assert (status, headers["x-content-type-options"], headers["cache-control"]) == (404, "nosniff", "no-store")


def test_a_handler_s_headers_come_first(serve: Serve) -> None:
    """The page may have a policy of its own."""
    routes = {"/": Route(lambda _: Response(200, b"x", headers={"content-security-policy": "default-src 'self'"}))}
    assert get(serve(routes), "/")[2]["content-security-policy"] == "default-src 'self'"


def test_head_is_get_without_the_body(serve: Serve) -> None:
    """Same status, same length, no body."""
    status, body, headers = get(serve(), "/open", method="HEAD")
    assert (status, body, headers["content-length"]) == (200, b"", "4")


def test_large_answers_are_compressed_for_who_wants_it(serve: Serve) -> None:
    """Gzip on request, whole or in pieces; not for small answers, nor for who says q=0."""
    listener = serve()
    wanted = "".join(f"line {number}\n" for number in range(50_000)).encode()
    for path, body in (("/pieces", wanted), ("/big", BIG)):
        _, packed, headers = get(listener, path, accept_encoding="br, gzip;q=0.5")
        assert headers["content-encoding"] == "gzip"
        assert gzip.decompress(packed) == body
        for accepted in ("gzip;q=0", "identity", "br"):
            _, plain, headers = get(listener, path, accept_encoding=accepted)
            assert (plain == body, "content-encoding" in headers) == (True, False)
    assert "content-encoding" not in get(listener, "/open", accept_encoding="gzip")[2]


def test_a_connection_serves_many_requests(serve: Serve) -> None:
    """Prometheus keeps its connection; requests that were sent ahead are answered in turn."""
    listener = serve()
    received = answer_to(listener, (HEAD + b"\r\n") * 3 + HEAD + b"Connection: close\r\n\r\n")
    assert received.count(b"HTTP/1.1 200") == 4


def test_what_fails_in_a_handler_is_an_answer(serve: Serve, caplog: pytest.LogCaptureFixture) -> None:
    """A bug is a 500 and a traceback in the log; a database that cannot be read is a 503; the listener goes on."""

    def broken(request: Request) -> Response:
        raise ZeroDivisionError

    def locked(request: Request) -> Response:
        raise sqlite3.OperationalError("database is locked")

    listener = serve({"/broken": Route(broken), "/locked": Route(locked), **ROUTES})
    status, body, _ = get(listener, "/broken")
    assert (status, b"ZeroDivisionError" in body) == (500, False)
    assert "ZeroDivisionError" in caplog.text
    status, body, _ = get(listener, "/locked")
    assert (status, b"database is locked" in body) == (503, True)
    assert get(listener, "/open")[0] == 200


# Who is let in.


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "PATCH", "TRACE"])
def test_only_get_and_head(serve: Serve, method: str) -> None:
    """Nothing can be changed over HTTP."""
    status, _, headers = get(serve(), "/open", method=method)
    assert (status, headers["allow"]) == (405, "GET, HEAD")


@pytest.mark.parametrize(
    "host",
    [
        *("evil.example", "evil.example:8000", "127.0.0.1.evil.example", "10.0.0.1", "", "[::2]", "::1", "[::1"),
        *("localhost:80@evil.example", "localhost:evil.example", "[::1]evil.example", "localhost@evil.example"),
        *("127.0.0.1:80,evil.example", "localhost/", "localhost:80 evil.example"),
    ],
)
def test_a_foreign_host_is_refused_on_loopback(serve: Serve, host: str) -> None:
    """A name that somebody points at 127.0.0.1 does not open the door to a web page: not even to the metrics."""
    for path in ("/open", "/page", "/nothing"):
        assert get(serve(), path, host=host)[0] == 421


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:9", "127.0.0.1:1234", "[::1]:80", "localhost.", "127.0.0.1"])
def test_our_hosts_are_let_in(serve: Serve, host: str) -> None:
    """All the names of loopback, with any port: it may be forwarded."""
    assert get(serve(), "/page", host=host)[0] == 200


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"origin": "http://evil.example"}, 403),
        ({"origin": "null"}, 403),
        ({"origin": "http://localhost:1"}, 403),
        ({"sec_fetch_site": "cross-site", "sec_fetch_mode": "no-cors"}, 403),
        ({"sec_fetch_site": "same-site", "sec_fetch_mode": "cors"}, 403),
        ({"sec_fetch_site": "cross-site", "sec_fetch_mode": "navigate"}, 200),  # a link, followed
        ({"sec_fetch_site": "same-origin", "sec_fetch_mode": "cors"}, 200),
        ({"sec_fetch_site": "none"}, 200),  # typed in
    ],
)
def test_pages_of_other_sites_are_refused(serve: Serve, headers: dict[str, str], status: int) -> None:
    """What a browser sends on behalf of another origin is refused; our own page and links to us are not."""
    answer = get(serve(), "/page", **headers)
    assert (answer[0], "access-control-allow-origin" in answer[2]) == (status, False)


def test_our_own_origin_is_let_in(serve: Serve) -> None:
    """A request that names the origin it is made to."""
    listener = serve()
    assert get(listener, "/page", origin=listener.url)[0] == 200


def test_off_loopback_the_page_needs_the_token(serve: Serve) -> None:
    """The token opens the page; without it, or with another, there is nothing; monitoring needs none."""
    listener = serve(prometheus_host="0.0.0.0", http_token=TOKEN)
    assert get(listener, "/page", authorization=f"Bearer {TOKEN}")[0] == 200
    for wrong in ({}, {"authorization": TOKEN}, {"authorization": f"Basic {TOKEN}"}, {"authorization": "Bearer no"}):
        status, body, headers = get(listener, "/page", **wrong)
        assert (status, headers["www-authenticate"], TOKEN.encode() in body) == (401, "Bearer", False)
    assert get(listener, "/nothing")[0] == 401  # nobody learns what there is
    for path in ("/open", "/healthz"):
        assert get(listener, path, host="any.example")[0] == 200


def test_off_loopback_without_a_token_there_is_no_page(serve: Serve) -> None:
    """No token set is no token that fits; the answer says which setting is missing."""
    listener = serve(prometheus_host="0.0.0.0")
    status, body, _ = get(listener, "/page", authorization="Bearer ")
    assert (status, b"ANALYTICS_HTTP_TOKEN" in body) == (403, True)
    assert get(listener, "/open")[0] == 200


def test_tokens_are_compared_whole() -> None:
    """A part of the token, or more than it, is not the token; text that is no ASCII is no error."""
    assert is_bearer("bearer secret", "secret")
    for given in ("Bearer secre", "Bearer secrets", "Bearer", "", "Bearer sécret"):
        assert not is_bearer(given, "secret")


def test_names_in_host_headers() -> None:
    """The port goes, IPv6 loses its brackets, case does not matter; what is no name and port names nobody."""
    names = {"A.b:80": "a.b", "[::1]:8000": "::1", "[::1]": "::1", "x.": "x", "x.:": "x", "": "", "::1": "", "x:y": ""}
    assert {host: host_name(host) for host in names} == names


def test_a_configured_host_name_is_ours() -> None:
    """Somebody who listens on a name of loopback may use it."""
    guard = Guard("127.0.0.1", "Dev.Local", None)
    assert guard.refusal("GET", {"host": "dev.local:8000"}, is_open=False) is None


# Who is slow, or hostile.


def test_idle_connections_do_not_keep_others_out(serve: Serve) -> None:
    """With hundreds of clients that never finish a request, a scrape is answered; the oldest of them are gone."""
    listener = serve()
    with contextlib.ExitStack() as stack:
        slow = [stack.enter_context(contextlib.closing(connect(listener, HEAD))) for _ in range(300)]
        assert get(listener, "/open")[0] == 200
        with pytest.raises(ConnectionResetError):
            slow[0].recv(1)


def test_slow_readers_do_not_keep_others_out(serve: Serve) -> None:
    """With a hundred clients that ask for much and read nothing, a scrape is answered."""
    listener = serve()
    with contextlib.ExitStack() as stack:
        for _ in range(100):
            ask = b"GET /big HTTP/1.1\r\nHost: localhost\r\n\r\n"
            stack.enter_context(contextlib.closing(connect(listener, ask)))
        assert get(listener, "/open")[0] == 200
        assert get(listener, "/page")[0] == 200
        assert get(listener, "/big")[1] == BIG


def test_who_sends_no_whole_request_is_dropped(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    """Within its time a request's headers have to be there, however often a byte comes."""
    monkeypatch.setattr(connection, "HEAD_S", 0.2)
    listener = serve()
    with contextlib.closing(connect(listener, HEAD)) as client:

        def is_dropped() -> bool:
            try:
                client.sendall(b"X: y\r\n")
            except ConnectionError:
                return True
            return False

        wait_until(is_dropped, what="a reset")


def test_who_does_not_read_is_dropped(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    """Within its time an answer has to be read; then the rest of it is forgotten."""
    monkeypatch.setattr(connection, "ANSWER_S", 0.2)
    monkeypatch.setattr(connection, "IDLE_S", 0.2)
    with contextlib.closing(connect(serve(), b"GET /big HTTP/1.1\r\nHost: localhost\r\n\r\n")) as client:
        wait_until(lambda: _is_reset(client), what="a reset")


def _is_reset(client: socket.socket) -> bool:
    """Whether the other side has given this connection up."""
    return client.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == errno.ECONNRESET


@pytest.mark.parametrize(
    ("sent", "statuses"),
    [
        (HEAD + b"X: " + b"a" * 100_000, {431}),
        (HEAD + b"X: " + b"a" * 20_000 + b"\r\n\r\n", {431}),
        (HEAD + b"X: a\r\n" * 20_000, {431}),
        (b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\n", {431}),
        (b"GET /open?" + b"a" * 20_000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n", {431}),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" * 10, {400}),
        (b"\r\n" * 50_000, {400}),
        (b"GET /open HTTP/9.9\r\n\r\n", {421}),
        (b"GET /open HTTP/1.1\r\n\r\n", {400}),
        (b"GET /open HTTP/1.1\r\nHost: localhost\r\nHost: localhost\r\n\r\n", {400}),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", {405}),
        (HEAD + b"Content-Length: -1\r\n\r\n", {400}),
        (HEAD + b"Transfer-Encoding: gzip\r\n\r\n", {501}),
    ],
    ids=lambda given: repr(given[:40]) if isinstance(given, bytes) else None,
)
def test_rubbish_is_refused(serve: Serve, sent: bytes, statuses: set[int], caplog: pytest.LogCaptureFixture) -> None:
    """Huge headers, other protocols and broken requests are told so as anything else is; they are not for our log."""
    listener = serve()
    try:
        with contextlib.closing(connect(listener, sent)) as client:
            answer = http.client.HTTPResponse(client)
            answer.begin()
            assert answer.status in statuses
            assert answer.headers["x-content-type-options"] == "nosniff"
            assert json.loads(answer.read())["error"]
    except ConnectionError:
        assert len(sent) > MAX_HEAD_BYTES  # what of it came after the answer has dropped that, too
    assert get(listener, "/open")[0] == 200
    assert not caplog.records


@pytest.mark.parametrize(
    "path", ["//open", "/open/", "/../open", "/%2e%2e/etc/passwd", "/open%00", "/%ff", "*", "/OPEN"]
)
def test_bad_paths_are_not_found(serve: Serve, path: str) -> None:
    """A path is a key of the table or nothing; no file is behind any."""
    assert status_of(serve(), f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()) in (400, 404)


def test_rubbish_behind_a_request_ends_the_connection(serve: Serve, caplog: pytest.LogCaptureFixture) -> None:
    """What follows a good request cannot upset the server."""
    listener = serve()
    for body in (b"\r\n", b"Content-Length: 10\r\n\r\n0123456789", b"Transfer-Encoding: chunked\r\n\r\n"):
        for path in (b"/open", b"/healthz"):  # answered on a thread, or at once
            for rubbish in (
                b"\x00\xff rubbish",
                HEAD.replace(b"GET", b"HEAD") + b"Transfer-Encoding: chunked\r\n\r\nz",
            ):
                answer_to(listener, HEAD.replace(b"/open", path) + body + rubbish + b"\r\n\r\n")
    assert get(listener, "/open")[0] == 200
    assert not caplog.records


@pytest.mark.parametrize("length", ["Content-Length: 45\r\nTransfer-Encoding: chunked", "Transfer-Encoding: chunked"])
@pytest.mark.parametrize("method", [b"GET", b"POST"])
def test_behind_a_body_no_request_is_answered(serve: Serve, method: bytes, length: str) -> None:
    """A proxy in front of us may think that the body ends elsewhere, and that the rest is somebody else's request."""
    body = b"0\r\n\r\nGET /page HTTP/1.1\r\nHost: localhost\r\n\r\n"
    answers = answer_to(serve(), HEAD.replace(b"GET", method) + length.encode() + b"\r\n\r\n" + body)
    assert answers.count(b"HTTP/1.1 ") == 1
    assert b"connection: close" in answers.lower()


def test_a_body_is_not_waited_for(serve: Serve) -> None:
    """A request that promises gigabytes is answered at once; what it sends is not kept."""
    assert status_of(serve(), HEAD + b"Content-Length: 9999999999\r\n\r\n") == 200


def test_a_body_in_tiny_pieces_is_not_taken_apart(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody reads it, and each of its pieces would take the event loop's time from everybody else."""
    go_on, events = threading.Event(), []
    next_event = h11.Connection.next_event

    def counted(self: h11.Connection) -> object:
        events.append(next_event(self))
        return events[-1]

    monkeypatch.setattr(h11.Connection, "next_event", counted)
    listener = serve({"/slow": Route(lambda _: Response(200, b"done" if go_on.wait(60) else b""))})
    ask = HEAD.replace(b"/open", b"/slow") + b"Transfer-Encoding: chunked\r\n\r\n"
    with contextlib.closing(connect(listener, ask + b"1\r\nx\r\n" * 50_000)) as client:
        go_on.set()
        assert client.recv(12) == b"HTTP/1.1 200"
    assert len(events) < 1000


def test_who_sends_ahead_gives_way(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    """With as many being served as may be, the next of many requests on one connection is not; a new client's is."""
    go_on = threading.Event()
    monkeypatch.setattr(connection, "MAX_SERVED", 2)
    listener = serve({"/slow": Route(lambda _: Response(200, b"done" if go_on.wait(60) else b"")), **ROUTES})
    with contextlib.ExitStack() as stack:
        slow = [
            stack.enter_context(contextlib.closing(connect(listener, HEAD.replace(b"/open", b"/slow") + b"\r\n")))
            for _ in range(3)
        ]
        stack.callback(go_on.set)
        assert answer_to(listener, (HEAD + b"\r\n") * 3).count(b"HTTP/1.1 200") == 1
        assert get(listener, "/open")[0] == 200
        go_on.set()
        assert [client.recv(12) for client in slow] == [b"HTTP/1.1 200"] * 3


def test_long_queries_hold_up_neither_scrapes_nor_probes(serve: Serve) -> None:
    """With every thread of the page busy, and more waiting than may, monitoring is answered; the rest is told 503."""
    go_on = threading.Event()

    def slow(_: Request) -> Response:
        go_on.wait(60)
        return Response(200, b"done")

    listener = serve({"/slow": Route(slow), **ROUTES})
    ask = b"GET /slow HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(contextlib.closing(connect(listener, ask))) for _ in range(app.MAX_WAITING)]
        stack.callback(go_on.set)
        wait_until(lambda: get(listener, "/slow")[0] == 503, what="the queue to be full")
        assert (get(listener, "/open")[0], get(listener, "/healthz")[0]) == (200, 200)
        go_on.set()
        for client in clients:
            assert client.recv(12) == b"HTTP/1.1 200"


# Start and stop.


def test_a_busy_port_is_an_error_that_names_the_setting(serve: Serve) -> None:
    """Who is there first keeps the port; the second is told which setting to change."""
    first = serve()
    with pytest.raises(CannotListen, match="PROMETHEUS_PORT"):
        serve(prometheus_port=port(first))
    assert get(first, "/open")[0] == 200


def test_stop_leaves_nothing_behind(serve: Serve) -> None:
    """After it the port is free, connections are closed and the thread is gone; a second stop does nothing."""
    before = threading.active_count()
    descriptors = len(os.listdir("/proc/self/fd")) if Path("/proc/self/fd").exists() else 0
    listener = serve()
    with contextlib.closing(connect(listener, HEAD)) as client:
        assert get(listener, "/open")[0] == 200
        listener.stop(10)
        with contextlib.suppress(ConnectionError):
            assert client.recv(1) == b""
    listener.stop(10)
    assert not listener.is_serving
    wait_until(lambda: threading.active_count() <= before, what="the threads to end")
    if descriptors:
        assert len(os.listdir("/proc/self/fd")) == descriptors
    again = serve(prometheus_port=port(listener))
    assert get(again, "/open")[0] == 200


def test_ipv6_has_brackets_in_its_address(serve: Serve) -> None:
    """Where the machine has it, ::1 works like 127.0.0.1."""
    try:
        listener = serve(prometheus_host="::1")
    except CannotListen as error:
        pytest.skip(f"no IPv6 here: {error}")
    assert listener.url == f"http://[::1]:{port(listener)}"


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a CA, and a certificate and key of localhost that it signed."""
    folder = tmp_path_factory.mktemp("tls")

    def openssl(*words: str) -> None:
        subprocess.run(["openssl", *words], cwd=folder, check=True, capture_output=True)

    key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
    openssl("req", "-x509", *key, "-keyout", "ca.key", "-out", "ca.pem", "-days", "2", "-subj", "/CN=test CA")
    openssl("req", *key, "-keyout", "key.pem", "-out", "request.pem", "-subj", "/CN=localhost")
    (folder / "names").write_text("subjectAltName=DNS:localhost,IP:127.0.0.1\n")
    signed = ("-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-days", "2", "-extfile", "names")
    openssl("x509", "-req", "-in", "request.pem", *signed, "-out", "cert.pem")
    return folder


def test_https_with_client_certificates(serve: Serve, certificates: Path) -> None:
    """With certificates it is HTTPS; with a CA for clients, who has no certificate of it is not let in."""
    tls = {"prometheus_tls_cert_file": certificates / "cert.pem", "prometheus_tls_key_file": certificates / "key.pem"}
    ca = certificates / "ca.pem"
    listener = serve(**tls, prometheus_tls_client_ca_file=ca)
    assert listener.url.startswith("https://")
    context = ssl.create_default_context(cafile=ca)
    with pytest.raises((ssl.SSLError, ConnectionError)):
        get_https(listener, context)
    assert answer_to(listener, HEAD + b"\r\n") == b""
    context.load_cert_chain(certificates / "cert.pem", certificates / "key.pem")
    assert get_https(listener, context) == 200


def test_who_never_finishes_a_handshake_takes_little_and_keeps_nobody_out(
    serve: Serve, certificates: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Hundreds connect and say nothing: few of them are held, and a scrape is answered."""
    monkeypatch.setattr(listener_module, "TLS_HANDSHAKE_S", 600.0)
    tls = {"prometheus_tls_cert_file": certificates / "cert.pem", "prometheus_tls_key_file": certificates / "key.pem"}
    listener = serve(**tls)
    before = len(os.listdir("/dev/fd"))
    with contextlib.ExitStack() as stack:
        silent = [stack.enter_context(contextlib.closing(connect(listener))) for _ in range(400)]
        assert get_https(listener, ssl.create_default_context(cafile=certificates / "ca.pem")) == 200
        most = before + len(silent) + 2 * listener_module.MAX_ARRIVING
        wait_until(lambda: len(os.listdir("/dev/fd")) <= most, what="few connections that are held")


def get_https(listener: Listener, context: ssl.SSLContext) -> int:
    """The status of /open."""
    client = http.client.HTTPSConnection("localhost", port(listener), timeout=30, context=context)
    with contextlib.closing(client):
        client.request("GET", "/open")
        return client.getresponse().status


def test_wrong_certificates_are_an_error_that_names_the_settings(serve: Serve, certificates: Path) -> None:
    """A key of another certificate, or a file that is none, does not start half."""
    wrong = {"prometheus_tls_cert_file": certificates / "cert.pem", "prometheus_tls_key_file": certificates / "ca.key"}
    with pytest.raises(CannotListen, match="PROMETHEUS_TLS_KEY_FILE"):
        serve(**wrong)


# Monitoring.


def monitoring(problem: str = "", scrape: Any = None, **vitals: Any) -> Routes:
    """The routes for a daemon in this state."""
    return monitoring_routes(Vitals(0, **vitals), lambda: problem, scrape)


def test_ready_says_how_far_recovery_is(serve: Serve) -> None:
    """While orphans wait, events can be committed all the same."""
    status, body, _ = get(serve(monitoring(orphans_pending=7, orphans_recovered=3)), "/readyz")
    orphans = {"recovered": 3, "pending": 7, "first_round_done": False}
    assert (status, json.loads(body)) == (200, {"ready": True, "problem": "", "orphans": orphans})


def test_not_ready_says_why(serve: Serve) -> None:
    """503 with the reason; alive all the same."""
    listener = serve(monitoring("the disk is full"))
    status, body, _ = get(listener, "/readyz")
    assert (status, json.loads(body)["problem"]) == (503, "the disk is full")
    assert get(listener, "/healthz")[0] == 200


def test_metrics_need_the_backend(serve: Serve) -> None:
    """Without prometheus among the backends there are none, and the answer says how to have them."""
    status, body, _ = get(serve(monitoring()), "/metrics")
    assert (status, b"ANALYTICS_BACKEND=prometheus" in body) == (404, True)


@pytest.mark.parametrize(
    ("accept", "kind"),
    [
        ("", "text/plain"),
        ("*/*", "text/plain"),
        ("text/plain;version=0.0.4", "text/plain"),
        ("application/openmetrics-text", "application/openmetrics-text"),
        (
            "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,"
            "text/plain;version=0.0.4;q=0.5,*/*;q=0.1",
            "application/openmetrics-text",
        ),
        ("text/plain;q=0.9, application/openmetrics-text;q=0.2", "text/plain"),
    ],
)
def test_the_format_is_the_scraper_s_choice(serve: Serve, accept: str, kind: str) -> None:
    """OpenMetrics for who prefers it, the older text for everybody else."""
    _, _, headers = get(serve(monitoring(scrape=list)), "/metrics", accept=accept)
    assert headers["content-type"].startswith(f"{kind}; version=")


# The whole daemon.


def test_a_daemon_tells_where_it_listens(tmp_path: Path) -> None:
    """In its log and in its status; it serves there, and its memory stays small."""
    with DaemonProcess(tmp_path, env=HTTP) as daemon:
        url = daemon.ask("status")["http"]
        assert f"http={url}" in daemon.log()
        assert read(url.removeprefix("http://"), "/readyz")[0] == 200
        if Path("/proc").exists():
            (resident,) = [
                int(line.split()[1])
                for line in Path(f"/proc/{daemon.pid}/status").read_text().splitlines()
                if line.startswith("VmRSS")
            ]
            assert resident < 45 * 1024
        assert daemon.stop() == 0


def test_a_daemon_without_http(tmp_path: Path) -> None:
    """PROMETHEUS_ENABLED=0: nothing listens, and status says so."""
    with DaemonProcess(tmp_path, env={"PROMETHEUS_ENABLED": "0"}) as daemon:
        assert daemon.ask("status")["http"] is None
        assert "http=off" in daemon.log()


def test_a_daemon_does_not_start_on_a_busy_port(tmp_path: Path) -> None:
    """It ends with an error that names the setting, before it takes anything from anybody."""
    with contextlib.closing(socket.create_server(("127.0.0.1", 0))) as taken:
        env = HTTP | {"PROMETHEUS_PORT": str(taken.getsockname()[1])}
        with DaemonProcess(tmp_path, env=env, started=False) as daemon:
            assert daemon.spawn().wait(60) == 1
            assert "PROMETHEUS_PORT" in daemon.log()
            assert "Traceback" not in daemon.log()
            daemon.start(HTTP)  # nothing was left behind


def test_scrapes_go_on_while_nothing_can_be_committed(tmp_path: Path) -> None:
    """With the database locked by another program: /metrics shows the last commit, /readyz is 503."""
    with DaemonProcess(tmp_path, env=HTTP | {"ANALYTICS_BACKEND": "prometheus"}) as daemon:
        address = daemon.ask("status")["http"].removeprefix("http://")
        run_client("record('first')", daemon.env)
        daemon.wait_drained()
        with contextlib.closing(sqlite3.connect(daemon.db_path, isolation_level=None)) as locker:
            locker.execute("BEGIN IMMEDIATE")
            run_client("record('second'); os._exit(0)", daemon.env)
            wait_until(lambda: read(address, "/readyz")[0] == 503, what="/readyz to be 503")
            status, body = read(address, "/metrics")
            assert (status, executions(body), b"skillmeter_ready 0" in body) == (200, 1, True)
            assert read(address, "/healthz")[0] == 200
            locker.execute("ROLLBACK")
        wait_until(lambda: read(address, "/readyz")[0] == 200, what="/readyz to be 200")
        daemon.wait_drained()
        assert executions(read(address, "/metrics")[1]) == 2


def test_scrapes_go_on_while_the_spool_cannot_be_read(tmp_path: Path) -> None:
    """The page lacks what is not known of the spool, and nothing else; the sink works."""
    with DaemonProcess(tmp_path, env=HTTP | {"ANALYTICS_BACKEND": "prometheus"}) as daemon:
        address = daemon.ask("status")["http"].removeprefix("http://")
        run_client("record('first')", daemon.env)
        daemon.wait_drained()
        assert b"\nskillmeter_spool_journals 0\n" in read(address, "/metrics")[1]
        aside = daemon.spool_dir.rename(tmp_path / "aside")
        daemon.spool_dir.write_text("no folder")
        status, body = read(address, "/metrics")
        assert (status, executions(body)) == (200, 1)
        assert b"skillmeter_spool_" not in body
        assert b"\nskillmeter_database_bytes " in body
        assert b'\nskillmeter_sink_healthy{sink="prometheus"} 1\n' in body
        daemon.spool_dir.unlink()
        aside.rename(daemon.spool_dir)
        assert b"\nskillmeter_spool_journals 0\n" in read(address, "/metrics")[1]


def test_a_scrape_during_the_start_is_refused_or_right(tmp_path: Path) -> None:
    """From the daemon's first moment until the last orphan is taken over, a page shows what is committed just then."""
    env = HTTP | {"ANALYTICS_BACKEND": "prometheus"}
    with DaemonProcess(tmp_path, env=env) as daemon:
        address = daemon.ask("status")["http"].removeprefix("http://")
        run_client("record('first')", daemon.env)
        assert daemon.stop() == 0
        for number in range(1000):
            write_journal(daemon.spool_dir, [[event(str(number))]])
        daemon.spawn({"PROMETHEUS_PORT": address.rpartition(":")[2]})
        seen = set()
        while 1001 not in seen:
            least = committed(daemon)
            try:
                status, body = read(address, "/metrics")
            except ConnectionRefusedError:
                assert daemon.process is not None
                assert daemon.process.poll() is None, daemon.log()
                seen.add(-1)
                continue
            seen.add(executions(body))
            assert status == 200
            assert least <= executions(body) <= committed(daemon)
        assert seen >= {-1, 1001}
        assert any(1 < count < 1001 for count in seen), "it was never seen at work"


def committed(daemon: DaemonProcess) -> int:
    """The executions that are in SQLite."""
    return int(query(daemon.db_path, "SELECT sum(execution_count) FROM skill_usage")[0][0])


def executions(body: bytes) -> int:
    """The executions that a page of metrics shows, summed up."""
    lines = [line for line in body.decode().splitlines() if line.startswith("toolweaver_skill_executions_total")]
    return sum(int(line.rpartition(" ")[2]) for line in lines)


def test_when_descriptors_run_out_the_listener_goes_on_afterwards(tmp_path: Path) -> None:
    """A crowd that takes them all: the daemon lives, answers when the crowd has gone, and has lost nothing."""
    with DaemonProcess(tmp_path, env=HTTP, started=False) as daemon:
        daemon.spawn()
        resource.prlimit(daemon.pid, resource.RLIMIT_NOFILE, (64, 64))
        wait_until(lambda: "ready" in daemon.log())
        address = "127.0.0.1", int(daemon.ask("status")["http"].rpartition(":")[2])
        with contextlib.ExitStack() as stack:
            for _ in range(60):
                stack.enter_context(contextlib.closing(socket.create_connection(address))).sendall(HEAD)
            wait_until(lambda: len(os.listdir(f"/proc/{daemon.pid}/fd")) >= 63, what="a crowd")
            recorded = run_client("record('a'); client.flush(0.5)", daemon.env)
        client = http.client.HTTPConnection(*address, timeout=30)
        with contextlib.closing(client):
            client.request("GET", "/healthz")
            assert client.getresponse().status == 200
        recorded += run_client("record('b'); assert client.flush(20)", daemon.env)
        daemon.wait_drained()
        assert_exactly(recorded, daemon.db_path)
