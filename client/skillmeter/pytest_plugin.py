"""The pytest plugin: the fixture `skillmeter_client`. Loaded by `pytest_plugins = ["skillmeter.testing"]`."""

import pytest

from .testing import RecordingClient


@pytest.fixture
def skillmeter_client() -> RecordingClient:
    """A strict client of this test's own: what it records is kept in memory, an invalid event raises."""
    return RecordingClient(strict=True)
