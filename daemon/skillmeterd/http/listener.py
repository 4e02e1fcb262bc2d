"""Listener: the socket, and the thread with the event loop that serves it.

It does nothing while nobody asks. The socket is bound by the thread that starts it, so that a busy port is its error.
"""

import asyncio
import contextlib
import itertools
import logging
import socket
import ssl
import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import Final

from uvicorn.config import Config
from uvicorn.server import ServerState

from ..config import DaemonSettings
from ..errors import CannotListen
from .app import App
from .connection import IDLE_S, Connection, Room
from .guard import Guard
from .messages import MAX_HEAD_BYTES, Routes

log = logging.getLogger(__name__)

BACKLOG: Final = 128
MAX_ARRIVING: Final = 64  # connections in their TLS handshake; past it the oldest gives way
MAX_ACCEPTED: Final = 8  # in a turn of the event loop; with many more, the first give way before they could ask
ACCEPT_RETRY_S: Final = 1.0  # when no descriptor is left
TLS_HANDSHAKE_S: Final = 5.0
TLS_SHUTDOWN_S: Final = 2.0


class Listener:
    """Serves the routes from `start` to `stop`. Its maker starts and stops it; the rest is any thread's."""

    def __init__(self, settings: DaemonSettings, routes: Routes) -> None:
        self.url = ""
        """Where it is reached, once it has started."""
        self._settings = settings
        self._routes = routes
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stopping: asyncio.Event | None = None
        self._thread: threading.Thread | None = None

    @property
    def is_serving(self) -> bool:
        """Whether requests are answered."""
        return self._thread is not None and self._thread.is_alive()

    def start(self) -> None:
        """Bind and serve. Raises CannotListen."""
        tls = tls_of(self._settings)
        bound = bind(self._settings)
        host, port = bound.getsockname()[:2]
        self.url = f"{'https' if tls else 'http'}://{f'[{host}]' if ':' in host else host}:{port}"
        token = self._settings.http_token
        guard = Guard(host, self._settings.prometheus_host, None if token is None else token.reveal())
        logging.getLogger("uvicorn.error").setLevel(logging.ERROR)  # what clients do wrong is not for our log
        started = threading.Event()
        self._thread = threading.Thread(
            target=self._run, args=(bound, tls, App(self._routes, guard), started), name="http", daemon=True
        )
        self._thread.start()
        started.wait()

    def stop(self, timeout_s: float) -> None:
        """Close every connection and wait for the thread. Idempotent."""
        if self._thread is None or self._loop is None or self._stopping is None:
            return
        with contextlib.suppress(RuntimeError):  # the loop has ended by itself
            self._loop.call_soon_threadsafe(self._stopping.set)
        self._thread.join(timeout_s)

    def _run(self, bound: socket.socket, tls: ssl.SSLContext | None, app: App, started: threading.Event) -> None:
        try:
            with bound, contextlib.closing(app):
                asyncio.run(self._serve(bound, tls, app, started))
        except Exception:
            log.exception("the HTTP listener failed")
        finally:
            started.set()

    async def _serve(
        self, bound: socket.socket, tls: ssl.SSLContext | None, app: App, started: threading.Event
    ) -> None:
        self._loop, self._stopping = asyncio.get_running_loop(), asyncio.Event()
        room, state = Room(), ServerState()
        config = _config(app)
        accepting = asyncio.create_task(_accept(bound, tls, lambda: Connection(config, state, room)))
        started.set()
        await self._stopping.wait()
        accepting.cancel()
        for connection in [*room.waiting, *room.served]:
            connection.abort()


async def _accept(bound: socket.socket, tls: ssl.SSLContext | None, made: Callable[[], Connection]) -> None:
    """Let connections in. The event loop's own server would hold as many handshakes as there are descriptors."""
    arriving: OrderedDict[asyncio.Task[None], None] = OrderedDict()
    bound.setblocking(False)
    for number in itertools.count():
        try:
            client, _ = await asyncio.get_running_loop().sock_accept(bound)
        except ConnectionAbortedError:
            continue
        except OSError:
            await asyncio.sleep(ACCEPT_RETRY_S)
            continue
        if len(arriving) >= MAX_ARRIVING:
            arriving.popitem(last=False)[0].cancel()
        task = asyncio.create_task(_let_in(client, tls, made))
        arriving[task] = None
        task.add_done_callback(lambda done: arriving.pop(done, None))
        if not number % MAX_ACCEPTED:
            await asyncio.sleep(0)  # or they would be accepted, and given up, before their handshakes have begun


async def _let_in(client: socket.socket, tls: ssl.SSLContext | None, made: Callable[[], Connection]) -> None:
    """See a connection through its handshake; from then on it has its own deadlines. On failure it is closed."""
    with contextlib.suppress(OSError):  # also what TLS finds wrong, and its timeout
        await asyncio.get_running_loop().connect_accepted_socket(
            made,
            client,
            ssl=tls,
            ssl_handshake_timeout=TLS_HANDSHAKE_S if tls else None,
            ssl_shutdown_timeout=TLS_SHUTDOWN_S if tls else None,
        )


def _config(app: App) -> Config:
    config = Config(
        app,
        interface="asgi3",
        http=Connection,
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        timeout_keep_alive=int(IDLE_S),
        h11_max_incomplete_event_size=MAX_HEAD_BYTES,
    )
    config.load()
    return config


def bind(settings: DaemonSettings) -> socket.socket:
    """A socket that listens where the settings say. Raises CannotListen."""
    host, port = settings.prometheus_host, settings.prometheus_port
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        bound = socket.socket(family, kind, protocol)
        try:
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # or a restart would wait for TIME_WAIT
            bound.bind(address)
            bound.listen(BACKLOG)
        except BaseException:
            bound.close()
            raise
    except OSError as error:
        raise CannotListen(
            f"cannot listen on {host}, port {port} (PROMETHEUS_HOST, PROMETHEUS_PORT): {error.strerror};"
            " choose another port, 0 for any that is free, or PROMETHEUS_ENABLED=0 for none"
        ) from error
    return bound


def tls_of(settings: DaemonSettings) -> ssl.SSLContext | None:
    """What the certificates of the settings come to. Raises CannotListen."""
    if settings.tls_cert_file is None:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        context.load_cert_chain(settings.tls_cert_file, settings.tls_key_file, password="")  # never ask for one
        if settings.tls_client_ca_file is not None:
            context.load_verify_locations(settings.tls_client_ca_file)
            context.verify_mode = ssl.CERT_REQUIRED
    except (ssl.SSLError, OSError) as error:
        raise CannotListen(
            f"cannot use the certificates (PROMETHEUS_TLS_CERT_FILE, PROMETHEUS_TLS_KEY_FILE,"
            f" PROMETHEUS_TLS_CLIENT_CA_FILE): {error}"
        ) from error
    return context
