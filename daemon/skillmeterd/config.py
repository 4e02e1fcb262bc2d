"""Configuration: what the operator may choose for the daemon, on top of what clients and daemon share.

How a setting is named, given and checked is described in `skillmeter.settings`; this is the daemon's part of the table.
"""

import difflib
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final, Literal, Self

from skillmeter._version import __version__
from skillmeter.parsers import (
    CURVE_KEY,
    CURVE_KEYS,
    EXISTING_FILE,
    FLAG,
    HOST,
    PATH,
    TEXT,
    TOKEN,
    URL,
    Kind,
    Secret,
    choice,
    choices,
    masked,
    printable,
    seconds,
    show,
    whole,
)
from skillmeter.settings import CLIENT_TABLE, CONFIG, ClientSettings, Reader, Setting, home


def _as_path(kind: Kind) -> Kind:
    """The same as a Path, which clients are spared: see ClientSettings."""
    return Kind(lambda text: Path(kind.parse(text)), is_path=True)


_FILE: Final = _as_path(EXISTING_FILE)

DAEMON_TABLE: Final = (
    Setting(
        "ANALYTICS_CURVE_SECRET",
        "curve_secret",
        CURVE_KEY,
        None,
        "the daemon's secret CURVE key, needed to listen on tcp beyond this host",
        secret=True,
    ),
    Setting(
        "ANALYTICS_CURVE_CLIENT_KEYS",
        "curve_client_keys",
        CURVE_KEYS,
        None,
        "the public CURVE keys of the clients that may connect, comma-separated",
    ),
    Setting(
        "ANALYTICS_DB_PATH",
        "db_path",
        _as_path(PATH),
        lambda env, _: f"{home(env)}/.toolweaver/analytics.db",
        "the SQLite file",
    ),
    Setting(
        "ANALYTICS_DB_RETENTION_DAYS",
        "retention_days",
        whole(0, 36_500),
        "90",
        "days until an event is deleted, its totals staying; 0 for never",
    ),
    Setting(
        "ANALYTICS_METRIC_LABELS",
        "metric_labels",
        choices("skill_id", "org_id", "user_id", needed=("skill_id",)),
        "skill_id,org_id",
        "labels of the skill metrics; user_id makes a series for each user",
    ),
    Setting(
        "ANALYTICS_MAX_SERIES",
        "max_series",
        whole(1, 10_000_000),
        "10000",
        "how many series a metric may have; the rest is counted together as overflow",
    ),
    Setting(
        "ANALYTICS_HTTP_TOKEN",
        "http_token",
        TOKEN,
        None,
        "what callers from other machines show to see the page and the API",
        secret=True,
    ),
    Setting(
        "ANALYTICS_LOG_LEVEL",
        "log_level",
        choice("debug", "info", "warning", "error"),
        "info",
        "the least that the daemon's log says",
    ),
    Setting("OTLP_ENDPOINT", "otlp_endpoint", URL, None, "base address; /v1/metrics and /v1/logs are added"),
    Setting("OTLP_INSTANCE_ID", "otlp_instance_id", TEXT, None, "user of the Basic authentication"),
    Setting("OTLP_TOKEN", "otlp_token", TOKEN, None, "password of the Basic authentication", secret=True),
    Setting("OTLP_PUSH_INTERVAL", "otlp_push_interval_s", seconds(0.1, 86_400), "60", "seconds between exports"),
    Setting("OTLP_LOGS", "otlp_logs", FLAG, "false", "also forward each event as a log record"),
    Setting("OTLP_SERVICE_NAME", "otlp_service_name", TEXT, "toolweaver", "resource attribute service.name"),
    Setting("OTLP_SERVICE_VERSION", "otlp_service_version", TEXT, __version__, "resource attribute service.version"),
    # As text: these may be there for another program, and are checked only if this one is to use them.
    Setting("OTEL_EXPORTER_OTLP_ENDPOINT", "otel_endpoint", TEXT, None, "the standard name for OTLP_ENDPOINT"),
    Setting("OTEL_EXPORTER_OTLP_METRICS_ENDPOINT", "otel_metrics_endpoint", TEXT, None, "full address for metrics"),
    Setting("OTEL_EXPORTER_OTLP_LOGS_ENDPOINT", "otel_logs_endpoint", TEXT, None, "full address for log records"),
    Setting("PROMETHEUS_ENABLED", "prometheus_enabled", FLAG, "true", "whether the daemon listens on HTTP"),
    Setting("PROMETHEUS_HOST", "prometheus_host", HOST, "127.0.0.1", "address of the HTTP listener"),
    Setting("PROMETHEUS_PORT", "prometheus_port", whole(0, 65_535), "8000", "its port; 0 takes a free one"),
    Setting("PROMETHEUS_TLS_CERT_FILE", "tls_cert_file", _FILE, None, "its certificate, for HTTPS"),
    Setting("PROMETHEUS_TLS_KEY_FILE", "tls_key_file", _FILE, None, "the certificate's key"),
    Setting(
        "PROMETHEUS_TLS_CLIENT_CA_FILE",
        "tls_client_ca_file",
        _FILE,
        None,
        "who must have signed a caller's certificate; without it callers need none",
    ),
    Setting("WANDB_API_KEY", "wandb_api_key", TOKEN, None, "W&B's key", secret=True),
    Setting("WANDB_PROJECT", "wandb_project", TEXT, None, "W&B's project"),
    Setting("WANDB_ENTITY", "wandb_entity", TEXT, None, "W&B's user or team"),
    Setting("WANDB_MODE", "wandb_mode", choice("online", "offline", "shared", "disabled"), None, "W&B's mode"),
)
TABLE: Final = CLIENT_TABLE + DAEMON_TABLE


