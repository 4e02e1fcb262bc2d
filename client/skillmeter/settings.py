"""Settings: what the operator may choose, read once at the edge into a frozen struct.

A setting has one name, that of its environment variable. In a TOML file and as an argument its key is the same name in
lower case, without `analytics_`:

    argument or flag             from_environment(spool_max_bytes=2**24)
    > environment                ANALYTICS_SPOOL_MAX_BYTES=16MiB
    > file of ANALYTICS_CONFIG   spool_max_bytes = "16MiB"
    > default                    64MiB

An empty variable counts as not set. A secret may be given as the path of a file that holds it: NAME_FILE, or key_file.
All mistakes are collected and raised together.
"""

import os
import stat
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final, Literal, Self

import msgspec

from .errors import ConfigError
from .parsers import CURVE_KEY, ENDPOINT, FLAG, PATH, Kind, Secret, choice, choices, leaves_the_host, masked, show, size

BACKENDS: Final = ("sqlite", "otlp", "prometheus", "wandb")
CONFIG: Final = "ANALYTICS_CONFIG"
FILE_MAX_BYTES: Final = 2**20  # a TOML file or a secret; whatever is larger was named by mistake

Default = Callable[[Mapping[str, str], Mapping[str, Any]], str] | str | None
"""The text of a default, or how to find it from the environment and from the fields above it in the table."""


class Setting(msgspec.Struct, frozen=True):
    """One setting: a row of the table."""

    name: str
    field: str
    kind: Kind
    default: Default
    help: str
    secret: bool = False

    @property
    def key(self) -> str:
        """Its name in a TOML file and as an argument."""
        return self.name.lower().removeprefix("analytics_")


def keys(table: Iterable[Setting]) -> frozenset[str]:
    """The keys that a TOML file may hold for this table."""
    return frozenset(key for row in table for key in ([row.key, f"{row.key}_file"] if row.secret else [row.key]))


def home(env: Mapping[str, str]) -> str:
    """The home folder: HOME, else what the system knows of this user."""
    folder = env.get("HOME") or os.path.expanduser("~")
    if folder == "~":  # a container may run as a user that the system does not know
        raise ValueError("needs a home folder: set HOME, or this setting")
    return folder


def _system_or_home(system: str, under_home: str) -> Default:
    # Not "if it is writable": the daemon would look in one folder while this process writes to the other.
    return lambda env, _: system if os.path.isdir(system) else f"{home(env)}/.toolweaver/{under_home}"


CLIENT_TABLE: Final = (
    Setting(
        "ANALYTICS_BACKEND", "backends", choices(*BACKENDS), "sqlite", "where usage is seen; SQLite always keeps it"
    ),
    Setting("ANALYTICS_RUNTIME_DIR", "runtime_dir", PATH, _system_or_home("/run/skillmeter", "run"), "socket and lock"),
    Setting(
        "ANALYTICS_ENDPOINT",
        "endpoint",
        ENDPOINT,
        lambda _, fields: f"ipc://{fields['runtime_dir']}/skillmeter.sock",
        "where the daemon listens: ipc://PATH or tcp://HOST:PORT",
    ),
    Setting("ANALYTICS_SPOOL_DIR", "spool_dir", PATH, _system_or_home("/var/spool/skillmeter", "spool"), "journals"),
    Setting(
        "ANALYTICS_SPOOL_MAX_BYTES", "spool_max_bytes", size(256 * 1024), "64MiB", "room for one process's journal"
    ),
    Setting(
        "ANALYTICS_DURABILITY",
        "durability",
        choice("process", "fsync"),
        "process",
        "what an accepted event survives: process (SIGKILL) or fsync (power loss)",
    ),
    Setting("ANALYTICS_STRICT", "strict", FLAG, "false", "raise on invalid events instead of counting them"),
    Setting(
        "ANALYTICS_CURVE_SERVER_KEY",
        "curve_server_key",
        CURVE_KEY,
        None,
        "the daemon's public CURVE key, by which clients on other machines know it",
    ),
    Setting(
        "ANALYTICS_CURVE_CLIENT_SECRET",
        "curve_client_secret",
        CURVE_KEY,
        None,
        "a client's own secret CURVE key; the daemon has its public one in ANALYTICS_CURVE_CLIENT_KEYS",
        secret=True,
    ),
)

