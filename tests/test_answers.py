"""Answers: every question gets one answer, whatever the method does; the thread that commits never waits for it."""

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from skillmeter import wire
from skillmeter.errors import QueryError
from skillmeterd import answers as module
from skillmeterd.answers import Answers
from skillmeterd.errors import StoreUnavailable

from .support import wait_until


def fail(error: Exception) -> Any:
    """A method that raises."""

    def method(_: dict[str, Any]) -> None:
        raise error

    return method


gate = threading.Event()
METHODS = {
    "echo": lambda params: params,
    "gate": lambda _: gate.wait(30),
    "refuse": fail(QueryError("days must be positive")),
    "busy": fail(StoreUnavailable("locked", "wait")),
    "broken": fail(ZeroDivisionError("secret detail")),
    "unencodable": lambda _: Path("/"),
    "huge": lambda _: "x" * wire.MAX_MESSAGE_BYTES,
    "large": lambda _: "x" * (wire.MAX_MESSAGE_BYTES - 100),
}
SLOW = {"slow": lambda _: gate.wait(30)}


@pytest.fixture
def answers() -> Iterator[Answers]:
    """A running thread."""
    gate.clear()
    answers = Answers(METHODS, lambda: None, quick={"quick": lambda _: 1, "bad": fail(KeyError("x"))}, slow=SLOW)
    answers.start()
    yield answers
    gate.set()
    answers.stop()
    assert not answers.is_running


def ask(answers: Answers, method: str, **params: Any) -> wire.Response:
    """The one answer to a question."""
    answers.submit(b"me", wire.Request(7, method, params))
    ((identity, frames),) = wait_until(answers.finished)
    assert identity == b"me"
    answer = response(frames)
    assert answer.id == 7
    return answer


def response(frames: list[bytes]) -> wire.Response:
    """What a client would decode."""
    message = wire.decode_to_client(frames)
    assert isinstance(message, wire.Response)
    return message


def test_a_method_gets_its_parameters_and_its_result_comes_back(answers: Answers) -> None:
    """Under the id of the question, to whoever asked."""
    assert ask(answers, "echo", days=3) == wire.Response(7, {"days": 3})


@pytest.mark.parametrize(
    ("method", "said"),
    [
        ("refuse", "days must be positive"),
        ("busy", "locked; wait"),
        ("nonsense", "there is no method 'nonsense'"),
        ("broken", "the daemon failed to answer; its log says why"),
        ("unencodable", "the daemon failed to answer; its log says why"),
        ("bad", "the daemon failed to answer; its log says why"),
        ("huge", f"the answer takes {wire.MAX_MESSAGE_BYTES + 9} bytes; ask for less"),
    ],
)
def test_a_question_that_fails_is_answered_with_why(answers: Answers, method: str, said: str) -> None:
    """Our own faults do not show what they are made of; the thread goes on to the next question."""
    assert ask(answers, method) == wire.Response(7, None, said)
    assert ask(answers, "echo") == wire.Response(7, {})


def test_an_answer_may_be_as_large_as_a_frame(answers: Answers) -> None:
    """The client takes no larger one."""
    assert len(ask(answers, "large").result) == wire.MAX_MESSAGE_BYTES - 100


def test_a_quick_question_does_not_wait(answers: Answers) -> None:
    """It only looks at memory, so it is answered while a long query runs."""
    answers.submit(b"slow", wire.Request(1, "gate"))
    assert ask(answers, "quick") == wire.Response(7, 1)


def test_a_slow_question_holds_up_no_other(answers: Answers) -> None:
    """While one waits for the network, all others are answered; it is, too, in the end."""
    answers.submit(b"me", wire.Request(1, "slow"))
    assert ask(answers, "echo") == wire.Response(7, {})
    gate.set()
    ((_, frames),) = wait_until(answers.finished)
    assert response(frames) == wire.Response(1, True)


def test_more_questions_than_can_wait_are_told_so(answers: Answers, monkeypatch: pytest.MonkeyPatch) -> None:
    """At once: nobody is left without an answer, and nothing grows."""
    for number in range(module.MAX_WAITING + 20):
        answers.submit(b"many", wire.Request(number, "gate"))
    refused = [response(frames) for _, frames in answers.finished()]
    assert 18 <= len(refused) <= 20
    assert {message.error for message in refused} == {"the daemon is busy; ask again"}
    gate.set()
    missing = set(range(module.MAX_WAITING + 20)) - {message.id for message in refused}
    while missing:
        missing -= {response(frames).id for _, frames in wait_until(answers.finished)}


def test_stopping_does_not_wait_for_those_in_the_queue() -> None:
    """Only the question that is being answered is finished; stopping twice, or before the start, is fine."""
    gate.clear()
    answers = Answers(METHODS, lambda: None, quick={}, slow=SLOW)
    answers.stop()
    answers.start()
    for number in range(module.MAX_WAITING + 1):
        answers.submit(b"many", wire.Request(number, "gate"))
    stopping = threading.Thread(target=answers.stop)
    stopping.start()
    gate.set()
    stopping.join(20)
    answers.stop()
    assert not answers.is_running
