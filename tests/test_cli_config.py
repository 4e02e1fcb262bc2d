"""The command line's frame and `skillmeter config`: exit codes, clear messages, no secret, nothing loaded in vain."""

import contextlib
import json
import os
import pty
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner

from skillmeter._version import __version__
from skillmeter.errors import DaemonUnavailable, QueryError
from skillmeterd.cli import COMMANDS, group
from skillmeterd.cli.frame import Frame, print_table
from skillmeterd.config import TABLE

RUN = [sys.executable, "-c", "from skillmeter._cli import main; main()"]


def skillmeter(*words: str, env: dict[str, str] | None = None) -> Any:
    """Run the command line in this process."""
    return CliRunner().invoke(group, list(words), env=env, prog_name="skillmeter")


def test_version() -> None:
    """--version prints the distribution's version."""
    assert skillmeter("--version").output == f"skillmeter {__version__}\n"


def test_show_lists_every_setting_with_its_source() -> None:
    """config show has a line for each setting; into a pipe no value is wrapped."""
    path = "/" + "x" * 300
    result = skillmeter("config", "show", env={"ANALYTICS_SPOOL_DIR": path})
    assert result.exit_code == 0
    lines = [line.split() for line in result.output.splitlines()]
    assert ["ANALYTICS_SPOOL_DIR", path, "environment"] in lines
    assert {row.name for row in TABLE} <= {words[0] for words in lines if words}


def test_show_as_json() -> None:
    """config show --json is for programs: names, values, sources; null where there is none."""
    shown = json.loads(skillmeter("config", "show", "--json", env={"ANALYTICS_BACKEND": "prometheus"}).output)
    assert shown["ANALYTICS_BACKEND"] == {"value": "prometheus", "source": "environment"}
    assert shown["ANALYTICS_HTTP_TOKEN"] == {"value": None, "source": "default"}


@pytest.mark.parametrize("form", [[], ["--json"]])
def test_show_redacts_secrets(form: list[str]) -> None:
    """No character of a secret is shown."""
    env = {"ANALYTICS_HTTP_TOKEN": "hunter2", "WANDB_API_KEY": "correct-horse"}
    result = skillmeter("config", "show", *form, env=env)
    assert result.output.count("[REDACTED]") == 2
    assert "hunter2" not in result.output
    assert "correct-horse" not in result.output


def test_check_accepts() -> None:
    """config check exits 0 for right settings."""
    result = skillmeter("config", "check")
    assert (result.exit_code, result.output) == (0, "The settings are right.\n")


def test_check_tells_what_does_nothing() -> None:
    """A mistyped variable is no mistake in the settings, but whoever checks them wants to hear of it."""
    result = skillmeter("config", "check", env={"ANALYTICS_BAKEND": "otlp"})
    assert (result.exit_code, result.stdout) == (0, "The settings are right.\n")
    assert "does nothing: ANALYTICS_BAKEND; did you mean ANALYTICS_BACKEND?" in result.stderr


def test_check_tells_every_mistake(tmp_path: Path) -> None:
    """config check exits 1 and prints each mistake on a line of stderr."""
    path = tmp_path / "settings.toml"
    path.write_text("prometheus_port = 99999\n")
    result = skillmeter("--config", str(path), "config", "check", env={"ANALYTICS_BACKEND": "mongo"})
    assert result.exit_code == 1
    assert result.stdout == ""
    first, *mistakes = result.stderr.splitlines()
    assert first == "skillmeter: the settings have 2 mistakes:"
    assert mistakes[0].startswith("  ANALYTICS_BACKEND (environment): ")
    assert mistakes[1].startswith(f"  PROMETHEUS_PORT ({path}): ")


def test_check_as_json(tmp_path: Path) -> None:
    """The same for programs: every mistake, exit code 1; none, exit code 0."""
    result = skillmeter("config", "check", "--json", env={"ANALYTICS_BACKEND": "mongo", "PROMETHEUS_PORT": "x"})
    mistakes = json.loads(result.stdout)["mistakes"]
    assert (result.exit_code, [mistake.split()[0] for mistake in mistakes]) == (
        1,
        ["ANALYTICS_BACKEND", "PROMETHEUS_PORT"],
    )
    result = skillmeter("config", "check", "--json")
    assert (result.exit_code, json.loads(result.stdout)) == (0, {"mistakes": []})


def test_a_command_that_is_meant() -> None:
    """A mistyped command is wrong usage, with the one that may be meant."""
    result = skillmeter("leaderbord")
    assert (result.exit_code, "Did you mean 'leaderboard'?" in result.stderr) == (2, True)


@pytest.mark.parametrize("words", [["frobnicate"], ["config", "frobnicate"], ["--frobnicate"], ["config", "show", "x"]])
def test_wrong_usage(words: list[str]) -> None:
    """What the command line does not know is exit code 2."""
    assert skillmeter(*words).exit_code == 2


