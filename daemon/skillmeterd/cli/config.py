"""`skillmeter config`: what the settings are, where each came from, and whether they are right."""

import os

import click

from skillmeter.errors import ConfigError
from skillmeter.parsers import printable

from ..config import effective, unknown_variables
from .frame import Context, Failure, json_option, pass_context, print_json, print_table


@click.group()
def command() -> None:
    """The settings: show them, check them."""


@command.command()
@json_option()
@pass_context
def show(context: Context, as_json: bool) -> None:
    """Print the effective settings and where each came from. Secrets are redacted."""
    settings = list(effective(context.daemon_settings()))
    if as_json:
        print_json({name: {"value": value, "source": source} for name, value, source in settings})
    else:
        print_table(["setting", "value", "source"], settings)


@command.command()
@json_option()
@pass_context
@click.pass_context
def check(ctx: click.Context, context: Context, /, as_json: bool) -> None:
    """Exit 1 with every mistake in the settings, 0 if there is none. Variables that do nothing are told on stderr."""
    for name in unknown_variables(os.environ):
        click.echo(f"skillmeter: a variable that does nothing: {printable(name)}", err=True)
    try:
        context.daemon_settings()
    except ConfigError as error:
        if not as_json:
            raise
        print_json({"mistakes": error.problems})
        ctx.exit(Failure.exit_code)
    if as_json:
        print_json({"mistakes": []})
    else:
        click.echo("The settings are right.")
