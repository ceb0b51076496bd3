"""Where the error of a simulation in time comes from, part by part of the steps' time.

    simulated busy time - replayed busy time
        =  sum over the replay's own steps of (predicted - measured), by part      the cost model's errors
        +  the rest                                                                the schedule's other way

The model's part is told apart twice: by what a step was (decode, prompts, verify), and by what its error
grows with, a least-squares fit of each step's error on 1 (launches, Python), on tokens (products) and on
the tokens attended to (attention). Every figure is a fraction of the replay's busy time, signed: below
zero the simulator takes it for too cheap.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from sim.crosscheck.parts import StepParts
from sim.record.plan_log import PlanFacts

KINDS = {"decode": "decode steps", "prefill": "steps with prompts", "verify": "verify steps"}
PARTS = {"draft_ns": "drafting", "swap_ns": "swap", "copy_ns": "copy-on-write", "schedule_ns": "deciding"}
_MODEL = StepParts._fields.index("model_ns")
CAUSES = ("per step", "per token", "per attended token")
DIVERGENCE = "schedule diverging"


@dataclass(frozen=True, slots=True)
class Share:
    """One part of the error.

    Attributes:
        error: Predicted less measured, as a fraction of the replay's busy time.
        measured: The part's share of that time; None for divergence, which has none.
    """

    name: str
    error: float
    measured: float | None

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return {"part": self.name, "error": self.error, "share_of_time": self.measured}


@dataclass(frozen=True, slots=True)
class Attribution:
    """The error of busy time: `shares` add up to `total`, `causes` to the model's part of them."""

    shares: tuple[Share, ...]
    causes: tuple[Share, ...]
    total: float

    @property
    def worst(self) -> Share:
        """The largest part, either way."""
        return max(self.shares, key=lambda share: abs(share.error))

    @property
    def worst_cause(self) -> Share:
        """What most of the model's error grows with."""
        return max(self.causes, key=lambda share: abs(share.error))

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return {
            "busy_time_error": self.total,
            "parts": [share.to_json() for share in self.shares],
            "model_error_grows": [share.to_json() for share in self.causes],
        }


def attribute(
    plans: Sequence[PlanFacts],
    kinds: Sequence[str],
    predicted: Sequence[StepParts],
    measured: Sequence[StepParts],
    simulated_busy_ns: float,
) -> Attribution:
    """Attribute the error of one replay.

    Args:
        plans: What each of its steps computed.
        kinds: And what it was (`lockstep.step_kind`).
        predicted: The parts of each of its steps, as the cost model has them.
        measured: And as they were.
        simulated_busy_ns: Time in steps of the simulation in time.
    """
    ours, theirs = np.array(predicted, dtype=float), np.array(measured, dtype=float)  # [num_steps, num_parts]
    busy = float(theirs.sum())
    error = ours - theirs
    kind = np.array(kinds)
    shares = []
    for name, title in KINDS.items():
        of_kind = kind == name
        if of_kind.any():
            shares.append(
                Share(title, error[of_kind, _MODEL].sum() / busy, theirs[of_kind, _MODEL].sum() / busy)
            )
    for part, title in PARTS.items():
        column = StepParts._fields.index(part)
        if theirs[:, column].any() or ours[:, column].any():
            shares.append(Share(title, error[:, column].sum() / busy, theirs[:, column].sum() / busy))
    total = simulated_busy_ns / busy - 1
    shares.append(Share(DIVERGENCE, total - error.sum() / busy, None))
    return Attribution(tuple(shares), _causes(plans, error[:, _MODEL], theirs[:, _MODEL], busy), total)


def _causes(
    plans: Sequence[PlanFacts],
    error: np.ndarray[Any, np.dtype[np.float64]],
    measured: np.ndarray[Any, np.dtype[np.float64]],
    busy: float,
) -> tuple[Share, ...]:
    features = np.array([_features(plan) for plan in plans], dtype=float)  # [num_steps, 3]
    scale = np.maximum(features.max(axis=0), 1)
    of_error, of_time = (
        np.linalg.lstsq(features / scale, values, rcond=1e-9)[0] * (features / scale).sum(axis=0)
        for values in (error, measured)
    )
    return tuple(
        Share(name, float(part) / busy, float(time) / busy)
        for name, part, time in zip(CAUSES, of_error, of_time, strict=True)
    )


def _features(plan: PlanFacts) -> tuple[float, float, float]:
    """One, tokens computed, and keys that these look at together."""
    tokens = sum(row[3] for row in plan["rows"])
    attended = sum(row[3] * (row[4] + (row[3] + 1) / 2) for row in plan["rows"])
    return 1.0, tokens, attended
