"""Chaos: both sides die at every fault point at random, for a while; then every row is compared."""

import os
import random
from pathlib import Path

import pytest

from tests.chaos import Chaos, Outcome
from tests.restores import Restores
from tests.soak import LIFE_S, Soak
from tests.support import SCALE

MIB = 1024 * 1024


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


@pytest.mark.chaos
@pytest.mark.parametrize("part", range(1, 5))
def test_a_soak_on_a_small_disk_leaks_nothing(tmp_path: Path, part: int) -> None:
    """Kills, stalls and a full disk for minutes: memory and descriptors stay flat, the ledger balances at each look."""
    if os.geteuid():
        pytest.skip("only root may mount a small disk")
    soak = Soak(tmp_path, random.randrange(2**31))
    print(f"seed {soak.outcome.seed}")
    with soak.on_small_disk(3 * LIFE_S):
        soak.run(3 * LIFE_S)
    print(soak.summary())
    assert soak.full > 3
    assert soak.looks > 20
    assert max(sample.memory_bytes for sample in soak.samples) < 150 * MIB
    assert max(sample.threads for sample in soak.samples) < 10
    # MAX_OPEN of orphans.py, twice: the locks of as many journals, and a connection of each client.
    assert max(sample.descriptors for sample in soak.samples) < 256


@pytest.mark.chaos
@pytest.mark.parametrize("run", range(1, 11))
def test_a_database_that_goes_back_again_and_again_loses_nothing_uncounted(tmp_path: Path, run: int) -> None:
    """Copies put back under living and dying processes: every event is stored once or counted as lost, to the event."""
    restores = Restores(tmp_path, random.randrange(2**31))
    print(restores)
    restores.run(5)
    print(restores)
    assert restores.books["dropped.lost"] > 0


def chaos(folder: Path, seconds: float) -> Outcome:
    """A run whose seed and outcome are printed, which pytest shows if it fails."""
    seed = random.randrange(2**31)
    print(f"seed {seed}")
    outcome = Chaos(folder, seed).run(seconds)
    print(outcome)
    return outcome