class DaemonSettings(ClientSettings, frozen=True, kw_only=True):
    """What the daemon goes by."""

    curve_secret: Secret | None
    curve_client_keys: tuple[str, ...] | None
    db_path: Path
    retention_days: int
    metric_labels: tuple[str, ...]
    max_series: int
    http_token: Secret | None
    log_level: Literal["debug", "info", "warning", "error"]
    otlp_endpoint: str | None
    otlp_instance_id: str | None
    otlp_token: Secret | None
    otlp_push_interval_s: float
    otlp_logs: bool
    otlp_service_name: str
    otlp_service_version: str
    otel_endpoint: str | None
    otel_metrics_endpoint: str | None
    otel_logs_endpoint: str | None
    prometheus_enabled: bool
    prometheus_host: str
    prometheus_port: int
    tls_cert_file: Path | None
    tls_key_file: Path | None
    tls_client_ca_file: Path | None
    wandb_api_key: Secret | None
    wandb_project: str | None
    wandb_entity: str | None
    wandb_mode: Literal["online", "offline", "shared", "disabled"] | None

    @classmethod
    def from_environment(cls, env: Mapping[str, str] = os.environ, **arguments: object) -> Self:
        """Read the settings now; arguments are the command line's flags. Raises ConfigError with every mistake."""
        return cls(**_read(env, arguments).finish())

    @classmethod
    def salvaged(cls, env: Mapping[str, str] = os.environ, **arguments: object) -> tuple[Self, list[str]]:
        """For who looks for mistakes: the settings, with the default for each that is mistaken; and every mistake."""
        reader = _read(env, arguments)
        try:
            fields, problems = reader.salvage(TABLE)
        except ValueError:  # not even a default can be had
            fields, problems = reader.finish(), []
        return cls(**fields), problems

    @property
    def otlp_metrics_url(self) -> str | None:
        """Where metrics are sent. OTLP_ENDPOINT comes first, then the standard variables."""
        return self._otlp_url("metrics", self.otel_metrics_endpoint)

    @property
    def otlp_logs_url(self) -> str | None:
        """Where log records are sent. OTLP_ENDPOINT comes first, then the standard variables."""
        return self._otlp_url("logs", self.otel_logs_endpoint)

    def _otlp_url(self, signal: str, standard: str | None) -> str | None:
        if self.otlp_endpoint is None and standard is not None:
            return standard
        base = self.otlp_endpoint or self.otel_endpoint
        return base and f"{base.rstrip('/')}/v1/{signal}"


def find_database(env: Mapping[str, str] = os.environ, **arguments: object) -> Path | None:
    """For who only reads: the SQLite file, or None if the daemon is elsewhere, and the file with it.

    It is elsewhere if its address is tcp, and the settings name neither a file nor a daemon's secret key. Raises
    ConfigError with every mistake.
    """
    reader = Reader(env, arguments, "flag")
    reader.read(TABLE)
    fields = reader.finish()
    is_named = fields["sources"]["ANALYTICS_DB_PATH"] != "default" or fields["curve_secret"] is not None
    path: Path = fields["db_path"]
    return path if is_named or not fields["endpoint"].startswith("tcp://") else None


