"""`skillmeter backup FILE`: a whole copy of the database, while the daemon records."""

import sqlite3
from pathlib import Path

import click

from ..exchange.backup import back_up
from .frame import Context, Failure, db_path_option, json_option, pass_context, print_json, progress


@click.command()
@click.argument("path", metavar="FILE", type=click.Path(path_type=Path))
@click.option("--force", is_flag=True, help="Replace FILE if it exists.")
@db_path_option
@json_option("Print the outcome as JSON.")
@pass_context
def command(context: Context, path: Path, force: bool, db_path: str | None, as_json: bool) -> None:
    """Copy the database to FILE, and check the copy. FILE appears when it is whole."""
    source = context.database(db_path)
    if not source.is_file():
        raise Failure(f"there is no database {source}")
    if not path.parent.is_dir():
        raise Failure(f"there is no folder {path.parent}")
    if path.exists() and (not force or path.resolve() == source.resolve()):
        raise Failure(f"{path} exists; choose another name" + ("" if force else ", or give --force"))
    try:
        with progress("copying", None) as advance:
            back_up(source, path, advance)
    except sqlite3.Error as error:
        raise Failure(f"cannot copy {source}: {error}") from error
    if as_json:
        print_json({"file": str(path), "bytes": path.stat().st_size})
    else:
        click.echo(f"{path}: {path.stat().st_size:,} bytes, checked")
