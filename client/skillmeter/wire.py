"""Wire: the messages between client and daemon, as ZeroMQ frames. Opens nothing and reads no clock.

A client's DEALER sends, and the daemon's ROUTER receives behind an identity frame:

    frame 0   PROTOCOL (4 bytes, the version is in it)
    frame 1   one message, a msgpack array that begins with its kind
    frame 2   for a Batch only: journal records as they stand on disk

The daemon answers with frames 0 and 1. A *batch* says at which journal offset it starts and which offset it
continues; the two differ where a segment ended before its capacity. The daemon commits a batch only if it continues
the producer's committed offset; below it is a duplicate, above it a gap, which it answers with a Rewind.
"""

from collections.abc import Sequence
from typing import Annotated, Any, Final

import msgspec

from .errors import WireError

PROTOCOL: Final = b"SKM1"
MAX_HEADER_BYTES: Final = 65536
MAX_MESSAGE_BYTES: Final = 4 * 1024 * 1024
"""The largest frame a client accepts (ZMQ_MAXMSGSIZE): an answer may be long."""
MAX_BATCH_BYTES: Final = 256 * 1024
"""The largest frame a daemon accepts, twice what clients send. Whoever reaches its socket, with a key or without, can
have it hold one that never ends for each of his connections."""

ProducerId = Annotated[bytes, msgspec.Meta(min_length=16, max_length=16)]
Offset = Annotated[int, msgspec.Meta(ge=0, le=2**62)]
Count = Annotated[int, msgspec.Meta(ge=0, le=2**62)]


class Batch(msgspec.Struct, array_like=True, tag=1, frozen=True):
    """Journal records from `start`, continuing `continues`; an empty body carries the ledger alone."""

    producer: ProducerId
    continues: Offset
    start: Offset
    ledger: Annotated[list[Count], msgspec.Meta(max_length=256)]
    """The slots of records.LEDGER."""
    lost: Count = 0
    """Events between `continues` and `start` that were acknowledged once, that the daemon has forgotten since
    (its database was replaced), and that the client no longer has."""


class Request(msgspec.Struct, array_like=True, tag=2, frozen=True):
    """A question; the Response has the same id."""

    id: Count
    method: Annotated[str, msgspec.Meta(max_length=64)]
    params: dict[str, Any] = {}


class Ack(msgspec.Struct, array_like=True, tag=3, frozen=True):
    """All of the producer's records before `offset` are committed. `events` is how many events there were before it:
    committed, or declared lost."""

    producer: ProducerId
    offset: Offset
    events: Count


class Rewind(msgspec.Struct, array_like=True, tag=4, frozen=True):
    """A batch left a gap: send again from `offset`, before which there were `events` as in an Ack."""

    producer: ProducerId
    offset: Offset
    events: Count


class Response(msgspec.Struct, array_like=True, tag=5, frozen=True):
    """The answer to a Request: `error` is empty, or says what was wrong with it."""

    id: Count
    result: Any = None
    error: str = ""


class Refusal(msgspec.Struct, array_like=True, tag=6, frozen=True):
    """The daemon cannot read what was sent; `reason` is for a person."""

    reason: str


ToDaemon = Batch | Request
ToClient = Ack | Rewind | Response | Refusal

_encode = msgspec.msgpack.Encoder().encode
_to_daemon = msgspec.msgpack.Decoder(ToDaemon)
_to_client = msgspec.msgpack.Decoder(ToClient)


def encode(message: ToDaemon | ToClient, body: bytes | None = None) -> list[bytes]:
    """The frames of a message."""
    head = [PROTOCOL, _encode(message)]
    return head if body is None else [*head, body]


def decode_to_daemon(frames: Sequence[bytes]) -> tuple[ToDaemon, bytes]:
    """A client's message and its body, from the frames behind the identity. Raises WireError."""
    message = _decode(frames, _to_daemon, MAX_HEADER_BYTES)
    expected = 3 if isinstance(message, Batch) else 2
    if len(frames) != expected:
        raise WireError(f"{len(frames)} frames, expected {expected}")
    return message, frames[2] if expected == 3 else b""


def decode_to_client(frames: Sequence[bytes]) -> ToClient:
    """A daemon's message. Raises WireError."""
    if len(frames) != 2:
        raise WireError(f"{len(frames)} frames, expected 2")
    message: ToClient = _decode(frames, _to_client, MAX_MESSAGE_BYTES)
    return message


def _decode(frames: Sequence[bytes], decoder: msgspec.msgpack.Decoder[Any], max_bytes: int) -> Any:
    if len(frames) < 2:
        raise WireError(f"{len(frames)} frames are too few")
    if frames[0] != PROTOCOL:
        raise WireError(f"protocol {bytes(frames[0][:8])!r}; this release speaks {PROTOCOL!r}")
    if len(frames[1]) > max_bytes:
        raise WireError(f"a header of {len(frames[1])} bytes")
    try:
        return decoder.decode(frames[1])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise WireError(f"a message that does not decode: {error}") from None