DAEMON_KEYS: Final = frozenset(
    (
        "curve_client_keys",
        "curve_secret",
        "curve_secret_file",
        "db_path",
        "db_retention_days",
        "http_token",
        "http_token_file",
        "log_level",
        "max_series",
        "metric_labels",
        "otel_exporter_otlp_endpoint",
        "otel_exporter_otlp_logs_endpoint",
        "otel_exporter_otlp_metrics_endpoint",
        "otlp_endpoint",
        "otlp_instance_id",
        "otlp_logs",
        "otlp_push_interval",
        "otlp_service_name",
        "otlp_service_version",
        "otlp_token",
        "otlp_token_file",
        "prometheus_enabled",
        "prometheus_host",
        "prometheus_port",
        "prometheus_tls_cert_file",
        "prometheus_tls_client_ca_file",
        "prometheus_tls_key_file",
        "wandb_api_key",
        "wandb_api_key_file",
        "wandb_entity",
        "wandb_mode",
        "wandb_project",
    )
)
"""What a TOML file may hold for the daemon. The client leaves these alone, and knows them to tell a typing mistake."""


class ClientSettings(msgspec.Struct, frozen=True, kw_only=True):
    """What a client goes by. `sources` says, by variable, where each value came from.

    Paths are absolute, and plain text: pathlib would be a tenth of what recording costs a short process.
    """

    backends: tuple[str, ...]
    endpoint: str
    runtime_dir: str
    spool_dir: str
    spool_max_bytes: int
    durability: Literal["process", "fsync"]
    strict: bool
    curve_server_key: str | None
    curve_client_secret: Secret | None
    config_path: str | None
    sources: dict[str, str]

    def __repr__(self) -> str:
        fields = (f"{name}={masked(repr(getattr(self, name)))}" for name in self.__struct_fields__ if name != "sources")
        return f"{type(self).__name__}({', '.join(fields)})"

    @classmethod
    def from_environment(cls, env: Mapping[str, str] = os.environ, **arguments: object) -> Self:
        """Read the settings now. An argument of None is not given. Raises ConfigError with every mistake."""
        reader = Reader(env, arguments, "argument")
        reader.read(CLIENT_TABLE, also_in_file=DAEMON_KEYS)
        if reader.endpoint_leaves_host() and reader.lacks("curve_server_key", "curve_client_secret"):
            reader.mistake(
                "ANALYTICS_ENDPOINT",
                "tcp beyond this host needs CURVE keys: the daemon's public one in ANALYTICS_CURVE_SERVER_KEY, and this"
                " client's own in ANALYTICS_CURVE_CLIENT_SECRET or ANALYTICS_CURVE_CLIENT_SECRET_FILE",
            )
        reader.needs_each_other("ANALYTICS_CURVE_SERVER_KEY", "ANALYTICS_CURVE_CLIENT_SECRET")
        return cls(**reader.finish())


