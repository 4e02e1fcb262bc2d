"""Chaos: processes that record, and the daemon, die at random at every fault point; then every row is compared.

    python -m tests.chaos --seconds 600 --seed 7

A *nursery* forks short lives, each with dice of its own: threads record into small segments until a fault point kills
the process, or it ends in one of the ways that processes end. The daemon has dice too, and is killed and stopped from
outside besides. What each call returned is in a file of its life before the next call begins.
"""

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from .support import WAIT_S, DaemonProcess, assert_exactly, ledger, query

CLIENT_FAULTS: Final = "journal.created=0.02,journal.*_write=0.001,journal.roll=0.01,journal.sealed=0.01,shipper.*=0.01"
DAEMON_FAULTS: Final = "receiver.*=0.01,store.*=0.01,orphans.*=0.01"
QUIET_S: Final = (0.05, 1.5)  # between two things done to the daemon from outside
SHARE_OF_DICE: Final = 0.7  # of the lives; the others die in the usual ways only

NURSERY: Final = """
import importlib, os, random, sys, threading, time
import zmq
from skillmeter import create_analytics_client, faults
from skillmeter.journal import Journal

Journal.create.__func__.__kwdefaults__.update(head_bytes=8192, segment_bytes=8192)
folder, seed, share, dice = sys.argv[1], int(sys.argv[2]), float(sys.argv[3]), sys.argv[4]

def live(number):
    chance = random.Random(seed * 1_000_003 + number)
    if chance.random() < share:
        os.environ["SKILLMETER_FAULTS"] = dice
        os.environ["SKILLMETER_FAULTS_SEED"] = str(chance.random())
        importlib.reload(faults)
    client = create_analytics_client(durability=chance.choice(["process", "process", "process", "fsync"]))

    def record(life, thread, calls, pause_s):
        told = os.open(f"{folder}/{life}-{thread}", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        for call in range(calls):
            kept = client.record_skill_execution(f"s{call % 3}", call % 10 > 0, call % 700, f"{life}-{thread}-{call}")
            os.write(told, b"+" if kept else b"-")
            if pause_s and call % 20 == 0:
                time.sleep(pause_s)
        os.close(told)

    def work(life):
        pause_s = chance.choice([0, 0, 0.005, 0.02])
        calls = chance.choice([1, 3, 100, 600, 600])
        numbers = range(chance.choice([1, 1, 3]))
        threads = [threading.Thread(target=record, args=(life, number, calls, pause_s)) for number in numbers]
        for thread in threads:
            thread.start()
        return threads

    threads = work(number)
    if chance.random() < 0.2 and not os.fork():
        for thread in work(f"{number}f"):
            thread.join()
        os._exit(0)
    for thread in threads:
        thread.join()
    end = chance.random()
    if end < 0.4:
        client.flush(chance.choice([0.05, 2]))
    if end < 0.6:
        client.close()
    os._exit(0)

def bury():
    pid, status = os.wait()
    alive.discard(pid)
    return os.WIFSIGNALED(status)

alive = set()
number = killed = 0
while not os.path.exists(f"{folder}/stop"):
    number += 1
    pid = os.fork()
    if not pid:
        try:
            live(number)
        finally:
            os._exit(1)
    alive.add(pid)
    while len(alive) >= 5:
        killed += bury()
while alive:
    killed += bury()
print(killed)
"""


@dataclass
class Outcome:
    """What a run came to."""

    seed: int
    lives: int = 0
    killed: int = 0
    """Of the lives; not counted are those that they forked themselves."""
    recorded: int = 0
    stored: int = 0
    deaths: int = 0
    """Of the daemon."""
    ledger: dict[str, int] = field(default_factory=dict)

    def __str__(self) -> str:
        return (
            f"seed {self.seed}: {self.lives} lives, {self.killed} of them killed, recorded {self.recorded} events; "
            f"the daemon died {self.deaths} times; {self.stored} events are stored; ledger {self.ledger}"
        )


