"""Formulas: how shares and ratings are compared fairly, and what health is. Plain arithmetic."""

import math
from collections.abc import Sequence
from typing import Final

Z: Final = 1.959963984540054
"""Standard normal quantile of 97.5 %: for an interval of 95 %."""

PRIOR_RATINGS: Final = 10
"""As many ratings of the overall mean are put beside a skill's own: about where a mean of 1..5 starts to say much."""


def share(part: float, whole: float) -> float | None:
    """part / whole, or None of nothing."""
    return part / whole if whole else None


def wilson(successes: int, trials: int) -> tuple[float, float]:
    """Where the true rate lies with 95 % confidence, given `trials` of at least 1.

    The score interval of Wilson: Probable inference, the law of succession, and statistical inference, Journal of the
    American Statistical Association 22 (1927). Its lower end ranks 990 of 1000 (0.982) before 2 of 2 (0.342).
    """
    rate = successes / trials
    spread = Z * math.sqrt(rate * (1 - rate) / trials + Z * Z / (4 * trials * trials))
    centre = rate + Z * Z / (2 * trials)
    norm = 1 + Z * Z / trials
    return max(0.0, (centre - spread) / norm), min(1.0, (centre + spread) / norm)


def bayesian_mean(total: float, count: int, mean_of_all: float) -> float:
    """The mean of `count` ratings that sum up to `total`, drawn towards the mean of all skills' ratings.

    (PRIOR_RATINGS * m + total) / (PRIOR_RATINGS + count): the posterior mean under a prior worth PRIOR_RATINGS
    ratings of m (Gelman et al., Bayesian Data Analysis, 2.5), which film and beer sites rank by.
    """
    return (PRIOR_RATINGS * mean_of_all + total) / (PRIOR_RATINGS + count)


def rating_sums(counts: Sequence[int]) -> tuple[int, int]:
    """(number of ratings, their sum) from the counts of ones to fives."""
    return sum(counts), sum(stars * count for stars, count in enumerate(counts, 1))


def health(
    success_rate: float | None,
    rating_avg: float | None,
    executions_in_30_days: int | None,
    avg_latency_ms: float | None,
) -> float | None:
    """A skill's health from 0 to 100: the weighted mean of four scores from 0 to 100.

        40 %  success rate, in percent
        30 %  average rating x 20
        20 %  min(100, executions in 30 days x 10)
        10 %  max(0, 100 - average milliseconds / 10)

    A part of None has no data and leaves its weight to the others in proportion; of nothing it is None.
    """
    parts = [
        (0.4, None if success_rate is None else 100 * success_rate),
        (0.3, None if rating_avg is None else 20 * rating_avg),
        (0.2, None if executions_in_30_days is None else min(100.0, 10.0 * executions_in_30_days)),
        (0.1, None if avg_latency_ms is None else max(0.0, 100 - avg_latency_ms / 10)),
    ]
    known = [(weight, score) for weight, score in parts if score is not None]
    if not known:
        return None
    return sum(weight * score for weight, score in known) / sum(weight for weight, _ in known)
