"""Testing: a client for the users' own tests, which keeps events in a list instead of sending them.

    pytest_plugins = ["skillmeter.testing"]  # in the top conftest.py

    def test_it_is_recorded(skillmeter_client):
        my_application(skillmeter_client)
        assert [event.skill_id for event in skillmeter_client.executions] == ["parse_json"]

Without pytest, make a `RecordingClient` and hand it to the code under test.
"""

from collections import Counter
from types import TracebackType
from typing import Any, Self

from .events import Event, Execution, Health, Rating, event_decoder
from .recording import Recorder

pytest_plugins = ("skillmeter.pytest_plugin",)  # how pytest finds the fixture; nobody else imports pytest


class RecordingClient(Recorder):
    """Records like the client, with the same validation, into memory. Any thread may call it.

    `strict=True` raises InvalidEventError for an invalid event.
    """

    def __init__(self, *, strict: bool = False) -> None:
        super().__init__(strict=strict)
        self._closed = False
        # Appending to a list is all that recording does, so that threads, signal handlers and finalizers need no lock.
        self._events: list[Event] = []
        self._refusals: list[str] = []

    @property
    def events(self) -> list[Event]:
        """A copy of all that was kept, in order."""
        return self._events.copy()

    @property
    def executions(self) -> list[Execution]:
        """The executions among the events."""
        return [event for event in self.events if isinstance(event, Execution)]

    @property
    def ratings(self) -> list[Rating]:
        """The ratings among the events."""
        return [event for event in self.events if isinstance(event, Rating)]

    @property
    def health_scores(self) -> list[Health]:
        """The health scores among the events."""
        return [event for event in self.events if isinstance(event, Health)]

    @property
    def rejected(self) -> Counter[str]:
        """How many record calls returned False, by reason, such as "invalid_rating"."""
        return Counter(self._refusals.copy())

    def clear(self) -> None:
        """Forget all events and refusals."""
        self._events.clear()
        self._refusals.clear()

    def flush(self, timeout_s: float = 5.0) -> bool:  # noqa: ARG002 - the client's signature
        """True: nothing is ever on its way."""
        return True

    def push(self) -> bool:
        """True: there are no sinks that could fail."""
        return True

    def health_check(self) -> bool:
        """True: there is no daemon that could be away."""
        return True

    def get_config_summary(self) -> dict[str, Any]:
        """What there is to say of this client, under the client's names."""
        return {"backend": "recording", "strict": self._strict, "closed": self._closed, "healthy": not self._closed}

    def close(self, timeout_s: float = 1.0) -> None:  # noqa: ARG002 - the client's signature
        """Later record calls return False, as the client's do, and count as "closed". The events stay."""
        self._closed = True

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _accept(self, payload: bytes) -> bool:
        if self._closed:
            self._count("dropped.closed")
            return False
        self._events.append(event_decoder.decode(payload))
        return True

    def _count(self, name: str) -> None:
        self._refusals.append(name.partition(".")[2])
