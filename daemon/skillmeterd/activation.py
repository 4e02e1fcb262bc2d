"""Activation: the listening socket that the service manager opened and passed on, as sd_listen_fds(3) describes it.

It stays open while the daemon restarts, so that clients which connect meanwhile wait for it instead of being refused.
"""

import contextlib
import os
import socket
import stat
from collections.abc import Mapping
from typing import Final

from .errors import DaemonError

FIRST_FD: Final = 3


def inherited(where: str, env: Mapping[str, str] = os.environ) -> int | None:
    """The descriptor of the socket that listens on the path `where`, if one was passed on.

    Raises DaemonError if something else was: the operator believes that clients reach the daemon there.
    """
    if env.get("LISTEN_PID") != str(os.getpid()):
        return None
    fds = range(FIRST_FD, FIRST_FD + int(env.get("LISTEN_FDS", "0")))
    for fd in fds:
        os.set_inheritable(fd, False)
    if not fds:
        return None
    if len(fds) > 1 or _address_of(fds[0]) != where:
        raise DaemonError(
            f"the service manager passed on {', '.join(map(_address_of, fds))}, and clients look for {where}:"
            " ListenStream and ANALYTICS_ENDPOINT have to name the same socket"
        )
    return fds[0]


def _address_of(fd: int) -> str:
    """The path that a socket listens on, or what else it is."""
    with contextlib.suppress(OSError):
        if stat.S_ISSOCK(os.fstat(fd).st_mode):
            with socket.socket(fileno=os.dup(fd)) as passed:
                if passed.family == socket.AF_UNIX and passed.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
                    return os.fsdecode(passed.getsockname())
    return "something that is no listening unix socket"
