"""Quarantine: a folder for what cannot be explained. It is set aside and counted, never deleted."""

import errno
import os
import stat
from pathlib import Path
from typing import Final

MAX_SPANS: Final = 1000  # of damaged bytes; further ones are only counted, so that no client fills the disk or our time
MAX_SPAN_BYTES: Final = 64 * 1024 * 1024  # of all of them together, for the same reason


class Quarantine:
    """The folder `quarantine` in a spool. One thread."""

    def __init__(self, spool_dir: Path) -> None:
        self.folder = spool_dir / "quarantine"
        self.count = 0
        """How many things were set aside since the start."""
        self._spans = 0
        self._span_bytes = 0

    def move(self, path: Path) -> Path:
        """Move a file here under a name that is free. Raises OSError."""
        self._make_folder()
        target = self.folder / path.name
        number = 0
        while target.exists() or target.is_symlink():
            number += 1
            target = self.folder / f"{path.name}.{number}"
        os.rename(path, target)
        self.count += 1
        return target

    def _make_folder(self) -> None:
        """Where many may write into the spool, one of them may have been first, to have journals moved to himself.

        Raises OSError.
        """
        self.folder.mkdir(mode=0o700, exist_ok=True)
        found = self.folder.lstat()
        if not stat.S_ISDIR(found.st_mode) or found.st_uid not in (os.geteuid(), self.folder.parent.stat().st_uid):
            raise PermissionError(
                errno.EPERM,
                "is a link, or somebody else's: delete it, for the daemon to make its own",
                str(self.folder),
            )

    def keep(self, producer: bytes, offset: int, span: bytes) -> None:
        """Write damaged bytes of a journal to a file of their own. Raises OSError."""
        self.count += 1
        if self._spans >= MAX_SPANS or self._span_bytes + len(span) > MAX_SPAN_BYTES:
            return
        self._spans += 1
        self._span_bytes += len(span)
        self._make_folder()
        path = self.folder / f"{producer.hex()}.{offset:016x}.bytes"
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        with os.fdopen(fd, "wb") as file:
            file.write(span)
