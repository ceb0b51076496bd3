"""`CostModel`: whoever knows how long the steps of a plan take."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from sim.core.step import StepPlan


@runtime_checkable
class CostModel(Protocol):
    """Predicts how long the steps of a plan take.

    A horizon is exact only because of this rule: element i of the answer less element i - 1 is, to the
    bit, what the same plan with horizon 1 and `decode_context_tokens + i * num_decode_seqs` takes.
    """

    def step_ends_ns(self, plan: StepPlan) -> list[int]:  # [horizon]
        """End of each step of a plan, counted from its start; each step takes a whole 1 ns or more."""
        ...
