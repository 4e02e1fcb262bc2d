"""Wire: the protocol is pinned by golden bytes, and arbitrary frames raise WireError or nothing."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skillmeter import wire
from skillmeter.errors import WireError

GOLDEN = Path(__file__).parent / "golden"
PRODUCER = bytes(range(16))
MESSAGES: dict[str, wire.ToDaemon | wire.ToClient] = {
    "batch": wire.Batch(PRODUCER, 100, 200, [5, 0, 1], 7),
    "request": wire.Request(1, "health", {"a": 1}),
    "ack": wire.Ack(PRODUCER, 300, 12),
    "rewind": wire.Rewind(PRODUCER, 50, 2),
    "response": wire.Response(1, {"ready": True}),
    "refusal": wire.Refusal("protocol b'SKM0'"),
}
TO_DAEMON = ("batch", "request")

counts = st.integers(0, 2**62)
producers = st.binary(min_size=16, max_size=16)


@pytest.mark.parametrize("name", MESSAGES)
def test_the_bytes_of_a_message_are_pinned(name):
    """Each message is encoded as protocol SKM1 has it, and read back from those bytes."""
    message, body = MESSAGES[name], b"records" if name == "batch" else None
    frames = [bytes.fromhex(line) for line in (GOLDEN / f"{name}.hex").read_text().split()]
    assert wire.encode(message, body) == frames
    if name in TO_DAEMON:
        assert wire.decode_to_daemon(frames) == (message, body or b"")
    else:
        assert wire.decode_to_client(frames) == message


@given(producers, counts, counts, st.lists(counts, max_size=256), counts, st.binary(max_size=99))
def test_a_batch_comes_back_as_it_was_sent(producer, continues, start, ledger, lost, body):
    """Every batch decodes to what was encoded, its records untouched."""
    batch = wire.Batch(producer, continues, start, ledger, lost)
    assert wire.decode_to_daemon(wire.encode(batch, body)) == (batch, body)


@given(st.lists(st.binary(max_size=64) | st.just(wire.PROTOCOL), max_size=4))
def test_arbitrary_frames_raise_wire_errors(frames):
    """Whatever a peer sends, each side gets a message or a WireError."""
    for decode in (wire.decode_to_daemon, wire.decode_to_client):
        try:
            decode(frames)
        except WireError:
            pass


@given(st.sampled_from(sorted(MESSAGES)), st.integers(0, 200), st.binary(max_size=8))
def test_damaged_messages_raise_wire_errors(name, at, damage):
    """A message with some bytes exchanged is read as a message or refused with a WireError."""
    frames = wire.encode(MESSAGES[name], b"records" if name == "batch" else None)
    frames[1] = frames[1][:at] + damage + frames[1][at + len(damage) :]
    test_arbitrary_frames_raise_wire_errors.hypothesis.inner_test(frames)  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    "frames",
    [
        [],
        [wire.PROTOCOL],
        [b"SKM0", wire.encode(MESSAGES["request"])[1]],
        [wire.PROTOCOL, wire.encode(MESSAGES["request"])[1], b"a frame too many"],
        [wire.PROTOCOL, wire.encode(MESSAGES["batch"])[1]],
        [wire.PROTOCOL, wire.encode(MESSAGES["ack"])[1]],
        [wire.PROTOCOL, b"\x93" * 60_000],
        [wire.PROTOCOL, b"\x00" * (wire.MAX_HEADER_BYTES + 1)],
        [wire.PROTOCOL, wire.encode(wire.Batch(b"short", 0, 0, []))[1], b""],
        [wire.PROTOCOL, wire.encode(wire.Batch(PRODUCER, -1, 0, []))[1], b""],
        [wire.PROTOCOL, wire.encode(wire.Batch(PRODUCER, 2**63, 0, []))[1], b""],
        [wire.PROTOCOL, wire.encode(wire.Batch(PRODUCER, 0, 0, [0] * 257))[1], b""],
        [wire.PROTOCOL, wire.encode(wire.Request(1, "m" * 65))[1]],
    ],
)
def test_what_is_not_in_the_protocol_is_refused(frames):
    """Wrong versions, frame counts, kinds, sizes, nesting and numbers out of range never reach the daemon's logic."""
    with pytest.raises(WireError):
        wire.decode_to_daemon(frames)
