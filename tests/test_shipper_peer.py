"""Shipper on a real socket: against a scripted daemon that is silent, forgets, refuses, talks nonsense or is away."""

import os
import resource
import shutil
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from skillmeter import shipper as shipper_module
from skillmeter import wire
from skillmeter.connection import Connection
from skillmeter.journal import Journal
from skillmeter.records import HEAD_BYTES, RECORD_HEADER_BYTES
from skillmeter.shipper import Shipper

from .scripted_daemon import Peer
from .support import wait_until


class Bench:
    """A journal of small segments, its shipper, and the place where the peer listens."""

    def __init__(self, folder: Path) -> None:
        self.run = Path(tempfile.mkdtemp(prefix="skm-", dir="/tmp"))
        self.endpoint = f"ipc://{self.run}/s"
        spool_dir, head_bytes = f"{folder}/spool", HEAD_BYTES + 512
        self.journal = Journal.create(spool_dir, max_bytes=2**20, head_bytes=head_bytes, segment_bytes=640)
        self.journal.noted()
        self.connection = Connection(self.endpoint)
        self.shipper = Shipper(self.journal, self.connection)
        self._peer: Peer | None = None

    @property
    def peer(self) -> Peer:
        self._peer = self._peer or Peer(self.endpoint)
        return self._peer

    def append(self, first: int, last: int) -> list[bytes]:
        payloads = [f"payload {number:04}".encode() for number in range(first, last)]
        assert all(map(self.journal.append, payloads))
        return payloads

    def ship_all(self) -> list[bytes]:
        """Have the peer acknowledge all there is."""
        payloads, _ = self.peer.take_all(self.journal.producer, 0, self.journal.end)
        wait_until(lambda: self.shipper.settled)
        return payloads

    def close(self) -> None:
        self.shipper.stop()
        wait_until(lambda: not self.shipper.running)
        self.shipper.close()
        self.journal.close()
        self.connection.close()
        if self._peer:
            self._peer.close()
        shutil.rmtree(self.run)


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    """A shipper that is not started yet, and that loses patience quickly."""
    monkeypatch.setattr(shipper_module, "START_DELAY_S", 0.0)
    monkeypatch.setattr(shipper_module, "ACK_TIMEOUT_S", 0.2)
    bench = Bench(tmp_path)
    yield bench
    bench.close()


def test_everything_is_sent_in_order_and_freed(bench: Bench) -> None:
    """Batches carry the records as they stand, each continuing the one before; acknowledged segments are deleted."""
    sent = bench.append(0, 200)
    bench.shipper.start()
    assert bench.ship_all() == sent
    wait_until(lambda: len(list(Path(bench.journal._head.path).parent.glob("*.seg"))) <= 2)
    assert bench.shipper.acked == bench.journal.end


def test_what_is_not_acknowledged_is_sent_again_over_a_new_socket(bench: Bench) -> None:
    """After the timeout the same batch comes from another identity, from the acknowledged offset on."""
    bench.append(0, 3)
    bench.shipper.start()
    first, payloads = bench.peer.take()
    identity = bench.peer.identity
    again, same = bench.peer.take()
    assert (again.continues, again.start, same) == (first.continues, first.start, payloads)
    assert bench.peer.identity != identity


def test_a_rewind_is_followed(bench: Bench) -> None:
    """A daemon that has less says from where, and gets that; nothing is declared lost that is still here."""
    sent = bench.append(0, 4)
    bench.shipper.start()
    bench.peer.take()
    bench.peer.say(wire.Rewind(bench.journal.producer, RECORD_HEADER_BYTES + len(sent[0]), 1))
    batch, payloads = bench.peer.take()
    assert payloads == sent[1:]
    assert batch.lost == 0


def test_a_daemon_that_lost_its_database_is_told_what_is_gone(bench: Bench) -> None:
    """What was acknowledged and freed is declared lost, exactly, however often it asks; the rest is sent again."""
    sent = bench.append(0, 200)
    bench.shipper.start()
    bench.ship_all()
    producer, kept_from = bench.journal.producer, bench.journal.kept_from
    gone = 200 - bench.journal.records_between(kept_from, bench.journal.end)
    assert 0 < gone < 200
    more = bench.append(200, 203)
    bench.peer.take()
    for _ in range(3):  # one for each batch that was under way, say
        bench.peer.say(wire.Rewind(producer, 0, 0))
        batch, _ = bench.peer.take()
        assert (batch.continues, batch.lost) == (0, gone)
    bench.peer.say(wire.Rewind(producer, 0, 0))
    payloads, lost = bench.peer.take_all(producer, 0, bench.journal.end)
    assert (payloads, lost) == (sent[gone:] + more, gone)


