"""`skillmeter tail`: events as they are committed."""

import datetime
import time

import click

from skillmeter.parsers import printable

from ..errors import StoreUnavailable
from ..queries import Queries, events
from .frame import Context, db_path_option, json_option, org_option, pass_context, print_json_line, skill_option

POLL_S = 0.25


@click.command()
@click.option("-n", "last", type=click.IntRange(0, 100_000), default=10, show_default=True, help="Begin so far back.")
@click.option("--no-follow", is_flag=True, help="End with the last event there is.")
@skill_option
@org_option
@db_path_option
@json_option("Print a JSON object a line.")
@pass_context
def command(
    context: Context,
    last: int,
    no_follow: bool,
    skill_id: str | None,
    org_id: str | None,
    db_path: str | None,
    as_json: bool,
) -> None:
    """Print events in the order in which they were committed, and go on until Ctrl-C, even if the database is away."""
    reader = Queries(context.database(db_path)).reader
    before, end = events.span(reader)
    at = max(before, end - last)
    problem = ""
    while True:
        try:
            for reached, rows in events.pieces(reader, at, end, skill_id=skill_id, org_id=org_id):
                at = reached
                for row in rows:
                    _print(dict(zip(events.COLUMNS, row, strict=True)), as_json=as_json)
            if no_follow:
                return
            time.sleep(POLL_S)
            before, end = events.span(reader)
            problem = ""
        except StoreUnavailable as error:
            if no_follow:
                raise
            if str(error) != problem:  # said once
                click.echo(f"skillmeter: {printable(str(error))}; waiting", err=True)
            problem = str(error)
        if end < at:  # another database took its place
            at = max(before, end - last)


def _print(event: dict[str, object], *, as_json: bool) -> None:
    if as_json:
        print_json_line(event)
    else:
        click.echo(_line(event))


def _line(event: dict[str, object]) -> str:
    """Time, what happened, to which skill, for whom."""
    return "  ".join(
        printable(str(part))
        for part in (_time(event["recorded_at"]), f"{_outcome(event):22}", event["skill_id"], *_whom(event))
    )


def _time(at_ns: object) -> str:
    assert isinstance(at_ns, int)
    at = datetime.datetime.fromtimestamp(at_ns // 1_000_000_000, datetime.UTC)
    return f"{at:%Y-%m-%d %H:%M:%S}.{at_ns // 1_000_000 % 1000:03}Z"


def _outcome(event: dict[str, object]) -> str:
    if event["kind"] == "rating":
        return f"rated {event['rating']}"
    if event["kind"] == "health":
        return f"health {event['score']:.1f}"
    return f"{'ok' if event['success'] else 'FAILED'} {event['latency_ms']:.1f} ms"


def _whom(event: dict[str, object]) -> list[str]:
    named = {"user": event["user_id"], "org": event["org_id"], "error": event["error_type"]}
    return [f"{name}={value}" for name, value in named.items() if value is not None]
