"""Events: what the encoders accept is what the daemon's decoder reads back; everything else is refused by name."""

import datetime
import math
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from skillmeter import events
from skillmeter.errors import InvalidEventError
from skillmeter.events import (
    MAX_ATTRIBUTES_BYTES,
    MAX_ID_CHARS,
    MAX_LATENCY_MS,
    MAX_TIMESTAMP_S,
    REJECT_REASONS,
    Execution,
    Health,
    Rating,
    encode_execution,
    encode_health,
    encode_rating,
    event_decoder,
)

ids = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=MAX_ID_CHARS)
optional_ids = st.none() | ids
latencies = st.floats(0, MAX_LATENCY_MS)
json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner, max_size=3),
    max_leaves=8,
)
anything = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(),
    st.binary(),
    st.sampled_from(
        ["\ud800", "x\udfff", 2**70, -(2**70), 10**400, math.nan, math.inf, "", "x" * 257, [], {}, object()]
    ),
)


@given(ids, st.booleans(), latencies, optional_ids, optional_ids, optional_ids, optional_ids)
def test_an_execution_comes_back_as_it_was_given(skill, success, latency, user, org, error, version):
    """Every valid execution decodes to the same values, whatever Unicode is in its ids."""
    before_ns = events._now_ns()
    event = event_decoder.decode(encode_execution(skill, success, latency, user, org, error, version))
    assert event == Execution(event.recorded_at_ns, skill, user, org, success, latency, error, version)
    assert before_ns <= event.recorded_at_ns <= events._now_ns()


@given(ids, st.integers(1, 5), optional_ids, optional_ids)
def test_a_rating_comes_back_as_it_was_given(skill, rating, user, org):
    """Every valid rating decodes to the same values."""
    event = event_decoder.decode(encode_rating(skill, rating, user, org))
    assert event == Rating(event.recorded_at_ns, skill, user, org, rating)


@given(ids, st.floats(0, 100) | st.integers(0, 100))
def test_a_health_score_comes_back_as_it_was_given(skill, score):
    """A health score is taken literally: 0.95 is 0.95 of 100."""
    event = event_decoder.decode(encode_health(skill, score))
    assert event == Health(event.recorded_at_ns, skill, score)


@given(st.dictionaries(st.text(max_size=9), json_values, max_size=4))
def test_attributes_come_back_as_json(attributes):
    """Attributes travel as JSON text that says the same as the dict."""
    event = event_decoder.decode(encode_execution("s", True, 1.0, None, None, attributes=attributes))
    assert isinstance(event, Execution)
    assert event.attributes is not None
    assert msgspec.json.decode(event.attributes) == attributes


@given(st.lists(anything, min_size=9, max_size=9))
def test_whatever_an_execution_is_given_the_daemon_accepts_what_the_client_does(values):
    """The client's checks and the daemon's schema are one rule: bytes that get through the one decode in the other."""
    try:
        payload = encode_execution(*values)
    except InvalidEventError as error:
        assert error.reason in REJECT_REASONS
    else:
        assert isinstance(event_decoder.decode(payload), Execution)


