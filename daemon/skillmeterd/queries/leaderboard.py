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

from .board import Board, Counts, Standing
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
    scores = _SCORES[asked.metric](board)
    nothing = Counts(0, 0, 0.0, 0, 0)
    lowest_first = asked.metric == "performance"

    def place(no: int) -> tuple[object, ...]:
        runs = counts.get(no, nothing).executions
        too_few = lowest_first and runs < MIN_RUNS
        score = round(scores[no], _DIGITS)
        return too_few, score if lowest_first else -score, -runs, board.names[no]

    first = sorted(scores, key=place)[: asked.limit]
    standings = board.standings(first)
    entries = []
    for rank, no in enumerate(first, 1):
        known = counts.get(no, nothing)
        low, high = wilson(known.successes, known.executions) if known.executions else (None, None)
        p50, p95, p99 = standings[no].percentiles
        entries.append(
            LeaderboardEntry(
                rank=rank,
                skill_id=board.names[no],
                score=scores[no],
                executions=known.executions,
                unique_users=standings[no].users,
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


def _usage_count(board: Board) -> Scores:
    return {no: float(known.executions) for no, known in board.counts.items() if known.executions}


def _success_rate(board: Board) -> Scores:
    return {no: wilson(known.successes, known.executions)[0] for no, known in board.counts.items() if known.executions}


def _rating(board: Board) -> Scores:
    rated = {no: known for no, known in board.counts.items() if known.rating_count}
    if not rated:
        return {}
    mean = sum(known.rating_sum for known in rated.values()) / sum(known.rating_count for known in rated.values())
    return {no: bayesian_mean(known.rating_sum, known.rating_count, mean) for no, known in rated.items()}


def _adoption(board: Board) -> Scores:
    return {no: float(standing.users) for no, standing in _executed(board).items() if standing.users}


def _performance(board: Board) -> Scores:
    return {no: standing.percentiles[1] or 0.0 for no, standing in _executed(board).items()}


def _executed(board: Board) -> dict[int, Standing]:
    return board.standings([no for no, known in board.counts.items() if known.executions])


_SCORES: Final[Mapping[str, Callable[[Board], Scores]]] = {
    "usage_count": _usage_count,
    "success_rate": _success_rate,
    "rating": _rating,
    "adoption": _adoption,
    "performance": _performance,
}
