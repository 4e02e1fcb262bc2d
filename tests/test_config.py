"""The daemon's settings: the documented defaults, what goes together, and no secret in anything that is shown."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skillmeter._version import __version__
from skillmeter.errors import ConfigError
from skillmeter.settings import CLIENT_TABLE, DAEMON_KEYS, ClientSettings, Setting, keys
from skillmeterd.config import DAEMON_TABLE, TABLE, DaemonSettings, effective, find_database

KEY = "rq:rM>}U?@Lns47E1%kR.o@n%FcmmsL/@{H8]yf7"
OTHER_KEY = "9M#(^yd]nx?$]r?EKh5u.lu<w{rfzu&mx=:H5puZ"
GRAFANA = {"OTLP_ENDPOINT": "https://otlp.example/otlp/", "OTLP_INSTANCE_ID": "123", "OTLP_TOKEN": "glc_hunter2"}


def read(env: dict[str, str] | None = None, **flags: object) -> DaemonSettings:
    """The settings of a daemon that user ada starts."""
    return DaemonSettings.from_environment({"HOME": "/home/ada", **(env or {})}, **flags)


def mistake(env: dict[str, str], **flags: object) -> str:
    """What is told of settings that are wrong in one way."""
    with pytest.raises(ConfigError) as caught:
        read(env, **flags)
    (problem,) = caught.value.problems
    return problem


def test_defaults() -> None:
    """Without any setting the daemon keeps 90 days at home and listens on loopback alone."""
    settings = read()
    assert settings.db_path == Path("/home/ada/.toolweaver/analytics.db")
    assert settings.retention_days == 90
    assert settings.metric_labels == ("skill_id", "org_id")
    assert settings.max_series == 10_000
    assert (settings.prometheus_enabled, settings.prometheus_host, settings.prometheus_port) == (
        True,
        "127.0.0.1",
        8000,
    )
    assert (settings.otlp_push_interval_s, settings.otlp_logs) == (60.0, False)
    assert (settings.otlp_service_name, settings.otlp_service_version) == ("toolweaver", __version__)
    assert settings.log_level == "info"
    assert settings.http_token is settings.otlp_token is settings.wandb_api_key is settings.curve_secret is None


def test_client_and_daemon_agree_by_default() -> None:
    """What both need - socket, spool, backend - they find in the same place from the same environment."""
    env = {"HOME": "/home/ada", "ANALYTICS_BACKEND": "prometheus"}
    daemon, client = DaemonSettings.from_environment(env), ClientSettings.from_environment(env)
    shared = [row.field for row in CLIENT_TABLE]
    assert [getattr(daemon, field) for field in shared] == [getattr(client, field) for field in shared]


def test_the_client_knows_the_daemons_keys() -> None:
    """The list by which a client tells the daemon's keys from typing mistakes is the daemon's table."""
    assert keys(DAEMON_TABLE) == DAEMON_KEYS


def test_each_setting_has_one_name_and_a_field() -> None:
    """The table and the struct are the same settings, and none is named twice."""
    names, fields = [row.name for row in TABLE], [row.field for row in TABLE]
    assert len(set(names)) == len(set(fields)) == len(TABLE)
    assert {*fields, "config_path", "sources"} == set(DaemonSettings.__struct_fields__)


def test_flags_are_named_as_such() -> None:
    """What the command line gave is told as a flag."""
    assert read(prometheus_port=0).sources["PROMETHEUS_PORT"] == "flag"
    assert mistake({}, prometheus_port=-1).startswith("PROMETHEUS_PORT (flag): must be a whole number")


def test_an_unknown_key_of_the_file_is_a_mistake(tmp_path: Path) -> None:
    """The daemon knows every key there is."""
    path = tmp_path / "settings.toml"
    path.write_text("prometheus_prot = 9000\n")
    assert mistake({"ANALYTICS_CONFIG": str(path)}).endswith("did you mean 'prometheus_port'?")


def test_tcp_beyond_the_host_needs_the_secret_key() -> None:
    """The daemon does not listen to other machines without CURVE."""
    problem = mistake({"ANALYTICS_ENDPOINT": "tcp://0.0.0.0:5555"})
    assert "ANALYTICS_CURVE_SECRET_FILE" in problem
    assert "ANALYTICS_CURVE_CLIENT_KEYS" in problem
    keys = {"ANALYTICS_CURVE_SECRET": KEY, "ANALYTICS_CURVE_CLIENT_KEYS": f"{KEY}, {KEY}"}
    settings = read({"ANALYTICS_ENDPOINT": "tcp://0.0.0.0:5555", **keys})
    assert settings.curve_secret is not None
    assert settings.curve_client_keys == (KEY,)


@pytest.mark.parametrize(
    ("env", "flags", "found"),
    [
        ({}, {}, "/home/ada/.toolweaver/analytics.db"),
        ({"ANALYTICS_ENDPOINT": "ipc:///run/x.sock"}, {}, "/home/ada/.toolweaver/analytics.db"),
        ({"ANALYTICS_ENDPOINT": "tcp://127.0.0.1:5555"}, {}, None),
        ({"ANALYTICS_ENDPOINT": "tcp://db.example:5555", "ANALYTICS_CURVE_SERVER_KEY": KEY}, {}, None),
        ({"ANALYTICS_ENDPOINT": "tcp://db.example:5555"}, {"db_path": "/copy.db"}, "/copy.db"),
        ({"ANALYTICS_ENDPOINT": "tcp://db.example:5555", "ANALYTICS_DB_PATH": "/copy.db"}, {}, "/copy.db"),
        (
            {"ANALYTICS_ENDPOINT": "tcp://0.0.0.0:5555", "ANALYTICS_CURVE_SECRET": KEY},
            {},
            "/home/ada/.toolweaver/analytics.db",
        ),
    ],
)
def test_where_the_database_is(env: dict[str, str], flags: dict[str, str], found: str | None) -> None:
    """With the tcp address of a daemon alone it is elsewhere; a file that is named, and a daemon's key, are of here."""
    assert find_database({"HOME": "/home/ada", **env}, **flags) == (found and Path(found))


