"""Intake: whatever order batches come in, each record below the committed offset was taken once."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skillmeter import records, wire
from skillmeterd.intake import INTAKE_BYTES, Intake
from skillmeterd.store import Chunk, Committed

ONE = bytes(range(16))
TWO = bytes(range(16, 32))


def payload(number: int, size: int = 20) -> bytes:
    """A payload that no other number has."""
    return number.to_bytes(4, "big") * (size // 4)


def body_of(*numbers: int) -> bytes:
    """Records of 28 bytes each."""
    return b"".join(records.frame(payload(number)) for number in numbers)


def batch(start: int, *, continues: int | None = None, lost: int = 0, ledger: Sequence[int] = ()) -> wire.Batch:
    """A batch of producer ONE."""
    return wire.Batch(ONE, start if continues is None else continues, start, list(ledger), lost)


@dataclass
class Model:
    """What a store would have after the chunks it was given; it insists on each chunk's `continues`."""

    committed: int = 0
    stored: dict[int, bytes] = field(default_factory=dict)
    lost: int = 0
    corrupt: int = 0

    def intake(self) -> Intake:
        """An intake that asks this model what is committed."""
        return Intake(lambda _: Committed(self.committed, len(self.stored)))

    def commit(self, chunks: Sequence[Chunk]) -> None:
        """Take chunks as the store does."""
        for chunk in chunks:
            assert chunk.continues == self.committed
            assert chunk.committed >= self.committed
            new = dict(zip(chunk.offsets, chunk.payloads, strict=True))
            assert list(new) == sorted(chunk.offsets), "offsets ascend, and none is there twice"
            assert not new.keys() & self.stored.keys(), "a record was taken twice"
            assert all(self.committed <= offset < chunk.committed for offset in new)
            self.stored.update(new)
            self.committed = chunk.committed
            self.lost += chunk.lost
            self.corrupt += chunk.corrupt


@pytest.fixture
def model() -> Model:
    """An empty one."""
    return Model()


# The rules, one by one.


def test_a_batch_at_the_committed_offset_is_taken(model: Model) -> None:
    """Its records come out with their offsets, and the chunk ends where the batch does."""
    intake = model.intake()
    assert intake.add(b"me", batch(0, ledger=[2]), body_of(1, 2)) is None
    assert intake.chunks == [Chunk(ONE, 56, [0, 28], [payload(1), payload(2)], (2,), continues=0)]
    assert intake.waiting == {ONE: {b"me"}}


def test_a_duplicate_is_only_acknowledged(model: Model) -> None:
    """Below the committed offset nothing is taken, not even its older ledger; whoever sent it waits for an answer."""
    model.committed = 84
    intake = model.intake()
    assert intake.add(b"me", batch(0, ledger=[9]), body_of(1, 2)) is None
    assert not intake.chunks
    assert intake.waiting == {ONE: {b"me"}}
    assert intake.duplicates == 1


def test_a_duplicate_that_ends_where_all_ends_adds_nothing(model: Model) -> None:
    """The same batch twice in one group gives its records once."""
    intake = model.intake()
    for _ in range(2):
        assert intake.add(b"me", batch(0), body_of(1, 2)) is None
    model.commit(intake.chunks)
    assert model.stored == {0: payload(1), 28: payload(2)}
    assert intake.duplicates == 1


def test_an_overlap_gives_only_what_is_new(model: Model) -> None:
    """A batch that begins below the committed offset and ends above it is cut there."""
    model.committed = 28
    intake = model.intake()
    assert intake.add(b"me", batch(0), body_of(1, 2, 3)) is None
    assert intake.chunks[0].offsets == [28, 56]


def test_a_gap_is_refused_from_where_records_are_missing(model: Model) -> None:
    """The client hears from where to send again, and how many events came before, also of those in this very group."""
    intake = model.intake()
    assert intake.add(b"me", batch(28), body_of(2)) == wire.Rewind(ONE, 0, 0)
    assert not intake.waiting
    assert intake.add(b"me", batch(0), body_of(1)) is None
    assert intake.add(b"me", batch(56), body_of(3)) == wire.Rewind(ONE, 28, 1)
    assert intake.add(b"me", batch(84, continues=28, lost=2), body_of(2)) is None
    assert intake.add(b"me", batch(140), body_of(3)) == wire.Rewind(ONE, 112, 4)
    model.commit(intake.chunks)
    assert list(model.stored) == [0, 84]


def test_a_loss_that_was_declared_to_another_database_is_asked_for_again(model: Model) -> None:
    """The database was replaced while the declaration was on its way, by one that has a part of what it names."""
    model.committed, model.stored = 28, {0: payload(0)}
    assert model.intake().add(b"me", batch(84, continues=0, lost=3), body_of(3)) == wire.Rewind(ONE, 28, 1)
    model.committed = 84
    assert model.intake().add(b"me", batch(84, continues=0, lost=3), body_of(3)) is None


