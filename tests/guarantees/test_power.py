"""Power loss: a disk that forgets whatever was not synced. With `fsync` nothing that was promised is lost.

The disk is a real ext4 in a file, which is told to shut down as if the power had gone: nothing more is written, not
even its own journal (EXT4_IOC_SHUTDOWN in the kernel's fs/ext4/ext4.h). Whoever uses it is stopped just before, so that
what he has said until then is known, and killed after. Mounted again, it holds what a disk would hold.
"""

import contextlib
import fcntl
import os
import random
import signal
import struct
import subprocess
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from ..support import SCALE, DaemonProcess, assert_consistent, assert_exactly, recorded_names, start_client, wait_until

SHUTDOWN: Final = 0x8004587D  # EXT4_IOC_SHUTDOWN
NO_LOG_FLUSH: Final = 2  # EXT4_GOING_FLAGS_NOLOGFLUSH
THREADS: Final = 3

RECORD: Final = """
import threading, time
from skillmeter.journal import Journal

Journal.create.__func__.__kwdefaults__.update(head_bytes=8192, segment_bytes=8192)  # many segments
told, life = sys.argv[1], sys.argv[2]

def work(thread):
    heard = os.open(told, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    number = 0
    while client.record_skill_execution("s", True, 1.0, f"{life}-{thread}-{number}"):
        os.write(heard, f"{life}-{thread}-{number}\\n".encode())
        number += 1
        time.sleep(0.0005)  # some thousand a second: the disk is small
    os._exit(1)

for thread in range(3):
    threading.Thread(target=work, args=(thread,)).start()
"""


