"""OTLP transport: a post ends within its bound whatever the receiver does, and its failure has the right name."""

import contextlib
import email.utils
import gzip
import socket
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler

import pytest

from skillmeterd.sinks.otlp_target import Target
from skillmeterd.sinks.otlp_transport import ATTEMPTS, MAX_ANSWER_BYTES, Transport

from .otlp_receiver import OK, Answer, Posted, Receiver, lost, raw

TOKEN = "s3cr3t"


class Sleeper:
    """Waits without waiting, and remembers how long."""

    def __init__(self) -> None:
        self.waits_s: list[float] = []
        self.gives_up = False

    def __call__(self, seconds: float) -> bool:
        self.waits_s.append(seconds)
        return self.gives_up


@pytest.fixture
def sleeper() -> Sleeper:
    """Of the transport under test."""
    return Sleeper()


Make = Callable[..., Transport]


@pytest.fixture
def transport() -> Iterator[Make]:
    """Makes transports to a receiver, with a time limit that a test can wait for if need be."""
    with contextlib.ExitStack() as stack:

        def make(url: str, sleeper: Sleeper, *, clock_s: Callable[[], float] = time.monotonic, **more) -> Transport:
            options = {"timeout_s": 10, "headers": {"Authorization": f"Bearer {TOKEN}"}, **more}
            made = Transport(Target(f"{url}/v1/metrics", **options), sleeper, clock_s=clock_s)
            stack.callback(made.close)
            return made

        yield make


def test_a_delivery_is_one_post_with_the_headers(sleeper: Sleeper, transport: Make) -> None:
    """Its answer is handed on: a partial success would be in it."""
    with Receiver(Answer(200, body=b"answer")) as receiver:
        delivery = transport(receiver.url, sleeper).deliver(b"body")
        (post,) = receiver.posted
    assert (delivery.kind, delivery.body, post.body) == ("delivered", b"answer", b"body")
    assert post.path == "/v1/metrics"
    assert post.headers["Content-Type"] == "application/x-protobuf"
    assert post.headers["Authorization"] == f"Bearer {TOKEN}"


def test_gzip_if_asked_for(sleeper: Sleeper, transport: Make) -> None:
    """The body is compressed and says so."""
    with Receiver() as receiver:
        assert transport(receiver.url, sleeper, gzip=True).deliver(b"x" * 1000).delivered
        (post,) = receiver.posted
    assert post.headers["Content-Encoding"] == "gzip"
    assert int(post.headers["Content-Length"]) < len(gzip.compress(b"x" * 1000)) + 10
    assert post.body == b"x" * 1000


@pytest.mark.parametrize("status", [429, 502, 503, 504])
def test_a_passing_failure_is_retried_with_growing_waits_and_an_end(
    status: int, sleeper: Sleeper, transport: Make
) -> None:
    """Half to one and a half times 0.5, 1, 2 s."""
    with Receiver(script=lambda _: Answer(status)) as receiver:
        sender = transport(receiver.url, sleeper)
        delivery = sender.deliver(b"body")
        assert len(receiver.posted) == ATTEMPTS
    assert not delivery.delivered
    assert f"HTTP {status}" in delivery.problem
    assert sender.failures == {delivery.kind: ATTEMPTS}
    for wait_s, middle_s in zip(sleeper.waits_s, (0.5, 1, 2), strict=True):
        assert 0.5 * middle_s <= wait_s <= 1.5 * middle_s


def test_two_senders_do_not_retry_in_step(transport: Make) -> None:
    """The waits have jitter."""
    with Receiver(script=lambda _: Answer(503)) as receiver:
        one, other = Sleeper(), Sleeper()
        transport(receiver.url, one).deliver(b"")
        transport(receiver.url, other).deliver(b"")
    assert one.waits_s != other.waits_s


def test_a_retry_that_works_is_a_delivery(sleeper: Sleeper, transport: Make) -> None:
    """The failures before it are counted."""
    with Receiver(Answer(503), Answer(429), OK) as receiver:
        sender = transport(receiver.url, sleeper)
        assert sender.deliver(b"body").delivered
        assert [post.body for post in receiver.posted] == [b"body"] * 3
    assert sender.failures == {"unavailable": 1, "throttled": 1}


@pytest.mark.parametrize(
    "value", ["7", lambda: email.utils.formatdate(time.time() + 8, usegmt=True)], ids=["seconds", "date"]
)
def test_retry_after_is_waited_for(value: str | Callable[[], str], sleeper: Sleeper, transport: Make) -> None:
    """In seconds or as a date; jitter comes on top, never off it."""
    after = value if isinstance(value, str) else value()
    with Receiver(Answer(429, {"Retry-After": after}), OK) as receiver:
        assert transport(receiver.url, sleeper).deliver(b"").delivered
    (wait_s,) = sleeper.waits_s
    assert 6 < wait_s < 10


@pytest.mark.parametrize("value", ["soon", "-1", "1e9", "", "٣"])
def test_a_retry_after_that_says_nothing_is_passed_over(value: str, sleeper: Sleeper, transport: Make) -> None:
    """The usual wait is taken."""
    headers = {"Retry-After": value} if value.isascii() else {}
    with Receiver(Answer(429, headers), OK) as receiver:
        assert transport(receiver.url, sleeper).deliver(b"").delivered
    assert sleeper.waits_s[0] <= 0.75


