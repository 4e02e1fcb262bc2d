"""The receiver: acknowledges what is committed, nothing else, and answers everybody whatever one client does."""

import contextlib
import os
import sqlite3
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import zmq

from skillmeter import records, wire
from skillmeterd import receiver
from skillmeterd.answers import Answers
from skillmeterd.quarantine import Quarantine
from skillmeterd.receiver import Receiver
from skillmeterd.store import Store
from skillmeterd.vitals import Vitals

from .journals import event
from .support import assert_consistent, assert_exactly, ledger, recorded_names

ONE = bytes(range(16))
TWO = bytes(range(16, 32))


class Bench:
    """A receiver with its store, served by hand; and clients that are plain sockets."""

    def __init__(self, folder: Path) -> None:
        self.db = folder / "analytics.db"
        self.store = Store.open(self.db)
        self.vitals = Vitals(started_ns=0)
        self.quarantine = Quarantine(folder)
        self.runtime_dir = Path(tempfile.mkdtemp(prefix="skm-", dir="/tmp"))
        self.endpoint = f"ipc://{self.runtime_dir}/s"
        self.receiver = Receiver(self.endpoint, self.store, self.quarantine, self.vitals)
        self.receiver.bind()
        self.context = zmq.Context()
        self.sockets: list[Any] = []

    def client(self) -> "Client":
        """A socket of its own."""
        socket = self.context.socket(zmq.DEALER)
        socket.setsockopt(zmq.LINGER, 0)
        socket.connect(self.endpoint)
        self.sockets.append(socket)
        return Client(self, socket)

    def serve_until(self, condition: Callable[[], Any]) -> None:
        """Serve until something is so."""
        deadline_s = time.monotonic() + 30
        while not condition():
            assert time.monotonic() < deadline_s
            self.receiver.serve(0.02)

    def close(self) -> None:
        """Let go of everything."""
        for socket in self.sockets:
            socket.close()
        self.context.term()
        self.receiver.close()
        self.store.close()
        self.runtime_dir.rmdir()


class Client:
    """What a client sends and hears."""

    def __init__(self, bench: Bench, socket: Any) -> None:
        self.bench = bench
        self.socket = socket

    def send(self, *frames: bytes) -> None:
        """Frames as they stand."""
        self.socket.send_multipart(frames)

    def batch(self, start: int, *payloads: bytes, producer: bytes = ONE, **facts: Any) -> int:
        """A batch; returns the offset behind it."""
        body = b"".join(map(records.frame, payloads))
        facts = {"continues": start, "ledger": [], **facts}
        message = wire.Batch(producer=producer, start=start, **facts)
        self.send(*wire.encode(message, body))
        return start + len(body)

    def hears(self, count: int = 1) -> list[wire.ToClient]:
        """The next so many answers."""
        answers: list[wire.ToClient] = []

        def heard() -> bool:
            while self.socket.poll(0):
                answers.append(wire.decode_to_client(self.socket.recv_multipart()))
            return len(answers) >= count

        self.bench.serve_until(heard)
        assert len(answers) == count
        return answers


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    """A receiver on a socket of its own."""
    bench = Bench(tmp_path)
    yield bench
    bench.close()


