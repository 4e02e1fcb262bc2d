"""Rows: every payload is read on its own, and sums are the sums."""

from collections import defaultdict

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from skillmeter.events import (
    Execution,
    Health,
    Rating,
    encode_execution,
    encode_health,
    encode_rating,
    event_decoder,
)
from skillmeterd.rows import BUCKETS_MS, DAY_NS, Group, Series, bucket_counts, decode, rating_counts, totals


class Numbers(dict):
    """Gives each new name the next number, as the store's names do; None is 0."""

    def __missing__(self, key):
        self[key] = 0 if key is None else len(self) + 1
        return self[key]


def group() -> Group:
    """A group with names of its own."""
    return Group(Numbers(), Numbers())


GOOD = encode_execution("skill", True, 12.5, "user", "org")
good = st.sampled_from(
    [
        GOOD,
        encode_execution("skill", False, 1.0, None, None, "Error", "1.0", {"a": [1, 2]}),
        encode_rating("skill", 5, None, "org"),
        encode_health("skill", 0.95),
    ]
)
hostile = st.one_of(
    st.binary(max_size=40),
    st.builds(lambda a, b: a + b, good, good),  # two events in one payload
    st.builds(lambda a, cut: a[:cut], good, st.integers(0, 10)),  # half of one
    st.builds(lambda a, cut: a[cut:], good, st.integers(1, 10)),  # the other half
    st.just(b"\x9a\x01\x00\xa1s\xc0\xc0\xc3\x01\xc0\xc0\xdb\x00\x00\x00\x30"),  # text that reaches into its neighbour
    st.just(b"\x91" * 5000),  # deep nesting
)


def alone(payload: bytes) -> object:
    """What a payload is, read by itself."""
    try:
        return event_decoder.decode(payload)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


@given(st.lists(st.one_of(good, hostile), max_size=30))
def test_a_payload_is_read_as_if_it_were_alone(payloads: list[bytes]) -> None:
    """Whatever stands beside it: nobody can swallow, split or shift a neighbour's record."""
    assert decode(payloads) == [alone(payload) for payload in payloads]


@given(st.lists(st.one_of(good, hostile), max_size=30))
def test_malformed_payloads_are_counted_and_the_others_kept_at_their_offsets(payloads: list[bytes]) -> None:
    """One bad record costs itself only."""
    rows = group()
    offsets = list(range(100, 100 + 7 * len(payloads), 7))
    malformed = rows.add(3, offsets, payloads)
    expected = [offset for offset, payload in zip(offsets, payloads, strict=True) if alone(payload) is not None]
    assert malformed == len(payloads) - len(expected)
    assert [row[4] for row in rows.rows] == expected
    assert {row[3] for row in rows.rows} <= {3}


def test_a_group_longer_than_one_decoding_keeps_order_and_offsets() -> None:
    """Payloads are decoded in slices; nothing is lost or moved at their edges."""
    rows = group()
    payloads = [encode_execution("s", True, float(number), None, None) for number in range(1000)]
    rows.add(1, list(range(1000)), payloads)
    assert [(row[4], row[6]) for row in rows.rows] == [(number, float(number)) for number in range(1000)]


executions = st.builds(
    Execution,
    recorded_at_ns=st.integers(0, 5 * DAY_NS),
    skill_id=st.sampled_from(["a", "b"]),
    user_id=st.sampled_from(["u", "v", None]),
    org_id=st.sampled_from(["o", None]),
    success=st.booleans(),
    latency_ms=st.floats(0, 1e6),
)


@given(st.lists(executions, min_size=1, max_size=60))
def test_the_sums_are_the_sums_of_the_events(events: list[Execution]) -> None:
    """By day and user, by day, and over all days."""
    rows = group()
    rows.add(1, list(range(len(events))), [msgspec.msgpack.encode(event) for event in events])

    by_user, by_day, by_pair = (defaultdict[tuple, list](list) for _ in range(3))
    for row in rows.rows:
        at_ns, pair, user, *_, success, latency = row
        by_user[at_ns // DAY_NS, pair, user].append((success, latency))
        by_day[at_ns // DAY_NS, pair].append((at_ns, success, latency))
        by_pair[pair,].append((at_ns, success, latency))

    numbers = {key: number for number, key in enumerate(reversed(by_day), 10)}
    keys = {number: key for key, number in numbers.items()}
    usage = [by_user[user] for _, _, by_user in rows.usage(numbers) for user in sorted(by_user)]
    assert usage == sorted(usage)
    assert {(*keys[int(row[0])], row[1]): row[2:4] + row[5:] for row in usage} == {
        key: [len(cell), sum(s for s, _ in cell), min(v for _, v in cell), max(v for _, v in cell)]
        for key, cell in by_user.items()
    }
    _check_series({(s.day, s.pair): s for s in rows.series()}, by_day)
    _check_series({(s.pair,): s for s in totals(rows.series())}, by_pair)


def _check_series(found: dict[tuple, Series], expected: dict[tuple, list]) -> None:
    assert set(found) == set(expected)
    for key, cell in expected.items():
        assert found[key].latencies == sorted(latency for _, _, latency in cell)
        assert found[key].successes == sum(success for _, success, _ in cell)
        assert (found[key].first_ns, found[key].last_ns) == (min(cell)[0], max(cell)[0])


@given(st.lists(st.one_of(st.floats(0, 10_000), st.sampled_from([float(bound) for bound in BUCKETS_MS]))))
def test_a_latency_counts_in_the_first_bucket_that_holds_it(latencies: list[float]) -> None:
    """Bounds are inclusive, as Prometheus has them; beyond the last bound there is no bucket."""
    counts = [0] * len(BUCKETS_MS)
    for latency in latencies:
        for index, bound in enumerate(BUCKETS_MS):
            if latency <= bound:
                counts[index] += 1
                break
    assert bucket_counts(sorted(latencies)) == counts


def test_ratings_and_health_become_rows_of_their_own_kind() -> None:
    """A rating keeps its user, a score has none, and neither is an execution."""
    rows = group()
    events = [Rating(7, "s", "u", None, 4), Health(8, "s", 0.95)]
    rows.add(1, [0, 50], [msgspec.msgpack.encode(event) for event in events])
    assert [row[5:] for row in rows.rows] == [(2, 4), (3, 0.95)]
    assert [row[2] for row in rows.rows] == [1, 0]
    assert rows.series() == []
    assert [(at_ns, rating) for _, at_ns, rating in rows.ratings] == [(7, 4)]
    assert rows.health == [events[1]]


def test_ratings_are_counted_by_their_value() -> None:
    """Ones first."""
    assert rating_counts([5, 1, 5, 3]) == [1, 0, 1, 0, 2]


def test_values_that_no_client_lets_pass_are_malformed() -> None:
    """A client that skips the validation is refused by the same rules; NaN and infinity among them."""
    wrong = [
        (1, 0, "s", None, None, True, float("nan")),
        (1, 0, "s", None, None, True, float("inf")),
        (1, 0, "s", None, None, True, -1.0),
        (1, -1, "s", None, None, True, 1.0),
        (1, 2**63, "s", None, None, True, 1.0),
        (1, 0, "", None, None, True, 1.0),
        (1, 0, "s" * 257, None, None, True, 1.0),
        (1, 0, "s", None, None, 1, 1.0),
        (2, 0, "s", None, None, 6),
        (3, 0, "s", 100.5),
        (4, 0, "s"),
    ]
    assert decode([msgspec.msgpack.encode(event) for event in wrong]) == [None] * len(wrong)