def test_a_second_loss_is_declared_exactly_too(bench: Bench) -> None:
    """The losses that the first fresh database was told of are told to the second, with what went since."""
    bench.append(0, 100)
    bench.shipper.start()
    bench.ship_all()
    producer = bench.journal.producer
    for total in (200, 300):
        bench.append(total - 100, total)
        bench.peer.take()
        bench.peer.say(wire.Rewind(producer, 0, 0))
        payloads, lost = bench.peer.take_all(producer, 0, bench.journal.end)
        assert len(payloads) + lost == total
        wait_until(lambda: bench.shipper.settled)


def test_a_ledger_without_records_is_sent(bench: Bench) -> None:
    """Refused events are known to the daemon though there is nothing else to send."""
    bench.journal.count("rejected.invalid_rating")
    bench.shipper.start()
    batch, payloads = bench.peer.take()
    assert payloads == []
    assert tuple(batch.ledger) == bench.journal.ledger.snapshot()
    bench.peer.say(wire.Ack(bench.journal.producer, 0, 0))
    wait_until(lambda: bench.shipper.settled)


def test_no_more_than_the_window_is_under_way(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """However much there is, an unanswered daemon is sent one window and no more."""
    monkeypatch.setattr(shipper_module, "WINDOW_BYTES", 1000)
    monkeypatch.setattr(shipper_module, "BATCH_BYTES", 300)
    monkeypatch.setattr(shipper_module, "ACK_TIMEOUT_S", 30.0)
    bench.append(0, 400)
    bench.shipper.start()
    sent = 0
    while sent < 1000:
        batch, payloads = bench.peer.take()
        sent = batch.start + sum(map(len, payloads)) + RECORD_HEADER_BYTES * len(payloads)
    assert sent <= 1000 + 640
    assert not bench.peer.socket.poll(200)


def test_what_is_not_for_it_is_ignored(bench: Bench) -> None:
    """Acknowledgements of others, answers, refusals and nonsense change nothing; the next real one counts."""
    sent = bench.append(0, 3)
    bench.shipper.start()
    bench.peer.take()
    for message in (
        wire.Ack(bytes(16), 10**6, 9),
        wire.Rewind(bytes(16), 0, 0),
        wire.Response(1, "hello"),
        wire.Refusal("no"),
    ):
        bench.peer.say(message)
    bench.peer.socket.send_multipart([bench.peer.identity, b"SKM9", b"\xc1"])
    bench.peer.socket.send_multipart([bench.peer.identity, b"alone"])
    end = sum(map(len, sent)) + RECORD_HEADER_BYTES * len(sent)
    bench.peer.say(wire.Ack(bench.journal.producer, end, 3))
    wait_until(lambda: bench.shipper.settled)


@pytest.mark.parametrize("daemon", ["there", "away"])
def test_an_idle_shipper_does_not_run(bench: Bench, daemon: str) -> None:
    """With nothing to do, or nobody to send to, its loop is not passed once; an append or a daemon wakes it."""
    passes: list[None] = []
    send_all = bench.shipper._send_all

    def counted(socket: Any) -> bool:
        passes.append(None)
        return send_all(socket)

    bench.shipper._send_all = counted  # type: ignore[method-assign]
    bench.append(0, 3)
    bench.shipper.start()
    if daemon == "there":
        bench.ship_all()
        wait_until(lambda: bench.journal.idle)
    else:
        wait_until(lambda: passes)
    threading.Event().wait(0.3)  # until what was under way has come to rest
    before = len(passes)
    threading.Event().wait(0.7)
    assert len(passes) == before
    bench.append(3, 4)
    assert bench.peer.take()[1]


def test_it_works_among_thousands_of_descriptors(bench: Bench) -> None:
    """A process with more than 1024 open files, which select() cannot serve, ships like any other."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < 4096:
        pytest.skip("this user may not open so many files")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 4096), hard))
    taken = [os.open("/dev/null", os.O_RDONLY) for _ in range(1500)]
    try:
        bench.shipper.close()
        bench.shipper = Shipper(bench.journal, bench.connection)  # its descriptors come after all of those
        sent = bench.append(0, 50)
        bench.shipper.start()
        assert bench.ship_all() == sent
    finally:
        for fd in taken:
            os.close(fd)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_a_stopped_shipper_ends_though_nobody_answers(bench: Bench) -> None:
    """It ends while it waits for a daemon, and leaves no socket behind."""
    bench.append(0, 3)
    bench.shipper.start()
    wait_until(lambda: bench.connection._sockets)
    bench.shipper.stop()
    wait_until(lambda: not bench.shipper.running)
    assert bench.connection._sockets == 0
