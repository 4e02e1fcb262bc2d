"""Settings come from argument, environment, file and default in this order, and every mistake is told at once."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skillmeter.errors import ConfigError
from skillmeter.parsers import SOCKET_PATH_MAX_BYTES
from skillmeter.settings import BACKENDS, CLIENT_TABLE, FILE_MAX_BYTES, ClientSettings, keys

KEY = "rq:rM>}U?@Lns47E1%kR.o@n%FcmmsL/@{H8]yf7"
OTHER_KEY = "9M#(^yd]nx?$]r?EKh5u.lu<w{rfzu&mx=:H5puZ"


def read(env: dict[str, str] | None = None, **arguments: object) -> ClientSettings:
    """The settings of a user called ada."""
    return ClientSettings.from_environment({"HOME": "/home/ada", **(env or {})}, **arguments)


def mistakes(env: dict[str, str], **arguments: object) -> list[str]:
    """What is told of settings that are wrong."""
    with pytest.raises(ConfigError) as caught:
        read(env, **arguments)
    return caught.value.problems


@pytest.fixture
def toml(tmp_path: Path) -> Any:
    """Writes a TOML file and gives the environment that names it."""

    def write(text: str | bytes) -> dict[str, str]:
        path = tmp_path / "settings.toml"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return {"ANALYTICS_CONFIG": str(path)}

    return write


def test_defaults() -> None:
    """Without any setting, everything is under the user's home unless the system folders exist."""
    settings = read()
    assert settings.backends == ("sqlite",)
    assert settings.spool_max_bytes == 64 * 2**20
    assert settings.durability == "process"
    assert settings.strict is False
    assert settings.config_path is None
    assert settings.curve_server_key is None
    assert settings.endpoint == f"ipc://{settings.runtime_dir}/skillmeter.sock"
    for folder, system, own in (
        (settings.runtime_dir, "/run/skillmeter", "/home/ada/.toolweaver/run"),
        (settings.spool_dir, "/var/spool/skillmeter", "/home/ada/.toolweaver/spool"),
    ):
        assert str(folder) == (system if os.path.isdir(system) else own)
    assert set(settings.sources.values()) == {"default"}


def test_precedence(toml: Any) -> None:
    """The argument goes before the environment, that before the file, that before the default; each is named."""
    env = toml('durability = "fsync"\nspool_max_bytes = 1000000\nbackend = "otlp"')
    env |= {"ANALYTICS_SPOOL_MAX_BYTES": "2MB", "ANALYTICS_BACKEND": "wandb"}
    settings = read(env, backend="prometheus")
    assert settings.backends == ("prometheus",)
    assert settings.spool_max_bytes == 2_000_000
    assert settings.durability == "fsync"
    assert settings.strict is False
    assert settings.sources["ANALYTICS_BACKEND"] == "argument"
    assert settings.sources["ANALYTICS_SPOOL_MAX_BYTES"] == "environment"
    assert settings.sources["ANALYTICS_DURABILITY"] == env["ANALYTICS_CONFIG"]
    assert settings.sources["ANALYTICS_STRICT"] == "default"


def test_the_environment_is_read_when_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """A variable that is set after the import counts."""
    monkeypatch.setenv("ANALYTICS_STRICT", "1")
    assert ClientSettings.from_environment().strict is True
    monkeypatch.setenv("ANALYTICS_STRICT", "0")
    assert ClientSettings.from_environment().strict is False


def test_an_empty_variable_and_an_absent_argument_are_not_set() -> None:
    """Charts and unit files leave variables empty; a caller passes None on."""
    assert read({"ANALYTICS_BACKEND": "", "ANALYTICS_CONFIG": ""}, backend=None) == read()


@pytest.mark.parametrize("backend", [["sqlite", "otlp"], ("sqlite", "otlp"), "sqlite,otlp"])
def test_backends_may_be_a_list(backend: object) -> None:
    """Several backends are given as a list or comma-separated."""
    assert read(backend=backend).backends == ("sqlite", "otlp")


