"""`skillmeter usage SKILL`: one skill, in its last days and since ever."""

import click

from ..queries import Queries
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


@click.command()
@skill_argument
@click.option("--days", type=int, default=30, show_default=True, help="UTC days, today included.")
@org_option
@db_path_option
@json_option()
@pass_context
def command(context: Context, skill_id: str, days: int, org_id: str | None, db_path: str | None, as_json: bool) -> None:
    """Print how a skill was used: calls, success, latency, users, ratings, health."""
    queries = Queries(context.daemon_settings(db_path=db_path).db_path)
    asked = {"skill_id": skill_id, "org_id": org_id}
    facts = queries.ask("usage", {**asked, "days": days}).to_dict()
    facts["health"] = queries.ask("health_score", {"skill_id": skill_id})
    facts["adoption"] = queries.ask("adoption", asked).to_dict()
    if as_json:
        print_json(facts)
        return
    adoption = facts.pop("adoption")
    del adoption["skill_id"], adoption["org_id"]
    print_table(["", skill_id], {**facts, **adoption}.items())
