"""`skillmeter restore FILE`: a backup in the database's place."""

import sqlite3
from pathlib import Path

import click

from ..exchange.backup import restore
from .frame import Context, Failure, db_path_option, json_option, pass_context, print_json, progress


@click.command()
@click.argument("path", metavar="FILE", type=click.Path(path_type=Path))
@db_path_option
@json_option("Print the outcome as JSON.")
@pass_context
def command(context: Context, path: Path, db_path: str | None, as_json: bool) -> None:
    """Put a backup in the place of the database, which is kept beside it. The daemon must have been stopped.

    Processes that live send again what they still have of the time since the backup; what nobody has any more, the
    ledger counts as lost.
    """
    target = context.database(db_path)
    try:
        with progress("copying", None) as advance:
            kept = restore(path, target, advance)
    except sqlite3.Error as error:
        raise Failure(f"cannot restore {path}: {error}") from error
    if as_json:
        print_json({"database": str(target), "kept": None if kept is None else str(kept)})
    else:
        click.echo(f"{target}: restored" + ("" if kept is None else f"; the old one is kept as {kept}"))