@given(anything, anything, anything, anything)
def test_whatever_a_rating_or_score_is_given_the_daemon_accepts_what_the_client_does(skill, value, user, org):
    """The same for ratings and health scores."""
    try:
        payload = encode_rating(skill, value, user, org)
    except InvalidEventError as error:
        assert error.reason in REJECT_REASONS
    else:
        assert isinstance(event_decoder.decode(payload), Rating)
    try:
        payload = encode_health(skill, value)
    except InvalidEventError as error:
        assert error.reason in REJECT_REASONS
    else:
        assert isinstance(event_decoder.decode(payload), Health)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"skill_id": ""}, "invalid_skill_id"),
        ({"skill_id": "x" * 257}, "invalid_skill_id"),
        ({"skill_id": b"bytes"}, "invalid_skill_id"),
        ({"skill_id": None}, "invalid_skill_id"),
        ({"skill_id": "\ud800"}, "invalid_skill_id"),
        ({"user_id": ""}, "invalid_user_id"),
        ({"user_id": "u\udc00"}, "invalid_user_id"),
        ({"user_id": 7}, "invalid_user_id"),
        ({"org_id": "o" * 1_000_000}, "invalid_org_id"),
        ({"success": 1}, "invalid_success"),
        ({"success": None}, "invalid_success"),
        ({"latency_ms": math.nan}, "invalid_latency"),
        ({"latency_ms": math.inf}, "invalid_latency"),
        ({"latency_ms": -0.001}, "invalid_latency"),
        ({"latency_ms": True}, "invalid_latency"),
        ({"latency_ms": "12"}, "invalid_latency"),
        ({"latency_ms": 10**400}, "invalid_latency"),
        ({"latency_ms": MAX_LATENCY_MS * 2}, "invalid_latency"),
        ({"error_type": ""}, "invalid_error_type"),
        ({"skill_version": 2}, "invalid_skill_version"),
        ({"attributes": [1]}, "invalid_attributes"),
        ({"attributes": {"k": object()}}, "invalid_attributes"),
        ({"attributes": {"k": "\ud800"}}, "invalid_attributes"),
        ({"attributes": {"k": "x" * MAX_ATTRIBUTES_BYTES}}, "invalid_attributes"),
        ({"timestamp": -1}, "invalid_timestamp"),
        ({"timestamp": math.nan}, "invalid_timestamp"),
        ({"timestamp": MAX_TIMESTAMP_S + 1}, "invalid_timestamp"),
        ({"timestamp": "now"}, "invalid_timestamp"),
        ({"timestamp": datetime.datetime(2026, 1, 1)}, "invalid_timestamp"),  # naive
    ],
)
def test_each_mistake_has_its_reason(change: dict[str, Any], reason: str):
    """A value that is refused is refused under the name that the ledger counts."""
    values = {"skill_id": "s", "success": True, "latency_ms": 1.0, "user_id": None, "org_id": None, **change}
    with pytest.raises(InvalidEventError) as caught:
        encode_execution(**values)
    assert caught.value.reason == reason
    assert len(str(caught.value)) < 200, "a hostile value must not fill the log"


def test_a_number_that_json_lacks_is_null_in_attributes():
    """NaN and the infinities cannot be said in JSON; in attributes, which nobody adds up, they become null."""
    event = event_decoder.decode(encode_execution("s", True, 1.0, None, None, attributes={"k": [math.nan, math.inf]}))
    assert isinstance(event, Execution)
    assert event.attributes == '{"k":[null,null]}'


def test_deeply_nested_attributes_are_refused_without_a_crash():
    """Nesting deeper than the encoder's limit is an invalid event, not a RecursionError."""
    nested: dict[str, Any] = {}
    for _ in range(100_000):
        nested = {"n": nested}
    with pytest.raises(InvalidEventError, match="JSON"):
        encode_execution("s", True, 1.0, None, None, attributes=nested)
    while nested:  # taken apart step by step, since freeing it at once goes as deep
        nested = nested["n"]


@pytest.mark.parametrize("rating", [0, 6, True, 3.0, "3", None, 2**70])
def test_a_rating_is_a_whole_number_from_1_to_5(rating):
    """No other value counts as a rating, True least of all."""
    with pytest.raises(InvalidEventError) as caught:
        encode_rating("s", rating, None, None)
    assert caught.value.reason == "invalid_rating"


@pytest.mark.parametrize("score", [-0.01, 100.01, math.nan, math.inf, None, "5", False])
def test_a_score_is_0_to_100(score):
    """No other value counts as a health score."""
    with pytest.raises(InvalidEventError) as caught:
        encode_health("s", score)
    assert caught.value.reason == "invalid_score"


@pytest.mark.parametrize(
    ("timestamp", "at_ns"),
    [
        (0, 0),
        (1.5, 1_500_000_000),
        (datetime.datetime(1970, 1, 2, tzinfo=datetime.UTC), 86_400_000_000_000),
        (datetime.datetime(1970, 1, 1, 2, tzinfo=datetime.timezone(datetime.timedelta(hours=2))), 0),
    ],
)
def test_a_timestamp_is_unix_seconds_or_an_aware_datetime(timestamp, at_ns):
    """Both ways of saying a time come out as the same nanoseconds."""
    event = event_decoder.decode(encode_execution("s", True, 1.0, None, None, timestamp=timestamp))
    assert event.recorded_at_ns == at_ns


def test_the_largest_event_fits_a_record():
    """However long its parts are, an event that is accepted is far smaller than a record may be."""
    wide = "\U0001f600" * MAX_ID_CHARS
    attributes = {"k": "x" * (MAX_ATTRIBUTES_BYTES - 8)}
    payload = encode_execution(wide, True, 1.0, wide, wide, wide, wide, attributes)
    assert len(payload) < 16384


@given(st.binary(max_size=200))
def test_arbitrary_bytes_decode_or_raise_msgspec_s_own_error(data):
    """What a hostile client sends is an event or a DecodeError, nothing else."""
    try:
        event_decoder.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError):
        pass