@pytest.mark.parametrize("given", ["ANALYTICS_CURVE_SECRET", "ANALYTICS_CURVE_CLIENT_KEYS"])
def test_the_keys_of_the_daemon_need_each_other(given: str) -> None:
    """A secret alone would let in nobody; a list of clients alone would not guard anything."""
    problem = mistake({given: KEY})
    assert "ANALYTICS_CURVE_SECRET" in problem
    assert "ANALYTICS_CURVE_CLIENT_KEYS" in problem


def test_grafana_cloud() -> None:
    """The signal's path is added to the base address."""
    settings = read({"ANALYTICS_BACKEND": "otlp", **GRAFANA})
    assert settings.otlp_metrics_url == "https://otlp.example/otlp/v1/metrics"
    assert settings.otlp_logs_url == "https://otlp.example/otlp/v1/logs"


def test_the_standard_variables() -> None:
    """OTEL_EXPORTER_OTLP_* say where to send if OTLP_ENDPOINT does not: a base, or a signal's own address as it is."""
    base = read({"ANALYTICS_BACKEND": "otlp", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318/"})
    assert (base.otlp_metrics_url, base.otlp_logs_url) == ("http://c:4318/v1/metrics", "http://c:4318/v1/logs")
    own = read({"ANALYTICS_BACKEND": "otlp", "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT": "http://c:4318/m"})
    assert (own.otlp_metrics_url, own.otlp_logs_url) == ("http://c:4318/m", None)
    both = read({"ANALYTICS_BACKEND": "otlp", "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT": "http://c:4318/m", **GRAFANA})
    assert both.otlp_metrics_url == "https://otlp.example/otlp/v1/metrics"


def test_the_standard_variables_of_another_program_do_no_harm() -> None:
    """A daemon that sends no OTLP does not mind what a neighbour's exporter was told, and shows no password of it."""
    settings = read({"OTEL_EXPORTER_OTLP_ENDPOINT": "grpc://ada:hunter2@collector"})
    assert "hunter2" not in repr(settings) + str(list(effective(settings)))


@pytest.mark.parametrize(
    ("env", "name", "said"),
    [
        ({"ANALYTICS_BACKEND": "otlp"}, "ANALYTICS_BACKEND", "OTLP_ENDPOINT"),
        ({"ANALYTICS_BACKEND": "otlp", **GRAFANA, "OTLP_TOKEN": ""}, "OTLP_INSTANCE_ID", "without OTLP_TOKEN"),
        ({"OTLP_TOKEN": "hunter2"}, "OTLP_TOKEN", "without OTLP_INSTANCE_ID"),
        ({**GRAFANA, "OTLP_ENDPOINT": "https://otlp.example/v1/metrics"}, "OTLP_ENDPOINT", "base address"),
        (
            {"ANALYTICS_BACKEND": "otlp", "OTEL_EXPORTER_OTLP_ENDPOINT": "collector:4317"},
            "OTEL_EXPORTER_OTLP_ENDPOINT",
            "http://",
        ),
        (
            {"ANALYTICS_BACKEND": "otlp", "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT": "http://c/m", "OTLP_LOGS": "1"},
            "OTLP_LOGS",
            "OTEL_EXPORTER_OTLP_LOGS_ENDPOINT",
        ),
        ({"ANALYTICS_BACKEND": "prometheus", "PROMETHEUS_ENABLED": "0"}, "PROMETHEUS_ENABLED", "prometheus"),
        ({"PROMETHEUS_TLS_CERT_FILE": __file__}, "PROMETHEUS_TLS_CERT_FILE", "PROMETHEUS_TLS_KEY_FILE"),
        ({"PROMETHEUS_TLS_KEY_FILE": __file__}, "PROMETHEUS_TLS_KEY_FILE", "PROMETHEUS_TLS_CERT_FILE"),
        ({"PROMETHEUS_TLS_CLIENT_CA_FILE": __file__}, "PROMETHEUS_TLS_CLIENT_CA_FILE", "PROMETHEUS_TLS_CERT_FILE"),
        ({"PROMETHEUS_TLS_CERT_FILE": "/none.pem"}, "PROMETHEUS_TLS_CERT_FILE", "exists"),
        ({"ANALYTICS_METRIC_LABELS": "org_id"}, "ANALYTICS_METRIC_LABELS", "skill_id"),
        ({"ANALYTICS_METRIC_LABELS": "skill_id,color"}, "ANALYTICS_METRIC_LABELS", "user_id"),
        ({"ANALYTICS_DB_RETENTION_DAYS": "forever"}, "ANALYTICS_DB_RETENTION_DAYS", "whole number"),
        ({"OTLP_PUSH_INTERVAL": "0"}, "OTLP_PUSH_INTERVAL", "seconds"),
        ({"ANALYTICS_LOG_LEVEL": "loud"}, "ANALYTICS_LOG_LEVEL", "debug"),
        ({"WANDB_MODE": "sideways"}, "WANDB_MODE", "offline"),
    ],
)
def test_what_does_not_go_together(env: dict[str, str], name: str, said: str) -> None:
    """A setting that means nothing, alone or with the others, is one mistake that says what is missing."""
    problem = mistake(env)
    assert problem.startswith(f"{name} (")
    assert said in problem
    assert "hunter2" not in problem


SECRETS = [row for row in TABLE if row.secret]
NEEDED = {
    "ANALYTICS_CURVE_CLIENT_SECRET": {"ANALYTICS_CURVE_SERVER_KEY": OTHER_KEY},
    "ANALYTICS_CURVE_SECRET": {"ANALYTICS_CURVE_CLIENT_KEYS": OTHER_KEY},
    "OTLP_TOKEN": {"OTLP_INSTANCE_ID": "123"},
}
"""What a secret means nothing without."""


@pytest.mark.parametrize("row", SECRETS, ids=[row.name for row in SECRETS])
@pytest.mark.parametrize("from_file", [False, True])
def test_no_secret_is_ever_shown(row: Setting, from_file: bool, tmp_path: Path) -> None:
    """A secret, given directly or as a file, is in the settings and in no text made of them, not one character."""
    path = tmp_path / "secret"
    path.write_text(f"{KEY}\n")
    env = {f"{row.name}_FILE": str(path)} if from_file else {row.name: KEY}
    settings = read({**NEEDED.get(row.name, {}), **env})
    assert getattr(settings, row.field).reveal() == KEY
    assert KEY not in f"{settings!s}{settings!r}"
    shown = {name: value for name, value, _ in effective(settings)}
    assert shown[row.name] == "[REDACTED]"


@pytest.mark.parametrize("row", SECRETS, ids=[row.name for row in SECRETS])
def test_a_mistaken_secret_is_not_repeated(row: Setting) -> None:
    """The mistake in a secret says what it must be, not what it is."""
    assert "hunter2" not in mistake({row.name: "hunter2 \x00"})


def test_effective_names_value_and_source() -> None:
    """Each setting is shown once, as a person would write it, with its source."""
    shown = list(effective(read({"ANALYTICS_METRIC_LABELS": "skill_id", "OTLP_PUSH_INTERVAL": "1.5"}, otlp_logs=True)))
    assert [name for name, _, _ in shown] == ["ANALYTICS_CONFIG", *(row.name for row in TABLE)]
    assert ("ANALYTICS_METRIC_LABELS", "skill_id", "environment") in shown
    assert ("OTLP_PUSH_INTERVAL", "1.5", "environment") in shown
    assert ("OTLP_LOGS", "true", "flag") in shown
    assert ("WANDB_PROJECT", None, "default") in shown


def test_effective_is_safe_to_print() -> None:
    """A path with control characters moves no cursor and ends no line where it is shown."""
    assert ("ANALYTICS_DB_PATH", "/a\\n\\x1bb", "flag") in list(effective(read(db_path="/a\n\x1bb")))


NAMES = [row.name for row in TABLE] + [f"{row.name}_FILE" for row in SECRETS]


@given(
    env=st.dictionaries(st.sampled_from(NAMES), st.text() | st.sampled_from(["otlp", "1", "http://x", "/etc/hosts"]))
)
def test_fuzz_the_environment(env: dict[str, str]) -> None:
    """Whatever the variables hold, the settings are made and can be shown, or a ConfigError is raised."""
    try:
        settings = read(env)
    except ConfigError as error:
        assert all(problem.isprintable() for problem in error.problems)
    else:
        assert all(value is None or value.isprintable() for _, value, _ in effective(settings))
