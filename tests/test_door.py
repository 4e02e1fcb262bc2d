"""The door: as many connections as there are descriptors for, each served as if libzmq listened itself."""

import os
import socket
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import zmq

from skillmeterd.door import QUEUE, SPARE, Door


class House:
    """A ROUTER with a door, and who comes to it."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="skm-", dir="/tmp"))
        self.path = self.folder / "s"
        self.context = zmq.Context()
        self.router = self.context.socket(zmq.ROUTER)
        self.router.setsockopt(zmq.LINGER, 0)
        self.door = Door(self.router, self.path, 10**6)
        self.door.open()
        self.guests: list[Any] = []
        self.heard: list[bytes] = []

    def come(self, count: int) -> None:
        """So many clients, each with something to say."""
        for number in range(count):
            guest = self.context.socket(zmq.DEALER)
            guest.setsockopt(zmq.LINGER, 0)
            guest.connect(f"ipc://{self.path}")
            guest.send(b"%d" % number)
            self.guests.append(guest)

    def leave(self) -> None:
        """Everybody who came."""
        while self.guests:
            self.guests.pop().close()

    def serve_until(self, condition: Callable[[], bool]) -> None:
        """Take turns as the receiver does."""
        deadline_s = time.monotonic() + 30
        while not condition():
            assert time.monotonic() < deadline_s
            self.door.turn()
            while self.router.poll(1):
                self.heard.append(self.router.recv_multipart()[1])

    def limit(self, connections: int) -> None:
        """Leave room for no more than so many."""
        self.door._limit = len(os.listdir("/dev/fd")) + connections + QUEUE + SPARE

    def close(self) -> None:
        """Let go of everything."""
        self.leave()
        self.door.close()
        self.router.close()
        self.context.term()
        assert os.listdir(self.folder) == []
        self.folder.rmdir()


@pytest.fixture
def house() -> Iterator[House]:
    """One that is open."""
    house = House()
    yield house
    house.close()


def test_everybody_is_let_in_and_heard_once(house: House) -> None:
    """More than a queue holds, in several waves."""
    for _ in range(3):
        house.come(4 * QUEUE)
    house.serve_until(lambda: len(house.heard) == 12 * QUEUE)
    for guest in house.guests:
        guest.send(b"again")
    house.serve_until(lambda: len(house.heard) == 24 * QUEUE)
    assert house.heard.count(b"again") == 12 * QUEUE


def test_who_leaves_makes_room(house: House) -> None:
    """Queues are taken back when all of their connections have ended, so that nothing grows with the years."""
    before = len(os.listdir("/dev/fd"))
    for round_ in range(1, 6):
        house.come(3)
        house.serve_until(lambda: len(house.heard) == 3 * round_)  # noqa: B023 - called in this round
        house.leave()
        house.serve_until(lambda: not house.door._given)
    house.serve_until(lambda: len(os.listdir("/dev/fd")) <= before + 1)


def test_without_descriptors_nobody_is_let_in_until_there_are(house: House) -> None:
    """Who waits is served when somebody has left; nothing is lost."""
    house.come(2)
    house.serve_until(lambda: len(house.heard) == 2)
    first, house.guests = house.guests, []
    house.limit(0)
    house.come(3 * QUEUE)
    for _ in range(20):
        house.door.turn()
        assert not house.router.poll(5)
    for guest in first:
        guest.close()
    house.door._limit = 10**6
    house.serve_until(lambda: len(house.heard) == 2 + 3 * QUEUE)


def test_visitors_who_say_nothing_or_rubbish_leave_nothing_behind(house: House) -> None:
    """Whoever connects and goes, before or after he was let in, is forgotten."""
    for word in (b"", b"GET / HTTP/1.1\r\n\r\n") * QUEUE:
        with socket.socket(socket.AF_UNIX) as visitor:
            visitor.settimeout(10)
            while visitor.connect_ex(str(house.path)):
                house.door.turn()
            visitor.sendall(word)
        house.door.turn()
    house.come(1)
    house.serve_until(lambda: house.heard == [b"0"])
    house.leave()
    house.serve_until(lambda: not house.door._given)


@pytest.mark.parametrize(("folder_mode", "socket_mode"), [(0o700, 0o600), (0o755, 0o600), (0o2770, 0o660)])
def test_every_queue_is_as_private_as_the_first(house: House, folder_mode: int, socket_mode: int) -> None:
    """Its owner's alone, or the group's where the folder says so; never open for a moment in between."""
    house.folder.chmod(folder_mode)
    house.come(1)
    house.serve_until(lambda: len(house.heard) == 1)
    house.come(1)
    house.serve_until(lambda: len(house.heard) == 2)
    assert house.path.stat().st_mode & 0o777 == socket_mode
    assert os.listdir(house.folder) == ["s"]