def frame(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> Any:
    """Run a command that fails this way."""

    @click.command()
    def command() -> None:
        raise error

    monkeypatch.setattr(Frame, "get_command", lambda *_: command)
    return CliRunner().invoke(Frame("skillmeter", modules={"x": "x"}, package="none"), ["x"])


@pytest.mark.parametrize(
    ("error", "exit_code", "message"),
    [
        (QueryError("no such period"), 1, "skillmeter: no such period\n"),
        (DaemonUnavailable("looked at x"), 3, "skillmeter: looked at x\n"),
        (PermissionError(13, "Permission denied", "/x"), 1, "skillmeter: /x: Permission denied\n"),
        (OSError(28, "No space left on device"), 1, "skillmeter: [Errno 28] No space left on device\n"),
        (QueryError("\x1b[31mred"), 1, "skillmeter: \\x1b[31mred\n"),
        (KeyboardInterrupt(), 130, "\n"),
    ],
)
def test_errors_are_messages(monkeypatch: Any, error: BaseException, exit_code: int, message: str) -> None:
    """An error somebody can act on is one message on stderr and an exit code that tells its sort."""
    result = frame(monkeypatch, error)
    assert (result.exit_code, result.stderr, result.stdout) == (exit_code, message, "")


def test_a_programming_error_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    """What only a developer can act on is not hidden."""
    assert isinstance(frame(monkeypatch, ZeroDivisionError()).exception, ZeroDivisionError)


def test_every_command_there_is_loads() -> None:
    """Each module of the table that exists has a command."""
    ctx = click.Context(group)
    assert "config" in group.list_commands(ctx)
    assert group.list_commands(ctx) == list(COMMANDS)
    for name in COMMANDS:
        assert isinstance(group.get_command(ctx, name), click.Command | None)


def test_looking_at_settings_loads_no_sink() -> None:
    """`skillmeter config` imports neither OpenTelemetry nor ZeroMQ nor the Prometheus client."""
    code = (
        "import sys; from skillmeterd.cli import group; group(['config', 'show'], standalone_mode=False);"
        "unwanted = {'zmq', 'opentelemetry', 'prometheus_client', 'wandb', 'sqlite3'};"
        "print('loaded', *unwanted & {name.partition('.')[0] for name in sys.modules})"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.splitlines()[-1] == "loaded"


@pytest.mark.parametrize("words", [["config", "show"], ["config", "show", "--json"]])
def test_a_reader_that_leaves_early_is_no_error(words: list[str]) -> None:
    """`skillmeter ... | head` prints nothing to stderr when the pipe closes."""
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, "w") as closed:
        ran = subprocess.run([*RUN, *words], stdout=closed, stderr=subprocess.PIPE, check=False)
    assert ran.stderr == b""
    assert ran.returncode == 1


def test_output_that_nobody_wants() -> None:
    """With standard output closed, a command does its work and prints nothing."""
    for words in (["config", "show"], ["config", "show", "--json"]):
        ran = subprocess.run(["sh", "-c", 'exec "$@" >&-', "sh", *RUN, *words], stderr=subprocess.PIPE, check=False)
        assert (ran.returncode, ran.stderr) == (0, b"")


@pytest.mark.parametrize(("env", "colors"), [({}, True), ({"NO_COLOR": "1"}, False), ({"TERM": "dumb"}, False)])
def test_colors_can_be_declined(env: dict[str, str], colors: bool) -> None:
    """On a terminal, `doctor` has colors unless NO_COLOR or the terminal says otherwise."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen([*RUN, "doctor"], stdout=theirs, env={**os.environ, "TERM": "xterm", **env})
    os.close(theirs)
    shown = b""
    with contextlib.suppress(OSError), process:  # EIO: the other side is closed
        while True:
            shown += os.read(ours, 65536)
    os.close(ours)
    assert b"settings" in shown
    assert (b"\x1b[3" in shown) == colors


def test_ctrl_c_ends_quietly() -> None:
    """A real SIGINT in a running command: exit code 130 and no traceback."""
    code = (
        "import click, signal; from skillmeterd.cli.frame import Frame\n"
        "@click.command()\n"
        "def wait():\n"
        "    print('ready', flush=True); signal.pause()\n"
        "Frame.get_command = lambda *_: wait\n"
        "Frame('skillmeter', modules={'wait': 'wait'}, package='none')(['wait'])\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    with process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        process.send_signal(signal.SIGINT)
        assert process.communicate()[1] == b"\n"
    assert process.returncode == 130


def test_ctrl_c_while_modules_are_loaded() -> None:
    """The first tenths of a second, in which the command line itself is not there yet, end as quietly."""
    code = (
        "import os, signal, sys\n"
        "class Interrupted:\n"
        "    def find_spec(self, name, *_):\n"
        "        if name == 'skillmeterd.config':\n"
        "            os.kill(os.getpid(), signal.SIGINT)\n"
        "sys.meta_path.insert(0, Interrupted())\n"
        "from skillmeter._cli import main; main()"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False)
    assert (ran.returncode, ran.stdout, ran.stderr) == (130, b"", b"\n")


def test_a_table_carries_text_literally(capsys: pytest.CaptureFixture[str]) -> None:
    """Cells are neither markup nor escape sequences; numbers are grouped, None is a dash."""
    print_table(["name", "n"], [["[red]x[/red]\x1b[31m\n", 1234567], [None, 0.5]])
    output = capsys.readouterr().out
    assert "[red]x[/red]\\x1b[31m\\n" in output
    assert "1,234,567" in output
    assert ["-", "0.50"] in [line.split() for line in output.splitlines()]
