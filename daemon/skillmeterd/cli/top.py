"""`skillmeter top`: the leaderboard, live on the whole screen."""

import datetime
import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

import click

from skillmeter.errors import SkillmeterError
from skillmeter.parsers import printable
from skillmeter.results import LeaderboardEntry

from ..queries.params import MAX_LIMIT, METRICS, PERIODS
from .frame import Context, db_path_option, json_option, org_option, pass_context, print_json, table
from .leaderboard import HEADINGS, SPARE, row

if TYPE_CHECKING:
    from rich.console import Console, Group

LOOK_S: Final = 0.2  # at the terminal's size
AROUND: Final = 6  # lines above and below the places


@click.command()
@click.option("--metric", type=click.Choice(METRICS), default="usage_count", show_default=True)
@click.option("--period", type=click.Choice(list(PERIODS)), default="daily", show_default=True, help="In UTC days.")
@org_option
@click.option("--every", "every_s", type=click.FloatRange(0.1, 3600), default=1.0, show_default=True, help="Seconds.")
@db_path_option
@json_option("Print JSON once, and end.")
@pass_context
def command(
    context: Context, metric: str, period: str, org_id: str | None, every_s: float, db_path: str | None, as_json: bool
) -> None:
    """Show the leaderboard until Ctrl-C. While it cannot be read, the last one stays and the reason is said."""
    from rich.console import Console
    from rich.live import Live

    asker = context.asker(db_path)
    console = Console(markup=False, highlight=False, emoji=False)

    def entries() -> list[LeaderboardEntry]:
        return asker.get_leaderboard(min(MAX_LIMIT, max(1, console.height - AROUND)), metric, period, org_id)

    if as_json:
        print_json(entries())
        return
    if sys.stdout is None or not sys.stdout.isatty() or console.is_dumb_terminal:
        raise click.UsageError("top needs a terminal that it can draw on; `skillmeter leaderboard` prints once")
    title = f"skillmeter  {metric}, {period}"
    shown, problem = entries(), ""
    with Live(_screen(console, title, shown, problem), console=console, screen=True, auto_refresh=False) as live:
        while True:
            _wait(every_s, lambda: console.size)
            try:
                shown, problem = entries(), ""
            except SkillmeterError as error:
                problem = str(error)
            live.update(_screen(console, title, shown, problem), refresh=True)


def _screen(console: "Console", title: str, shown: list[LeaderboardEntry], problem: str) -> "Group":
    from rich.console import Group
    from rich.text import Text

    now = f"{datetime.datetime.now(datetime.UTC):%Y-%m-%d %H:%M:%S} UTC"
    head = Text(f"{title}  {now}  Ctrl-C ends", style="bold", no_wrap=True, overflow="ellipsis")
    trouble = [Text(f"not up to date: {printable(problem)}", style="bold red")] if problem else []
    return Group(head, *trouble, table(HEADINGS, map(row, shown), console.width, SPARE, cut=True))


def _wait(seconds: float, size: Callable[[], Any]) -> None:
    """Wait, but no longer than until the terminal has another size: what is on it does not fit any more."""
    deadline_s, before = time.monotonic() + seconds, size()
    while (left_s := deadline_s - time.monotonic()) > 0 and size() == before:
        time.sleep(min(left_s, LOOK_S))