class Disk:
    """A disk of 64 MiB whose power can be cut. Root only."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "disk"
        self._image = folder / "disk.img"

    def make(self) -> None:
        """Raises CalledProcessError if this user may not."""
        self.path.mkdir()
        with self._image.open("wb") as image:
            image.truncate(64 * 2**20)
        subprocess.run(["mkfs.ext4", "-q", str(self._image)], check=True, capture_output=True)
        self.mount()

    def mount(self) -> None:
        """Put it in place; what it had not finished when the power went, it undoes or finishes now."""
        subprocess.run(["mount", "-o", "loop", str(self._image), str(self.path)], check=True, capture_output=True)

    def unmount(self) -> None:
        """Nobody uses it any more."""
        subprocess.run(["umount", str(self.path)], check=True, capture_output=True)

    def cut(self) -> None:
        """From now on nothing is written."""
        fd = os.open(self.path, os.O_RDONLY)
        try:
            fcntl.ioctl(fd, SHUTDOWN, struct.pack("I", NO_LOG_FLUSH))
        finally:
            os.close(fd)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    """One that is in place; it is gone after the test."""
    made = Disk(tmp_path)
    try:
        made.make()
    except (OSError, subprocess.CalledProcessError) as error:
        if os.environ.get("CI"):
            pytest.fail(f"CI has to let the tests make and mount a disk: {error}")
        pytest.skip(f"this user may not make and mount a disk: {error}")
    yield made
    with contextlib.suppress(subprocess.CalledProcessError):
        made.unmount()


class Life:
    """A process that records in some threads until it is killed, and says what it was told at once."""

    def __init__(self, told: Path, name: str, env: dict[str, str]) -> None:
        self._told = told / name
        self._name = name
        self._process = start_client(RECORD, env, self._told, name)

    def told(self) -> list[str]:
        """The names of calls that returned True."""
        return self._told.read_text().split("\n")[:-1] if self._told.exists() else []

    def perhaps(self) -> list[str]:
        """The names of calls that may have been under way."""
        finished = Counter(name.rpartition("-")[0] for name in self.told())
        threads = (f"{self._name}-{thread}" for thread in range(THREADS))
        return [f"{thread}-{finished[thread]}" for thread in threads]

    def pause(self) -> None:
        """Let it say nothing more. Raises AssertionError if it has ended."""
        os.kill(self._process.pid, signal.SIGSTOP)
        os.waitid(os.P_PID, self._process.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)
        assert self._process.poll() is None, self._process.communicate()[1].decode()

    def kill(self) -> None:
        """SIGKILL it."""
        self._process.kill()
        self._process.communicate()


@contextlib.contextmanager
def living(*lives: Life) -> Iterator[None]:
    """Nobody is left behind, whatever the test comes to."""
    try:
        yield
    finally:
        for life in lives:
            life.kill()


def test_fsync_loses_nothing_when_the_whole_machine_loses_power(tmp_path: Path, disk: Disk) -> None:
    """Spool and database are on one disk, and the power goes at any moment, again and again: rows = R, none twice."""
    chance = random.Random(7)
    told, perhaps = [], []
    env = {"ANALYTICS_SPOOL_DIR": f"{disk.path}/spool", "ANALYTICS_DB_PATH": f"{disk.path}/analytics.db"}
    with DaemonProcess(tmp_path, env={**env, "ANALYTICS_DURABILITY": "fsync"}, started=False) as daemon:
        daemon.spool_dir, daemon.db_path = disk.path / "spool", disk.path / "analytics.db"
        for number in range(6 * SCALE):
            if number % 3:  # else the daemon is away
                daemon.start()
            lives = [Life(tmp_path, f"{number}{letter}", daemon.env) for letter in "ab"]
            with living(*lives):
                enough = chance.randrange(20, 400)
                wait_until(lambda lives=lives, enough=enough: sum(len(life.told()) for life in lives) >= enough)  # type: ignore[misc]
                for life in lives:
                    life.pause()
                if daemon.process is not None:
                    daemon.pause()
                disk.cut()
            daemon.kill()
            told += [name for life in lives for name in life.told()]
            perhaps += [name for life in lives for name in life.perhaps()]
            disk.unmount()
            disk.mount()
        daemon.start()
        daemon.wait_drained()
        assert_exactly(told, daemon.db_path, perhaps=perhaps)
        daemon.kill()


def test_a_daemon_s_disk_that_loses_power_has_all_that_was_acknowledged(tmp_path: Path, disk: Disk) -> None:
    """The spool is elsewhere and frees what was acknowledged: it was in SQLite for good."""
    chance = random.Random(11)
    with DaemonProcess(tmp_path, env={"ANALYTICS_DB_PATH": f"{disk.path}/analytics.db"}) as daemon:
        daemon.db_path = disk.path / "analytics.db"
        life = Life(tmp_path, "a", daemon.env)
        with living(life):
            for _ in range(4 * SCALE):
                enough = len(life.told()) + chance.randrange(200, 3000)
                wait_until(lambda enough=enough: len(life.told()) >= enough)  # type: ignore[misc]
                daemon.pause()
                disk.cut()
                daemon.kill()
                disk.unmount()
                disk.mount()
                daemon.start()
            life.pause()
        daemon.wait_drained()
        assert_exactly(life.told(), daemon.db_path, perhaps=life.perhaps())
        daemon.kill()


def test_without_fsync_a_power_failure_costs_what_the_kernel_had_not_written(tmp_path: Path, disk: Disk) -> None:
    """What had reached the disk is stored, once; of the rest whatever is there; nothing is invented, and the ledger
    balances."""
    env = {"ANALYTICS_SPOOL_DIR": f"{disk.path}/spool"}
    with DaemonProcess(tmp_path, env=env, started=False) as daemon:
        daemon.spool_dir = disk.path / "spool"
        life = Life(tmp_path, "a", daemon.env)
        with living(life):
            wait_until(lambda: len(life.told()) >= 500)
            written = life.told()
            os.sync()  # as the kernel does by itself within half a minute
            wait_until(lambda: len(life.told()) >= len(written) + 500)
            life.pause()
            disk.cut()
        disk.unmount()
        disk.mount()
        daemon.start()
        daemon.wait_drained()
        stored = Counter(recorded_names(daemon.db_path))
        assert set(written) <= set(stored)
        assert set(stored) <= {*life.told(), *life.perhaps()}
        assert max(stored.values()) == 1
        assert_consistent(daemon.db_path)
        daemon.kill()
