"""`SimExecutor`: carries a plan out by predicting how long it takes."""

from __future__ import annotations

from sim.core.step import StepPlan, StepResult
from sim.cost.cost_model import CostModel


class SimExecutor:
    """Predicts instead of computing; implements `sim.core.step.Executor`."""

    __slots__ = ("_cost",)

    def __init__(self, cost: CostModel) -> None:
        self._cost = cost

    def execute(self, plan: StepPlan) -> StepResult:
        """The predicted ends of all steps of the plan."""
        return StepResult(self._cost.step_ends_ns(plan))
