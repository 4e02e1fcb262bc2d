"""`skillmeter completion SHELL`: what a shell needs to complete commands and options."""

import click
from click.shell_completion import get_completion_class

SHELLS = ("bash", "zsh", "fish")
_HINTS = {
    "bash": 'eval "$(skillmeter completion bash)"   # in ~/.bashrc',
    "zsh": 'eval "$(skillmeter completion zsh)"   # in ~/.zshrc, after compinit',
    "fish": "skillmeter completion fish > ~/.config/fish/completions/skillmeter.fish",
}


@click.command(epilog="Examples: " + "; ".join(_HINTS.values()))
@click.argument("shell", type=click.Choice(SHELLS))
@click.pass_context
def command(ctx: click.Context, shell: str) -> None:
    """Print the completion script for a shell."""
    kind = get_completion_class(shell)
    assert kind is not None
    click.echo(kind(ctx.find_root().command, {}, "skillmeter", "_SKILLMETER_COMPLETE").source())
