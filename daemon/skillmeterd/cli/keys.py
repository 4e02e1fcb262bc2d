"""`skillmeter keys`: the CURVE keys with which clients reach a daemon on another machine."""

import os
from pathlib import Path
from typing import Final

import click
import zmq

from skillmeter.parsers import CURVE_KEY

from .. import folders
from .frame import Failure, json_option, print_json

DAEMON: Final = """\
Where the daemon runs:
  ANALYTICS_ENDPOINT='tcp://0.0.0.0:PORT'
  ANALYTICS_CURVE_SECRET_FILE='{path}'
  ANALYTICS_CURVE_CLIENT_KEYS='...'             # the public keys of its clients, comma-separated

Where clients run:
  ANALYTICS_ENDPOINT='tcp://HOST:PORT'
  ANALYTICS_CURVE_SERVER_KEY='{public}'
  ANALYTICS_CURVE_CLIENT_SECRET_FILE='...'      # a key of its own: skillmeter keys new --client FILE"""

CLIENT: Final = """\
Where the daemon runs, besides those that are there, comma-separated:
  ANALYTICS_CURVE_CLIENT_KEYS='{public}'

Where the client runs:
  ANALYTICS_CURVE_CLIENT_SECRET_FILE='{path}'"""


@click.group()
def command() -> None:
    """Keys for clients on other machines: make them, show the public one."""


@command.command()
@click.argument("path", metavar="FILE", type=click.Path(path_type=Path))
@click.option("--client", is_flag=True, help="For a client, or for clients that come and go together.")
@json_option("Print the outcome as JSON.")
def new(path: Path, client: bool, as_json: bool) -> None:
    """Make a key pair, by default for the daemon. The secret key goes to FILE, for its owner alone.

    It is not shown. The public key is, with what to set where the daemon and where clients run.
    """
    public, secret = zmq.curve_keypair()
    path = path.absolute()
    _keep(path, secret)
    if as_json:
        print_json({"secret_file": str(path), "public_key": public.decode()})
        return
    click.echo(f"The secret key is in {path}, for its owner alone. The public key is\n\n  {public.decode()}\n")
    click.echo((CLIENT if client else DAEMON).format(path=path, public=public.decode()))


@command.command()
@click.argument("path", metavar="FILE", type=click.Path(path_type=Path))
def show(path: Path) -> None:
    """Print the public key that belongs to the secret one in FILE."""
    try:
        secret = CURVE_KEY.parse(path.read_bytes().decode("ascii", "replace").strip())
    except ValueError as error:
        raise Failure(f"{path} {error}") from None  # without what is in it
    click.echo(zmq.curve_public(secret.encode()).decode())


def _keep(path: Path, secret: bytes) -> None:
    """Make the file, which nobody else could open at any moment. Raises Failure if it exists, or OSError."""
    folders.make(path.parent)
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        raise Failure(f"{path} exists; whoever uses the key in it would be locked out. Choose another name") from None
    try:
        with os.fdopen(fd, "wb") as file:
            file.write(secret + b"\n")
            file.flush()
            os.fsync(fd)
    except BaseException:
        path.unlink()
        raise
