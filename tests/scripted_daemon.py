"""Scripted daemon: the daemon's end of the wire, whose answers a test decides."""

from typing import Final

import zmq

from skillmeter import wire
from skillmeter.records import RECORD_HEADER_BYTES, scan

WAIT_MS: Final = 30_000  # for a batch


class Peer:
    """A ROUTER that does what the test says: it takes a batch, and answers or does not."""

    def __init__(self, endpoint: str) -> None:
        self.context = zmq.Context()
        self.socket = self.context.socket(zmq.ROUTER)
        self.socket.setsockopt(zmq.LINGER, 0)
        self.socket.bind(endpoint)
        self.identity = b""

    def take(self) -> tuple[wire.Batch, list[bytes]]:
        """The next batch, and the payloads in it."""
        assert self.socket.poll(WAIT_MS), "no batch came"
        self.identity, *frames = self.socket.recv_multipart()
        batch, body = wire.decode_to_daemon(frames)
        assert isinstance(batch, wire.Batch)
        return batch, scan(body, sealed=True).payloads

    def say(self, message: wire.ToClient) -> None:
        """Answer whoever sent the last batch."""
        self.socket.send_multipart([self.identity, *wire.encode(message)])

    def take_all(self, producer: bytes, events: int, until: int) -> tuple[list[bytes], int]:
        """Take and acknowledge batches up to an offset; the payloads, and the number of events declared lost."""
        payloads, lost, end = [], 0, -1
        while end < until:
            batch, part = self.take()
            payloads += part
            lost += batch.lost
            end = batch.start + sum(map(len, part)) + RECORD_HEADER_BYTES * len(part)
            self.say(wire.Ack(producer, end, events + len(payloads) + lost))
        return payloads, lost

    def close(self) -> None:
        self.socket.close(0)
        self.context.term()
