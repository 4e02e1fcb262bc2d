"""API: requests to one Grafana, and what its refusals mean to a person. The token is in no message."""

import http.client
import json
import ssl
from typing import Any, Final
from urllib.parse import urljoin, urlsplit

from skillmeter._version import __version__
from skillmeter.parsers import Secret, printable

from ..errors import GrafanaError
from ..outgoing import Answer, Outgoing

TIMEOUT_S: Final = 15.0  # for one request, from connecting to the last byte; an install makes about ten
MAX_ANSWER_BYTES: Final = 16 * 1024 * 1024  # a dashboard that people have worked on
MAX_SHOWN_CHARS: Final = 300


class Refused(GrafanaError):
    """Grafana answered, and not with what was asked for. `status` is HTTP's."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class Grafana:
    """One Grafana. One thread asks; `close` when done."""

    def __init__(self, url: str, token: Secret, timeout_s: float = TIMEOUT_S) -> None:
        """`url` is what stands before `/api`: a path too, if Grafana is under one."""
        self._url = url
        self._token = token
        self._timeout_s = timeout_s
        self._http = Outgoing(url, timeout_s, max_answer_bytes=MAX_ANSWER_BYTES)

    def version(self) -> str | None:
        """Grafana's version, if it tells. Raises GrafanaError if there is no Grafana."""
        try:
            health = self.ask("GET", "/api/health")
        except Refused as error:
            if error.status == 404:
                raise self._no_grafana() from error
            raise
        if not isinstance(health, dict) or "database" not in health:
            raise self._no_grafana()
        version = health.get("version")
        return self._shown(version) if isinstance(version, str) else None

    def find(self, path: str) -> Any:
        """What is there; None if nothing is, or nothing that the token may see. Raises GrafanaError.

        To a token that may not see everything, Grafana says 403 of what is not there: making it will tell.
        """
        try:
            return self.ask("GET", path)
        except Refused as error:
            if error.status in (403, 404):
                return None
            raise

    def ask(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        """The JSON of an answer. Raises Refused if it is a refusal, else GrafanaError."""
        answer = self._answer(method, path, body)
        if 300 <= answer.status < 400:
            raise GrafanaError(self._redirected(answer))
        try:
            if len(answer.body) > MAX_ANSWER_BYTES:
                raise ValueError
            content = json.loads(answer.body)
        except ValueError:  # bytes that are not UTF-8, too
            content = None
        if not 200 <= answer.status < 300:
            raise Refused(answer.status, self._why(answer.status, content))
        if content is None:
            raise self._no_grafana()
        return content

    def link(self, path: str) -> str:
        """The address of a page whose path Grafana gave."""
        return self._shown(urljoin(self._url, path))

    def close(self) -> None:
        """Close the connection."""
        self._http.close()

    def _answer(self, method: str, path: str, body: dict[str, Any] | None) -> Answer:
        headers = {
            "Accept": "application/json",
            "Authorization": f"Bearer {self._token.reveal()}",
            "User-Agent": f"skillmeter/{__version__}",
        }
        if body is not None:
            headers["Content-Type"] = "application/json"
        content = None if body is None else json.dumps(body).encode()
        try:
            return self._http.request(method, urlsplit(self._url).path + path, headers, content)
        except (OSError, http.client.HTTPException) as error:
            raise GrafanaError(self._unreachable(error)) from None  # its own text may hold what was sent

    def _unreachable(self, error: Exception) -> str:
        if isinstance(error, TimeoutError):
            return f"no answer from {self._url} within {self._timeout_s:g} s"
        if isinstance(error, ssl.SSLCertVerificationError):
            return (
                f"the certificate of {self._url} is not trusted: {error.verify_message}. If your own authority"
                " signed it, name its file in SSL_CERT_FILE"
            )
        if isinstance(error, OSError):
            return self._shown(f"cannot reach {self._url}: {error}")
        return self._shown(f"{self._url} does not speak HTTP: {error!r}")

    def _redirected(self, answer: Answer) -> str:
        to = answer.headers.get("Location", "nowhere")
        return self._shown(
            f"{self._url} sends on to {to}, where the token is not taken: if that is your Grafana, give its address"
        )

    def _why(self, status: int, content: Any) -> str:
        said = content.get("message") if isinstance(content, dict) else None
        text = f"HTTP {status}, {self._shown(said)}" if isinstance(said, str) and said else f"HTTP {status}"
        if status == 401:
            return f"Grafana does not take the token ({text}): make one for a service account"
        if status == 403:
            return (
                f"the token may not do that ({text}): its service account needs the role Admin for data sources,"
                " Editor for dashboards and folders"
            )
        return f"Grafana refuses ({text})"

    def _no_grafana(self) -> GrafanaError:
        return GrafanaError(f"no Grafana answers at {self._url}: give the address at which its start page is")

    def _shown(self, text: str) -> str:
        """Text for people: on one line, not endless, without the token if somebody repeats it."""
        return printable(text.replace(self._token.reveal(), "[REDACTED]"))[:MAX_SHOWN_CHARS]
