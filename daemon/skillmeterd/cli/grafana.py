"""`skillmeter grafana`: the dashboards, put in place through Grafana's API, or printed for who does that with files."""

import os
from typing import Final

import click

from skillmeter.parsers import TOKEN, URL, Secret
from skillmeter.settings import Reader, Setting

from .. import shipped
from ..errors import GrafanaError
from ..grafana import Grafana, Sources, Step, install
from ..outgoing import is_open
from .frame import Failure, json_option, print_json, print_table

ACCESS: Final = (
    Setting("GRAFANA_URL", "url", URL, None, "Grafana's address"),
    Setting("GRAFANA_TOKEN", "token", TOKEN, None, "a service account's token", secret=True),
)


@click.group()
def command() -> None:
    """Grafana: put the dashboards in place, or print them."""


@command.command("install")
@click.option("--url", metavar="URL", help="Grafana's address (GRAFANA_URL).")
@click.option(
    "--token",
    metavar="TOKEN",
    help="Of a service account (GRAFANA_TOKEN). Others can read a command line: rather use the variable.",
)
@click.option("--token-file", metavar="FILE", help="A file that holds the token (GRAFANA_TOKEN_FILE).")
@click.option(
    "--prometheus", metavar="URL", help="Make a data source of this address, at which Grafana reaches Prometheus."
)
@click.option("--sqlite", metavar="FILE", help="Make one of this database file, an absolute path on Grafana's host.")
@json_option()
def install_(
    url: str | None,
    token: str | None,
    token_file: str | None,
    prometheus: str | None,
    sqlite: str | None,
    as_json: bool,
) -> None:
    """Put data sources and dashboards in place. Running it again changes only what is not as it should be.

    Without --prometheus and --sqlite, the dashboard for Prometheus reads a data source that Grafana has already.
    """
    address, secret = _access(url, token, token_file)
    wanted = Sources(bool(prometheus or not sqlite), _url(prometheus), _path(sqlite))
    if is_open(address):
        click.echo("skillmeter: the address begins with http: who is on the way can read the token", err=True)
    grafana = Grafana(address, secret)
    steps: list[Step] = []
    error: GrafanaError | None = None
    version = None
    try:
        version = grafana.version()
        for step in install(grafana, wanted):
            steps.append(step)
    except GrafanaError as caught:
        error = caught
    finally:
        grafana.close()
    _print(steps, version, as_json)
    if error is not None:
        raise error
    if problems := [f"{step.name}: {step.problem}" for step in steps if step.problem]:
        raise Failure("\n".join(["all is in place, but Grafana cannot read:", *problems]))


@command.command()
@click.argument("name", metavar="FILE", type=click.Choice(list(shipped.FILES)))
def show(name: str) -> None:
    """Print a shipped file: prometheus.json, sqlite.json (dashboards), rules.yml or alerts.yml (for Prometheus)."""
    click.echo(shipped.text(name), nl=False)


def _access(url: str | None, token: str | None, token_file: str | None) -> tuple[str, Secret]:
    """Where Grafana is, and the token. Raises ConfigError with every mistake."""
    env = {name: value for name, value in os.environ.items() if name.startswith("GRAFANA_")}
    reader = Reader(env, {"grafana_url": url, "grafana_token": token, "grafana_token_file": token_file}, "flag")
    reader.read(ACCESS)
    for setting in ACCESS:
        if reader.fields.get(setting.field, "mistaken") is None:
            reader.mistake(setting.name, f"is needed, or --{setting.field}")
    found = reader.finish()
    return found["url"], found["token"]


def _url(text: str | None) -> str | None:
    try:
        return None if text is None else str(URL.parse(text))
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--prometheus") from None


def _path(text: str | None) -> str | None:
    if text is not None and (not text.startswith("/") or not text.isprintable() or set(text) & set("?#%")):
        raise click.BadParameter("must be an absolute path without ? # %", param_hint="--sqlite")
    return text


def _print(steps: list[Step], version: str | None, as_json: bool) -> None:
    if as_json:
        print_json({"grafana": version, "steps": steps})
    elif steps:
        rows = [(step.what, step.name, step.outcome, step.where) for step in steps]
        print_table(["what", "name", "outcome", "where"], rows)
