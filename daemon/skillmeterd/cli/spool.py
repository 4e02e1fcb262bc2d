"""`skillmeter spool`: the journals that wait in the spool - list them, drain them, look at what was set aside."""

import time
from pathlib import Path
from typing import Final

import click
import msgspec

from .. import backlog, repair
from ..errors import AlreadyRunning
from ..instance import Instance
from ..orphans import Orphans
from ..quarantine import Quarantine
from ..store import Store
from .frame import Context, Failure, db_path_option, json_option, pass_context, print_json, print_table, progress

POLL_S: Final = 0.2
JOURNALS: Final = ("journal", "owner", "pid", "age s", "bytes", "attempted", "not stored yet")
FINDINGS: Final = ("set aside", "what", "bytes", "records", "can be repaired", "why")

spool_dir_option = click.option("--spool-dir", metavar="DIR", help="Where journals are (ANALYTICS_SPOOL_DIR).")


@click.group()
def command() -> None:
    """The journals in the spool: list them, drain them, look at what was set aside."""


@command.command()
@spool_dir_option
@db_path_option
@json_option()
@pass_context
def ls(context: Context, spool_dir: str | None, db_path: str | None, as_json: bool) -> None:
    """List journals, the oldest first: whether the owner lives, their age and size, and what is not stored yet.

    Exit 1 if the quarantine cannot be read.
    """
    settings = context.daemon_settings(db_path=db_path, spool_dir=spool_dir)
    folder = Path(settings.spool_dir)
    found = backlog.waiting(folder, settings.db_path)
    headless = backlog.headless(folder)
    aside, problem = _set_aside(folder)
    if as_json:
        journals = [{**msgspec.structs.asdict(one), "pending": one.pending} for one in found]
        names = {"headless": [path.name for path in headless], "quarantine": aside}
        print_json({"spool_dir": settings.spool_dir, "journals": journals, **names})
    else:
        print_table(JOURNALS, map(_row, found), spare=("age s", "pid", "attempted"))
        for path in headless:
            click.echo(f"left alone, as its journal's head is gone: {path.name!r}")
        if aside:
            click.echo(f"set aside: {len(aside)}; `skillmeter spool repair` says what they are")
    if problem:
        raise Failure(problem)


def _set_aside(folder: Path) -> tuple[list[str] | None, str]:
    """The names of what was set aside; None, and why, if they cannot be read: fewer may than may the spool."""
    try:
        return [path.name for path in backlog.set_aside(folder)], ""
    except OSError as error:
        return None, f"the quarantine cannot be read: {error}"


def _row(one: backlog.Waiting) -> tuple[object, ...]:
    owner = f"{one.owner}: {one.why}" if one.why else one.owner
    return one.journal, owner, one.pid, one.age_s, one.bytes, one.attempted, one.pending


@command.command()
@click.option("--timeout", "timeout_s", type=float, default=60.0, show_default=True, help="Seconds at most.")
@db_path_option
@spool_dir_option
@json_option("Print the outcome as JSON.")
@pass_context
@click.pass_context
def drain(
    ctx: click.Context, context: Context, /, timeout_s: float, db_path: str | None, spool_dir: str | None, as_json: bool
) -> None:
    """Get the journals of ended processes into the database; if a daemon runs, wait until it has done that.

    Exit 1 if any are left.
    """
    settings = context.daemon_settings(db_path=db_path, spool_dir=spool_dir)
    folder = Path(settings.spool_dir)
    deadline_s = time.monotonic() + timeout_s
    instance = Instance()
    try:
        instance.claim_all(settings)
    except AlreadyRunning:
        _wait(folder, deadline_s)
    else:
        try:
            _take_over(settings.db_path, folder, deadline_s)
        finally:
            instance.release()
    left = backlog.ended(folder)
    if as_json:
        print_json({"left": left})
    else:
        click.echo(f"{left} journals of ended processes are left." if left else "Nothing of ended processes is left.")
    if left:
        ctx.exit(Failure.exit_code)


def _wait(folder: Path, deadline_s: float) -> None:
    """Let the daemon that runs take its time."""
    total = backlog.ended(folder)
    with progress("journals", total) as advance:
        while (left := backlog.ended(folder)) and time.monotonic() < deadline_s:
            advance(max(0, total - left))
            time.sleep(POLL_S)


def _take_over(db_path: Path, folder: Path, deadline_s: float) -> None:
    """Do what a daemon would do with orphans. Raises StoreUnavailable or OSError."""
    store = Store.open(db_path)
    orphans = Orphans(folder, store, Quarantine(folder))
    try:
        orphans.look()
        total = orphans.pending
        with progress("journals", total) as advance:
            while orphans.step() and time.monotonic() < deadline_s:
                advance(total - orphans.pending)
    finally:
        orphans.release()
        store.close()


@command.command("repair")
@click.option("--apply", "applied", is_flag=True, help="Put back what can be repaired; the daemon then takes it.")
@spool_dir_option
@json_option()
@pass_context
def repair_(context: Context, applied: bool, spool_dir: str | None, as_json: bool) -> None:
    """Say what was set aside and why. With --apply, give journals whose header is damaged a new one.

    No event is stored twice by that: the database knows by the journal's name what it has of it. Nothing else in the
    quarantine is touched; its events are in the ledger as dropped.
    """
    folder = Path(context.client_settings(spool_dir=spool_dir).spool_dir)
    found = repair.examine(folder)
    repaired = [one.file for one in found if applied and one.repairable and repair.repair(folder, one.file)]
    if as_json:
        print_json({"spool_dir": str(folder), "quarantine": found, "repaired": repaired})
        return
    print_table(FINDINGS, [(one.file, one.what, one.bytes, one.records, one.repairable, one.why) for one in found])
    if applied:
        click.echo(f"{len(repaired)} journals are back in the spool.")
    elif any(one.repairable for one in found):
        click.echo("`skillmeter spool repair --apply` puts back what can be repaired.")
