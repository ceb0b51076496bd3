"""From replications to a mean and its interval.

Runs with seeds of their own are independent, so their mean has Student's t interval,
m +- t(n - 1) s / sqrt(n) (Law, Simulation Modeling and Analysis, 5th ed., section 9.4.1). One run has none.
Refuses to know keys.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from scipy import stats

LEVEL = 0.95


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean over runs; `low` and `high` are None where one run says nothing of the spread."""

    mean: float
    low: float | None
    high: float | None
    num_runs: int


def estimate(values: Sequence[float], level: float = LEVEL) -> Estimate:
    """The mean of independent runs, and the interval that holds the true one in `level` of all cases.

    Raises:
        ValueError: There are no values.
    """
    if not values:
        raise ValueError("no runs, no estimate")
    count = len(values)
    mean = math.fsum(values) / count
    if count == 1:
        return Estimate(mean, None, None, 1)
    spread = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (count - 1))
    half = float(stats.t.ppf((1 + level) / 2, count - 1)) * spread / math.sqrt(count)
    return Estimate(mean, mean - half, mean + half, count)
