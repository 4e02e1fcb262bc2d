"""`skillmeter spool`: the journals that wait in the spool - list them, or get them into the database."""

import os
import time
from pathlib import Path
from typing import Any

import click

from skillmeter import records
from skillmeter.errors import CorruptJournal

from .. import spool
from ..errors import AlreadyRunning, DaemonError
from ..instance import Instance
from ..orphans import Orphans
from ..quarantine import Quarantine
from ..store import Store
from .frame import Context, Failure, pass_context, print_json, print_table, progress

POLL_S = 0.1


@click.group()
def command() -> None:
    """The journals in the spool: list them, drain them."""


@command.command("ls")
@click.option("--spool-dir", metavar="DIR", help="Where journals are (ANALYTICS_SPOOL_DIR).")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@pass_context
def ls(context: Context, spool_dir: str | None, as_json: bool) -> None:
    """List journals: whose, alive or orphan, how old and how large, and what was set aside."""
    folder = context.client_settings(spool_dir=spool_dir).spool_dir
    found = [_journal(path, folder) for path in sorted(spool.entries(folder)) if path.suffix == spool.HEAD_SUFFIX]
    aside = sorted(path.name for path in spool.entries(folder / "quarantine"))
    if as_json:
        print_json({"journals": found, "quarantine": aside})
        return
    headings = ["journal", "owner", "pid", "age s", "bytes", "attempted"]
    print_table(
        headings,
        [[row["journal"], row["owner"], row["pid"], row["age_s"], row["bytes"], row["attempted"]] for row in found],
    )
    for name in aside:
        click.echo(f"set aside: {folder / 'quarantine' / name!s}")


def _journal(path: Path, folder: Path) -> dict[str, Any]:
    """One journal. A look at its lock tells whether the owner lives; the lock is given back at once."""
    row: dict[str, Any] = {"journal": path.stem, "owner": "unreadable", "pid": None, "age_s": None, "attempted": None}
    segments = [other for other in spool.entries(folder) if other.name.startswith(f"{path.stem}.")]
    row["bytes"] = sum(other.lstat().st_size for other in segments if other.exists())
    try:
        with spool.opened(path) as fd:
            head = records.decode_head(page := os.pread(fd, records.HEAD_BYTES, 0))
            row["pid"], row["attempted"] = head.pid, records.decode_ledger(page)[0]
            row["age_s"] = max(0, (time.time_ns() - head.created_at_ns) // 1_000_000_000)
            row["owner"] = "ended" if spool.lock(fd) else "alive"
    except FileNotFoundError:
        row["owner"] = "taken over"
    except (CorruptJournal, OSError) as error:
        row["owner"] = f"unreadable: {error}"
    return row


@command.command()
@click.option("--timeout", "timeout_s", type=float, default=60.0, show_default=True, help="Seconds at most.")
@click.option("--db-path", metavar="FILE", help="The SQLite file (ANALYTICS_DB_PATH).")
@click.option("--spool-dir", metavar="DIR", help="Where journals are (ANALYTICS_SPOOL_DIR).")
@pass_context
@click.pass_context
def drain(
    ctx: click.Context, context: Context, /, timeout_s: float, db_path: str | None, spool_dir: str | None
) -> None:
    """Get the journals of ended processes into the database; waits for the daemon to do it if one runs."""
    settings = context.daemon_settings(db_path=db_path, spool_dir=spool_dir)
    instance = Instance()
    try:
        instance.claim_all(settings)
    except AlreadyRunning:
        left = _wait(settings.spool_dir, timeout_s)
    else:
        try:
            left = _take_over(settings.db_path, settings.spool_dir, timeout_s)
        except DaemonError as error:
            raise Failure(str(error)) from error
        finally:
            instance.release()
    click.echo("Nothing of ended processes is left." if not left else f"{left} journals of ended processes are left.")
    if left:
        ctx.exit(Failure.exit_code)


def _wait(folder: Path, timeout_s: float) -> int:
    """How many are left when a running daemon has had its time."""
    deadline_s = time.monotonic() + timeout_s
    while (left := _ended(folder)) and time.monotonic() < deadline_s:
        time.sleep(POLL_S)
    return left


def _take_over(db_path: Path, folder: Path, timeout_s: float) -> int:
    """Do what a daemon would do with orphans; how many are left."""
    deadline_s = time.monotonic() + timeout_s
    store = Store.open(db_path)
    try:
        orphans = Orphans(folder, store, Quarantine(folder))
        orphans.look()
        total = orphans.pending
        with progress("journals", total) as advance:
            while orphans.step() and time.monotonic() < deadline_s:
                advance(total - orphans.pending)
        orphans.release()
    finally:
        store.close()
    return _ended(folder)


def _ended(folder: Path) -> int:
    heads = [path for path in spool.entries(folder) if path.suffix == spool.HEAD_SUFFIX]
    return sum(_journal(path, folder)["owner"] == "ended" for path in heads)
