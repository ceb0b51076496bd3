"""How far a simulation in time is from its replay: signed errors over repeats, and how sure one can be.

Each repeat is a replay and the simulation of the same workload; an error is simulated over replayed,
less one. The replay's own spread is the standard deviation of a figure over the repeats, as a fraction
of its mean: a smaller error than that says nothing about the simulator.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

import numpy as np
from scipy import stats

from sim.crosscheck.observed import METRICS, Observed, title_of


class Status(Enum):
    """What is to be said of an error."""

    WITHIN = "within"
    """Its tolerance holds."""
    BEYOND = "beyond"
    """It does not."""
    NOT_JUDGED = ""
    """No tolerance was given."""


@dataclass(frozen=True, slots=True)
class ErrorRow:
    """One figure, simulated and replayed.

    Attributes:
        simulated, replayed: Means over the repeats.
        error: Mean of the repeats' errors. half_width: Of its 95 % confidence interval; None for one repeat.
        spread: The replay's own; None for one repeat.
        tolerance: Largest error that is accepted, either way; None: it is not judged.
    """

    metric: str
    simulated: float
    replayed: float
    error: float
    half_width: float | None
    spread: float | None
    tolerance: float | None

    @property
    def title(self) -> str:
        """Its name for people."""
        return title_of(self.metric)

    @property
    def status(self) -> Status:
        """Whether its tolerance holds."""
        if self.tolerance is None:
            return Status.NOT_JUDGED
        return Status.WITHIN if abs(self.error) <= self.tolerance else Status.BEYOND

    @property
    def is_noise(self) -> bool:
        """Whether the error is smaller than the replay's own spread."""
        return self.spread is not None and abs(self.error) < self.spread

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return {
            "metric": self.metric,
            "simulated": self.simulated,
            "replayed": self.replayed,
            "error": self.error,
            "half_width": self.half_width,
            "spread": self.spread,
            "tolerance": self.tolerance,
            "status": self.status.value,
            "smaller_than_spread": self.is_noise,
        }


def error_rows(
    simulated: Sequence[Observed], replayed: Sequence[Observed], tolerances: Mapping[str, float]
) -> list[ErrorRow]:
    """One row for each figure that both have in every repeat."""
    rows = (_row(metric, simulated, replayed, tolerances.get(metric)) for metric in METRICS)
    return [row for row in rows if row is not None]


def _row(
    metric: str, simulated: Sequence[Observed], replayed: Sequence[Observed], tolerance: float | None
) -> ErrorRow | None:
    ours = [run.metric(metric) for run in simulated]
    theirs = [run.metric(metric) for run in replayed]
    if any(value is None for value in (*ours, *theirs)) or not all(theirs):
        return None
    predicted, measured = np.array(ours, dtype=float), np.array(theirs, dtype=float)
    errors = predicted / measured - 1
    return ErrorRow(
        metric,
        float(predicted.mean()),
        float(measured.mean()),
        float(errors.mean()),
        half_width_95(errors),
        float(measured.std(ddof=1) / measured.mean()) if len(measured) > 1 else None,
        tolerance,
    )


def half_width_95(values: np.ndarray[tuple[int], np.dtype[np.float64]]) -> float | None:
    """Half the 95 % confidence interval of a mean, by Student's t; None for one value."""
    count = len(values)
    if count < 2:
        return None
    return float(stats.t.ppf(0.975, count - 1) * values.std(ddof=1) / math.sqrt(count))
