"""Connection: what comes in between while a socket is made, and what is said when nobody answers."""

import threading

import pytest
import zmq

from skillmeter.connection import Connection
from skillmeter.errors import DaemonUnavailable
from skillmeter.parsers import Secret
from tests.support import free_port, wait_until


@pytest.mark.parametrize("moment", ["Context", "socket"])
def test_a_signal_handler_may_close_it_while_a_socket_is_made(moment: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """An application that closes its client on SIGTERM does not wait for itself; the context ends with the socket."""
    connection = Connection("ipc:///nowhere")
    contexts: list[zmq.Context[zmq.Socket[bytes]]] = []

    class Interrupted(zmq.Context[zmq.Socket[bytes]]):
        def __init__(self, io_threads: int = 1) -> None:
            super().__init__(io_threads)
            contexts.append(self)
            if moment == "Context":
                connection.close()

        def socket(self, *args: object, **options: object) -> zmq.Socket[bytes]:
            if moment == "socket":
                connection.close()
            return super().socket(*args, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(zmq, "Context", Interrupted)

    def make_and_hang_up() -> None:
        connection.hang_up(connection.dealer())

    thread = threading.Thread(target=make_and_hang_up, daemon=True)
    thread.start()
    wait_until(lambda: not thread.is_alive(), 20, what="the socket")
    assert contexts[0].closed


def test_who_has_no_keys_is_told_that_the_daemon_may_want_some() -> None:
    """Over tcp a daemon with keys does not answer who has none, which looks as if there were no daemon."""
    hint = "one with CURVE keys answers only who has ANALYTICS_CURVE_SERVER_KEY"
    remote = f"tcp://127.0.0.1:{free_port()}"
    public, secret = (key.decode() for key in zmq.curve_keypair())
    with_keys = Connection(remote, server_key=public, client_secret=Secret(secret))
    for connection, told in ((Connection(remote), True), (with_keys, False), (Connection("ipc:///nowhere"), False)):
        with pytest.raises(DaemonUnavailable) as caught:
            connection.ask("health", timeout_s=0.1)
        assert (hint in str(caught.value)) == told
        connection.close()
