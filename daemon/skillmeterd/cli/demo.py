"""`skillmeter demo`: real tools, a daemon that is killed in the middle, and the books that balance all the same."""

import sys
import time
from types import TracebackType
from typing import Any, Final, Self

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from ..demo.play import Played, Size, play
from .frame import Failure, json_option, print_json, print_table

PLAIN_EVERY_S: Final = 2.0


@click.command()
@click.option("--keep", is_flag=True, help="Leave the daemon running, to look at its page.")
@click.option("--processes", type=click.IntRange(1, 64), default=4, show_default=True, help="Worker processes.")
@click.option("--calls", type=click.IntRange(100), default=30_000, show_default=True, help="Tool calls in all.")
@click.option(
    "--seconds-limit", type=click.FloatRange(2), default=60, show_default=True, help="The longest it may take."
)
@json_option("Print the outcome as JSON; what happens meanwhile is on stderr.")
def command(keep: bool, processes: int, calls: int, seconds_limit: float, as_json: bool) -> None:
    """Run real tools against a daemon of its own and show what was recorded."""
    with Screen(on_stderr=as_json) as screen:
        played = play(screen, Size(calls, processes, seconds_limit), keep=keep)
    if as_json:
        print_json(_as_json(played))
    else:
        _print_leaderboard(played)
        _print_ledger(played)
        if played.daemon is not None:
            _print_how_to_go_on(played)
    if played.outcome.problems:
        raise Failure("the books do not balance:\n" + "\n".join(played.outcome.problems))


class Screen:
    """A bar on a terminal; elsewhere a line now and then."""

    def __init__(self, *, on_stderr: bool) -> None:
        self._console = Console(stderr=on_stderr, markup=False, highlight=False, emoji=False, soft_wrap=True)
        self._bar: Progress | None = None
        self._next_line_s = 0.0
        self._last_line = ""
        if self._console.is_terminal:
            columns = (
                BarColumn(None),
                MofNCompleteColumn(),
                TextColumn("calls,"),
                TextColumn("{task.fields[committed]:,}"),
            )
            self._bar = Progress(
                SpinnerColumn(), *columns, TextColumn("events in SQLite"), TimeElapsedColumn(), console=self._console
            )
            self._task = self._bar.add_task("", total=None, committed=0)

    def say(self, text: str) -> None:
        """Print a line, above the bar."""
        self._console.print(text)

    def show(self, done: int, calls: int, committed: int) -> None:
        """Move the bar."""
        if self._bar is not None:
            self._bar.update(self._task, completed=done, total=calls, committed=committed)
        elif time.monotonic() >= self._next_line_s:
            self._next_line_s = time.monotonic() + PLAIN_EVERY_S
            line = f"{done:>9,} of {calls:,} calls, {committed:,} events in SQLite"
            if line != self._last_line:
                self._last_line = line
                self.say(line)

    def __enter__(self) -> Self:
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()


def _as_json(played: Played) -> dict[str, Any]:
    """The outcome for programs; `daemon` is None unless it was kept."""
    outcome, daemon = played.outcome, played.daemon
    return {
        "leaderboard": outcome.skills,
        "ledger": outcome.ledger,
        "lost": outcome.lost,
        "problems": outcome.problems,
        "seconds": round(played.seconds, 1),
        "daemon": daemon and {"pid": daemon.pid, "page": daemon.http, "folder": str(played.folder)},
    }


def _print_leaderboard(played: Played) -> None:
    headings = ["", "skill", "calls", "success %", "p50 ms", "p95 ms", "p99 ms", "users", "rating"]
    rows = [
        (
            *(rank, skill.skill_id, skill.calls, skill.success_percent),
            *(skill.p50_ms, skill.p95_ms, skill.p99_ms, skill.users, skill.rating),
        )
        for rank, skill in enumerate(played.outcome.skills, 1)
    ]
    click.echo()
    print_table(headings, rows, spare=("p50 ms", "p99 ms", "users"))


def _print_ledger(played: Played) -> None:
    ledger, lost = played.outcome.ledger, played.outcome.lost
    parts = " + ".join(f"{name} {ledger[name]:,}" for name in ("stored", "pending", "dropped", "rejected"))
    click.echo(f"ledger: attempted {ledger['attempted']:,} = {parts}")
    click.echo(f"lost {lost:,}, although the daemon was killed in the middle; all in {played.seconds:.1f} s")


def _print_how_to_go_on(played: Played) -> None:
    daemon = played.daemon
    assert daemon is not None
    click.echo(f"\nThe daemon goes on as process {daemon.pid}.")
    if daemon.http:
        click.echo(f"  its page:   {daemon.http}")
    click.echo(f"  its data:   sqlite3 {daemon.db_path}")
    click.echo(f"  ask it:     ANALYTICS_RUNTIME_DIR={played.folder} {sys.executable} -m skillmeterd status")
    click.echo(f"  end it:     kill {daemon.pid} && sleep 2 && rm -r {played.folder}")
