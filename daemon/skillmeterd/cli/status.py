"""`skillmeter status`: one screen about the daemon, its ledger, its files and its sinks."""

import time
from typing import Any

import click

from skillmeter.connection import Connection

from .frame import Context, Failure, json_option, pass_context, print_json, print_table


@click.command()
@click.option("--endpoint", metavar="ADDRESS", help="Where the daemon listens (ANALYTICS_ENDPOINT).")
@json_option()
@pass_context
@click.pass_context
def command(ctx: click.Context, context: Context, /, endpoint: str | None, as_json: bool) -> None:
    """Show how the daemon is doing.

    Exit 1 if it cannot commit, if its ledger does not balance, or if it cannot look at its own files.
    """
    settings = context.client_settings(endpoint=endpoint)
    connection = Connection.to(settings)
    try:
        answer = connection.ask("status")
    finally:
        connection.close()
    if as_json:
        print_json(answer)
    else:
        print_table(["about", "what"], _lines(answer))
    problems = [answer[part]["problem"] for part in ("ledger", "database", "spool")]
    if not answer["ready"] or answer["ledger"]["balance"] or any(problems):
        ctx.exit(Failure.exit_code)


def _lines(answer: dict[str, Any]) -> list[tuple[str, str]]:
    vitals = answer["vitals"]
    up_s = (time.time_ns() - vitals["started_ns"]) // 1_000_000_000
    commits, refused = vitals["commits"], vitals["refused_connections"]
    mean_ms = f", {vitals['commit_seconds'] / commits * 1000:.1f} ms each" if commits else ""
    lines = [
        ("daemon", f"{answer['version']}, process {answer['pid']}, up {_duration(up_s)}, at {answer['endpoint']}"),
        ("state", "ready" if answer["ready"] else f"cannot commit: {vitals['store_problem']}"),
        *_ledger(answer["ledger"]),
        ("commits", f"{commits:,} since the start, {vitals['events']:,} events{mean_ms}"),
        *_files(answer["database"], answer["spool"]),
        ("orphans", f"{vitals['orphans_recovered']:,} taken over, {vitals['orphans_pending']:,} waiting"),
        *(("incident", text) for text in vitals["incidents"]),
        *([("refused", f"{refused:,} connections without a key that is allowed")] if refused else []),
    ]
    if answer.get("http"):
        lines.append(("http", answer["http"]))
    return lines + [(f"sink {name}", _sink(sink)) for name, sink in _sinks(answer)]


def _ledger(counts: dict[str, Any]) -> list[tuple[str, str]]:
    if counts["problem"]:
        return [("ledger", counts["problem"])]
    sums = " + ".join(f"{name} {counts[name]:,}" for name in ("stored", "pending", "dropped", "rejected"))
    reasons = [(f"  {reason}", f"{events:,}") for reason, events in counts["reasons"].items() if events]
    return [("ledger", f"attempted {counts['attempted']:,} = {sums}" + _unbalanced(counts["balance"])), *reasons]


def _files(database: dict[str, Any], spool: dict[str, Any]) -> list[tuple[str, str]]:
    if database["problem"]:
        lines = [("database", f"{database['path']}, {database['problem']}")]
    else:
        lines = [("database", f"{database['path']}, {_size(database['bytes'])}")]
        lines.append(("write-ahead log", _size(database["wal_bytes"])))
    if spool["journals"] is None:
        return [*lines, ("spool", f"{spool['path']}, {spool['problem']}")]
    lines.append(("spool", f"{spool['journals']:,} journals, {_size(spool['bytes'])}"))
    return [*lines, ("set aside", spool["problem"] or f"{spool['quarantined']:,} in quarantine")]


def _sinks(answer: dict[str, Any]) -> list[tuple[str, Any]]:
    sinks = answer.get("sinks") or {}
    return list(sinks.items()) if isinstance(sinks, dict) else [(sink.get("name", "?"), sink) for sink in sinks]


def _sink(sink: Any) -> str:
    """A sink's own words for its state, on one line."""
    if not isinstance(sink, dict):
        return str(sink)
    return ", ".join(f"{name} {value}" for name, value in sink.items() if value not in (None, "", {}, []))


def _unbalanced(balance: int) -> str:
    return f"   OFF BY {balance:,}" if balance else ""


def _duration(seconds: int) -> str:
    days, rest = divmod(seconds, 86_400)
    hours, rest = divmod(rest, 3600)
    text = f"{hours}:{rest // 60:02}:{rest % 60:02}"
    return f"{days} d {text}" if days else text


def _size(size: int) -> str:
    return f"{size / 1_000_000:,.1f} MB"
