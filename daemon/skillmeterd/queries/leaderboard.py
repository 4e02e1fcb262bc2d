"""Leaderboard: skills in the order of a metric, ranked so that little evidence does not win.

    usage_count   executions
    success_rate  the lower end of Wilson's interval: 2 of 2 is behind 990 of 1000
    rating        the Bayesian mean of the ratings
    adoption      different users
    performance   p95 latency in milliseconds, the lowest first. The p95 of fewer than MIN_RUNS executions is hardly
                  more than their slowest, so those come after all others

A skill without anything that the metric counts has no place. Ties go to more executions, then to the name; scores that
differ only by how floats were rounded are tied.
"""

from collections.abc import Callable, Mapping
from typing import Final

from skillmeter.results import LeaderboardEntry

from .board import Board
from .formulas import bayesian_mean, share, wilson
from .params import Ranking
from .reader import Snapshot

MIN_RUNS: Final = 20  # below, the 95th of a hundred lies beyond the last run
_DIGITS: Final = 12  # after the point: Wilson's lower end of 0 of 3 comes out as 5e-17, that of 0 of 4 as 0

Scores = Mapping[int, float]


def leaderboard(at: Snapshot, asked: Ranking) -> list[LeaderboardEntry]:
    """The first `limit` skills."""
    period, days = asked.window
    first_day = None if days is None else at.today - days + 1
    board = Board(at, asked.org_id, first_day)
    counts = board.counts
    scores = _SCORES[asked.metric](board, asked.limit)
    lowest_first = asked.metric == "performance"

    def place(no: int, score: float) -> tuple[object, ...]:
        runs = counts[no].executions
        return lowest_first and runs < MIN_RUNS, round(score if lowest_first else -score, _DIGITS), -runs

    first = board.first({no: place(no, score) for no, score in scores.items()}, asked.limit)
    users, percentiles = board.users(first), board.percentiles(first)
    entries = []
    for rank, (no, skill_id) in enumerate(first.items(), 1):
        known = counts[no]
        low, high = wilson(known.successes, known.executions) if known.executions else (None, None)
        p50, p95, p99 = percentiles[no]
        entries.append(
            LeaderboardEntry(
                rank=rank,
                skill_id=skill_id,
                score=scores[no],
                executions=known.executions,
                unique_users=users[no],
                metric=asked.metric,
                period=period,
                success_rate=share(known.successes, known.executions),
                success_rate_low=low,
                success_rate_high=high,
                avg_latency_ms=share(known.latency_sum, known.executions),
                p50_latency_ms=p50,
                p95_latency_ms=p95,
                p99_latency_ms=p99,
                rating_avg=share(known.rating_sum, known.rating_count),
                rating_count=known.rating_count,
            )
        )
    return entries


def _usage_count(board: Board, _: int) -> Scores:
    return {no: float(known.executions) for no, known in board.counts.items() if known.executions}


def _success_rate(board: Board, _: int) -> Scores:
    return {no: wilson(known.successes, known.executions)[0] for no, known in board.counts.items() if known.executions}


def _rating(board: Board, _: int) -> Scores:
    rated = {no: known for no, known in board.counts.items() if known.rating_count}
    if not rated:
        return {}
    mean = sum(known.rating_sum for known in rated.values()) / sum(known.rating_count for known in rated.values())
    return {no: bayesian_mean(known.rating_sum, known.rating_count, mean) for no, known in rated.items()}


def _adoption(board: Board, _: int) -> Scores:
    return {no: float(users) for no, users in board.users(_executed(board, 1)).items() if users}


def _performance(board: Board, limit: int) -> Scores:
    enough = _executed(board, MIN_RUNS)
    ranked = enough if len(enough) >= limit else _executed(board, 1)
    return {no: p95 or 0.0 for no, (_, p95, _) in board.percentiles(ranked).items()}


def _executed(board: Board, least: int) -> list[int]:
    return [no for no, known in board.counts.items() if known.executions >= least]


_SCORES: Final[Mapping[str, Callable[[Board, int], Scores]]] = {
    "usage_count": _usage_count,
    "success_rate": _success_rate,
    "rating": _rating,
    "adoption": _adoption,
    "performance": _performance,
}
"""By metric: the scores of all skills that may be among the first so many."""
