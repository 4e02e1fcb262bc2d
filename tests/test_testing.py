"""Testing: the recording client keeps what the real one would send, and pytest finds its fixture."""

import subprocess
import sys
import threading

import pytest

from skillmeter.events import Execution, Health, Rating
from skillmeter.testing import RecordingClient

pytest_plugins = ["pytester"]


def test_events_are_kept_typed_and_in_order():
    """Each call's event can be looked at by its kind, with the values that SQL would show."""
    client = RecordingClient()
    assert client.record_skill_execution(
        "a", False, 2, "u", "o", error_type="E", skill_version="1", attributes={"k": [1]}, timestamp=3
    )
    assert client.record_skill_usage("b", "u")
    assert client.record_skill_rating("a", 4, "u", "o")
    assert client.rate_skill("b", 5, "o", "u")
    assert client.update_health_score("a", 0.95)
    with client.track("c", user_id="u"):
        pass

    assert [type(event) for event in client.events] == [Execution, Execution, Rating, Rating, Health, Execution]
    assert client.executions[0] == Execution(3_000_000_000, "a", "u", "o", False, 2.0, "E", "1", '{"k":[1]}')
    assert [(event.skill_id, event.user_id, event.success) for event in client.executions[1:]] == [
        ("b", "u", True),
        ("c", "u", True),
    ]
    assert [(event.skill_id, event.user_id, event.org_id, event.rating) for event in client.ratings] == [
        ("a", "u", "o", 4),
        ("b", "u", "o", 5),
    ]
    assert [(event.skill_id, event.score) for event in client.health_scores] == [("a", 0.95)]


def test_the_rest_of_the_client_is_there():
    """Code that flushes, pushes and checks runs unchanged."""
    client = RecordingClient(strict=True)
    assert [client.flush(), client.flush(timeout_s=0.1), client.push(), client.health_check()] == [True] * 4
    assert client.get_config_summary() == {"backend": "recording", "strict": True, "closed": False, "healthy": True}


def test_after_close_nothing_is_recorded_but_all_can_be_looked_at():
    """A record call after close() is a mistake that a test should see, as it is with the client."""
    with RecordingClient() as client:
        client.record_skill_usage("a", None)
    client.close()
    assert client.record_skill_usage("b", None) is False
    assert [event.skill_id for event in client.executions] == ["a"]
    assert client.rejected == {"closed": 1}


def test_clear_forgets():
    """One client can serve several parts of a test; what was handed out before stays as it was."""
    client = RecordingClient()
    client.record_skill_usage("a", None)
    client.record_skill_usage("", None)
    before = client.events, client.rejected
    client.clear()
    assert (client.events, client.rejected) == ([], {})
    assert (len(before[0]), before[1]) == (1, {"invalid_skill_id": 1})


def test_many_threads_record_at_once():
    """No event and no refusal is missing."""
    client = RecordingClient()
    threads, each = 8, 500

    def work(number: int) -> None:
        for at in range(each):
            client.record_skill_execution(f"t{number}", True, at)
            client.record_skill_rating("t", 9)

    workers = [threading.Thread(target=work, args=(number,)) for number in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    for number in range(threads):
        own = [event.latency_ms for event in client.executions if event.skill_id == f"t{number}"]
        assert own == [float(at) for at in range(each)]
    assert client.rejected == {"invalid_rating": threads * each}


def test_pytest_finds_the_fixture(pytester: pytest.Pytester):
    """One line in conftest.py; each test has a strict client of its own."""
    pytester.makeconftest('pytest_plugins = ["skillmeter.testing"]')
    pytester.makepyfile(
        """
        import pytest
        from skillmeter.errors import InvalidEventError

        @pytest.mark.parametrize("run", [1, 2])
        def test_it(skillmeter_client, run):
            with skillmeter_client.track("parse_json"):
                pass
            assert [event.skill_id for event in skillmeter_client.executions] == ["parse_json"]
            with pytest.raises(InvalidEventError):
                skillmeter_client.record_skill_rating("parse_json", 11)
        """
    )
    pytester.runpytest_inprocess("-p", "no:cacheprovider").assert_outcomes(passed=2)


def test_the_client_does_not_need_pytest():
    """Other test runners use RecordingClient without pytest, and without zmq."""
    script = (
        "import sys, skillmeter.testing; skillmeter.testing.RecordingClient().record_skill_usage('a', None);"
        "print([name for name in ('pytest', '_pytest', 'zmq') if name in sys.modules])"
    )
    answer = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "[]"
