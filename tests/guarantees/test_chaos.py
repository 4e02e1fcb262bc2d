"""Chaos: both sides die at every fault point at random, for a while; then every row is compared."""

import random
from pathlib import Path

import pytest

from tests.chaos import Chaos, Outcome
from tests.support import SCALE


def test_chaos_for_a_short_while_loses_and_doubles_nothing(tmp_path: Path) -> None:
    """Hundreds of lives and dozens of deaths of the daemon: rows = R, rollups agree, the ledger balances."""
    outcome = chaos(tmp_path, 15.0 * SCALE)
    assert outcome.recorded > 1000
    assert outcome.killed > 10, "the lives have dice"
    assert outcome.deaths > 3, "the daemon has dice"


@pytest.mark.chaos
@pytest.mark.parametrize("minute", range(1, 11))
def test_chaos_for_minutes_loses_and_doubles_nothing(tmp_path: Path, minute: int) -> None:
    """The same with another seed each minute."""
    chaos(tmp_path, 60.0)


def chaos(folder: Path, seconds: float) -> Outcome:
    """A run whose seed and outcome are printed, which pytest shows if it fails."""
    seed = random.randrange(2**31)
    print(f"seed {seed}")
    outcome = Chaos(folder, seed).run(seconds)
    print(outcome)
    return outcome