def test_a_receiver_that_asks_for_long_is_left_alone(sleeper: Sleeper, transport: Make) -> None:
    """No post until then, and none later than ten minutes."""
    now_s = [1000.0]
    with Receiver(Answer(503, {"Retry-After": "86400"})) as receiver:
        sender = transport(receiver.url, sleeper, clock_s=lambda: now_s[0])
        assert sender.deliver(b"").kind == "unavailable"
        now_s[0] += 599
        assert sender.deliver(b"").kind == "throttled"
        assert len(receiver.posted) == 1
        now_s[0] += 2
        assert sender.deliver(b"").delivered
    assert not sleeper.waits_s


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, "rejected"),
        (401, "unauthorized"),
        (403, "unauthorized"),
        (404, "not_found"),
        (413, "too_large"),
        (418, "rejected"),
        (500, "server_error"),
        (302, "redirected"),
        (307, "redirected"),
        (308, "redirected"),
    ],
)
def test_a_lasting_failure_is_tried_once(status: int, kind: str, sleeper: Sleeper, transport: Make) -> None:
    """Counted under its kind; a redirect goes nowhere, with neither data nor credentials."""
    with Receiver() as elsewhere, Receiver(Answer(status, {"Location": elsewhere.url}, b"why not")) as receiver:
        sender = transport(receiver.url, sleeper)
        delivery = sender.deliver(b"body")
        assert (len(receiver.posted), elsewhere.posted) == (1, [])
    assert delivery.kind == kind
    assert sender.failures == {kind: 1}
    assert not sleeper.waits_s
    assert ("why not" in delivery.problem) is (kind != "redirected")


def trickle(receiver: Receiver, head: bytes, piece: bytes) -> Answer:
    """Begins to answer, and never ends."""

    def act(handler: BaseHTTPRequestHandler) -> None:
        try:
            handler.wfile.write(head)
            while not receiver.released.wait(0.02):
                handler.wfile.write(piece)
        except OSError:
            pass

    return Answer(act=act)


@pytest.mark.parametrize(
    ("head", "piece"),
    [
        (b"", b""),
        (b"HTTP/1.1 200 OK\r\nX: ", b"x"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n", b"x"),
        (b"HTTP/1.1 200 OK\r\n\r\n", b"x"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"1\r\nx\r\n"),
    ],
    ids=["hangs", "head trickles", "body trickles", "body without end", "chunks without end"],
)
def test_however_slowly_it_answers_a_post_ends_in_time(
    head: bytes, piece: bytes, sleeper: Sleeper, transport: Make
) -> None:
    """Each byte that comes does not begin the time anew; what was cut is no delivery."""
    with Receiver() as receiver:
        receiver.then(trickle(receiver, head, piece))
        sender = transport(receiver.url, sleeper, timeout_s=0.3)
        assert sender.post(b"body").kind == "timeout"
        assert sender.post(b"body").delivered


@pytest.mark.parametrize(
    "answer",
    [
        Answer(act=lost),
        raw(b"SSH-2.0-OpenSSH\r\n"),
        Answer(body=b"x" * (MAX_ANSWER_BYTES + 1)),
        raw(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nx"),
    ],
    ids=["cut", "not HTTP", "endless", "cut in the body"],
)
def test_a_broken_answer_is_a_failure_and_the_next_post_works(
    answer: Answer, sleeper: Sleeper, transport: Make
) -> None:
    """A connection that is out of step is not used again."""
    with Receiver(answer) as receiver:
        sender = transport(receiver.url, sleeper)
        assert sender.post(b"body").kind in ("unreachable", "invalid_answer")
        assert sender.post(b"body").delivered


def test_nobody_listens(sleeper: Sleeper, transport: Make) -> None:
    """Retried, as a receiver that restarts is away for a moment."""
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    sender = transport(f"http://127.0.0.1:{port}", sleeper)
    delivery = sender.deliver(b"")
    assert (delivery.kind, len(sleeper.waits_s)) == ("unreachable", ATTEMPTS - 1)
    assert str(port) in delivery.problem


def test_a_server_without_tls_is_said_to_be_one(sleeper: Sleeper, transport: Make) -> None:
    """A mistake in the address, so it is not retried."""
    with Receiver() as receiver:
        sender = transport(receiver.url.replace("http:", "https:"), sleeper)
        delivery = sender.deliver(b"")
    assert delivery.kind in ("tls", "timeout")
    assert "https://127.0.0.1" in delivery.problem


def test_giving_up_ends_the_retries(sleeper: Sleeper, transport: Make) -> None:
    """At shut-down nobody waits."""
    sleeper.gives_up = True
    with Receiver(Answer(503)) as receiver:
        assert not transport(receiver.url, sleeper).deliver(b"").delivered
        assert len(receiver.posted) == 1


def test_a_secret_that_the_receiver_repeats_is_not_shown(sleeper: Sleeper, transport: Make) -> None:
    """Nor are control characters, nor more than a line of it."""

    def repeat(post: Posted) -> Answer:
        return Answer(401, {}, f"{post.headers['Authorization']}\n\x1b[31m {'x' * 5000}".encode())

    with Receiver(script=repeat) as receiver:
        problem = transport(receiver.url, sleeper).deliver(b"").problem
    assert TOKEN not in problem
    assert problem.isprintable()
    assert len(problem) < 300


def test_the_environment_does_not_redirect_requests(
    sleeper: Sleeper, transport: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A proxy variable is for other programs."""
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    with Receiver() as receiver:
        assert transport(receiver.url, sleeper).deliver(b"").delivered
