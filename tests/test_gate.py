"""The gate: who knocks is answered by his key, and nobody is let in when nobody answers."""

from collections.abc import Iterator
from typing import Any

import pytest
import zmq

from skillmeter.parsers import Secret
from skillmeterd.gate import MAX_MESSAGES, Gate, Keys

from .support import wait_until

PUBLIC, SECRET = zmq.curve_keypair()
ALICE, MALLORY = zmq.curve_keypair(), zmq.curve_keypair()


class House:
    """A ROUTER behind a gate that Alice may pass, and who comes to it."""

    def __init__(self) -> None:
        self.context = zmq.Context()
        self.router = self.context.socket(zmq.ROUTER)
        self.router.setsockopt(zmq.LINGER, 0)
        self.gate = Gate(self.router, Keys(Secret(SECRET.decode()), frozenset((ALICE[0].decode(),))))
        self.port = self.router.bind_to_random_port("tcp://127.0.0.1")
        self.guests: list[Any] = []

    def come(self, pair: tuple[bytes, bytes] | None, server: bytes = PUBLIC) -> Any:
        """A client with this key pair, or without one, that says something."""
        guest = self.context.socket(zmq.DEALER)
        guest.setsockopt(zmq.LINGER, 0)
        if pair is not None:
            guest.setsockopt(zmq.CURVE_PUBLICKEY, pair[0])
            guest.setsockopt(zmq.CURVE_SECRETKEY, pair[1])
            guest.setsockopt(zmq.CURVE_SERVERKEY, server)
        guest.connect(f"tcp://127.0.0.1:{self.port}")
        guest.send(b"hello")
        self.guests.append(guest)
        return guest

    def heard(self) -> bytes:
        """Take a turn as the receiver does; what was said meanwhile."""
        self.gate.turn()
        return bytes(self.router.recv_multipart()[1]) if self.router.poll(5) else b""

    def close(self) -> None:
        """Let go of everything."""
        for guest in self.guests:
            guest.close()
        self.router.close()
        self.gate.close()
        self.context.term()


@pytest.fixture
def house() -> Iterator[House]:
    """One that is open."""
    house = House()
    yield house
    house.close()


def test_who_has_an_allowed_key_is_let_in(house: House) -> None:
    """And is not counted as refused."""
    house.come(ALICE)
    assert wait_until(house.heard) == b"hello"
    assert house.gate.refused == 0


@pytest.mark.parametrize(
    ("pair", "server"),
    [(MALLORY, PUBLIC), (ALICE, MALLORY[0]), (None, PUBLIC)],
    ids=["a key that is not allowed", "another daemon's key", "no key"],
)
def test_who_has_not_is_refused_and_counted(
    house: House, pair: tuple[bytes, bytes] | None, server: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    """He is not heard, and those who may come still are."""
    house.come(pair, server)
    said = [wait_until(lambda: house.heard() or house.gate.refused)]
    assert said[0] in range(1, 100)
    house.come(ALICE)
    assert wait_until(house.heard) == b"hello"
    assert SECRET.decode() not in caplog.text


def test_a_refused_key_is_named_once_in_a_while(house: House, caplog: pytest.LogCaptureFixture) -> None:
    """So that the operator can add it, and so that knocking does not fill the disk."""
    for _ in range(5):
        house.come(MALLORY)
    wait_until(lambda: (house.heard(), house.gate.refused >= 5)[1])
    (line,) = [record for record in caplog.records if "ANALYTICS_CURVE_CLIENT_KEYS" in record.getMessage()]
    assert vars(line)["key"] == MALLORY[0].decode()
    assert vars(line)["address"] == "127.0.0.1"


def test_without_an_answer_nobody_is_let_in(house: House) -> None:
    """Should the gate not be served, even Alice waits outside."""
    house.gate._questions.close()
    house.come(ALICE)
    assert not house.router.poll(500)


def test_a_turn_has_an_end(house: House) -> None:
    """However many knock at once; the rest is answered in the next turns."""
    questions = [house.context.socket(zmq.REQ) for _ in range(MAX_MESSAGES + 10)]
    for question in questions:
        question.setsockopt(zmq.LINGER, 0)
        question.connect("inproc://zeromq.zap.01")
        question.send_multipart([b"1.0", b"1", b"skillmeter", b"127.0.0.1", b"", b"CURVE", b"k" * 32])
    house.gate.turn()
    assert sum(bool(question.poll(0)) for question in questions) == MAX_MESSAGES
    house.gate.turn()
    assert all(question.recv_multipart()[2] == b"400" for question in questions)
    for question in questions:
        question.close()
