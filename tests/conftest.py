"""What every test may rely on: an environment without settings, a home folder of its own, no deadlines."""

import os
import signal
from collections.abc import Iterator

import hypothesis
import pytest

hypothesis.settings.register_profile("skillmeter", deadline=None)  # nothing here rests on how fast a machine is
hypothesis.settings.load_profile("skillmeter")

SETTINGS = ("ANALYTICS_", "OTLP_", "OTEL_", "PROMETHEUS_", "WANDB_", "SKILLMETER_")


@pytest.fixture(scope="session", autouse=True)
def _ctrl_c() -> None:
    """What a test starts hears Ctrl-C, even if a shell runs the tests in the background, where it ignores it."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session", autouse=True)
def _clean_environment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """No setting of whoever runs the tests reaches them, and nothing is written to their home folder."""
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith(SETTINGS)]:
            patch.delenv(name)
        patch.setenv("HOME", str(tmp_path_factory.mktemp("home")))
        yield
