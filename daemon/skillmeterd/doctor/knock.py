"""Knock: who listens on the socket, found out by connecting to it. Where nobody does, nobody is asked in vain."""

import socket
import stat
import struct
from pathlib import Path
from typing import Final, Literal, NamedTuple

CONNECT_S: Final = 2.0

Outcome = Literal["listens", "absent", "left", "denied", "other", "deaf"]
"""`left`: the socket is there, and nobody listens. `other`: something else has its name."""


class Knock(NamedTuple):
    """What came of it. Process and user id are those of who listens, where the system tells."""

    outcome: Outcome
    pid: int | None = None
    uid: int | None = None
    why: str = ""


def knock(path: Path) -> Knock:
    """Connect to a socket, and go away at once."""
    try:
        if not stat.S_ISSOCK(path.lstat().st_mode):
            return Knock("other")
        return _connect(path)
    except FileNotFoundError:
        return Knock("absent")
    except PermissionError:
        return Knock("denied")
    except ConnectionRefusedError:
        return Knock("left")
    except OSError as error:
        return Knock("deaf", why=str(error))


def _connect(path: Path) -> Knock:
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(CONNECT_S)
        connection.connect(str(path))
        if not hasattr(socket, "SO_PEERCRED"):
            return Knock("listens")
        pid, uid, _ = struct.unpack("3i", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    return Knock("listens", pid or None, uid)
