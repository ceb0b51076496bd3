"""`FixedCost`: every step takes the same time, whatever it computes.

For what papers and closed forms assume, and for a step time that somebody measured at one batch size.
Implements `sim.cost.cost_model.CostModel`.
"""

from __future__ import annotations

from dataclasses import dataclass

from sim.core.step import StepPlan


@dataclass(frozen=True, slots=True)
class FixedCost:
    """One step time, in whole nanoseconds."""

    step_ns: int

    def __post_init__(self) -> None:
        if self.step_ns < 1:
            raise ValueError(f"a step takes at least 1 ns, not {self.step_ns}")

    def step_ends_ns(self, plan: StepPlan) -> list[int]:  # [horizon]
        """End of each step of a plan, counted from its start."""
        return list(range(self.step_ns, self.step_ns * (plan.horizon + 1), self.step_ns))
