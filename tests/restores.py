"""Restores: again and again the database goes back to an earlier copy, under processes that record, live on and die.

    python -m tests.restores --rounds 50 --seed 7

Whoever died is taken over before the next copy is made, so every producer is known to each database that comes: then no
event may be missing that the ledger does not call lost, and it may call none lost that is there.
"""

import argparse
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections import Counter
from contextlib import closing
from pathlib import Path
from typing import Final

from skillmeter.records import HEAD_BYTES, decode_head

from .support import DaemonProcess, assert_consistent, ledger, recorded_names, wait_until

CLIENTS: Final = 3
SHARE_THAT_DIES: Final = 0.35

CLIENT: Final = """
import os, random, sys, time
from skillmeter import create_analytics_client
from skillmeter.journal import Journal
Journal.create.__func__.__kwdefaults__.update(head_bytes=8192, segment_bytes=4096)
folder, name = sys.argv[1:]
chance = random.Random(name)
client = create_analytics_client()
told = os.open(f"{folder}/{name}", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
calls = 0
while not os.path.exists(f"{folder}/stop"):
    for _ in range(chance.choice([1, 5, 40])):
        assert client.record_skill_execution("s", True, 1.0, f"{name}-{calls}")
        os.write(told, b"+")
        calls += 1
    time.sleep(chance.choice([0.001, 0.01, 0.05]))
if chance.random() < 0.5:
    client.flush(5)
    client.close()
"""


class Restores:
    """One run of some rounds. Raises AssertionError for the first thing that is not as it should be."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.restored = 0
        self.killed = 0
        self.books: Counter[str] = Counter()
        self._folder = folder
        self._told = folder / "told"
        self._told.mkdir()
        self._random = random.Random(seed)
        self._seed = seed
        self._daemon = DaemonProcess(folder, started=False)
        self._alive: list[subprocess.Popen[bytes]] = []
        self._spawned = 0

    def run(self, rounds: int) -> None:
        """Restore so many times, then compare."""
        with self._daemon as daemon:
            daemon.start()
            try:
                for _ in range(rounds):
                    self._have_clients()
                    self._go_back()
                (self._told / "stop").touch()
                assert all(client.wait(60) == 0 for client in self._alive)
            finally:
                for client in self._alive:
                    client.kill()
                    client.wait()
            daemon.wait_drained()
            self._compare()

    def _have_clients(self) -> None:
        while len(self._alive) < CLIENTS:
            self._spawned += 1
            arguments = [str(self._told), f"{self._seed}.{self._spawned}"]
            self._alive.append(subprocess.Popen([sys.executable, "-c", CLIENT, *arguments], env=self._daemon.env))

    def _go_back(self) -> None:
        """Copy the database, let time pass, and put the copy in its place: under the daemon, or between two."""
        daemon, copy = self._daemon, self._folder / "copy.db"
        self._pass_time(1.0)
        with closing(sqlite3.connect(daemon.db_path)) as now, closing(sqlite3.connect(copy)) as kept:
            now.backup(kept)
        self._pass_time(1.5)
        how = self._random.choice(["swap", "stop", "kill"])
        if how == "swap":
            os.replace(copy, daemon.db_path)
        else:
            daemon.kill() if how == "kill" else daemon.stop()
            self._pass_time(0.5)
            died = self._kill_some()
            for suffix in ("-wal", "-shm"):
                daemon.db_path.with_name(daemon.db_path.name + suffix).unlink(missing_ok=True)
            os.replace(copy, daemon.db_path)
            self._pass_time(self._random.choice([0.0, 3.0]))
            daemon.start()
            wait_until(lambda: not died & self._owners())
        self.restored += 1

    def _pass_time(self, most_s: float) -> None:
        time.sleep(self._random.uniform(0, most_s))

    def _kill_some(self) -> set[int]:
        """The numbers of the processes that died."""
        dying = [client for client in self._alive if self._random.random() < SHARE_THAT_DIES]
        for client in dying:
            client.kill()
            client.wait()
            self._alive.remove(client)
        self.killed += len(dying)
        return {client.pid for client in dying}

    def _owners(self) -> set[int]:
        """The processes whose journals are in the spool."""
        owners = set()
        for path in self._daemon.spool_dir.glob("*.journal"):
            try:
                owners.add(decode_head(path.read_bytes()[:HEAD_BYTES]).pid)
            except FileNotFoundError:
                continue
        return owners

    def _compare(self) -> None:
        """Each killed process may have been in the middle of a call, which is there, or unfinished, or neither."""
        db = self._daemon.db_path
        calls = {path.name: path.stat().st_size for path in self._told.iterdir() if path.name != "stop"}
        stored, self.books = recorded_names(db), ledger(db)
        perhaps = {f"{name}-{count}" for name, count in calls.items()}
        assert len(set(stored)) == len(stored)
        assert set(stored) <= perhaps | {f"{name}-{call}" for name, count in calls.items() for call in range(count)}
        assert_consistent(db)
        total = sum(calls.values())
        assert total <= self.books["attempted"] <= total + self.killed, (total, self.books)
        assert self.books["pending"] == 0, self.books
        assert self.books["dropped"] == self.books["dropped.lost"] + self.books["dropped.unfinished"], self.books
        assert self.books["dropped.unfinished"] <= self.killed, self.books

    def __str__(self) -> str:
        return f"seed {self._seed}: {self.restored} restores, {self.killed} processes killed; {dict(self.books)}"


def main() -> None:
    """Run seed after seed until something is found: then its folder is kept."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--seed", type=int, default=random.randrange(2**31))
    options = parser.parse_args()
    for seed in range(options.seed, options.seed + options.rounds):
        folder = Path(tempfile.mkdtemp(prefix="skm-restores-"))
        print(f"seed {seed} in {folder}", flush=True)
        run = Restores(folder, seed)
        run.run(5)
        print(run, flush=True)
        shutil.rmtree(folder)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    main()