def test_a_new_segment_continues_the_old_one(model: Model) -> None:
    """Between `continues` and `start` there never were records: the next offset is behind the batch."""
    model.committed = 28
    intake = model.intake()
    assert intake.add(b"me", batch(1000, continues=28), body_of(2)) is None
    assert (intake.chunks[0].offsets, intake.chunks[0].committed) == ([1000], 1028)


def test_a_ledger_alone_is_taken_at_the_committed_offset_only(model: Model) -> None:
    """It moves nothing; one from before newer records is older than theirs."""
    model.committed = 28
    intake = model.intake()
    assert intake.add(b"me", batch(28, ledger=[7]), b"") is None
    assert intake.chunks == [Chunk(ONE, 28, [], [], (7,), continues=28)]
    assert intake.add(b"me", batch(0, ledger=[3]), b"") is None
    assert len(intake.chunks) == 1
    assert intake.duplicates == 0


def test_what_is_declared_lost_is_counted_once(model: Model) -> None:
    """A declaration is part of the step from `continues` to `start`; repeated, that step is behind us."""
    for _ in range(2):
        intake = model.intake()
        for _ in range(2):
            assert intake.add(b"me", batch(1000, continues=0, lost=5), body_of(1)) is None
        model.commit(intake.chunks)
    assert (model.lost, model.committed) == (5, 1028)


def test_what_is_declared_lost_needs_no_records(model: Model) -> None:
    """A client that has nothing left declares its loss with an empty batch, once however often it is sent."""
    for _ in range(2):
        intake = model.intake()
        for _ in range(2):
            assert intake.add(b"me", batch(1000, continues=0, lost=5), b"") is None
        model.commit(intake.chunks)
    assert (model.lost, model.committed) == (5, 1000)


def test_producers_do_not_touch_each_other(model: Model) -> None:
    """Each has an offset of its own, within a group too."""
    intake = model.intake()
    assert intake.add(b"a", batch(0), body_of(1)) is None
    assert intake.add(b"b", wire.Batch(TWO, 0, 0, []), body_of(2)) is None
    assert intake.add(b"b", wire.Batch(TWO, 28, 28, []), body_of(3)) is None
    assert [(chunk.producer, chunk.offsets) for chunk in intake.chunks] == [(ONE, [0]), (TWO, [0]), (TWO, [28])]


def test_two_clients_that_claim_one_producer_get_one_offset(model: Model) -> None:
    """The first to send wins; the other's bytes are a duplicate, not a second record at the same offset."""
    intake = model.intake()
    assert intake.add(b"first", batch(0), body_of(1)) is None
    assert intake.add(b"second", batch(0), body_of(2)) is None
    model.commit(intake.chunks)
    assert model.stored == {0: payload(1)}
    assert intake.waiting == {ONE: {b"first", b"second"}}


def test_offsets_may_be_as_large_as_the_protocol_allows(model: Model) -> None:
    """At the end of the range nothing wraps, and the offset still fits SQLite's integers."""
    end = 2**62
    model.committed = end - 28
    intake = model.intake()
    assert intake.add(b"me", batch(end - 28), body_of(1)) is None
    assert intake.add(b"me", batch(end), body_of(2)) is None
    model.commit(intake.chunks)
    assert list(model.stored) == [end - 28, end]
    assert model.committed < 2**63


def test_a_damaged_record_is_set_aside_and_the_others_are_taken(model: Model) -> None:
    """What cannot be read is counted and kept with its offset; the chunk ends where the batch does."""
    damaged = bytearray(body_of(1, 2, 3))
    damaged[28 + 10] ^= 1
    intake = model.intake()
    assert intake.add(b"me", batch(100, continues=0), bytes(damaged)) is None
    model.commit(intake.chunks)
    assert model.stored == {100: payload(1), 156: payload(3)}
    assert (model.corrupt, model.committed) == (1, 184)
    assert intake.corrupt == [(ONE, 128, bytes(damaged[28:56]))]


@pytest.mark.parametrize("tail", [b"\0" * 9, b"\xff" * 9, records.frame(b"cut off")[:-1]])
def test_an_end_that_is_no_record_is_set_aside(model: Model, tail: bytes) -> None:
    """A batch holds whole records: zeros, rubbish or half a record behind them are damage, counted once."""
    for _ in range(2):
        intake = model.intake()
        assert intake.add(b"me", batch(0), body_of(1) + tail) is None
        model.commit(intake.chunks)
    assert (model.corrupt, model.committed) == (1, 28 + len(tail))