def test_toml_types(toml: Any) -> None:
    """A file may use TOML's own types; a tilde is this user's home."""
    env = toml('strict = true\nspool_max_bytes = 300000\nbackend = ["sqlite", "otlp"]\nspool_dir = "~/spool"')
    settings = read(env)
    assert (settings.strict, settings.spool_max_bytes, settings.backends) == (True, 300_000, ("sqlite", "otlp"))
    assert settings.spool_dir == "/home/ada/spool"


def test_an_unknown_backend_lists_the_valid_ones() -> None:
    """A wrong backend is a ValueError that says what would be right."""
    with pytest.raises(ValueError, match="ANALYTICS_BACKEND.*" + ".*".join(BACKENDS) + ".*'mongo'"):
        read(backend="mongo")


def test_all_mistakes_are_told_together(toml: Any) -> None:
    """One run shows every mistake: the setting, what is wrong, and where it came from."""
    env = toml('durability = "maybe"\nbackends = "otlp"\n')
    env |= {"ANALYTICS_SPOOL_MAX_BYTES": "1KiB", "ANALYTICS_ENDPOINT": "udp://x"}
    problems = mistakes(env, strict="perhaps")
    path = env["ANALYTICS_CONFIG"]
    assert len(problems) == 5
    for start, end in (
        (f"'{path}': there is no setting 'backends'", "; did you mean 'backend'?"),
        ("ANALYTICS_ENDPOINT (environment): must be ipc://PATH or tcp://HOST:PORT", ", not 'udp://x'"),
        ("ANALYTICS_SPOOL_MAX_BYTES (environment): must be at least 256 KiB", ", not '1KiB'"),
        (f"ANALYTICS_DURABILITY ({path}): must be one of process, fsync", ", not 'maybe'"),
        ("ANALYTICS_STRICT (argument): must be true or false", ", not 'perhaps'"),
    ):
        assert any(problem.startswith(start) and problem.endswith(end) for problem in problems), problems


def test_an_unknown_argument_is_the_programs_mistake() -> None:
    """A keyword that no setting has is a TypeError, as for any call."""
    with pytest.raises(TypeError, match=r"'backends'.*backend"):
        read(backends="otlp")


@pytest.mark.parametrize("key", ["ANALYTICS_BACKEND", "Backend", "bakend"])
def test_did_you_mean(toml: Any, key: str) -> None:
    """A key that is nearly one gets it suggested; the variable's name in a file does too."""
    assert mistakes(toml(f'{key} = "otlp"'))[0].endswith("did you mean 'backend'?")


def test_the_client_leaves_the_daemons_keys_alone(toml: Any) -> None:
    """One file serves both: what is the daemon's is neither an error nor checked by a client."""
    assert read(toml('db_path = 5\notlp_token_file = "/none"')).backends == ("sqlite",)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"backend = ", "end of document"),
        (b'backend = "\xff"', "not UTF-8"),
        (b"x = " + b"[" * 5000, "nested too deeply"),
        (b"#" * (FILE_MAX_BYTES + 1), "larger than"),
        (b"\x00", "line 1"),
    ],
)
def test_a_file_that_is_no_toml(toml: Any, content: bytes, said: str) -> None:
    """A file that cannot be read as TOML is one mistake of ANALYTICS_CONFIG."""
    (problem,) = mistakes(toml(content))
    assert problem.startswith("ANALYTICS_CONFIG (environment): cannot use ")
    assert said in problem


def test_a_file_that_is_none(tmp_path: Path) -> None:
    """A missing file, a folder and a FIFO (which would block for ever) are mistakes."""
    os.mkfifo(tmp_path / "fifo")
    for path, said in ((tmp_path / "none", "No such file"), (tmp_path, "regular"), (tmp_path / "fifo", "regular")):
        (problem,) = mistakes({}, config=path)
        assert problem.startswith("ANALYTICS_CONFIG (argument)")
        assert said in problem


