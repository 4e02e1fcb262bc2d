"""`skillmeter usage SKILL`: one skill, in its last days and since ever."""

from typing import Final

import click

from .frame import (
    Context,
    db_path_option,
    json_option,
    org_option,
    pass_context,
    percent,
    print_json,
    print_table,
    skill_argument,
)

SHARES: Final = ("success_rate", "share_of_active_users", "growth_daily", "growth_weekly", "retention")


@click.command()
@skill_argument
@click.option("--days", type=int, default=30, show_default=True, help="UTC days, today included.")
@org_option
@db_path_option
@json_option()
@pass_context
def command(context: Context, skill_id: str, days: int, org_id: str | None, db_path: str | None, as_json: bool) -> None:
    """Print how a skill was used: calls, success, latency, users, ratings, health."""
    asker = context.asker(db_path)
    facts = asker.get_skill_usage(skill_id, days, org_id).to_dict()
    facts["health"] = asker.compute_health_score(skill_id)
    facts["adoption"] = asker.get_adoption_metrics(skill_id, org_id).to_dict()
    if as_json:
        print_json(facts)
        return
    adoption = facts.pop("adoption")
    del adoption["skill_id"], adoption["org_id"]
    shown = {**facts, **adoption}
    shown |= {name: f"{percent(shown[name]):.2f} %" for name in SHARES if shown[name] is not None}
    print_table(["", skill_id], shown.items())
