"""Transport: one OTLP request over HTTP, tried a bounded number of times, and what became of it.

It goes by `outgoing` rather than the OpenTelemetry exporter: that follows redirects as if they were deliveries, never
reads a partial success, and cannot be interrupted.
"""

import email.utils
import gzip
import http.client
import random
import ssl
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Literal
from urllib.parse import urlsplit

from skillmeter._version import __version__
from skillmeter.parsers import printable

from ..outgoing import Answer, Outgoing
from .otlp_target import Target

ATTEMPTS: Final = 4
FIRST_WAIT_S: Final = 0.5  # doubled each time: 3.5 s in all, so that a push's caller still waits
MAX_WAIT_S: Final = 30.0  # a receiver that asks for more is left alone until then, and this push fails
MAX_QUIET_S: Final = 600.0  # and for no longer than this
MAX_ANSWER_BYTES: Final = 64 * 1024
MAX_SHOWN_CHARS: Final = 200

Kind = Literal[
    "delivered",
    "unreachable",
    "timeout",
    "tls",
    "throttled",
    "unavailable",
    "unauthorized",
    "not_found",
    "too_large",
    "rejected",
    "server_error",
    "redirected",
    "invalid_answer",
    "partial",  # delivered, and some of it refused: counted by who reads the answer
]
RETRIED: Final[frozenset[Kind]] = frozenset(("unreachable", "timeout", "throttled", "unavailable"))
REFUSED: Final[frozenset[Kind]] = frozenset(("rejected", "too_large"))
"""Because of what is in the request: another one may be taken."""
_BY_STATUS: Final[dict[int, Kind]] = {
    401: "unauthorized",
    403: "unauthorized",
    404: "not_found",
    413: "too_large",
    429: "throttled",
    502: "unavailable",
    503: "unavailable",
    504: "unavailable",
}
_BY_CLASS: Final[dict[int, Kind]] = {2: "delivered", 3: "redirected", 4: "rejected", 5: "server_error"}


@dataclass(frozen=True, slots=True)
class Delivery:
    """What became of a request."""

    kind: Kind
    problem: str = ""
    """For people: one line, no secret; empty when it was delivered."""
    body: bytes = b""
    """The answer to a delivery."""
    retry_after_s: float | None = None
    """How long the receiver asks to be left alone."""

    @property
    def delivered(self) -> bool:
        """Whether the receiver took it, at least in part: `body` says."""
        return self.kind == "delivered"