class Reader:
    """One pass over the sources, which notes mistakes instead of stopping at the first."""

    def __init__(self, env: Mapping[str, str], given: Mapping[str, object], given_from: str) -> None:
        self.fields: dict[str, Any] = {}
        self._env = env
        self._given = {key: value for key, value in given.items() if value is not None}
        self._given_from = given_from
        self._file: dict[str, Any] = {}
        self._sources: dict[str, str] = {}
        self._problems: list[str] = []
        self._field: dict[str, str] = {}  # of each setting, by its variable

    def read(self, table: Iterable[Setting], *, also_in_file: frozenset[str] = frozenset()) -> None:
        """Read every setting of the table into `fields`. Raises TypeError for an argument that names none."""
        table = tuple(table)
        self._open_file(keys(table) | also_in_file)
        if unknown := sorted(self._given.keys() - keys(table)):
            raise TypeError(
                f"there is no setting {', '.join(map(repr, unknown))}; there are {', '.join(sorted(keys(table)))}"
            )
        for setting in table:
            self._field[setting.name] = setting.field
            self._read_one(setting)

    def mistake(self, name: str, problem: str) -> None:
        """Note a mistake in the value of a setting that was read."""
        self._problems.append(f"{name} ({self._sources.get(name, 'default')}): {problem}")

    def endpoint_leaves_host(self) -> bool:
        """Whether the endpoint, if it was right, can be reached from other machines."""
        return leaves_the_host(self.fields.get("endpoint", ""))

    def lacks(self, *fields: str) -> bool:
        """Whether one of these is not given. One with a mistake was given."""
        return any(self.fields.get(field, "mistaken") is None for field in fields)

    def needs(self, name: str, other: str) -> None:
        """Note a mistake if one setting is given without another that it means nothing without."""
        if self.fields.get(self._field[name]) is not None and self.lacks(self._field[other]):
            self.mistake(name, f"means nothing without {other}")

    def needs_each_other(self, name: str, other: str) -> None:
        """Note a mistake if one of two settings is given without the other."""
        self.needs(name, other)
        self.needs(other, name)

    def finish(self) -> dict[str, Any]:
        """The fields of the settings struct. Raises ConfigError if anything was wrong."""
        if self._problems:
            raise ConfigError(self._problems)
        return {**self.fields, "sources": self._sources}

    def salvage(self, table: Iterable[Setting]) -> tuple[dict[str, Any], list[str]]:
        """The fields, with its default for each setting that is mistaken; and the mistakes. Raises ValueError."""
        for setting in table:
            if setting.field not in self.fields:
                text = setting.default(self._env, self.fields) if callable(setting.default) else setting.default
                self.fields[setting.field] = None if text is None else self._value(setting, text)
                self._sources[setting.name] = "default"
        return {**self.fields, "sources": self._sources}, self._problems

    def _read_one(self, setting: Setting) -> None:
        text: str | None = None
        try:
            text = self._find(setting)
            self.fields[setting.field] = None if text is None else self._value(setting, text)
        except KeyError:
            pass  # its default rests on a field that is itself mistaken, which was said already
        except (ValueError, OSError) as error:
            shown = "" if text is None or setting.secret else f", not {show(text)}"
            self.mistake(setting.name, f"{_reason(error)}{shown}")

    def _value(self, setting: Setting, text: str) -> object:
        if setting.kind.is_path and (text == "~" or text.startswith("~/")):
            text = home(self._env) + text[1:]
        value = setting.kind.parse(text)
        return Secret(value) if setting.secret else value

    def _find(self, setting: Setting) -> str | None:
        """The text of a setting from the first source that has it."""
        for values, name, source in (
            (self._given, setting.key, self._given_from),
            (self._env, setting.name, "environment"),
            (self._file, setting.key, str(self.fields["config_path"])),
        ):
            value = values.get(name)
            path = values.get(name + ("_FILE" if name.isupper() else "_file")) if setting.secret else None
            if values is self._env:
                value, path = value or None, path or None
            if value is None and path is None:
                continue
            self._sources[setting.name] = source
            if path is None:
                return setting.kind.text_of(value)
            self._sources[setting.name] = f"{source}, from {show(str(path))}"
            if value is not None:
                raise ValueError(f"is given twice, directly and as a file: {show(str(path))}")
            return _read(PATH.text_of(path)).decode().strip()
        self._sources[setting.name] = "default"
        return setting.default(self._env, self.fields) if callable(setting.default) else setting.default

    def _open_file(self, known: frozenset[str]) -> None:
        setting = Setting(CONFIG, "config_path", PATH, None, "the TOML file")
        self.fields["config_path"] = None
        self._read_one(setting)
        self._given.pop(setting.key, None)
        path = self.fields["config_path"]
        if path is None:
            return
        try:
            self._file = _load_toml(path)
        except (ValueError, OSError) as error:
            self.mistake(CONFIG, f"cannot use {show(path)}: {_reason(error)}")
        for key in self._file.keys() - known:
            self._problems.append(f"{show(path)}: there is no setting {show(key)}{_did_you_mean(key, known)}")
        self._problems.sort()


def _load_toml(path: str) -> dict[str, Any]:
    import tomllib  # only if a file is named: most clients never need it

    try:
        return tomllib.loads(_read(path).decode())
    except RecursionError:
        raise ValueError("is nested too deeply") from None


def _read(path: str) -> bytes:
    if not stat.S_ISREG(os.stat(path).st_mode):  # a FIFO would block for ever, a device never end
        raise ValueError("is not a regular file")
    with open(path, "rb") as file:
        content = file.read(FILE_MAX_BYTES + 1)
    if len(content) > FILE_MAX_BYTES:
        raise ValueError(f"is larger than {FILE_MAX_BYTES} bytes")
    return content


def _reason(error: ValueError | OSError) -> str:
    if isinstance(error, UnicodeDecodeError):  # its text holds a byte of the content
        return f"byte {error.start} is not UTF-8"
    return (isinstance(error, OSError) and error.strerror) or str(error)


def _did_you_mean(key: str, known: frozenset[str]) -> str:
    import difflib  # only for a mistake

    wanted = key.lower().removeprefix("analytics_")
    close = [wanted] if wanted in known else difflib.get_close_matches(wanted, sorted(known), n=1)
    return f"; did you mean {close[0]!r}?" if close else ""
