"""The asking half of a client: typed results from a real daemon, clear errors, bounded waits."""

import datetime
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from skillmeter import DaemonUnavailable, QueryError, create_analytics_client
from skillmeter.client import AnalyticsClient
from skillmeter.results import (
    AdoptionMetrics,
    DbStats,
    LeaderboardEntry,
    SkillMetrics,
    SkillRecommendation,
    SkillUsage,
    UsageTrendPoint,
)

from .support import DaemonProcess


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AnalyticsClient]:
    """A client whose daemon has some history."""
    with DaemonProcess(tmp_path_factory.mktemp("daemon")) as daemon:
        client = create_analytics_client(endpoint=daemon.endpoint, spool_dir=str(daemon.spool_dir))
        for index in range(20):
            client.record_skill_execution("parse_json", index > 0, 10.0 + index, f"u{index % 4}", "o1")
        client.record_skill_execution("fetch", True, 100.0, "u1")
        client.record_skill_rating("parse_json", 4)
        client.update_health_score("parse_json", 0.95)
        assert client.flush(30)
        yield client
        client.close()


def test_usage(client: AnalyticsClient) -> None:
    """get_skill_usage counts, and times are aware datetimes of now."""
    usage = client.get_skill_usage("parse_json", days=1, org_id="o1")
    assert isinstance(usage, SkillUsage)
    assert (usage.execution_count, usage.failure_count, usage.unique_users, usage.period_days) == (20, 1, 4, 1)
    assert usage.last_used is not None
    assert usage.last_used.tzinfo == datetime.UTC
    assert usage.to_dict()["last_used"].startswith(str(usage.last_used.year))


def test_metrics(client: AnalyticsClient) -> None:
    """get_skill_metrics has ratings and the stated health, taken literally; None for an unknown skill."""
    metrics = client.get_skill_metrics("parse_json")
    assert isinstance(metrics, SkillMetrics)
    assert (metrics.rating_avg, metrics.rating_4_count, metrics.health_score) == (4.0, 1, 0.95)
    assert client.get_skill_metrics("x") is None


def test_health_score(client: AnalyticsClient) -> None:
    """compute_health_score weighs what there is: no rating of fetch leaves its weight to the other parts."""
    found = client.compute_health_score("fetch")
    assert found == pytest.approx((0.4 * 100 + 0.2 * 10 + 0.1 * 90) / 0.7)
    assert client.compute_health_score("x") is None


def test_leaderboards(client: AnalyticsClient) -> None:
    """The three names of the leaderboard agree."""
    board = client.get_leaderboard(limit=5, metric="usage_count", period="weekly")
    found = [(entry.rank, entry.skill_id, entry.executions) for entry in board]
    assert found == [(1, "parse_json", 20), (2, "fetch", 1)]
    assert all(isinstance(entry, LeaderboardEntry) for entry in board)
    assert client.compute_leaderboard("usage_count", "weekly", 5, None) == board
    top = client.get_top_skills(5, None, 7)
    assert [entry.skill_id for entry in top] == ["parse_json", "fetch"]
    assert client.get_top_skills(5, "o1")[0].unique_users == 4


def test_trends(client: AnalyticsClient) -> None:
    """get_usage_trends has every day, the last one today."""
    points = client.get_usage_trends("parse_json", period_days=3)
    assert all(isinstance(point, UsageTrendPoint) for point in points)
    assert [point.execution_count for point in points] == [0, 0, 20]


def test_recommendations(client: AnalyticsClient) -> None:
    """recommend_skills: who shares parse_json with u1 has used nothing that u1 has not."""
    assert client.recommend_skills("u1") == []
    (found,) = client.recommend_skills("u2")
    assert isinstance(found, SkillRecommendation)
    assert (found.skill_id, found.kind) == ("fetch", "collaborative")


def test_adoption(client: AnalyticsClient) -> None:
    """get_adoption_metrics counts today's users; without a last week there is no growth to speak of."""
    found = client.get_adoption_metrics("parse_json")
    assert isinstance(found, AdoptionMetrics)
    assert (found.users, found.users_today, found.share_of_active_users, found.growth_weekly) == (4, 4, 1.0, None)


def test_stats(client: AnalyticsClient) -> None:
    """get_db_stats counts events."""
    stats = client.get_db_stats()
    assert isinstance(stats, DbStats)
    assert stats.events == 23


def test_a_long_answer(client: AnalyticsClient) -> None:
    """Ten years of points are more than a request may have, and no more than an answer may."""
    assert len(client.get_usage_trends("parse_json", 3660)) == 3660


@pytest.mark.parametrize(
    ("call", "args", "message"),
    [
        ("get_skill_usage", ["x"], "nothing was recorded of a skill 'x'"),
        ("get_skill_usage", ["parse_json", -1], "days: expected int >= 1"),
        ("get_skill_usage", [object()], "skill_id: object is not a value to ask with"),
        ("get_skill_usage", ["x" * 100_000], "ids have at most 256 characters"),
        ("get_skill_usage", ["\ud800"], "cannot be sent"),
        ("get_leaderboard", [2**70], "cannot be sent"),
        ("get_leaderboard", [10, "beauty"], "metric must be one of"),
        ("get_leaderboard", [10, "rating", "yearly"], "period must be one of"),
        ("get_usage_trends", ["parse_json", 0], "days: expected int >= 1"),
    ],
)
def test_wrong_arguments(client: AnalyticsClient, call: str, args: list[Any], message: str) -> None:
    """Wrong arguments are a QueryError that says which."""
    with pytest.raises(QueryError, match=message):
        getattr(client, call)(*args)


def test_without_a_daemon(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every call that asks ends after its bound, and says how to start a daemon."""
    monkeypatch.setattr("skillmeter.queries.TIMEOUT_S", 0.05)
    client = create_analytics_client(endpoint=f"ipc://{tmp_path}/none", spool_dir=str(tmp_path))
    try:
        with pytest.raises(DaemonUnavailable, match="skillmeter run"):
            client.get_leaderboard()
    finally:
        client.close()
