"""Sinks: whether each chosen backend works, as the daemon sees it; without one, whether it could."""

import http.client
import importlib.util
import ssl
import time
from collections.abc import Iterator
from typing import Any, Final

from skillmeter.errors import ConfigError

from ..errors import CannotListen
from ..outgoing import Outgoing
from ..sinks.group import EXTRAS
from ..sinks.otlp_target import resolve_all
from .finding import Finding, fail, ok, warn
from .patient import Patient

HTTP_S: Final = 3.0
MAX_PAGE_BYTES: Final = 256 * 1024 * 1024  # of /metrics: half a million series
MODULES: Final = {"otlp": "opentelemetry.proto", "prometheus": "uvicorn", "wandb": "wandb"}
CURES: Final = {
    "otlp": "docs/otlp.md, Trouble, has the cure for each kind of failure",
    "prometheus": "the daemon could not read its database: see the database's checks",
    "wandb": "docs/wandb.md, Trouble; the daemon's log has W&B's own words",
}


def check(patient: Patient) -> Iterator[Finding]:
    """Findings `http.*` and `sinks.*`."""
    yield from _http(patient)
    for name in patient.settings.backends:
        if name in MODULES:
            yield from _sink(patient, name)
    yield from _open_credentials(patient)


def fetch(url: str, path: str, timeout_s: float = HTTP_S) -> tuple[int, bytes]:
    """A GET of the daemon's own listener, within the time: status and body. Raises OSError or HTTPException."""
    tls = None
    if url.startswith("https:"):
        tls = ssl.create_default_context()
        tls.check_hostname = False  # it is asked at an address; nothing secret is sent to it
        tls.verify_mode = ssl.CERT_NONE
    outgoing = Outgoing(url, timeout_s, max_answer_bytes=MAX_PAGE_BYTES, tls=tls)
    try:
        answer = outgoing.request("GET", path, {})
    finally:
        outgoing.close()
    return answer.status, answer.body


def _http(patient: Patient) -> Iterator[Finding]:
    settings = patient.settings
    if patient.status is not None:
        yield _listener(patient.status["http"])
    elif settings.prometheus_enabled:
        yield _could_listen(patient)
    is_open = settings.prometheus_host not in ("127.0.0.1", "localhost", "::1")
    if settings.prometheus_enabled and is_open and settings.http_token is None:
        what = f"the page and the API are refused from other machines: {settings.prometheus_host} is not loopback"
        yield warn("http.token", what, "set ANALYTICS_HTTP_TOKEN for them; /metrics needs none")


def _listener(url: str | None) -> Finding:
    if url is None:
        return ok("http.listener", "off (PROMETHEUS_ENABLED)")
    try:
        status, _ = fetch(url, "/healthz")
    except ssl.SSLError as error:
        return ok("http.listener", f"{url} listens, and wants a certificate of its callers: {error.reason}")
    except (OSError, http.client.HTTPException) as error:
        return fail("http.listener", f"{url} does not answer: {error}", "see the daemon's log, and start it again")
    if status == http.client.OK:
        return ok("http.listener", f"{url} answers")
    return fail("http.listener", f"{url} answers with {status}", "see what listens there, and the daemon's log")


def _could_listen(patient: Patient) -> Finding:
    """Bind the port and let go of it: the daemon that is missing will need it."""
    from ..http.listener import bind, tls_of  # what it needs takes a tenth of a second: only if it is on

    settings = patient.settings
    try:
        tls_of(settings)
        bind(settings).close()
    except CannotListen as error:
        return fail("http.listener", str(error).partition(";")[0], "choose another PROMETHEUS_PORT, or right files")
    return ok("http.listener", f"port {settings.prometheus_port or 'any'} of {settings.prometheus_host} is free")


def _sink(patient: Patient, name: str) -> Iterator[Finding]:
    if not _is_installed(MODULES[name]):
        what = f"backend {name} is chosen, but {MODULES[name]} is not installed here"
        yield fail(f"sinks.{name}", what, f"pip install 'skillmeter[{EXTRAS[name]}]'")
    elif patient.status is None:
        yield ok(f"sinks.{name}", "installed; whether it works only a running daemon knows")
    elif name in patient.status["sinks"]:
        healthy = (patient.health or {}).get("sinks", {}).get(name, False)
        yield _works(name, patient.status["sinks"][name], healthy=healthy)
        yield from _refused(name, patient.status["sinks"][name])


def _is_installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # the package that it is in
        return False


def _works(name: str, status: dict[str, Any], *, healthy: bool) -> Finding:
    last_ns = status["last_success_ns"]
    ago = "never" if last_ns is None else f"{max(0.0, time.time() - last_ns / 1e9):,.0f} s ago"
    what = f"{status['exports']:,} exports since the start, the last {ago}"
    if healthy:
        return ok(f"sinks.{name}", what)
    if status["problem"]:
        return fail(f"sinks.{name}", f"{what}; {status['problem']}", CURES[name])
    if last_ns is None:
        return warn(f"sinks.{name}", what, "ask again in a minute; if it stays so, see the daemon's log")
    return fail(f"sinks.{name}", f"{what}, which is too long ago", CURES[name])


def _refused(name: str, status: dict[str, Any]) -> Iterator[Finding]:
    """What a receiver did not take, or never got."""
    points, logs = status.get("metrics", {}).get("refused_points", 0), status.get("logs", {})
    if points:
        yield warn(f"sinks.{name}.points", f"{points:,} points were refused since the start", CURES[name])
    if logs.get("refused"):
        what = f"{logs['refused']:,} log records were refused, and are kept aside"
        yield warn(f"sinks.{name}.records", what, "docs/otlp.md, Trouble, says how to look at them and send them again")
    if logs.get("missed"):
        what = f"{logs['missed']:,} events were deleted before they could be forwarded"
        yield warn(f"sinks.{name}.missed", what, "raise ANALYTICS_DB_RETENTION_DAYS, or get the receiver to answer")


def _open_credentials(patient: Patient) -> Iterator[Finding]:
    if "otlp" not in patient.settings.backends:
        return
    try:
        targets = resolve_all(patient.settings, patient.env)
    except ConfigError:  # told with the settings
        return
    for signal, target in targets.items():
        if target.headers and target.is_open:
            what = f"credentials for {signal} go unencrypted to {target.url}"
            yield warn("sinks.otlp.tls", what, "use an https:// address")
