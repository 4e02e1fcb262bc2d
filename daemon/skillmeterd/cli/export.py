"""`skillmeter export FILE`: events into a file."""

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import click

from ..exchange import formats
from ..exchange.files import complete, partial
from ..queries import Queries, events
from .frame import (
    Context,
    Failure,
    db_path_option,
    json_option,
    org_option,
    pass_context,
    print_json,
    progress,
    skill_option,
)


@click.command()
@click.argument("path", metavar="FILE", type=click.Path(path_type=Path))
@click.option("--format", "kind", type=click.Choice(formats.FORMATS), help="By default what the file's name says.")
@skill_option
@org_option
@db_path_option
@json_option("Print the outcome as JSON.")
@pass_context
def command(
    context: Context,
    path: Path,
    kind: str | None,
    skill_id: str | None,
    org_id: str | None,
    db_path: str | None,
    as_json: bool,
) -> None:
    """Write the events that were committed so far to FILE, or to stdout if it is -, as CSV, JSON lines or Parquet.

    FILE, for its owner alone, appears when it is complete. Recording goes on meanwhile. In CSV, values are carried
    literally: a spreadsheet program takes a cell that begins with = + - or @ for a formula, unless the file is
    imported there as text.
    """
    kind = kind or formats.format_of(path)
    if kind is None:
        raise click.UsageError("FILE should end in .csv, .jsonl or .parquet, or give --format")
    if as_json and str(path) == "-":
        raise click.UsageError("--json prints the outcome to stdout, where the events go; give a FILE")
    reader = Queries(context.database(db_path)).reader
    before, last = events.span(reader)
    count = 0
    with output(path) as file, progress("exporting", last - before) as advance:
        writer = formats.writer(kind, file)
        for reached, rows in events.pieces(reader, before, last, skill_id=skill_id, org_id=org_id):
            writer.write(rows)
            count += len(rows)
            advance(reached - before)
        writer.finish()
    if as_json:
        print_json({"events": count, "file": str(path), "format": kind})
    else:
        click.echo(f"{count:,} events written to {path}", err=True)


@contextlib.contextmanager
def output(path: Path) -> Iterator[IO[bytes]]:
    """A file that takes its name when all is in it, or stdout."""
    if str(path) == "-":
        if sys.stdout is None:
            raise Failure("standard output is closed")
        yield sys.stdout.buffer
        return
    if not path.parent.is_dir():
        raise Failure(f"there is no folder {path.parent}")
    with partial(path) as unfinished:
        with unfinished.open("wb") as file:
            yield file
        complete(unfinished, path)
