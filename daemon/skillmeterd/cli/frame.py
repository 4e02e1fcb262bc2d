"""The frame: what all commands share - lazy loading, settings, options, exit codes of errors, tables and JSON."""

import contextlib
import difflib
import importlib
import json
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Final, Protocol, TypeVar

import click
import msgspec

from skillmeter.errors import ConfigError, DaemonUnavailable, SkillmeterError
from skillmeter.parsers import printable
from skillmeter.settings import ClientSettings

from ..config import DaemonSettings, find_database

if TYPE_CHECKING:
    from rich.table import Table

    from skillmeter.queries import Asker

FC = TypeVar("FC", bound=Callable[..., Any] | click.Command)

TEXT_CELLS: Final = 24  # of a column of text, before others are left out for it
GAP_CELLS: Final = 3  # between columns
INTERRUPTED: Final = 130  # 128 + SIGINT, as shells count


class Context:
    """What `skillmeter` was told before the command: settings are read when a command asks for them."""

    def __init__(self, config: str | None) -> None:
        self._config = config

    def daemon_settings(self, **flags: Any) -> DaemonSettings:
        """The daemon's settings, with this command's flags. Raises ConfigError."""
        return DaemonSettings.from_environment(config=self._config, **flags)

    def salvaged_settings(self, **flags: Any) -> tuple[DaemonSettings, list[str]]:
        """The daemon's settings as far as they are right, and every mistake in them."""
        return DaemonSettings.salvaged(config=self._config, **flags)

    def database(self, db_path: str | None) -> Path:
        """The database file. Raises ConfigError, or Failure if it is not here."""
        path = find_database(config=self._config, db_path=db_path)
        if path is None:
            raise Failure(
                "the daemon is elsewhere (ANALYTICS_ENDPOINT), and its database with it: run this there, or name a file"
                " with --db-path; leaderboard, usage, trends and top work from here"
            )
        return path

    def asker(self, db_path: str | None) -> "Asker":
        """Who answers queries until the command ends: the database file, or a daemon elsewhere. Raises ConfigError."""
        from .asker import DaemonAsker, FileAsker  # not for commands that ask nothing: they load SQLite

        path = find_database(config=self._config, db_path=db_path)
        asker = DaemonAsker(self.client_settings()) if path is None else FileAsker(path)
        click.get_current_context().call_on_close(asker.close)
        return asker

    def client_settings(self, **flags: Any) -> ClientSettings:
        """The client's settings, for a command that talks to a daemon. Raises ConfigError."""
        return ClientSettings.from_environment(config=self._config, **flags)


class Advance(Protocol):
    """Tells a progress bar how much is done, and of how much if that was not known before."""

    def __call__(self, done: int, total: int | None = None, /) -> None:
        """Any thread."""


pass_context = click.make_pass_decorator(Context)
"""Decorates a command that needs the Context: it comes as the first argument."""


class _Name(click.types.StringParamType):
    """The name of a skill or an org. Bytes that are no text come from the shell as lone surrogates."""

    name = "name"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        text = str(value)
        try:
            text.encode()
        except UnicodeEncodeError:
            self.fail(f"{printable(text)!r} is not UTF-8", param, ctx)
        return text


NAME: Final = _Name()

skill_argument = click.argument("skill_id", metavar="SKILL", type=NAME)
skill_option = click.option("--skill", "skill_id", metavar="SKILL", type=NAME, help="Only this skill.")
db_path_option = click.option("--db-path", metavar="FILE", help="The SQLite file (ANALYTICS_DB_PATH).")
org_option = click.option("--org", "org_id", metavar="ORG", type=NAME, help="Only this org.")


def json_option(what: str = "Print JSON.") -> Callable[[FC], FC]:
    """The option `--json`, as argument `as_json`."""
    return click.option("--json", "as_json", is_flag=True, help=what)


class Failure(click.ClickException):
    """An error that the operator can act on: its message goes to stderr, without a traceback."""

    exit_code = 1

    def show(self, file: IO[Any] | None = None) -> None:
        """Print the message; the lines of a longer one are indented."""
        lines = [printable(line) for line in self.message.split("\n")]
        click.echo("skillmeter: " + "\n  ".join(lines), file=file, err=file is None)


class Unavailable(Failure):
    """The daemon did not answer: a script may want to tell this from a failure."""

    exit_code = 3


