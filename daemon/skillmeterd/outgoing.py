"""Outgoing: HTTP requests that end within their time, whatever the other side does.

It is the standard library's client. It follows no redirect, which would take data and credentials to where nobody chose
to send them, and no proxy variable changes where a request goes. If a certificate is configured, it alone is trusted,
whatever CA bundle the environment names.
"""

import contextlib
import http.client
import socket
import ssl
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit


def is_open(url: str) -> bool:
    """Whether what is sent to an address can be read on the way."""
    parts = urlsplit(url)
    return parts.scheme == "http" and parts.hostname not in ("localhost", "127.0.0.1", "::1")


@dataclass(frozen=True, slots=True)
class Answer:
    """What the other side said."""

    status: int
    reason: str
    headers: http.client.HTTPMessage
    body: bytes
    """At most one byte more than was allowed: then it is not the whole."""


class Outgoing:
    """Requests to one server. One thread uses it; `abandon` may be called from any."""

    def __init__(self, url: str, timeout_s: float, *, max_answer_bytes: int, tls: ssl.SSLContext | None = None) -> None:
        """`timeout_s` is from connecting to the last byte of the answer; `tls` is for an https address."""
        self._timeout_s = timeout_s
        self._max_answer_bytes = max_answer_bytes
        self._cut = False  # the time of this request is over
        self._abandoned = False
        self._socket: socket.socket | None = None  # the last one: its connection forgets it while the answer is read
        parts = urlsplit(url)
        self._connection: http.client.HTTPConnection
        if parts.scheme == "https":
            context = tls or ssl.create_default_context()
            self._connection = http.client.HTTPSConnection(parts.netloc, timeout=timeout_s, context=context)
        else:
            self._connection = http.client.HTTPConnection(parts.netloc, timeout=timeout_s)

    def request(self, method: str, path: str, headers: Mapping[str, str], body: bytes | None = None) -> Answer:
        """Ask once. Raises OSError, a TimeoutError too, or http.client.HTTPException, and closes the connection."""
        self._cut = False
        watchdog = threading.Timer(self._timeout_s, self._end_now)
        watchdog.daemon = True
        watchdog.start()
        try:
            answer = self._exchange(method, path, headers, body)
            if self._cut:  # a cut may look like the end of an answer
                raise TimeoutError
        except (OSError, http.client.HTTPException) as error:
            self.close()
            if self._cut:
                raise TimeoutError from error
            raise
        finally:
            watchdog.cancel()
        return answer

    def abandon(self) -> None:
        """End the request that is under way, and have no other begin."""
        self._abandoned = True
        self._end_now()

    def close(self) -> None:
        """Close the connection; the next request opens one."""
        self._connection.close()

    def _end_now(self) -> None:
        """End a request that is under way. The socket is only shut down here: its thread closes it."""
        self._cut = True
        if self._socket is not None:
            with contextlib.suppress(OSError):  # closed meanwhile
                # Not the method of SSLSocket, which would take its TLS state away from the thread that reads.
                socket.socket.shutdown(self._socket, socket.SHUT_RDWR)

    def _exchange(self, method: str, path: str, headers: Mapping[str, str], body: bytes | None) -> Answer:
        if self._connection.sock is None:
            self._connection.connect()
            self._socket = self._connection.sock
        if self._cut or self._abandoned:
            raise TimeoutError
        self._connection.request(method, path, body, dict(headers))
        response = self._connection.getresponse()
        answer = response.read(self._max_answer_bytes + 1)
        if len(answer) > self._max_answer_bytes:
            self.close()
        elif response.length:
            raise http.client.IncompleteRead(answer, response.length)
        return Answer(response.status, response.reason, response.headers, answer)
