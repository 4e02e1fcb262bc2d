"""`skillmeter top`: the leaderboard, live on the whole screen."""

import datetime
import time

import click

from skillmeter.results import LeaderboardEntry

from ..queries import Queries
from ..queries.params import METRICS, PERIODS
from .frame import Context, db_path_option, json_option, org_option, pass_context, print_json, table
from .leaderboard import HEADINGS, row


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
    """Show the leaderboard until Ctrl-C."""
    from rich.console import Console, Group
    from rich.live import Live
    from rich.text import Text

    queries = Queries(context.daemon_settings(db_path=db_path).db_path)
    console = Console(markup=False, highlight=False, emoji=False)

    def entries() -> list[LeaderboardEntry]:
        asked = {"metric": metric, "period": period, "org_id": org_id, "limit": max(1, console.height - 6)}
        found: list[LeaderboardEntry] = queries.ask("leaderboard", asked)
        return found

    def screen() -> Group:
        now = datetime.datetime.now(datetime.UTC)
        title = f"skillmeter  {metric}, {period}  {now:%Y-%m-%d %H:%M:%S} UTC  Ctrl-C ends"
        return Group(Text(title, style="bold"), table(HEADINGS, map(row, entries())))

    if as_json:
        print_json(entries())
        return
    if not console.is_terminal:
        raise click.UsageError("top needs a terminal; `skillmeter leaderboard` prints once")
    with Live(screen(), console=console, screen=True, auto_refresh=False) as live:
        while True:
            time.sleep(every_s)
            live.update(screen(), refresh=True)