def test_a_runtime_folder_that_is_too_long_for_a_socket() -> None:
    """The default endpoint is checked like a given one, and says which setting to shorten."""
    (problem,) = mistakes({"ANALYTICS_RUNTIME_DIR": "/" + "x" * SOCKET_PATH_MAX_BYTES})
    assert problem.startswith("ANALYTICS_ENDPOINT (default)")
    assert "ANALYTICS_RUNTIME_DIR" in problem


def test_a_mistaken_folder_is_told_once() -> None:
    """A default that rests on a mistaken setting adds no second mistake."""
    assert len(mistakes({"ANALYTICS_RUNTIME_DIR": "\0"})) == 1


def test_no_home_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    """A user whom the system does not know gets a mistake, never a folder called ~."""
    monkeypatch.setattr("os.path.expanduser", lambda path: path)
    with pytest.raises(ConfigError, match="set HOME"):
        ClientSettings.from_environment({"ANALYTICS_SPOOL_DIR": "~/spool"})


def test_tcp_beyond_the_host_needs_the_daemons_key() -> None:
    """Without CURVE nothing leaves the machine; loopback and ipc need no key."""
    assert read({"ANALYTICS_ENDPOINT": "tcp://localhost:5555"}).endpoint == "tcp://127.0.0.1:5555"
    (problem,) = mistakes({"ANALYTICS_ENDPOINT": "tcp://10.0.0.1:5555"})
    assert problem.startswith("ANALYTICS_ENDPOINT (environment)")
    assert "ANALYTICS_CURVE_SERVER_KEY" in problem
    keys = {"ANALYTICS_CURVE_SERVER_KEY": KEY, "ANALYTICS_CURVE_CLIENT_SECRET": KEY}
    settings = read({"ANALYTICS_ENDPOINT": "tcp://10.0.0.1:5555", **keys})
    assert settings.curve_server_key == KEY
    assert settings.curve_client_secret is not None
    assert settings.curve_client_secret.reveal() == KEY


@pytest.mark.parametrize("given", ["ANALYTICS_CURVE_SERVER_KEY", "ANALYTICS_CURVE_CLIENT_SECRET"])
def test_the_keys_of_a_client_need_each_other(given: str) -> None:
    """With one of the two it could not connect, on whatever endpoint; the message names both."""
    for endpoint, count in (("tcp://127.0.0.1:5555", 1), ("tcp://10.0.0.1:5555", 2)):
        problems = mistakes({"ANALYTICS_ENDPOINT": endpoint, given: KEY})
        assert len(problems) == count
        for problem in problems:
            assert "ANALYTICS_CURVE_SERVER_KEY" in problem
            assert "ANALYTICS_CURVE_CLIENT_SECRET" in problem


def test_a_secret_from_a_file(tmp_path: Path) -> None:
    """NAME_FILE holds the secret, as credentials of systemd and Kubernetes come; the source says so."""
    path = tmp_path / "key"
    path.write_text(f"{KEY}\n")
    settings = read({"ANALYTICS_CURVE_CLIENT_SECRET_FILE": str(path), "ANALYTICS_CURVE_SERVER_KEY": KEY})
    assert settings.curve_client_secret is not None
    assert settings.curve_client_secret.reveal() == KEY
    assert settings.sources["ANALYTICS_CURVE_CLIENT_SECRET"] == f"environment, from '{path}'"
    assert read(curve_client_secret_file=path, curve_server_key=KEY).curve_client_secret == settings.curve_client_secret


def test_a_secret_file_that_cannot_serve(tmp_path: Path) -> None:
    """A missing, binary or doubled secret is a mistake that names the file and not its content."""
    path = tmp_path / "key"
    (problem,) = mistakes({"ANALYTICS_CURVE_CLIENT_SECRET_FILE": str(path)})
    assert problem == f"ANALYTICS_CURVE_CLIENT_SECRET (environment, from '{path}'): No such file or directory"
    path.write_bytes(b"hush\xff")
    (problem,) = mistakes({"ANALYTICS_CURVE_CLIENT_SECRET_FILE": str(path)})
    assert problem.endswith("byte 4 is not UTF-8")
    (problem,) = mistakes({"ANALYTICS_CURVE_CLIENT_SECRET_FILE": str(path), "ANALYTICS_CURVE_CLIENT_SECRET": KEY})
    assert "given twice" in problem
    assert KEY not in problem


