"""OTLP target: the settings say where requests go and how, and no secret of theirs is ever shown."""

import base64
from pathlib import Path

import pytest

from skillmeter.errors import ConfigError
from skillmeterd.config import DaemonSettings
from skillmeterd.sinks.otlp_target import Signal, Target, resolve

STANDARD = "OTEL_EXPORTER_OTLP_"
GRAFANA = {"OTLP_ENDPOINT": "https://otlp.example/otlp", "OTLP_INSTANCE_ID": "42", "OTLP_TOKEN": "s3cr3t-token"}


def found(given: dict[str, str], signal: Signal = "metrics") -> Target:
    """The target that these variables make."""
    env = {"HOME": "/nowhere", **given}
    return resolve(signal, DaemonSettings.from_environment(env), env)


def problems(given: dict[str, str]) -> list[str]:
    """The mistakes in these variables."""
    with pytest.raises(ConfigError) as caught:
        found({f"{STANDARD}ENDPOINT": "http://h:4318", **given})
    return caught.value.problems


def test_the_settings_of_grafana_cloud_are_an_address_and_basic_credentials() -> None:
    """{endpoint}/v1/metrics, and instance id and token as user and password."""
    metrics, logs = found(GRAFANA), found(GRAFANA, "logs")
    assert metrics.url == "https://otlp.example/otlp/v1/metrics"
    assert logs.url == "https://otlp.example/otlp/v1/logs"
    scheme, credentials = metrics.headers["Authorization"].split()
    assert (scheme, base64.b64decode(credentials)) == ("Basic", b"42:s3cr3t-token")


def test_the_standard_variables_of_a_signal_come_before_the_common_ones(tmp_path: Path) -> None:
    """And the common ones hold where the signal has none of its own."""
    file = tmp_path / "ca.pem"
    file.write_text("x")
    env = {
        f"{STANDARD}ENDPOINT": "http://h:4318",
        f"{STANDARD}LOGS_ENDPOINT": "http://logs:1/custom",
        f"{STANDARD}HEADERS": "api-key=one, other=a%20b",
        f"{STANDARD}METRICS_HEADERS": "api-key=two",
        f"{STANDARD}TIMEOUT": "2500",
        f"{STANDARD}METRICS_TIMEOUT": "1000",
        f"{STANDARD}COMPRESSION": "gzip",
        f"{STANDARD}CERTIFICATE": str(file),
    }
    metrics, logs = found(env), found(env, "logs")
    assert (metrics.url, metrics.headers, metrics.timeout_s) == ("http://h:4318/v1/metrics", {"api-key": "two"}, 1.0)
    assert (logs.url, logs.headers) == ("http://logs:1/custom", {"api-key": "one", "other": "a b"})
    assert (logs.timeout_s, logs.gzip, logs.ca_file) == (2.5, True, file)


def test_headers_for_another_service_do_not_go_to_otlp_endpoint() -> None:
    """The standard variables may be there for another program, with its key."""
    target = found({**GRAFANA, f"{STANDARD}HEADERS": "api-key=of-another", f"{STANDARD}TIMEOUT": "3000"})
    assert list(target.headers) == ["Authorization"]
    assert target.timeout_s == 3.0


@pytest.mark.parametrize(
    ("url", "is_open"),
    [("http://h:1", True), ("https://h:1", False), ("http://127.0.0.1:1", False), ("http://[::1]:1", False)],
)
def test_credentials_over_http_to_another_host_can_be_read_on_the_way(url: str, is_open: bool) -> None:
    """The log warns of it."""
    assert Target(url).is_open is is_open


def test_mistakes_are_reported_together_and_without_the_headers() -> None:
    """Each names its variable."""
    text = "\n".join(
        problems(
            {
                f"{STANDARD}HEADERS": "no-equals-s3cr3t",
                f"{STANDARD}METRICS_TIMEOUT": "10",
                f"{STANDARD}COMPRESSION": "zstd",
                f"{STANDARD}CERTIFICATE": "/no/such.pem",
                f"{STANDARD}PROTOCOL": "grpc",
            }
        )
    )
    for name in ("HEADERS", "METRICS_TIMEOUT", "COMPRESSION", "CERTIFICATE", "PROTOCOL"):
        assert f"{STANDARD}{name}: " in text
    assert "s3cr3t" not in text
    assert "milliseconds" in text


@pytest.mark.parametrize("header", ["a b=c", "=c", "a=b%0d%0aX: y", "a:b=c", "a=é"])
def test_a_header_that_could_change_the_request_is_a_mistake(header: str) -> None:
    """A line end in it would be another header."""
    assert problems({f"{STANDARD}HEADERS": header})[0].startswith(f"{STANDARD}HEADERS: ")


def test_no_secret_is_in_the_repr_nor_in_what_a_receiver_says() -> None:
    """A receiver may repeat the header it did not like, whole or decoded."""
    target = found(GRAFANA)
    authorization = target.headers["Authorization"]
    said = target.scrub(f"bad {authorization} or {authorization.split()[1]} or s3cr3t-token")
    for secret in (authorization.split()[1], "s3cr3t"):
        assert secret not in repr(target)
        assert secret not in said
    assert said.startswith("bad [REDACTED]")
