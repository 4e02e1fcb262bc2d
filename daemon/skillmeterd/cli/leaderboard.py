"""`skillmeter leaderboard`: skills in the order of a metric."""

import click

from skillmeter.results import LeaderboardEntry

from ..queries.params import METRICS, PERIODS
from .frame import Context, db_path_option, json_option, org_option, pass_context, percent, print_json, print_table

HEADINGS = ("#", "skill", "score", "calls", "users", "success %", "p50 ms", "p95 ms", "p99 ms", "rating")
SPARE = ("p50 ms", "p99 ms", "users", "rating", "p95 ms", "score", "success %", "calls")


@click.command()
@click.option("--metric", type=click.Choice(METRICS), default="usage_count", show_default=True)
@click.option("--period", type=click.Choice(list(PERIODS)), default="all", show_default=True, help="In UTC days.")
@click.option("--limit", type=int, default=10, show_default=True, help="How many places, up to 1000.")
@org_option
@db_path_option
@json_option()
@pass_context
def command(
    context: Context, metric: str, period: str, limit: int, org_id: str | None, db_path: str | None, as_json: bool
) -> None:
    """Print the skills that lead: by use, success, rating, users or speed.

    Ranked so that little evidence does not win: 2 of 2 successes are behind 990 of 1000.
    """
    entries = context.asker(db_path).get_leaderboard(limit, metric, period, org_id)
    if as_json:
        print_json(entries)
    elif not entries:
        hint = "" if period == "all" else " in this period; --period all looks back to the first day"
        click.echo(f"Nothing to rank was recorded{hint}.", err=True)
    else:
        print_table(HEADINGS, map(row, entries), SPARE)


def row(entry: LeaderboardEntry) -> tuple[object, ...]:
    """A line of the table."""
    latencies = entry.p50_latency_ms, entry.p95_latency_ms, entry.p99_latency_ms
    score = int(entry.score) if entry.metric in ("usage_count", "adoption") else entry.score
    return (
        entry.rank,
        entry.skill_id,
        score,
        entry.executions,
        entry.unique_users,
        percent(entry.success_rate),
        *latencies,
        entry.rating_avg,
    )
