"""Folders: made for their owner alone, with those above them, whatever the umask allows.

Whoever may write to a folder above a database or a spool can put another one in its place.
"""

import contextlib
import errno
import os
from pathlib import Path

_MODE = 0o700


def make(folder: Path) -> None:
    """Make a folder that may be there already, as it is then. Raises OSError."""
    try:
        folder.mkdir(_MODE)
    except FileExistsError:
        if not folder.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(folder)) from None
    except FileNotFoundError:
        if folder.parent == folder:
            raise
        make(folder.parent)
        with contextlib.suppress(FileExistsError):  # by another process in between
            folder.mkdir(_MODE)