class Transport:
    """Posts to one target. One thread uses it; `abandon` may be called from any."""

    def __init__(
        self,
        target: Target,
        sleep: Callable[[float], bool],
        *,
        clock_s: Callable[[], float] = time.monotonic,
        dice: Callable[[], float] = random.random,
    ) -> None:
        """`sleep` waits and says whether to give up. Raises OSError if a certificate cannot be used."""
        self.failures: Counter[Kind] = Counter()
        """Attempts that failed."""
        self._target = target
        self._sleep = sleep
        self._clock_s = clock_s
        self._dice = dice
        self._quiet_until_s = 0.0
        self._abandoned = False
        url = urlsplit(target.url)
        self._path = url.path or "/"
        tls = _tls(target) if url.scheme == "https" else None
        self._http = Outgoing(target.url, target.timeout_s, max_answer_bytes=MAX_ANSWER_BYTES, tls=tls)

    @property
    def url(self) -> str:
        """Where it posts to."""
        return self._target.url

    def deliver(self, body: bytes, attempts: int = ATTEMPTS) -> Delivery:
        """Post until it is delivered, refused for good, or has been tried `attempts` times."""
        if (wait_s := self._quiet_until_s - self._clock_s()) > 0:
            return Delivery("throttled", f"the receiver asked to be left alone for another {wait_s:.0f} s")
        for attempt in range(1, attempts + 1):
            delivery = self.post(body)
            wait_s = self._wait_s(attempt, delivery.retry_after_s)
            if delivery.kind not in RETRIED or wait_s > MAX_WAIT_S or attempt == attempts or self._sleep(wait_s):
                break
        if (delivery.retry_after_s or 0.0) > MAX_WAIT_S:
            self._quiet_until_s = self._clock_s() + min(wait_s, MAX_QUIET_S)
        return delivery

    def post(self, body: bytes) -> Delivery:
        """Post once, within the target's time in all, however slowly the receiver answers."""
        if self._abandoned:
            return Delivery("timeout", "abandoned, as the daemon stops")
        try:
            delivery = self._judged(self._exchange(body))
        except (OSError, http.client.HTTPException) as error:
            delivery = self._failed(error)
        if not delivery.delivered:
            self.failures[delivery.kind] += 1
            self.close()
        return delivery

    def abandon(self) -> None:
        """End the post that is under way, and have no other begin."""
        self._abandoned = True
        self._http.abandon()

    def close(self) -> None:
        """Close the connection; the next post opens one."""
        self._http.close()

    def _exchange(self, body: bytes) -> Answer:
        headers = {
            "Content-Type": "application/x-protobuf",
            "User-Agent": f"skillmeter/{__version__}",
            **self._target.headers,
        }
        if self._target.gzip:
            body = gzip.compress(body, compresslevel=5)
            headers["Content-Encoding"] = "gzip"
        return self._http.request("POST", self._path, headers, body)

    def _judged(self, answer: Answer) -> Delivery:
        kind = _BY_STATUS.get(answer.status) or _BY_CLASS.get(answer.status // 100, "invalid_answer")
        if len(answer.body) > MAX_ANSWER_BYTES:
            return Delivery(
                "invalid_answer", f"HTTP {answer.status} with an answer of more than {MAX_ANSWER_BYTES} bytes"
            )
        if kind == "delivered":
            return Delivery(kind, body=answer.body)
        if kind == "redirected":  # following it would take data and credentials to where nobody chose to send them
            said = f"to {answer.headers.get('Location', 'nowhere')}, which is not followed"
        else:
            said = answer.body.decode(errors="replace")
        return Delivery(
            kind,
            f"HTTP {answer.status} {self.shown(f'{answer.reason}: {said}')}",
            retry_after_s=_retry_after_s(answer.headers.get("Retry-After")),
        )

    def shown(self, text: str) -> str:
        """The receiver's text for people: one line, not endless, no secret."""
        plain = "".join(char if char.isprintable() else " " for char in self._target.scrub(text))
        return " ".join(plain.split())[:MAX_SHOWN_CHARS].rstrip(": ")

    def _failed(self, error: Exception) -> Delivery:
        if isinstance(error, TimeoutError):
            return self._too_late()
        if isinstance(error, ssl.SSLError):
            return Delivery("tls", self.shown(f"TLS with {self._target.url} failed: {error}"))
        if isinstance(error, OSError | http.client.RemoteDisconnected):
            return Delivery("unreachable", self.shown(f"cannot reach {self._target.url}: {error}"))
        return Delivery("invalid_answer", self.shown(f"no HTTP answer: {printable(repr(error))}"))

    def _too_late(self) -> Delivery:
        return Delivery("timeout", f"no answer from {self._target.url} within {self._target.timeout_s:g} s")

    def _wait_s(self, attempt: int, retry_after_s: float | None) -> float:
        """Twice as long each time, half to one and a half times that; never less than the receiver asks for."""
        wait_s = FIRST_WAIT_S * 2.0 ** (attempt - 1) * (0.5 + self._dice())
        return wait_s if retry_after_s is None else retry_after_s + wait_s


def _tls(target: Target) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=target.ca_file)
    if target.client_cert_file is not None:
        context.load_cert_chain(target.client_cert_file, target.client_key_file)
    return context


def _retry_after_s(value: str | None) -> float | None:
    """Seconds, or a date. None for what is neither."""
    if value is None:
        return None
    if value.strip().isdecimal():
        return float(value)
    try:
        return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - time.time())
    except ValueError:
        return None
