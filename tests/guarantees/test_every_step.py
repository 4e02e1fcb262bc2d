"""Every step: whatever happens at whichever place in the client's code, each call has one outcome."""

import json
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

from tests.every_step import KINDS
from tests.support import FORKS_KNOWINGLY

STRIDE = 41


@pytest.mark.parametrize("kind", KINDS)
def test_a_place_in_forty_of_the_client_is_interrupted(tmp_path: Path, kind: str) -> None:
    """A handler that records, records into the next segment, is refused, raises, closes or forks, and a SIGKILL."""
    interrupt(tmp_path, kind, random.randrange(1, STRIDE + 1), STRIDE)


@pytest.mark.chaos
@pytest.mark.parametrize("kind", KINDS)
def test_every_place_of_the_client_is_interrupted(tmp_path: Path, kind: str) -> None:
    """The same at each of about a thousand places."""
    interrupt(tmp_path, kind, 1, 1)


def interrupt(folder: Path, kind: str, first: int, stride: int) -> None:
    """Run it: nothing is wrong, and what a handler's exception leaves open is the exception."""
    env = {**os.environ, "ANALYTICS_ENDPOINT": "ipc:///nowhere/skillmeter.sock"}
    command = [sys.executable, *FORKS_KNOWINGLY, "-m", "tests.every_step"]
    arguments = [str(folder), kind, str(first), str(stride)]
    done = subprocess.run([*command, *arguments], env=env, capture_output=True, text=True, timeout=900, check=False)
    *wrong, last = done.stdout.splitlines() or [""]
    assert done.returncode == 0, done.stdout + done.stderr
    assert not wrong, "\n".join(wrong)
    outcome = json.loads(last)
    assert outcome["runs"] > 500 / stride
    # Between a system call and the name for what it returned, nobody can give back what a handler's exception leaves.
    allowed = 2 + outcome["runs"] // 20 if kind == "raise" else 0
    assert outcome["leaks"] <= allowed
    assert outcome["deaf"] <= allowed
