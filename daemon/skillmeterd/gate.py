"""The gate: which clients may connect, by their CURVE keys (ZeroMQ RFC 26 and 27).

libzmq asks about the key of every client in a handshake, on a socket that we serve. It has the daemon's own key for the
rest: nobody can stand in for the daemon, read along or change anything. Where nobody serves that socket libzmq would
let everybody in; with `ZAP_ENFORCE_DOMAIN` it lets nobody in.
"""

import logging
import time
from dataclasses import dataclass
from typing import Any, Final

import zmq
from zmq.utils import z85

from skillmeter.parsers import Secret

log = logging.getLogger(__name__)

QUESTIONS: Final = "inproc://zeromq.zap.01"  # RFC 27
REFUSALS: Final = zmq.EVENT_HANDSHAKE_FAILED_AUTH | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL
MAX_MESSAGES: Final = 256  # in one turn: who knocks all the time must not keep others from being committed
LOG_EVERY_S: Final = 60.0


@dataclass(frozen=True, slots=True)
class Keys:
    """The daemon's secret key, and the public keys of the clients that may connect."""

    secret: Secret
    clients: frozenset[str]


class Gate:
    """Guards one ROUTER. Owned by its thread, which calls `turn` whenever one of `sockets` is readable."""

    def __init__(self, router: Any, keys: Keys) -> None:
        """Before the ROUTER is bound."""
        self.refused = 0
        """Connections without a key, or with one that is not allowed."""
        self._clients = keys.clients
        self._log_at_s = 0.0
        self._questions = router.context.socket(zmq.REP)
        self._questions.setsockopt(zmq.LINGER, 0)
        self._questions.bind(QUESTIONS)
        self._monitor = router.context.socket(zmq.PAIR)
        self._monitor.setsockopt(zmq.LINGER, 0)
        self._monitor.setsockopt(zmq.RCVHWM, 0)  # or libzmq's thread would wait for us to read
        router.monitor(f"inproc://gate-{id(self)}", REFUSALS)
        self._monitor.connect(f"inproc://gate-{id(self)}")
        router.setsockopt(zmq.CURVE_SERVER, 1)
        router.setsockopt(zmq.CURVE_SECRETKEY, keys.secret.reveal().encode())
        router.setsockopt(zmq.ZAP_DOMAIN, b"skillmeter")
        router.setsockopt(zmq.ZAP_ENFORCE_DOMAIN, 1)
        self.sockets = (self._questions, self._monitor)

    def turn(self) -> None:
        """Answer who knocks, and count who was refused; some of them, if there are many."""
        for _ in range(MAX_MESSAGES):
            try:
                question = self._questions.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                break
            self._questions.send_multipart(self._answer(question))
        for _ in range(MAX_MESSAGES):
            try:
                self._monitor.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                break
            self.refused += 1

    def close(self) -> None:
        """Stop to answer; after the ROUTER was closed."""
        self._monitor.close()
        self._questions.close()

    def _answer(self, question: list[bytes]) -> list[bytes]:
        """What RFC 27 has for yes or no. libzmq makes the questions, so their form is not in doubt."""
        _version, request, _domain, address, _identity, _mechanism, key = question
        public = z85.encode(key).decode()
        allowed = public in self._clients
        if not allowed:
            self._note(address.decode(), public)
        return [b"1.0", request, b"200" if allowed else b"400", b"", b"", b""]

    def _note(self, address: str, public: str) -> None:
        """Name the key, so that it can be added; seldom, as anybody can knock."""
        if time.monotonic() >= self._log_at_s:
            self._log_at_s = time.monotonic() + LOG_EVERY_S
            log.warning(
                "refused a client whose key is not in ANALYTICS_CURVE_CLIENT_KEYS",
                extra={"address": address, "key": public},
            )
