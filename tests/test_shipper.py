"""The shipper: what it declares lost when the daemon has gone back behind what it still has."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from skillmeter import wire
from skillmeter.connection import Connection
from skillmeter.journal import Journal
from skillmeter.records import RECORD_HEADER_BYTES
from skillmeter.shipper import Shipper

RECORDS = 1000
PAYLOAD = b"x" * 50
RECORD_BYTES = RECORD_HEADER_BYTES + len(PAYLOAD)


class Socket:
    """Keeps what is sent."""

    def __init__(self) -> None:
        self.batches: list[wire.Batch] = []

    def send_multipart(self, frames: list[bytes], _: int) -> None:
        message, _body = wire.decode_to_daemon(frames)
        assert isinstance(message, wire.Batch)
        self.batches.append(message)


class Ship:
    """A journal whose records are all acknowledged, and its shipper, without a thread or a daemon."""

    def __init__(self, spool_dir: Path) -> None:
        self.journal = Journal.create(str(spool_dir), max_bytes=2**24, head_bytes=8192, segment_bytes=8192)
        self.shipper = Shipper(self.journal, Connection("ipc:///nowhere"))
        self.socket = Socket()
        self.go_on(RECORDS)

    def go_on(self, total: int) -> None:
        """Record RECORDS, and have all that makes acknowledged."""
        for _ in range(RECORDS):
            assert self.journal.append(PAYLOAD)
        self.end = self.journal.end
        self.shipper._go_back(self.end)
        self.hear(wire.Ack(self.journal.producer, self.end, total))
        self.kept = self.journal.records_between(self.journal.kept_from, self.end)
        assert 0 < self.kept < RECORDS

    def hear(self, message: wire.ToClient) -> None:
        """What the daemon says."""
        self.shipper._receive(message)

    def rewind(self, records: int) -> None:
        """The daemon has only the first so many records, which are in the head."""
        self.hear(wire.Rewind(self.journal.producer, records * RECORD_BYTES, records))

    def next_batch(self) -> wire.Batch:
        """What is sent now, first of all."""
        self.socket.batches.clear()
        assert self.shipper._send_all(self.socket)
        return self.socket.batches[0]


@pytest.fixture
def ship(tmp_path: Path) -> Iterator[Ship]:
    """One that has freed most of its records."""
    ship = Ship(tmp_path / "spool")
    yield ship
    ship.shipper.close()
    ship.journal.close()


@pytest.mark.parametrize("times", [1, 3])
def test_what_is_lost_is_counted_once_however_many_rewinds_come(ship: Ship, times: int) -> None:
    """Each batch that was on the way is answered with a rewind."""
    for _ in range(times):
        ship.rewind(10)
    batch = ship.next_batch()
    assert (batch.continues, batch.start) == (10 * RECORD_BYTES, ship.end - ship.kept * RECORD_BYTES)
    assert batch.lost == RECORDS - ship.kept - 10


def test_a_second_loss_adds_to_one_that_is_not_acknowledged(ship: Ship) -> None:
    """The database was replaced twice: all that lies between is missing there."""
    ship.rewind(10)
    ship.rewind(0)
    assert ship.next_batch().lost == RECORDS - ship.kept


def test_a_loss_is_declared_until_it_is_acknowledged_and_not_after_that(ship: Ship) -> None:
    """A new socket sends it again; once it is committed, later batches declare nothing."""
    ship.rewind(10)
    assert ship.next_batch().lost == RECORDS - ship.kept - 10
    ship.shipper._go_back(ship.shipper.acked)
    assert ship.next_batch().lost == RECORDS - ship.kept - 10
    ship.hear(wire.Ack(ship.journal.producer, ship.end, RECORDS))
    ship.journal.append(PAYLOAD)
    assert ship.next_batch().lost == 0


def test_a_loss_that_the_database_knows_of_is_not_declared_again(ship: Ship) -> None:
    """A copy from after the first loss is put back twice: each time only what lies behind it is missing."""
    ship.rewind(10)
    ship.next_batch()
    ship.hear(wire.Ack(ship.journal.producer, ship.end, RECORDS))
    copied_at = ship.end
    for total in (2 * RECORDS, 3 * RECORDS):
        ship.go_on(total)
        ship.hear(wire.Rewind(ship.journal.producer, copied_at, RECORDS))
        assert ship.next_batch().lost == total - RECORDS - ship.kept


def test_an_answer_to_a_repetition_does_not_hide_a_loss(ship: Ship) -> None:
    """What the daemon says of an offset before the loss is not taken for all there ever was."""
    ship.rewind(10)
    ship.hear(wire.Ack(ship.journal.producer, 10 * RECORD_BYTES, 10))
    ship.rewind(10)
    assert ship.next_batch().lost == RECORDS - ship.kept - 10


def test_nothing_is_lost_while_all_of_it_is_there(ship: Ship) -> None:
    """Going back to what is kept sends it again."""
    first_kept = RECORDS - ship.kept
    ship.hear(wire.Rewind(ship.journal.producer, ship.journal.kept_from, first_kept))
    batch = ship.next_batch()
    assert (batch.continues, batch.lost) == (ship.journal.kept_from, 0)


def test_a_loss_is_declared_though_nothing_is_left_to_send(ship: Ship, monkeypatch: pytest.MonkeyPatch) -> None:
    """The empty batch spans what is gone, so that the daemon can tell it from its repetition."""
    monkeypatch.setattr(ship.journal, "read", lambda *_: None)
    ship.rewind(10)
    batch = ship.next_batch()
    assert (batch.continues, batch.start) == (10 * RECORD_BYTES, ship.journal.kept_from)
    assert batch.lost > 0