def test_a_start_before_what_it_continues_does_no_harm(model: Model) -> None:
    """No client of ours sends that; the offset alone decides."""
    model.committed = 56
    intake = model.intake()
    assert intake.add(b"me", batch(0, continues=56), body_of(1, 2, 3)) is None
    assert intake.chunks[0].offsets == [56]


def test_it_is_full_before_it_is_large(model: Model) -> None:
    """Whatever is taken counts, ledgers alone too, so that a group stays bounded."""
    intake = model.intake()
    for count in range(INTAKE_BYTES // 64):
        intake.add(b"me", batch(0, ledger=[count]), b"")
        if intake.full:
            return
    pytest.fail("it takes ledgers without end")


# Any order.


@dataclass(frozen=True)
class Journal:
    """The records of a producer: offset and payload of each, and where the segment of each begins."""

    offsets: list[int]
    payloads: list[bytes]

    def end(self, index: int) -> int:
        """Behind the record at `index`; 0 before the first."""
        return 0 if index < 0 else self.offsets[index] + records.RECORD_HEADER_BYTES + len(self.payloads[index])

    def piece(self, first: int, last: int) -> tuple[wire.Batch, bytes]:
        """The records from `first` to `last`, or to the end of their segment, as a client sends them."""
        framed = b""
        for index in range(first, last + 1):
            if index > first and self.offsets[index] != self.end(index - 1):
                break
            framed += records.frame(self.payloads[index])
        return batch(self.offsets[first], continues=self.end(first - 1), ledger=[last]), framed


@st.composite
def journals(draw: st.DrawFn) -> Journal:
    """A few records, in segments that leave gaps."""
    sizes = draw(st.lists(st.integers(1, 40).map(lambda size: size * 4), min_size=1, max_size=12))
    gaps = draw(st.lists(st.sampled_from([0, 0, 0, 1, 500]), min_size=len(sizes), max_size=len(sizes)))
    offsets, at = [], 0
    for size, gap in zip(sizes, gaps, strict=True):
        offsets.append(at + gap)
        at += gap + records.RECORD_HEADER_BYTES + size
    return Journal(offsets, [payload(number, size) for number, size in enumerate(sizes)])


@given(journal=journals(), data=st.data())
def test_any_order_of_batches_takes_each_record_once(journal: Journal, data: st.DataObject) -> None:
    """Batches repeated, overlapping, out of order, in groups that are committed or fail: below the committed offset
    every record was stored once, above it none, and a gap is always answered with the offset that is missing."""
    last = len(journal.offsets) - 1
    model = Model()
    for _ in range(data.draw(st.integers(1, 6), label="groups")):
        intake = model.intake()
        at = model.committed
        for _ in range(data.draw(st.integers(0, 5), label="batches")):
            first = data.draw(st.integers(0, last), label="first")
            message, body = journal.piece(first, data.draw(st.integers(first, last), label="last"))
            rewind = intake.add(b"me", message, body)
            assert (rewind is not None) == (message.continues > at)
            assert rewind is None or rewind.offset == at
            at = max(at, message.start + len(body)) if rewind is None else at
        if data.draw(st.booleans(), label="the commit works"):
            model.commit(intake.chunks)
            assert model.committed == at
        below = [index for index, offset in enumerate(journal.offsets) if offset < model.committed]
        assert model.stored == {journal.offsets[index]: journal.payloads[index] for index in below}
        assert (model.lost, model.corrupt) == (0, 0)


@given(journal=journals(), data=st.data())
def test_damage_never_hides_or_doubles_the_records_around_it(journal: Journal, data: st.DataObject) -> None:
    """A byte is changed on the way, batches are repeated: every record whose bytes came through whole is stored once,
    at its offset, and what was damaged is counted."""
    last = len(journal.offsets) - 1
    model = Model()
    while model.committed < journal.end(last):
        first = next(index for index, offset in enumerate(journal.offsets) if offset >= model.committed)
        message, body = journal.piece(first, data.draw(st.integers(first, last), label="last"))
        damaged = bytearray(body)
        at = data.draw(st.integers(0, len(body) - 1), label="at")
        damaged[at] ^= data.draw(st.integers(1, 255), label="flip")
        before = model.corrupt
        for _ in range(data.draw(st.integers(1, 2), label="times")):
            intake = model.intake()
            assert intake.add(b"me", message, bytes(damaged)) is None
            model.commit(intake.chunks)
        assert model.corrupt == before + 1
        for index in range(first, last + 1):
            offset, end = journal.offsets[index], journal.end(index)
            if offset >= message.start + len(body):
                break
            whole = not offset <= message.start + at < end
            assert (model.stored.get(offset) == journal.payloads[index]) == whole
    assert set(model.stored) <= set(journal.offsets)