@contextlib.contextmanager
def locked(db: Path, monkeypatch: pytest.MonkeyPatch, bench: Bench) -> Iterator[None]:
    """The database in another program's hands."""
    monkeypatch.setattr(receiver, "RETRY_S", 0.0)
    session = bench.store._session
    assert session is not None
    session.db.execute("PRAGMA busy_timeout = 0")
    with contextlib.closing(sqlite3.connect(db, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        yield


# Acknowledgements.


def test_what_is_acknowledged_is_committed(bench: Bench) -> None:
    """The answer names the offset and how many records lie before it."""
    client = bench.client()
    end = client.batch(0, event("a"), event("b"), ledger=[2])
    assert client.hears() == [wire.Ack(ONE, end, 2)]
    assert_exactly(["a", "b"], bench.db)


def test_everybody_who_sent_the_same_is_answered(bench: Bench) -> None:
    """A client that reconnected has two identities for a while: its batch counts once, and both hear of it."""
    first, second = bench.client(), bench.client()
    for client in (first, second):
        end = client.batch(0, event("a"))
    assert first.hears() == second.hears() == [wire.Ack(ONE, end, 1)]
    assert_exactly(["a"], bench.db)
    assert bench.vitals.duplicates == 1


def test_a_gap_is_answered_with_where_to_go_back(bench: Bench) -> None:
    """Nothing of it is committed."""
    client = bench.client()
    end = client.batch(0, event("a"))
    client.hears()
    client.batch(end + 50, event("c"))
    assert client.hears() == [wire.Rewind(ONE, end, 1)]
    assert_exactly(["a"], bench.db)
    assert bench.vitals.rewinds == 1


def test_two_who_claim_one_producer_do_no_harm(bench: Bench) -> None:
    """Whoever is first has the offset; the books balance, and no event id is there twice."""
    first, second = bench.client(), bench.client()
    at = [0, 0]
    for round_ in range(20):
        at[0] = first.batch(at[0], event(f"one{round_:03}"), ledger=[round_])
        at[1] = second.batch(at[1], event(f"two{round_:03}"), ledger=[2 * round_])
    bench.serve_until(lambda: bench.vitals.batches == 40)
    assert_consistent(bench.db)
    assert ledger(bench.db)["stored"] == 20


def test_offsets_at_the_end_of_the_range(bench: Bench) -> None:
    """They fit SQLite; the next one past the protocol's range is refused, and nothing breaks."""
    client = bench.client()
    start = 2**62 - 10
    end = client.batch(start, event("a"), continues=0, lost=3)
    bench.serve_until(lambda: recorded_names(bench.db) == ["a"])
    client.batch(end, event("b"))
    bench.serve_until(lambda: bench.vitals.refused_messages == 1)
    assert bench.store.committed(ONE) == (end, 1 + 3)
    assert_exactly(["a"], bench.db)
    assert ledger(bench.db)["dropped.lost"] == 3


def test_ledgers_that_go_backwards_change_nothing(bench: Bench) -> None:
    """The largest count of each slot is the one that was told last."""
    client = bench.client()
    end = client.batch(0, event("a"), ledger=[10, 4])
    for snapshot in ([9, 5], [0, 0], [1], [], [10, 5]):
        client.batch(end, ledger=snapshot)
    bench.serve_until(lambda: bench.vitals.batches == 6)
    counts = ledger(bench.db)
    assert (counts["attempted"], counts["rejected"], counts["pending"], counts["stored"]) == (10, 5, 4, 1)
    assert_consistent(bench.db)


def test_a_ledger_with_more_slots_than_we_know(bench: Bench) -> None:
    """A newer client counts more: what we know is counted, the rest is kept, nothing breaks."""
    client = bench.client()
    client.batch(0, event("a"), ledger=[2**62] * 256)
    client.hears()
    assert_consistent(bench.db)


def test_damage_in_many_places_is_one_line_in_the_log(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    """A client that sends nothing else cannot fill the log; each place is counted and set aside all the same."""
    client = bench.client()
    body = b"".join(records.frame(event(f"e{number}")) + b"!" for number in range(200))
    client.send(*wire.encode(wire.Batch(ONE, 0, 0, []), body))
    client.hears()
    assert len(caplog.records) == 1
    assert caplog.records[0].__dict__["places"] == 200
    assert ledger(bench.db)["dropped.corrupt"] == bench.quarantine.count == 200
    assert_exactly([f"e{number}" for number in range(200)], bench.db)


# The store fails.


def test_nothing_is_acknowledged_that_is_not_committed(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """While the database is locked nobody hears a thing; then the group that failed is committed, without being sent
    again, and what came meanwhile is simply sent again."""
    client, other = bench.client(), bench.client()
    with locked(bench.db, monkeypatch, bench):
        end = client.batch(0, event("a"), event("b"))
        bench.serve_until(lambda: not bench.vitals.ready)
        other.batch(0, event("c"), producer=TWO)
        for _ in range(5):
            bench.receiver.serve(0.02)
        assert not client.socket.poll(0)
        assert not other.socket.poll(0)
        assert "locked" in bench.vitals.store_problem
    assert client.hears() == [wire.Ack(ONE, end, 2)]
    assert bench.vitals.ready
    other.batch(0, event("c"), producer=TWO)
    other.hears()
    assert_exactly(["a", "b", "c"], bench.db)


def test_a_group_that_failed_and_was_committed_by_others_is_not_committed_again(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While a group waits, its producer may die and be taken over from its journal: the group has come too late."""
    client = bench.client()
    with locked(bench.db, monkeypatch, bench):
        end = client.batch(0, event("a"), event("b"))
        bench.serve_until(lambda: bench.receiver.retries)
    offsets = [0, end // 2]
    bench.store.commit([receiver_chunk(end + 40, [*offsets, end], ["a", "b", "c"])])
    assert client.hears() == [wire.Rewind(ONE, end + 40, 3)]
    assert_exactly(["a", "b", "c"], bench.db)
    assert not bench.receiver.retries


def receiver_chunk(committed: int, offsets: list[int], names: list[str]) -> Any:
    """What an orphan's journal gives."""
    from skillmeterd.store import Chunk

    return Chunk(ONE, committed, offsets, [event(name) for name in names], finished=True)


def test_a_database_that_was_exchanged_asks_for_everything_it_lacks(bench: Bench) -> None:
    """An older copy is put in its place: clients hear its offsets, not zero, and send from there."""
    client = bench.client()
    first = client.batch(0, event("a"))
    client.hears()
    bench.store.close()
    older = bench.db.read_bytes()
    second = client.batch(first, event("b"))
    client.hears()
    copy = bench.db.with_name("copy")
    copy.write_bytes(older)
    for suffix in ("-wal", "-shm"):
        bench.db.with_name(bench.db.name + suffix).unlink()
    os.replace(copy, bench.db)
    client.batch(second, event("c"))
    bench.serve_until(lambda: not bench.vitals.ready)  # that one noticed, and was forgotten
    client.batch(second, event("c"))
    assert client.hears() == [wire.Rewind(ONE, first, 1)]
    client.batch(first, event("b"), event("c"))
    bench.serve_until(lambda: recorded_names(bench.db) == ["a", "b", "c"])
    assert_exactly(["a", "b", "c"], bench.db)


def test_a_store_that_fails_between_commit_and_answer_does_not_end_the_daemon(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The client hears nothing, asks again, and learns that all is there."""
    client = bench.client()
    commit = bench.store.commit

    def commit_and_vanish(chunks: Any) -> Any:
        result = commit(chunks)
        bench.db.rename(bench.db.with_name("elsewhere"))
        return result

    monkeypatch.setattr(bench.store, "commit", commit_and_vanish)
    client.batch(0, event("a"))
    bench.serve_until(lambda: not bench.vitals.ready)
    assert not client.socket.poll(0)
    monkeypatch.undo()
    bench.db.with_name("elsewhere").rename(bench.db)
    end = client.batch(0, event("a"))
    assert client.hears() == [wire.Ack(ONE, end, 1)]
    assert_exactly(["a"], bench.db)


# Hostile clients.

DEEP = b"\x91" * 5000
GOOD = wire.encode(wire.Batch(ONE, 0, 0, []), b"")
BAD = {
    "nothing": [b""],
    "one frame": [wire.PROTOCOL],
    "too few frames": GOOD[:2],
    "too many frames": [*GOOD, b"", b""],
    "another version": [b"SKM9", *GOOD[1:]],
    "no version": [b"", *GOOD[1:]],
    "no msgpack": [wire.PROTOCOL, b"\xc1", b""],
    "cut short": [wire.PROTOCOL, GOOD[1][:-1], b""],
    "more behind it": [wire.PROTOCOL, GOOD[1] + b"\x00", b""],
    "deep nesting": [wire.PROTOCOL, DEEP, b""],
    "deep parameters": [wire.PROTOCOL, b"\x94\x02\x01\xa1x\x81\xa1x" + DEEP],
    "a map": [wire.PROTOCOL, b"\x80", b""],
    "an unknown kind": [wire.PROTOCOL, b"\x91\x63", b""],
    "a daemon's message": [*wire.encode(wire.Ack(ONE, 0, 0)), b""],
    "a short producer": [wire.PROTOCOL, b"\x96\x01\xc4\x01a\x00\x00\x90\x00", b""],
    "a negative offset": [wire.PROTOCOL, b"\x96\x01\xc4\x10" + ONE + b"\xff\x00\x90\x00", b""],
    "a huge offset": [wire.PROTOCOL, b"\x96\x01\xc4\x10" + ONE + b"\xcf" + b"\xff" * 8 + b"\x00\x90\x00", b""],
    "text for a number": [wire.PROTOCOL, b"\x96\x01\xc4\x10" + ONE + b"\xa1x\x00\x90\x00", b""],
    "a huge ledger": [
        wire.PROTOCOL,
        b"\x96\x01\xc4\x10" + ONE + b"\x00\x00\xdc\x01\x01" + b"\x00" * 257 + b"\x00",
        b"",
    ],
    "a huge header": [wire.PROTOCOL, b"\x00" * (wire.MAX_HEADER_BYTES + 1), b""],
    "no UTF-8": [wire.PROTOCOL, b"\x94\x02\x01\xa1\xff\x80"],
    "a request with a body": [*wire.encode(wire.Request(1, "health")), b""],
    "many frames": [wire.PROTOCOL, *[b"x"] * 1000],
}


@pytest.mark.parametrize("frames", BAD.values(), ids=BAD.keys())
def test_a_bad_message_is_refused_and_counted(bench: Bench, frames: list[bytes]) -> None:
    """Whoever sent it hears why; the next message of anybody is served."""
    client = bench.client()
    client.send(*frames)
    (answer,) = client.hears()
    assert isinstance(answer, wire.Refusal)
    assert bench.vitals.refused_messages == 1
    end = client.batch(0, event("a"))
    assert client.hears() == [wire.Ack(ONE, end, 1)]


def test_a_frame_that_is_too_large_costs_its_sender_the_connection(bench: Bench) -> None:
    """libzmq closes it before the frame is in memory; the others do not notice."""
    hostile, client = bench.client(), bench.client()
    hostile.send(wire.PROTOCOL, GOOD[1], b"x" * (wire.MAX_BATCH_BYTES + 1))
    end = client.batch(0, event("a"))
    assert client.hears() == [wire.Ack(ONE, end, 1)]
    assert bench.vitals.batches == 1


def test_rubbish_for_records_is_set_aside_within_bounds(bench: Bench) -> None:
    """A large body that holds no record is counted as one damage, and kept for a person to see."""
    client = bench.client()
    body = os.urandom(wire.MAX_BATCH_BYTES).replace(b"\xff\xfe", b"..")
    client.send(*wire.encode(wire.Batch(ONE, 0, 0, []), body))
    assert client.hears() == [wire.Ack(ONE, len(body), 0)]
    (kept,) = bench.quarantine.folder.iterdir()
    assert kept.read_bytes() == body
    assert ledger(bench.db)["dropped.corrupt"] == 1
    assert_consistent(bench.db)


def test_one_group_takes_a_bounded_number_of_messages(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many bad ones are queued, a batch among them is soon committed and acknowledged."""
    monkeypatch.setattr(receiver, "MAX_MESSAGES", 8)
    sent = 0
    for _ in range(8):
        hostile = bench.client()
        hostile.socket.setsockopt(zmq.SNDHWM, 1)
        while hostile.socket.poll(100, zmq.POLLOUT):  # then the queues of both sides are full
            hostile.send(b"rubbish")
            sent += 1
    client = bench.client()
    end = client.batch(0, event("a"))
    while bench.vitals.refused_messages < sent:
        before = bench.vitals.refused_messages
        bench.receiver.serve(0.02)
        assert bench.vitals.refused_messages <= before + 8
    assert client.hears() == [wire.Ack(ONE, end, 1)]


# The socket.


def test_the_socket_is_its_owners_alone(bench: Bench) -> None:
    """Nobody else may connect, whatever the umask."""
    assert (bench.runtime_dir / "s").stat().st_mode & 0o777 == 0o600


def test_the_socket_is_the_groups_in_a_folder_that_says_so(tmp_path: Path, bench: Bench) -> None:
    """An administrator lets a group in by the folder's set-group-id bit."""
    bench.runtime_dir.chmod(0o2770)
    shared = Receiver(f"ipc://{bench.runtime_dir}/g", bench.store, bench.quarantine, bench.vitals)
    shared.bind()
    assert (bench.runtime_dir / "g").stat().st_mode & 0o777 == 0o660
    shared.close()
    assert not (bench.runtime_dir / "g").exists()


def test_a_wake_ends_the_wait(bench: Bench) -> None:
    """Also when it came before the wait; many wakes are one."""
    for _ in range(100_000):
        bench.receiver.wake()
    began_s = time.monotonic()
    bench.receiver.serve(30)
    while time.monotonic() - began_s < 20 and bench.receiver._wake_in in dict(bench.receiver._poller.poll(0)):
        bench.receiver.serve(30)
    assert time.monotonic() - began_s < 20


# Questions.


def asked(bench: Bench, **methods: Any) -> Answers:
    """A thread that answers for this receiver."""
    answers = Answers(methods, bench.receiver.wake, quick={"health": lambda _: {"ready": True}}, slow={})
    bench.receiver.answers = answers
    answers.start()
    return answers


def test_a_question_is_answered_while_batches_are_committed(bench: Bench) -> None:
    """Both come over one socket; a quick question does not wait for a slow one."""
    slow: list[int] = []

    def wait(_: dict[str, Any]) -> str:
        while not slow:
            time.sleep(0.005)
        return "done"

    answers = asked(bench, wait=wait)
    client = bench.client()
    client.send(*wire.encode(wire.Request(1, "wait")))
    client.send(*wire.encode(wire.Request(2, "health")))
    end = client.batch(0, event("a"))
    heard = client.hears(2)
    assert wire.Response(2, {"ready": True}) in heard
    assert wire.Ack(ONE, end, 1) in heard
    slow.append(1)
    assert client.hears() == [wire.Response(1, "done")]
    answers.stop()