class Frame(click.Group):
    """A group that imports a command's module when it is named, and turns errors into messages and exit codes."""

    def __init__(self, *args: Any, modules: Mapping[str, str], package: str, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._modules = modules
        self._package = package

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - the signature is click's
        """The commands in the order of the table."""
        return list(self._modules)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002 - as above
        """The command of this name, or None."""
        if cmd_name not in self._modules:
            return None
        name = f"{self._package}.{self._modules[cmd_name]}"
        try:
            command = importlib.import_module(name).command
        except ModuleNotFoundError as error:
            if error.name != name:
                raise
            return None
        assert isinstance(command, click.Command)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """The command that the first word names; for one that there is not, the one that may be meant."""
        name = args[0]
        close = difflib.get_close_matches(name, self._modules, n=1)
        if close and name not in self._modules and not ctx.resilient_parsing:
            ctx.fail(f"No such command {name!r}. Did you mean {close[0]!r}?")
        return super().resolve_command(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; Ctrl-C is no error, and what the operator can act on needs no traceback."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            click.echo(err=True)
            ctx.exit(INTERRUPTED)
        except ConfigError as error:
            count = "a mistake" if len(error.problems) == 1 else f"{len(error.problems)} mistakes"
            raise Failure("\n".join([f"the settings have {count}:", *error.problems])) from error
        except DaemonUnavailable as error:
            raise Unavailable(str(error)) from error
        except BrokenPipeError:
            raise  # whoever read our output has seen enough: click ends quietly
        except SkillmeterError as error:
            raise Failure(str(error)) from error
        except OSError as error:
            raise Failure(said(error)) from error


def said(error: OSError) -> str:
    """An error of the system in the words of a shell: which file, and what is wrong with it, without numbers."""
    if error.filename is None or error.filename2 is not None:
        return str(error)
    return f"{error.filename}: {error.strerror}"


@contextlib.contextmanager
def progress(label: str, total: int | None) -> Iterator["Advance"]:
    """A bar on stderr while the block runs, if that is a terminal; call it with how much is done (and the total)."""
    from rich.console import Console
    from rich.progress import Progress

    console = Console(stderr=True, markup=False, highlight=False, emoji=False)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(printable(label), total=total)
        yield lambda done, known=total: bar.update(task, completed=done, total=known)


def print_json(value: object) -> None:
    """Print a value, structs included, as JSON on stdout."""
    try:
        click.echo(msgspec.json.format(msgspec.json.encode(value)).decode())
    except UnicodeEncodeError:  # a file's name that is not UTF-8, of which Python makes lone surrogates
        click.echo(json.dumps(msgspec.to_builtins(value), indent=2))


def print_json_line(value: object) -> None:
    """Print a value as JSON on a line of its own."""
    click.echo(msgspec.json.encode(value).decode())


def print_table(headings: Sequence[str], rows: Iterable[Sequence[object]], spare: Sequence[str] = ()) -> None:
    """Print a table on stdout: numbers to the right, None as a dash, text on one line whatever it holds.

    Where the terminal is too narrow, columns are left out in the order of `spare`; into a pipe none is.
    """
    from rich.console import Console

    if sys.stdout is None:  # closed: whoever started us does not want to see it
        return
    # Into a pipe nothing is wrapped: a line is for grep and awk, not for a screen.
    width = None if sys.stdout.isatty() else 10_000
    console = Console(markup=False, highlight=False, emoji=False, width=width)
    console.print(table(headings, rows, console.width, spare))


def table(
    headings: Sequence[str],
    rows: Iterable[Sequence[object]],
    width: int,
    spare: Sequence[str] = (),
    *,
    cut: bool = False,
) -> "Table":
    """The table that `print_table` prints; with `cut`, text that is too long ends in an ellipsis and takes one line."""
    from rich import box
    from rich.cells import cell_len
    from rich.table import Table
    from rich.text import Text

    kept = [list(row) for row in rows]
    columns = {heading: [row[at] for row in kept] for at, heading in enumerate(headings)}
    room = {heading: max(map(cell_len, [heading, *map(_cell, values)])) for heading, values in columns.items()}
    texts = {heading for heading, values in columns.items() if not _is_number(values)}

    def free(for_each_text: int) -> int:
        """What is left of the width when a text takes so much at most."""
        taken = sum(min(room[heading], for_each_text) if heading in texts else room[heading] for heading in columns)
        return width - taken - GAP_CELLS * len(columns)

    for heading in spare:
        if free(TEXT_CELLS) < 0:
            del columns[heading]
    drawn = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for heading in columns:
        if heading in texts:
            drawn.add_column(Text(heading), overflow="fold")
        else:  # a number in two lines would be read as another
            drawn.add_column(Text(heading), justify="right", no_wrap=True, overflow="ellipsis")
    most = max(1, free(0) // max(1, len(texts & columns.keys())))
    for at in range(len(kept)):
        cells = [Text(_cell(values[at])) for values in columns.values()]
        for cell in cells if cut else ():
            cell.truncate(most, overflow="ellipsis")
        drawn.add_row(*cells)
    return drawn


def percent(share: float | None) -> float | None:
    """A share of 1 in percent, to two digits; 100 only if nothing is missing, and 0 only if there is nothing."""
    if share is None:
        return None
    found = round(100 * share, 2)
    return min(99.99, max(0.01, found)) if 0 < share < 1 else found


def _is_number(values: Sequence[object]) -> bool:
    return any(isinstance(value, (int, float)) for value in values)


def _cell(value: object) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:,.2f}" if isinstance(value, float) else printable(str(value))
