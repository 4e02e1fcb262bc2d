"""The reader: its errors, and that what is remembered of days that are over takes a bounded part of the memory."""

import sqlite3
import tracemalloc

import pytest

from skillmeter.results import Result
from skillmeterd.errors import StoreUnavailable
from skillmeterd.queries import reader
from skillmeterd.queries.reader import Memo, bytes_of
from skillmeterd.queries.rollups import UnknownSkill

from .histories import recorded, run

SIZE = bytes_of(list(range(1000, 2000)))


class Point(Result, frozen=True):
    """One of many, as in answers."""

    value: float
    name: str | None


def computed(memo: Memo, key: int) -> bool:
    """Whether a value had to be computed, of about SIZE bytes."""
    fresh = list(range(1000, 2000))
    return memo.get(key, "stamp", lambda: fresh) is fresh


def test_what_was_asked_wrongly_is_told_as_it_is() -> None:
    """An error of the question itself passes through, and is not said to have been caused by itself."""
    with recorded([run("a")]) as record, pytest.raises(UnknownSkill) as caught:
        record.ask("usage", {"skill_id": "b"})
    assert caught.value.__cause__ is None


def test_a_wrong_question_costs_no_connection() -> None:
    """The next one is asked over the same connection, at a later moment: the old one does not go on."""
    with recorded([run("a")]) as record:
        with record.queries.reader.snapshot() as at:
            first = at.db
        with pytest.raises(UnknownSkill):
            record.ask("usage", {"skill_id": "b"})
        assert not first.in_transaction
        record.commit([run("b")])
        with record.queries.reader.snapshot() as at:
            assert at.db is first
        assert record.ask("usage", {"skill_id": "b"}).execution_count == 1


def test_what_fails_ends_its_connection() -> None:
    """Nobody knows in what state a fault of SQLite, or of ours, has left it: the next question has another."""
    with recorded([run("a")]) as record:
        for fault in (sqlite3.OperationalError("disk I/O error"), KeyError("a fault of ours")):
            with pytest.raises((StoreUnavailable, KeyError)), record.queries.reader.snapshot() as at:
                raise fault
            with record.queries.reader.snapshot() as later:
                assert later.db is not at.db


def test_old_values_give_way(monkeypatch: pytest.MonkeyPatch) -> None:
    """As many are kept as there is room for; the one that was longest not asked for goes first."""
    monkeypatch.setattr(reader, "MEMO_BYTES", 3 * SIZE)
    memo = Memo()
    assert [computed(memo, key) for key in (1, 2, 3, 1, 2, 3)] == [True] * 3 + [False] * 3
    assert computed(memo, 4)
    assert [computed(memo, key) for key in (2, 3, 4)] == [False] * 3
    assert computed(memo, 1)


def test_a_new_stamp_takes_the_place_of_the_old(monkeypatch: pytest.MonkeyPatch) -> None:
    """Values that are computed anew again and again push nothing else out."""
    monkeypatch.setattr(reader, "MEMO_BYTES", 3 * SIZE)
    memo = Memo()
    assert computed(memo, 1)
    for stamp in range(10):
        memo.get(2, stamp, lambda: list(range(1000, 2000)))
    assert not computed(memo, 1)


def test_what_is_filled_later_is_weighed_then(monkeypatch: pytest.MonkeyPatch) -> None:
    """A dict may be kept empty and filled by those who ask."""
    monkeypatch.setattr(reader, "MEMO_BYTES", 3 * SIZE)
    memo = Memo()
    for key in (1, 2, 3):
        filled: dict[int, object] = memo.get(key, "stamp", dict)
        filled[key] = list(range(1000, 2000))
    assert computed(memo, 4)
    assert memo.get(1, "stamp", dict) == {}


def test_what_has_no_room_is_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """A value larger than all the room is an answer, and forgotten."""
    monkeypatch.setattr(reader, "MEMO_BYTES", SIZE - 1)
    memo = Memo()
    assert [computed(memo, 1), computed(memo, 1)] == [True, True]


@pytest.mark.parametrize("count", [1, 5000])
def test_bytes_are_those_that_python_takes(count: int) -> None:
    """Within a fifth, of what answers are made of; what is there once is counted once."""
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        value = {
            f"key {n}": [Point(value=n / 3, name=f"name {n}"), bytes(200), list(range(300, 400))] for n in range(count)
        }
        taken = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert abs(bytes_of(value) - taken) < taken / 5 + 1000
    assert bytes_of([value, value]) < bytes_of(value) + 200
