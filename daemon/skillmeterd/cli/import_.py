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
from ..exchange.rows import event_of
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
    on where it was. Columns are those of `export`; recorded_at, kind and skill_id are needed.
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
        count = _check(chosen, path)
        before = count if check else _carry(settings, chosen, path, count)
        outcome.append({"file": str(path), "journal": False, "events": count, "stored": count - before})
    _report(outcome, check=check, as_json=as_json)


def _check(kind: str, path: Path) -> int:
    """How many events a file has. Raises Failure with the first mistakes."""
    count, mistakes = 0, []
    with progress(f"checking {path.name}", None) as advance:
        for count, row in enumerate(formats.read(kind, path), 1):
            try:
                event_of(row)
            except InvalidEventError as error:
                mistakes.append(f"event {count:,}: {error}")
                if len(mistakes) == MAX_MISTAKES:
                    break
            if count % 1000 == 0:
                advance(count)
    if mistakes:
        raise Failure("\n".join([f"{path} has mistakes; nothing of it was imported:", *mistakes]))
    return count


def _carry(settings: ClientSettings, kind: str, path: Path, count: int) -> int:
    """Have a file's events stored; returns how many were before."""
    connection = Connection.to(settings)
    with (
        contextlib.closing(Carrier(connection, producer_of(path))) as carrier,
        progress(f"importing {path.name}", count) as advance,
    ):
        return carrier.carry(_payloads(kind, path), advance)


def _payloads(kind: str, path: Path) -> Iterator[bytes]:
    encode = msgspec.msgpack.Encoder().encode
    return (encode(event_of(row)) for row in formats.read(kind, path))


def _report(outcome: list[dict[str, object]], *, check: bool, as_json: bool) -> None:
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
