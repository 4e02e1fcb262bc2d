"""Testing: a client for the users' own tests, which keeps events in a list instead of sending them.

    pytest_plugins = ["skillmeter.testing"]  # in the top conftest.py

    def test_it_is_recorded(skillmeter_client):
        my_application(skillmeter_client)
        assert [event.skill_id for event in skillmeter_client.executions] == ["parse_json"]

Without pytest, make a `RecordingClient` and hand it to the code under test.
"""

import threading
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
        self._lock = threading.RLock()  # reentrant: a signal handler or a finalizer may record within a record call
        self._events: list[Event] = []
        self._rejected: Counter[str] = Counter()

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
        """How many events were refused, by reason, such as "invalid_rating"."""
        with self._lock:
            return self._rejected.copy()

    def clear(self) -> None:
        """Forget all events and refusals."""
        with self._lock:
            self._events.clear()
            self._rejected.clear()

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
        """What the client's call of this name says, of this one."""
        return {"backend": "recording", "healthy": True, "strict": self._strict}

    def close(self) -> None:
        """Does nothing: the events can still be looked at."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _accept(self, payload: bytes) -> bool:
        self._events.append(event_decoder.decode(payload))
        return True

    def _count(self, name: str) -> None:
        with self._lock:
            self._rejected[name.partition(".")[2]] += 1
