"""Files: new ones, for their owner alone from the first moment."""

import os
from pathlib import Path
from typing import IO


def create_private(path: Path) -> IO[bytes]:
    """A new file to write to. Raises FileExistsError, for a link too, or another OSError."""
    return open(path, "xb", opener=lambda name, flags: os.open(name, flags | os.O_CLOEXEC, 0o600))
