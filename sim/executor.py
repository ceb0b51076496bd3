"""`SimExecutor`: carries a plan out by predicting how long it takes."""

from __future__ import annotations

from typing import Protocol

from sim.core.step import StepPlan, StepResult


class CostModel(Protocol):
    """How long the steps of a plan take on some device."""

    def step_ends_ns(self, plan: StepPlan) -> list[int]:
        """End of each of the `plan.horizon` equal steps, in integer nanoseconds from the plan's start.

        Strictly ascending. Element `i` minus the one before it must be what a plan of horizon 1 would
        take whose `decode_context_tokens` is larger by `i * num_decode_seqs`: that makes the horizon
        exact.
        """
        ...


class SimExecutor:
    """Predicts instead of computing; implements `sim.core.step.Executor`."""

    __slots__ = ("_cost",)

    def __init__(self, cost: CostModel) -> None:
        self._cost = cost

    def execute(self, plan: StepPlan) -> StepResult:
        """The predicted ends of all steps of the plan."""
        return StepResult(self._cost.step_ends_ns(plan))
