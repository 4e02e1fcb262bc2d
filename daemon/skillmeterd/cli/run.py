"""`skillmeter run`: the daemon, in the foreground."""

import logging

import click

from .. import log as logs
from ..errors import DaemonError
from ..reload import reload
from ..server import Server, serve
from .frame import Context, Failure, db_path_option, pass_context, said

log = logging.getLogger("skillmeterd")


@click.command()
@click.option("--endpoint", metavar="ADDRESS", help="Where to listen (ANALYTICS_ENDPOINT).")
@db_path_option
@click.option("--spool-dir", metavar="DIR", help="Where journals are (ANALYTICS_SPOOL_DIR).")
@click.option("--backend", metavar="NAMES", help="sqlite, otlp, prometheus, wandb, or several (ANALYTICS_BACKEND).")
@pass_context
def command(context: Context, /, **flags: str | None) -> None:
    """Run the daemon until SIGTERM or Ctrl-C."""
    settings = context.daemon_settings(**flags)
    logs.configure(settings.log_level)
    try:
        serve(settings, _ready, on_reload=lambda: reload(settings, lambda: context.daemon_settings(**flags)))
    except DaemonError as error:
        raise Failure(str(error)) from error
    except OSError as error:
        raise Failure(said(error)) from error
    log.info("stopped")


def _ready(server: Server) -> None:
    settings = server.settings
    places = {
        "endpoint": server.endpoint,
        "http": server.http_url or "off",
        "database": str(settings.db_path),
        "spool": settings.spool_dir,
    }
    log.info("ready", extra=places)
