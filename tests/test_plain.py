"""Plain: the short way of a record call has the outcome of the general one, whatever it is given."""

import inspect
import math
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skillmeter import AnalyticsClient, create_analytics_client
from skillmeter.events import MAX_ID_CHARS, MAX_LATENCY_MS, encode_execution, event_decoder
from skillmeter.journal import Journal
from skillmeter.plain import MAX_KNOWN, MAX_PLAIN_BYTES
from skillmeter.recording import Recorder
from skillmeter.records import parse


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AnalyticsClient]:
    """One that has its journal, and takes the short way."""
    folder = tmp_path_factory.mktemp("plain")
    client = create_analytics_client(runtime_dir=str(folder), spool_dir=str(folder), spool_max_bytes="64MiB")
    assert client.record_skill_execution("first", True, 1.0)
    assert "record_skill_execution" in vars(client)
    yield client
    client.close(0)


def journal(client: AnalyticsClient) -> Journal:
    """The one that it records into."""
    opened = client._producer.opened
    assert opened is not None
    return opened.journal


def outcome(client: AnalyticsClient, call: Any, *args: Any, **extras: Any) -> tuple[Any, ...]:
    """What a call returned or raised, the events that it wrote, and what it counted."""
    kept, counted = journal(client), client._producer.ledger.snapshot()
    start = kept.end
    try:
        answer = call(*args, **extras)
    except TypeError as error:
        answer = type(error)
    piece = kept.read(start, 2**20) if kept.end > start else None
    events = [event_decoder.decode(payload) for _, payload in parse(piece.body)] if piece else []
    facts = [(type(event), *(getattr(event, name) for name in event.__struct_fields__[1:])) for event in events]
    now = client._producer.ledger.snapshot()
    return answer, facts, tuple(after - before for after, before in zip(now, counted, strict=True))


def both(client: AnalyticsClient, *args: Any, **extras: Any) -> tuple[Any, ...]:
    """The outcome of the short way, which is that of the general one."""
    short = outcome(client, client.record_skill_execution, *args, **extras)
    general = outcome(client, lambda *a, **e: Recorder.record_skill_execution(client, *a, **e), *args, **extras)
    assert short == general
    return short


names = st.one_of(st.sampled_from(["s", "ü" * 200, "\U0001f600" * MAX_ID_CHARS, "\0"]), st.text(min_size=1, max_size=9))
usual = st.tuples(
    names, st.booleans(), st.floats(0, MAX_LATENCY_MS), st.one_of(st.none(), names), st.one_of(st.none(), names)
)
ODD_IDS = ("", "x" * (MAX_ID_CHARS + 1), "\ud800", None, 7, b"s", ["s"])
ODD_LATENCIES = (0, 3, 2**70, 2**2000, True, -0.0, -1.0, math.nan, math.inf, MAX_LATENCY_MS * 2, "1", None)
ODD = [
    *((place, value) for place in (0, 3, 4) for value in ODD_IDS),
    *((1, value) for value in (1, 0, None, "True")),
    *((2, value) for value in ODD_LATENCIES),
]
extras = st.fixed_dictionaries(
    {},
    optional={
        "error_type": st.sampled_from(["ValueError", None, ""]),
        "skill_version": st.sampled_from(["1.0", None]),
        "attributes": st.sampled_from([{"a": 1}, None, [1]]),
        "timestamp": st.sampled_from([1.5, None, -1]),
        "no_such": st.just(1),
    },
)


@pytest.mark.parametrize(("place", "value"), ODD)
def test_both_ways_have_one_outcome_for_an_odd_value(client: AnalyticsClient, place: int, value: Any) -> None:
    """Each value that is wrong, or right but unusual, alone among usual ones."""
    args: list[Any] = ["s", True, 1.0, "u", "o"]
    args[place] = value
    both(client, *args)


@given(usual, st.lists(st.sampled_from(ODD), max_size=2), st.one_of(st.just({}), extras))
@settings(max_examples=300)
def test_both_ways_have_one_outcome(
    client: AnalyticsClient, usual: tuple[Any, ...], odd: list[tuple[int, Any]], extras: dict[str, Any]
) -> None:
    """The answer, the event to its last field, and the ledger, for values right and wrong, with and without extras."""
    args = list(usual)
    for place, value in odd:
        args[place] = value
    both(client, *args, **extras)


@pytest.mark.parametrize("size", range(MAX_PLAIN_BYTES - 2, MAX_PLAIN_BYTES + 3))
def test_a_payload_at_the_bound_of_the_short_way(client: AnalyticsClient, size: int) -> None:
    """Longer ones go the general way; none is lost between the two."""
    org = "o" * (size - 400 - 27)  # besides texts: kind, time, success, latency, and the heads of texts
    assert len(encode_execution("s" * 200, True, 1.0, "u" * 200, org)) == size
    answer, facts, _ = both(client, "s" * 200, True, 1.0, "u" * 200, org)
    assert answer is True
    assert len(facts) == 1


def test_more_ids_than_are_remembered(client: AnalyticsClient) -> None:
    """The ids that were found valid are forgotten in time; an absent user stays valid, a wrong one stays wrong."""
    for number in range(MAX_KNOWN + 2):
        assert client.record_skill_execution(f"skill-{number}", True, 1.0, f"user-{number}")
    assert both(client, "skill-0", True, 1.0)[0] is True
    assert both(client, "skill-0", True, 1.0, "")[0] is False


def test_ids_of_a_class_of_the_caller_s_are_no_text(client: AnalyticsClient) -> None:
    """A subclass of str may lie about its hash and length; it is refused even if its text is known to be valid."""

    class Text(str):
        __slots__ = ()

    assert both(client, "known", True, 1.0)[0] is True
    assert both(client, Text("known"), True, 1.0)[0] is False
    assert both(client, "known", True, 1.0, Text("known"))[0] is False


def test_it_looks_like_the_method_it_stands_for(client: AnalyticsClient) -> None:
    """Signature and documentation are those of the general call, for editors and `help`."""
    parameters = inspect.signature(client.record_skill_execution).parameters
    general = list(inspect.signature(Recorder.record_skill_execution).parameters)[1:]
    assert list(parameters) == general
    assert client.record_skill_execution.__doc__ == Recorder.record_skill_execution.__doc__
