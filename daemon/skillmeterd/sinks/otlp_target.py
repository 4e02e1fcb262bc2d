"""Target: where OTLP requests of one kind go, and how: address, credentials, TLS, time limit, compression.

OTLP_ENDPOINT with OTLP_INSTANCE_ID and OTLP_TOKEN come first, then the standard OTEL_EXPORTER_OTLP_* variables; of
these the one of the signal (OTEL_EXPORTER_OTLP_METRICS_TIMEOUT) before the common one. Headers of the standard
variables go only to an address of the standard variables: they may hold the key of another service.
"""

import base64
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal
from urllib.parse import unquote

from skillmeter.errors import ConfigError
from skillmeter.parsers import TOKEN, URL, show

from ..config import DaemonSettings
from ..outgoing import is_open

TIMEOUT_MS: Final = 10_000  # as the OTLP specification has it
_LEAST_MS: Final = 100  # less was meant as seconds, as some SDKs read it
_MOST_MS: Final = 600_000

Signal = Literal["metrics", "logs"]


@dataclass(frozen=True, slots=True)
class Target:
    """Where to post. Its repr shows no header."""

    url: str
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    timeout_s: float = TIMEOUT_MS / 1000
    gzip: bool = False
    ca_file: Path | None = None
    client_cert_file: Path | None = None
    client_key_file: Path | None = None

    @property
    def is_open(self) -> bool:
        """Whether what is sent can be read on the way."""
        return is_open(self.url)

    def scrub(self, text: str) -> str:
        """Text of the receiver without what was sent to it in headers, should it repeat them."""
        for secret in sorted(_secrets(self.headers), key=len, reverse=True):
            text = text.replace(secret, "[REDACTED]")
        return text


def resolve(signal: Signal, settings: DaemonSettings, env: Mapping[str, str]) -> Target:
    """Raises ConfigError with every mistake in the standard variables."""
    reader = _Standard(signal, env)
    from_standard = settings.otlp_endpoint is None
    if from_standard:
        reader.check_protocol()
    found = Target(
        url=_url(settings, signal),
        headers={**(reader.headers() if from_standard else {}), **_basic(settings)},
        timeout_s=reader.timeout_s(),
        gzip=reader.gzip(),
        ca_file=reader.file("CERTIFICATE"),
        client_cert_file=reader.file("CLIENT_CERTIFICATE"),
        client_key_file=reader.file("CLIENT_KEY"),
    )
    if found.client_key_file and not found.client_cert_file:
        reader.problems.append(
            "OTEL_EXPORTER_OTLP_CLIENT_KEY: means nothing without OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE"
        )
    if reader.problems:
        raise ConfigError(reader.problems)
    return found


def resolve_all(settings: DaemonSettings, env: Mapping[str, str]) -> dict[Signal, Target]:
    """The targets of everything that is to be sent. Raises ConfigError with every mistake, each once."""
    signals: list[Signal] = ["metrics", "logs"] if settings.otlp_logs else ["metrics"]
    targets: dict[Signal, Target] = {}
    problems: dict[str, None] = {}  # in order; most variables are for both signals
    for signal in signals:
        try:
            targets[signal] = resolve(signal, settings, env)
        except ConfigError as error:
            problems |= dict.fromkeys(error.problems)
    if problems:
        raise ConfigError(list(problems))
    return targets


def _url(settings: DaemonSettings, signal: Signal) -> str:
    url = settings.otlp_metrics_url if signal == "metrics" else settings.otlp_logs_url
    if url is None:
        raise ConfigError([f"OTLP_ENDPOINT: is needed to send {signal}"])
    return str(URL.parse(url))


def _basic(settings: DaemonSettings) -> dict[str, str]:
    if settings.otlp_instance_id is None or settings.otlp_token is None:
        return {}
    pair = f"{settings.otlp_instance_id}:{settings.otlp_token.reveal()}"
    return {"Authorization": f"Basic {base64.b64encode(pair.encode()).decode()}"}


def _secrets(headers: Mapping[str, str]) -> set[str]:
    """Every header's value, what follows its scheme, and the password in Basic credentials."""
    secrets = set(headers.values())
    for value in headers.values():
        scheme, _, credentials = value.partition(" ")
        secrets.add(credentials)
        if scheme.lower() == "basic":
            secrets.update(_password(credentials))
    return secrets - {""}


def _password(credentials: str) -> list[str]:
    try:
        return [base64.b64decode(credentials, validate=True).decode().partition(":")[2]]
    except ValueError:
        return []


class _Standard:
    """The OTEL_EXPORTER_OTLP_* variables for one signal; an empty one counts as not set."""

    def __init__(self, signal: Signal, env: Mapping[str, str]) -> None:
        self.problems: list[str] = []
        self._prefixes = (f"OTEL_EXPORTER_OTLP_{signal.upper()}_", "OTEL_EXPORTER_OTLP_")
        self._env = env

    def check_protocol(self) -> None:
        name, protocol = self._find("PROTOCOL")
        if protocol not in ("", "http/protobuf"):
            self.problems.append(f"{name}: only http/protobuf can be sent, not {show(protocol)}")

    def headers(self) -> dict[str, str]:
        """`key=value,key=value`, percent-encoded. A mistake is reported without the text, which may be a secret."""
        name, text = self._find("HEADERS")
        headers = {}
        for part in filter(None, (part.strip() for part in text.split(","))):
            key, equals, value = part.partition("=")
            key, value = unquote(key).strip(), unquote(value).strip()
            if equals and _is_token(key) and value.isascii() and value.isprintable():
                headers[key] = value
            else:
                self.problems.append(f"{name}: must be key=value pairs separated by commas")
        return headers

    def timeout_s(self) -> float:
        name, text = self._find("TIMEOUT")
        if not text:
            return TIMEOUT_MS / 1000
        if text.isdecimal() and _LEAST_MS <= int(text) <= _MOST_MS:
            return int(text) / 1000
        self.problems.append(f"{name}: must be {_LEAST_MS} to {_MOST_MS} milliseconds, not {show(text)}")
        return TIMEOUT_MS / 1000

    def gzip(self) -> bool:
        name, text = self._find("COMPRESSION")
        if text not in ("", "none", "gzip"):
            self.problems.append(f"{name}: must be gzip or none, not {show(text)}")
        return text == "gzip"

    def file(self, what: str) -> Path | None:
        name, text = self._find(what)
        if text and not Path(text).is_file():
            self.problems.append(f"{name}: there is no file {show(text)}")
        return Path(text) if text else None

    def _find(self, what: str) -> tuple[str, str]:
        """The variable that is set, and its text."""
        for prefix in self._prefixes:
            if text := self._env.get(prefix + what, "").strip():
                return prefix + what, text
        return self._prefixes[-1] + what, ""


def _is_token(key: str) -> bool:
    """Whether it can be the name of a header."""
    try:
        TOKEN.parse(key)
    except ValueError:
        return False
    return not set(key) & set('"(),/:;<=>?@[\\]{}')
