"""`skillmeter config`: what the settings are, where each came from, and whether they are right."""

import click

from ..config import effective
from .frame import Context, json_option, pass_context, print_json, print_table


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
@pass_context
def check(context: Context) -> None:
    """Exit 1 with every mistake in the settings, 0 if there is none."""
    context.daemon_settings()
    click.echo("The settings are right.")