def test_no_secret_in_any_text() -> None:
    """Neither the settings as text nor a mistake in the secret itself shows any of it."""
    settings = read({"ANALYTICS_CURVE_CLIENT_SECRET": KEY, "ANALYTICS_CURVE_SERVER_KEY": OTHER_KEY})
    assert KEY not in f"{settings}{settings!r}"
    assert "[REDACTED]" in repr(settings)
    (problem,) = mistakes({"ANALYTICS_CURVE_CLIENT_SECRET": "hunter2"})
    assert "hunter2" not in problem


def test_settings_are_frozen() -> None:
    """Nobody changes the settings after the edge."""
    with pytest.raises(AttributeError):
        read().strict = True  # type: ignore[misc]


NAMES = [row.name for row in CLIENT_TABLE] + ["ANALYTICS_CURVE_CLIENT_SECRET_FILE", "ANALYTICS_CONFIG"]
TOML_VALUES = st.recursive(
    st.integers() | st.booleans() | st.floats() | st.dates().map(str) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)


def to_toml(value: object) -> str:
    """A value as TOML writes it."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return '"' + "".join(f"\\U{ord(char):08X}" for char in value if not 0xD800 <= ord(char) < 0xE000) + '"'
    if isinstance(value, list):
        return f"[{', '.join(map(to_toml, value))}]"
    if isinstance(value, dict):
        return (
            "{"
            + ", ".join(f"{to_toml(f'{i}{key}')} = {to_toml(val)}" for i, (key, val) in enumerate(value.items()))
            + "}"
        )
    return repr(value)


@given(env=st.dictionaries(st.sampled_from(NAMES), st.text() | st.sampled_from(["~", "/", "ipc:///x", "tcp://a:1"])))
def test_fuzz_the_environment(env: dict[str, str]) -> None:
    """Whatever the variables hold, the settings are made or a ConfigError is raised."""
    try:
        read(env)
    except ConfigError as error:
        assert error.problems
        assert all(problem.isprintable() for problem in error.problems)


@pytest.fixture(scope="module")
def fuzz_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One file for all examples: Hypothesis and folders of one test do not go together."""
    return tmp_path_factory.mktemp("fuzz") / "settings.toml"


@given(content=st.binary() | st.text(st.characters(codec="utf-8")).map(str.encode) | st.from_regex(rb"backend *= *.*"))
def test_fuzz_the_file(fuzz_file: Path, content: bytes) -> None:
    """Whatever the bytes of the file, the settings are made or a ConfigError is raised."""
    fuzz_file.write_bytes(content)
    try:
        read(config=fuzz_file)
    except ConfigError as error:
        assert all(problem.isprintable() for problem in error.problems)


@given(table=st.dictionaries(st.sampled_from(sorted(keys(CLIENT_TABLE))), TOML_VALUES))
def test_fuzz_the_values_of_the_file(fuzz_file: Path, table: dict[str, object]) -> None:
    """Whatever type a key of the file has, the settings are made or a ConfigError is raised."""
    fuzz_file.write_text("".join(f"{key} = {to_toml(value)}\n" for key, value in table.items()))
    try:
        read(config=fuzz_file)
    except ConfigError as error:
        assert "cannot use" not in str(error), "the test wrote no TOML"
        assert all(problem.isprintable() for problem in error.problems)


def test_reading_settings_loads_little() -> None:
    """A client calls this at its start: no ZeroMQ, no TOML parser unless a file is named, none of the daemon."""
    code = (
        "import sys; from skillmeter.settings import ClientSettings; ClientSettings.from_environment();"
        "unwanted = {'zmq', 'tomllib', 'difflib', 'skillmeterd'};"
        "print(*unwanted & {name.partition('.')[0] for name in sys.modules})"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "\n"
