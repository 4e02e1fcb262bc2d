"""Soak: hours of chaos on a small disk that fills up, in which the daemon lives long enough to leak.

    python -m tests.soak --seconds 3600

Like tests.chaos, but spool and database are on a tmpfs that is full for seconds now and then, and the daemon is stopped
often, ended or killed once a minute. All the while its memory, descriptors and threads are measured, and the ledger has
to balance whenever it is looked at. An hour's disk takes up to 4 GB of memory.
"""

import argparse
import contextlib
import os
import random
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from .chaos import Chaos
from .support import ledger

DISK_MB: Final = 320  # and more for each second, for what is stored; else the disk would be full for good
STORED_MB: Final = 1  # in a second, at most: 4,000 events, each of a user of its own
LIFE_S: Final = 60.0  # of a daemon
LOOK_S: Final = 2.0  # between two measurements
FULL_S: Final = (0.5, 4.0)  # for so long the disk is full
SPARE_S: Final = (5.0, 15.0)  # and so long it is not
REASONS: Final = frozenset(("unfinished", "disk_full", "spool_unavailable"))


@dataclass
class Sample:
    """What a daemon uses, at an age."""

    age_s: float
    memory_bytes: int
    descriptors: int
    threads: int


class Soak(Chaos):
    """One run. `samples` are those of every daemon."""

    def __init__(self, folder: Path, seed: int) -> None:
        disk = folder / "disk"
        disk.mkdir()
        super().__init__(folder, seed, daemon_folder=disk, reasons=REASONS)
        self.samples: list[Sample] = []
        self.looks = 0
        """How often the ledger was looked at while everything was in motion."""
        self.full = 0
        """How often the disk was."""
        self._disk = disk
        self._born_s = 0.0

    @contextlib.contextmanager
    def on_small_disk(self, seconds: float) -> Iterator[None]:
        """Large enough for a run of so long. Raises CalledProcessError where mounting is not allowed."""
        size = f"size={DISK_MB + STORED_MB * int(seconds)}m"
        subprocess.run(["mount", "-t", "tmpfs", "-o", size, "soak", str(self._disk)], check=True)
        try:
            yield
        finally:
            subprocess.run(["umount", "-l", str(self._disk)], check=True)

    def _harm_daemon(self, until_s: float) -> None:
        daemon, chance = self._daemon, self._random
        paused = full = False
        harm_at_s = disk_at_s = look_at_s = 0.0
        die_at_s = time.monotonic() + LIFE_S
        while (now_s := time.monotonic()) < until_s:
            if daemon.process is None or now_s >= die_at_s:
                if paused:
                    daemon.resume()
                self._replace_daemon()
                paused, die_at_s = False, now_s + LIFE_S
            if now_s >= harm_at_s:
                harm_at_s = now_s + chance.uniform(0.2, 2.0 if paused else 5.0)
                paused = not paused
                (daemon.pause if paused else daemon.resume)()
            if now_s >= disk_at_s:
                full = not full
                self.full += full
                disk_at_s = now_s + chance.uniform(*(FULL_S if full else SPARE_S))
                self._fill_disk() if full else (self._disk / "filler").unlink()
            if now_s >= look_at_s:
                look_at_s = now_s + LOOK_S
                self._look()
            assert daemon.process is None or daemon.process.poll() is None, daemon.log()
            time.sleep(0.02)
        if paused:
            daemon.resume()
        (self._disk / "filler").unlink(missing_ok=True)

    def _replace_daemon(self) -> None:
        if self._daemon.process is not None:
            self.outcome.deaths += 1
            if self._random.random() < 0.5:
                self._daemon.kill()
            else:
                self._daemon.stop()
        self._daemon.spawn()
        self._born_s = time.monotonic()

    def _fill_disk(self) -> None:
        """To the last byte."""
        with (self._disk / "filler").open("wb", buffering=0) as file:
            block = bytes(1 << 20)
            while block:
                try:
                    file.write(block)
                except OSError:
                    block = block[: len(block) // 2]

    def _look(self) -> None:
        status = dict(
            line.split(":", 1)
            for line in Path(f"/proc/{self._daemon.pid}/status").read_text().splitlines()
            if ":" in line
        )
        if "VmRSS" in status:  # else it has just begun
            memory, threads = int(status["VmRSS"].split()[0]) * 1024, int(status["Threads"])
            descriptors = len(os.listdir(f"/proc/{self._daemon.pid}/fd"))
            self.samples.append(Sample(time.monotonic() - self._born_s, memory, descriptors, threads))
        with contextlib.suppress(sqlite3.OperationalError):  # no room even to read, or no table yet
            counts = ledger(self._daemon.db_path)
            outcomes = counts["stored"] + counts["pending"] + counts["dropped"] + counts["rejected"]
            assert counts["attempted"] == outcomes, f"the ledger does not balance: {counts}"
            self.looks += 1

    def summary(self) -> str:
        """What the daemons used, young and old."""
        young = [sample for sample in self.samples if 5 <= sample.age_s < 20]
        old = [sample for sample in self.samples if sample.age_s >= LIFE_S - 15]
        lines = [f"{self.outcome}", f"the disk was full {self.full} times; the ledger balanced at {self.looks} looks"]
        for name, samples in ("5 to 20 s", young), ("45 to 60 s", old):
            if samples:
                lines.append(
                    f"daemons of {name}: at most {max(s.memory_bytes for s in samples) / 2**20:.0f} MiB, "
                    f"{max(s.descriptors for s in samples)} descriptors, {max(s.threads for s in samples)} threads"
                )
        return "\n".join(lines)


def main() -> None:
    """Run until the time is over, or something is found: then its folder is kept, but for the disk."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=3600.0)
    parser.add_argument("--seed", type=int, default=random.randrange(2**31))
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="skm-soak-"))
    print(f"seed {options.seed} in {folder}", flush=True)
    soak = Soak(folder, options.seed)
    with soak.on_small_disk(options.seconds):
        soak.run(options.seconds)
    print(soak.summary())
    subprocess.run(["rm", "-r", str(folder)], check=True)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    main()
