"""The command line: `skillmeter COMMAND`. Each command is a module here whose `command` is loaded when it is named."""

import os

import click

from skillmeter._version import __version__

from .frame import Context, Frame

COMMANDS = {
    "run": "run",
    "demo": "demo",
    "status": "status",
    "doctor": "doctor",
    "leaderboard": "leaderboard",
    "usage": "usage",
    "trends": "trends",
    "tail": "tail",
    "top": "top",
    "export": "export",
    "import": "import_",
    "spool": "spool",
    "backup": "backup",
    "restore": "restore",
    "config": "config",
    "keys": "keys",
    "grafana": "grafana",
    "completion": "completion",
}
"""The commands in the order of `--help`, and the modules they are in."""


@click.group(
    cls=Frame,
    modules=COMMANDS,
    package=__name__,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120},
    epilog="Exit codes: 0 done, 1 failed, 2 wrong usage, 3 the daemon does not answer, 130 interrupted.",
)
@click.option("--config", metavar="FILE", help="TOML file with settings (ANALYTICS_CONFIG).")
@click.version_option(__version__, message="%(prog)s %(version)s")
@click.pass_context
def group(ctx: click.Context, config: str | None) -> None:
    """Usage analytics for AI-agent skills."""
    ctx.obj = Context(config)
    if os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb":
        ctx.color = False


def main() -> None:
    """Run the command that the process was started with, then exit."""
    group(prog_name="skillmeter")
