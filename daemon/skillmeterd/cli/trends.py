"""`skillmeter trends SKILL`: one skill, day by day."""

import click

from .frame import (
    Context,
    db_path_option,
    json_option,
    org_option,
    pass_context,
    print_json,
    print_table,
    skill_argument,
)

BAR = 30  # characters of the busiest day


@click.command()
@skill_argument
@click.option("--days", type=int, default=30, show_default=True, help="UTC days, today included.")
@org_option
@db_path_option
@json_option()
@pass_context
def command(context: Context, skill_id: str, days: int, org_id: str | None, db_path: str | None, as_json: bool) -> None:
    """Print a skill's days: calls, failures, users, latency."""
    points = context.asker(db_path).get_usage_trends(skill_id, days, org_id)
    if as_json:
        print_json(points)
        return
    most = max((point.execution_count for point in points), default=0) or 1
    print_table(
        ["day", "calls", "failed", "users", "p50 ms", "p95 ms", ""],
        [
            (
                point.day,
                point.execution_count,
                point.failure_count,
                point.unique_users,
                point.p50_latency_ms,
                point.p95_latency_ms,
                "#" * -(-BAR * point.execution_count // most),
            )
            for point in points
        ],
        spare=("", "p50 ms", "p95 ms", "users"),
    )
