"""`skillmeter doctor`: check everything, and say of what is not right what to do."""

import os
from collections import Counter
from collections.abc import Iterable
from typing import Final

import click

from skillmeter._version import __version__
from skillmeter.parsers import printable

from ..doctor import Finding, Patient, State, admit, compare, examine, finding_of, worst
from ..reconcile import Comparison
from .frame import Context, Failure, db_path_option, json_option, pass_context, print_json, progress

COLORS: Final[dict[State, str]] = {"ok": "green", "warn": "yellow", "fail": "red"}


@click.command()
@click.option("--endpoint", metavar="ADDRESS", help="Where the daemon listens (ANALYTICS_ENDPOINT).")
@db_path_option
@click.option("--spool-dir", metavar="DIR", help="Where journals are (ANALYTICS_SPOOL_DIR).")
@click.option("--reconcile", is_flag=True, help="Also compare SQLite, /metrics and what OTLP acknowledged.")
@json_option()
@pass_context
@click.pass_context
def command(ctx: click.Context, context: Context, /, reconcile: bool, as_json: bool, **flags: str | None) -> None:
    """Check settings, folders, daemon, spool, database, ledger and sinks, and say what to do.

    Changes nothing, and works without a daemon too. With --reconcile it also compares, each at one commit and while
    recording goes on, the ledger, the rollups, the events, /metrics and what an OTLP receiver acknowledged last; where
    two are not equal to the event it says which series, and both numbers.

    Exit 0 if all is well or there are only warnings, 1 if something fails.
    """
    settings, mistakes = context.salvaged_settings(**flags)
    patient = admit(settings, mistakes, os.environ)
    findings = []
    for finding in examine(patient):
        findings.append(finding)
        if not as_json:
            _print(finding)
    comparisons = _compare(patient) if reconcile else []
    for comparison in comparisons:
        findings.append(finding_of(comparison))
        if not as_json:
            _print(findings[-1])
    if as_json:
        compared = {"reconcile": comparisons} if reconcile else {}
        print_json({"state": worst(findings), "version": __version__, "findings": findings, **compared})
    else:
        click.echo(_summary(findings))
    if worst(findings) == "fail":
        ctx.exit(Failure.exit_code)


def _compare(patient: Patient) -> list[Comparison]:
    """With a bar while the events are read: of ten million that takes some seconds."""
    read = 0
    with progress("comparing", None) as bar:

        def advance(events: int, total: int) -> None:
            nonlocal read
            read += events
            bar(read, total)

        return list(compare(patient, advance))


def _print(finding: Finding) -> None:
    state = click.style(f"{finding.state:5}", fg=COLORS[finding.state])
    click.echo(f"{state} {finding.check:26} {printable(finding.what)}")
    if finding.advice:
        click.echo(f"{'':32} -> {printable(finding.advice)}")


def _summary(findings: Iterable[Finding]) -> str:
    counts = Counter(finding.state for finding in findings)
    return f"{counts['ok']} ok, {counts['warn']} warn, {counts['fail']} fail"