class Chaos:
    """One run: `run` for a while, then `settle` and compare."""

    def __init__(
        self,
        folder: Path,
        seed: int,
        *,
        daemon_folder: Path | None = None,
        reasons: frozenset[str] = frozenset(("unfinished",)),
    ) -> None:
        """`reasons` are those for which an event may be dropped."""
        self.outcome = Outcome(seed)
        self._told = folder / "told"
        self._told.mkdir()
        self._random = random.Random(seed)
        self._reasons = reasons
        self._daemon = DaemonProcess(daemon_folder or folder, started=False)

    def run(self, seconds: float) -> Outcome:
        """Chaos for so long, then order. Raises AssertionError for the first event that is not where it belongs."""
        with self._daemon as daemon:
            daemon.start()
            nursery = self._spawn_nursery()
            try:
                self._harm_daemon(time.monotonic() + seconds)
                (self._told / "stop").touch()
                out, _ = nursery.communicate(timeout=WAIT_S)
                self.outcome.killed = int(out)
            finally:
                nursery.kill()
                nursery.wait()
            self._settle()
        return self.outcome

    def _spawn_nursery(self) -> "subprocess.Popen[bytes]":
        arguments = [str(self._told), str(self.outcome.seed), str(SHARE_OF_DICE), CLIENT_FAULTS]
        command = [sys.executable, "-c", NURSERY, *arguments]
        return subprocess.Popen(command, env=self._daemon.env, stdout=subprocess.PIPE)

    def _harm_daemon(self, until_s: float) -> None:
        """Keep a daemon running, with dice; kill it and stop it now and then."""
        daemon = self._daemon
        harm_at_s = 0.0
        paused = False
        while (now_s := time.monotonic()) < until_s:
            if daemon.process is None or daemon.process.poll() is not None:
                self.outcome.deaths += 1
                paused = False
                seed = str(self._random.random())
                daemon.spawn({"SKILLMETER_FAULTS": DAEMON_FAULTS, "SKILLMETER_FAULTS_SEED": seed})
            elif now_s >= harm_at_s:
                harm_at_s = now_s + self._random.uniform(*QUIET_S)
                if paused:
                    daemon.resume()
                    paused = False
                elif (chance := self._random.random()) < 0.4:
                    daemon.kill()
                elif chance < 0.5:
                    os.kill(daemon.pid, signal.SIGTERM)
                else:
                    paused = True
                    os.kill(daemon.pid, signal.SIGSTOP)
            time.sleep(0.01)

    def _settle(self) -> None:
        daemon, outcome = self._daemon, self.outcome
        daemon.restart()
        daemon.wait_drained()
        recorded, perhaps = self._heard()
        outcome.recorded = len(recorded)
        outcome.stored = query(daemon.db_path, "SELECT count(*) FROM events")[0][0]
        outcome.ledger = dict(ledger(daemon.db_path))
        assert_exactly(recorded, daemon.db_path, perhaps=perhaps)
        counts = ledger(daemon.db_path)
        assert counts["pending"] == 0
        assert counts["dropped"] == sum(counts[f"dropped.{reason}"] for reason in self._reasons), counts
        assert not (daemon.spool_dir / "quarantine").exists()
        assert daemon.stop() == 0

    def _heard(self) -> tuple[list[str], list[str]]:
        """The names of calls that returned True, and of those that may have been cut off."""
        recorded: list[str] = []
        perhaps: list[str] = []
        files = [path for path in self._told.iterdir() if path.name != "stop"]
        self.outcome.lives = len({path.name.rpartition("-")[0] for path in files})
        for path in files:
            answers = path.read_text()
            recorded += [f"{path.name}-{call}" for call, answer in enumerate(answers) if answer == "+"]
            perhaps.append(f"{path.name}-{len(answers)}")
        return recorded, perhaps


def main() -> None:
    """Run until the time is over, or something is found: then its folder is kept."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=600.0)
    parser.add_argument("--seed", type=int, default=random.randrange(2**31))
    options = parser.parse_args()
    until_s = time.monotonic() + options.seconds
    seed = options.seed
    while time.monotonic() < until_s:
        folder = Path(tempfile.mkdtemp(prefix="skm-chaos-"))
        print(f"seed {seed} in {folder}", flush=True)
        print(Chaos(folder, seed).run(min(60.0, until_s - time.monotonic())), flush=True)
        subprocess.run(["rm", "-r", str(folder)], check=True)
        seed += 1


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    os.environ.setdefault("HOME", "/nonexistent")
    main()