def effective(settings: DaemonSettings) -> Iterator[tuple[str, str | None, str]]:
    """Every setting: its variable, its value as text for people (None if it has none), and where that came from."""
    for name, field in [(CONFIG, "config_path"), *((row.name, row.field) for row in TABLE)]:
        value = getattr(settings, field)
        yield name, None if value is None else printable(masked(_text_of(value))), settings.sources[name]


def unknown_variables(env: Mapping[str, str]) -> list[str]:
    """Variables of the environment that look like settings and are none, each with the setting that may be meant."""
    known = {CONFIG, *(row.name for row in TABLE), *(f"{row.name}_FILE" for row in TABLE if row.secret)}
    found = []
    for name in sorted(env.keys() - known):
        close = difflib.get_close_matches(name, sorted(known), n=1, cutoff=0.8)
        # PROMETHEUS_ and OTLP_ are other programs' names too.
        if name.startswith("ANALYTICS_") or (close and name.startswith(("PROMETHEUS_", "OTLP_"))):
            found.append(f"{name}; did you mean {close[0]}?" if close else name)
    return found


def _read(env: Mapping[str, str], arguments: Mapping[str, object]) -> Reader:
    reader = Reader(env, arguments, "flag")
    reader.read(TABLE)
    _check_transport(reader)
    _check_http(reader)
    _check_otlp(reader)
    return reader


def _text_of(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return ",".join(value)
    return f"{value:g}" if isinstance(value, float) else str(value)


def _check_transport(reader: Reader) -> None:
    if reader.endpoint_leaves_host() and reader.lacks("curve_secret", "curve_client_keys"):
        reader.mistake(
            "ANALYTICS_ENDPOINT",
            "tcp beyond this host needs CURVE keys: the daemon's secret one in ANALYTICS_CURVE_SECRET or"
            " ANALYTICS_CURVE_SECRET_FILE, and its clients' public ones in ANALYTICS_CURVE_CLIENT_KEYS",
        )
    reader.needs_each_other("ANALYTICS_CURVE_SECRET", "ANALYTICS_CURVE_CLIENT_KEYS")
    reader.needs_each_other("ANALYTICS_CURVE_SERVER_KEY", "ANALYTICS_CURVE_CLIENT_SECRET")


def _check_http(reader: Reader) -> None:
    fields = reader.fields
    if "prometheus" in fields.get("backends", ()) and fields.get("prometheus_enabled") is False:
        reader.mistake("PROMETHEUS_ENABLED", "is off while ANALYTICS_BACKEND has prometheus: nothing could be scraped")
    reader.needs_each_other("PROMETHEUS_TLS_CERT_FILE", "PROMETHEUS_TLS_KEY_FILE")
    reader.needs("PROMETHEUS_TLS_CLIENT_CA_FILE", "PROMETHEUS_TLS_CERT_FILE")


def _check_otlp(reader: Reader) -> None:
    fields = reader.fields
    if (fields.get("otlp_endpoint") or "").endswith(("/v1/metrics", "/v1/logs")):
        reader.mistake("OTLP_ENDPOINT", "must be the base address: /v1/metrics and /v1/logs are added to it")
    reader.needs_each_other("OTLP_TOKEN", "OTLP_INSTANCE_ID")
    if "otlp" in fields.get("backends", ()) and fields.get("otlp_endpoint", "mistaken") is None:
        _check_standard_otlp(reader)


def _check_standard_otlp(reader: Reader) -> None:
    """Otlp is chosen and OTLP_ENDPOINT is not given: the standard variables have to say where to send."""
    fields = reader.fields
    if not fields.get("otel_endpoint") and not fields.get("otel_metrics_endpoint"):
        reader.mistake(
            "ANALYTICS_BACKEND",
            "otlp needs to know where to send: OTLP_ENDPOINT, or OTEL_EXPORTER_OTLP_ENDPOINT,"
            " or OTEL_EXPORTER_OTLP_METRICS_ENDPOINT",
        )
    elif fields.get("otlp_logs") and not fields.get("otel_endpoint") and not fields.get("otel_logs_endpoint"):
        reader.mistake("OTLP_LOGS", "needs to know where to send: OTLP_ENDPOINT, or OTEL_EXPORTER_OTLP_LOGS_ENDPOINT")
    for row in DAEMON_TABLE:
        if row.name.startswith("OTEL_") and (address := fields.get(row.field)):
            try:
                URL.parse(address)
            except ValueError as error:
                reader.mistake(row.name, f"{error}, not {show(address)}")
