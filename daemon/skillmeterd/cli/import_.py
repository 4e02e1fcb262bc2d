"""`skillmeter import FILE...`: events from files, each once however often it is run."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

import click
import msgspec

from skillmeter.connection import Connection
from skillmeter.errors import InvalidEventError
from skillmeter.settings import ClientSettings

from ..exchange import formats, journals
from ..exchange.carrier import Carrier, producer_of
from ..exchange.rows import event_of, place_of
from ..queries.producers import MAX_PRODUCERS
from .frame import Context, Failure, json_option, pass_context, print_json, progress

MAX_MISTAKES = 10  # told of one file


@click.command()
@click.argument("paths", metavar="FILE...", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--format", "kind", type=click.Choice(formats.FORMATS), help="By default what the file's name says.")
@click.option("--check", is_flag=True, help="Only look for mistakes; needs no daemon.")
@json_option("Print the outcome as JSON.")
@pass_context
def command(context: Context, paths: tuple[Path, ...], kind: str | None, check: bool, as_json: bool) -> None:
    """Have the daemon store the events of files: what `export` writes, and journals (.journal).

    A file with a mistake is not begun. The same content is stored once: an import that was interrupted, run again, goes
    on where it was. What an `event_id` shows to have been sent to this very database is not stored again, not even
    if it was lost there: where that may be so, the import says of how many events. Columns are those of `export`;
    recorded_at, kind and skill_id are needed.

    Do not import into its own database an export of events that ANALYTICS_DB_RETENTION_DAYS has deleted since: they may
    be counted anew. After a restore, import only once live clients have reconnected.
    """
    settings = context.client_settings()
    outcome = []
    for path in paths:
        if path.suffix == ".journal":
            journals.check(path) if check else journals.hand_over(path, Path(settings.spool_dir))
            outcome.append({"file": str(path), "journal": True})
            continue
        chosen = kind or formats.format_of(path)
        if chosen is None:
            raise click.UsageError(f"{path} should end in .csv, .jsonl, .parquet or .journal, or give --format")
        count, producers = _check(chosen, path)
        stored, unsure = (0, 0) if check else _carry(settings, chosen, path, count, producers)
        outcome.append(
            {"file": str(path), "journal": False, "events": count, "stored": stored, "perhaps_missing": unsure}
        )
    _report(outcome, check=check, as_json=as_json)


def _check(kind: str, path: Path) -> tuple[int, list[str]]:
    """How many events a file has, and which producers they say they are of. Raises Failure with the first mistakes."""
    if path.exists() and not path.is_file():
        raise Failure(
            f"{path} is no file; an import reads it several times, so first write to one what comes by a pipe"
        )
    count, mistakes = 0, []
    producers = set[str]()
    with progress(f"checking {path.name}", None) as advance:
        for count, row in enumerate(formats.read(kind, path), 1):
            try:
                event_of(row)
            except InvalidEventError as error:
                mistakes.append(f"event {count:,}: {error}")
                if len(mistakes) == MAX_MISTAKES:
                    break
            if place := place_of(row):
                producers.add(place[0])
            if count % 1000 == 0:
                advance(count)
    if mistakes:
        raise Failure("\n".join([f"{path} has mistakes; nothing of it was imported:", *mistakes]))
    return count, sorted(producers)


def _carry(settings: ClientSettings, kind: str, path: Path, count: int, producers: list[str]) -> tuple[int, int]:
    """Have a file's events stored; returns how many were not before, and how many were left out that may be missing."""
    connection = Connection.to(settings)
    with (
        contextlib.closing(Carrier(connection, producer_of(path))) as carrier,
        progress(f"importing {path.name}", count) as advance,
    ):
        committed = _committed(connection, producers)
        stored = carrier.carry(lambda: _events(kind, path, committed), advance)
    with_gaps = {producer: offset for producer, (offset, has_gaps) in committed.items() if has_gaps}
    if not with_gaps:
        return stored, 0
    places = filter(None, map(place_of, formats.read(kind, path)))
    return stored, sum(offset < with_gaps.get(producer, 0) for producer, offset in places)


def _committed(connection: Connection, producers: list[str]) -> dict[str, tuple[int, bool]]:
    """How far the database has the producers that a file names, and whether events before that are missing."""
    found: dict[str, tuple[int, bool]] = {}
    for at in range(0, len(producers), MAX_PRODUCERS):
        found |= connection.ask("committed", {"producers": producers[at : at + MAX_PRODUCERS]})
    return found


def _events(kind: str, path: Path, committed: dict[str, tuple[int, bool]]) -> Iterator[tuple[bytes, bool]]:
    encode = msgspec.msgpack.Encoder().encode
    for row in formats.read(kind, path):
        producer, offset = place_of(row) or ("", 0)
        yield encode(event_of(row)), offset < committed.get(producer, (0, False))[0]


def _report(outcome: list[dict[str, object]], *, check: bool, as_json: bool) -> None:
    for one in outcome:
        if one.get("perhaps_missing"):
            click.echo(
                f"skillmeter: {one['file']}: {one['perhaps_missing']:,} events were not stored, as their producers had"
                " sent them before; but the database has lost events of these producers, so some may not be in it",
                err=True,
            )
    if as_json:
        print_json(outcome)
        return
    for one in outcome:
        if one["journal"]:
            done = "is a journal" if check else "is in the spool; the daemon takes it"
        elif check:
            done = f"has {one['events']:,} events and no mistake"
        else:
            done = f"{one['stored']:,} events stored, of {one['events']:,}"
        click.echo(f"{one['file']}: {done}")
