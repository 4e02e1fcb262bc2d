"""Recording: no record call raises or keeps something invalid, and each is counted under its reason."""

import logging
from datetime import datetime, time, timedelta, tzinfo
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skillmeter.client import AnalyticsClient
from skillmeter.errors import InvalidEventError
from skillmeter.recording import Recorder
from skillmeter.settings import ClientSettings
from skillmeter.testing import RecordingClient


class Full(Recorder):
    """A recorder that has no room, or worse."""

    def __init__(self, error: Exception | None = None, *, strict: bool = False) -> None:
        super().__init__(strict=strict)
        self.error = error
        self.counted: list[str] = []

    def _accept(self, payload: bytes) -> bool:
        if self.error:
            raise self.error
        return False

    def _count(self, name: str) -> None:
        self.counted.append(name)


class Broken:
    """An object that cannot even be asked what it is."""

    @property  # type: ignore[misc]
    def __class__(self) -> Any:
        raise RuntimeError("broken")


INVALID = [
    ("invalid_skill_id", lambda client: client.record_skill_execution("", True, 1.0)),
    ("invalid_skill_id", lambda client: client.record_skill_rating("x" * 257, 3)),
    ("invalid_skill_id", lambda client: client.update_health_score("\ud800", 3)),
    ("invalid_user_id", lambda client: client.record_skill_usage("s", 7)),
    ("invalid_org_id", lambda client: client.rate_skill("s", 3, "")),
    ("invalid_success", lambda client: client.record_skill_execution("s", 1, 1.0)),
    ("invalid_latency", lambda client: client.record_skill_execution("s", True, float("nan"))),
    ("invalid_rating", lambda client: client.record_skill_rating("s", 6)),
    ("invalid_score", lambda client: client.update_health_score("s", 100.5)),
    ("invalid_error_type", lambda client: client.record_skill_execution("s", True, 1.0, error_type="")),
    ("invalid_skill_version", lambda client: client.record_skill_execution("s", True, 1.0, skill_version=2)),
    ("invalid_attributes", lambda client: client.record_skill_execution("s", True, 1.0, attributes={"a": object()})),
    ("invalid_timestamp", lambda client: client.record_skill_execution("s", True, 1.0, timestamp=-1)),
]


@pytest.mark.parametrize(("reason", "record"), INVALID)
def test_an_invalid_event_is_refused_and_counted(reason, record):
    """It returns False, nothing is kept, and its reason's count goes up by one."""
    client = RecordingClient()
    assert record(client) is False
    assert client.events == []
    assert client.rejected == {reason: 1}


@pytest.mark.parametrize(("reason", "record"), INVALID)
def test_strict_mode_raises_and_counts(reason, record):
    """The same events raise an error that carries the reason, and are counted all the same."""
    client = RecordingClient(strict=True)
    with pytest.raises(InvalidEventError) as caught:
        record(client)
    assert caught.value.reason == reason
    assert client.rejected == {reason: 1}


def test_each_reason_is_warned_of_once(caplog):
    """A mistake in a loop makes one line in the log, another mistake its own."""
    client = RecordingClient()
    for _ in range(3):
        client.record_skill_rating("s", 6)
        client.update_health_score("s", 101)
    assert [(record.levelno, record.exc_info) for record in caplog.records] == [(logging.WARNING, None)] * 2
    assert "whole number from 1 to 5" in caplog.messages[0]
    assert "0 to 100" in caplog.messages[1]


def test_a_fault_of_ours_is_counted_and_logged_with_its_traceback(caplog):
    """What nobody foresaw does not reach the caller either."""
    client = Full(MemoryError("no more"))
    assert [client.record_skill_execution("s", True, 1.0), client.rate_skill("s", 5)] == [False, False]
    assert client.counted == ["dropped.internal"] * 2
    assert [record.exc_info[1] for record in caplog.records if record.exc_info] == [client.error]


def test_values_that_break_when_looked_at_are_refused():
    """Objects whose own code raises are counted as a fault, not raised."""
    client = RecordingClient()
    assert client.record_skill_execution("s", True, Broken()) is False  # type: ignore[arg-type]
    assert client.update_health_score("s", Broken()) is False  # type: ignore[arg-type]
    assert client.rejected == {"internal": 2}


class Alien(ValueError):
    """An error of a type that neither we nor Python raise."""


class Hashed(str):
    """Text whose own code raises it."""

    def __hash__(self) -> int:
        raise Alien("no hash")


def test_an_error_of_a_values_own_code_is_a_fault_of_any_type(tmp_path):
    """Only an error that nobody's code raised, put into the thread from outside, is meant for the caller."""
    client = AnalyticsClient(ClientSettings.from_environment({"HOME": str(tmp_path)}))
    assert client.record_skill_execution("s", True, 1.0)  # from now on it is the short way
    assert client.record_skill_execution(Hashed("s"), True, 1.0) is False
    assert client.record_skill_execution("s", True, 1.0, attributes={"at": time(tzinfo=Nowhere())}) is False
    assert client.get_config_summary()["ledger"] == {
        "attempted": 3,
        "rejected.invalid_skill_id": 1,
        "rejected.invalid_attributes": 1,
    }
    client.close(0)


class Nowhere(tzinfo):
    """A time zone whose own code raises it."""

    def utcoffset(self, at: datetime | None, /) -> timedelta | None:
        raise Alien("no time")

    dst = tzname = utcoffset  # type: ignore[assignment]


def test_an_interrupt_is_not_held_back():
    """Ctrl-C within a record call ends the program, as anywhere else."""
    client = Full()
    client._accept = raise_interrupt  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        client.record_skill_execution("s", True, 1.0)
    assert client.counted == []


def raise_interrupt(payload: bytes) -> bool:
    """An _accept during which the user presses Ctrl-C."""
    raise KeyboardInterrupt


def test_a_log_that_raises_does_not_reach_the_caller():
    """The application's logging is not ours to trust: the event is counted, the call returns."""

    def refuse(record: logging.LogRecord) -> bool:
        raise OSError("the log is full")

    log = logging.getLogger("skillmeter")
    log.addFilter(refuse)
    try:
        client = RecordingClient()
        assert client.record_skill_rating("s", 0) is False
    finally:
        log.removeFilter(refuse)
    assert client.rejected == {"invalid_rating": 1}


def test_no_room_is_the_subclass_to_count():
    """A False of _accept is passed on, and not counted a second time."""
    client = Full()
    assert client.record_skill_execution("s", True, 1.0) is False
    assert client.update_health_score("s", 1) is False
    assert client.counted == []


ANYTHING = st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary()


@given(st.data())
def test_whatever_is_given_no_call_raises_and_each_is_accounted_for(data):
    """attempted = kept + refused, for arbitrary arguments."""
    client = RecordingClient()

    def draw() -> Any:
        return data.draw(ANYTHING)

    results = [
        client.record_skill_execution(
            draw(), draw(), draw(), draw(), draw(), error_type=draw(), skill_version=draw(), attributes=draw()
        ),
        client.record_skill_execution("s", True, 1.0, timestamp=draw()),
        client.record_skill_execution("s", True, draw(), attributes={"a": draw()}),
        client.record_skill_usage(draw(), draw(), draw(), draw(), draw()),
        client.record_skill_rating(draw(), draw(), draw(), draw()),
        client.rate_skill("s", draw(), draw(), draw()),
        client.update_health_score("s", draw()),
    ]
    assert sum(results) == len(client.events)
    assert len(results) == len(client.events) + client.rejected.total()
