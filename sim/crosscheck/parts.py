"""The parts of a step's time, as an engine measures them and as a cost model predicts them.

    schedule   deciding it          swap    blocks to the host and back     copy   copy-on-write
    model      the target model     draft   the draft model

Owns how a cost model is asked for each. Refuses to add them up over a run (`attribution.py`).
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

from sim.core.step import StepPlan, StepResult
from sim.cost.block_moves import MoveTimes
from sim.speculation.speculator import SpeculationCost, rows_going_on


class StepParts(NamedTuple):
    """Where the time of one step goes, in nanoseconds."""

    schedule_ns: int
    """Deciding: settling the step before it and planning this one."""
    swap_ns: int
    """Blocks to the host and back."""
    copy_ns: int
    """Copy-on-write."""
    model_ns: int
    """The target model, and choosing tokens."""
    draft_ns: int
    """The draft model."""

    @property
    def total_ns(self) -> int:
        """All of it; a step takes time."""
        return max(sum(self), 1)


class PartialCost(Protocol):
    """A cost model that tells deciding from computing (`sim.cost.calibration.CalibratedCost`)."""

    def schedule_ns(self, plan: StepPlan) -> int:
        """Time to decide one step of a plan."""
        ...

    def model_ends_ns(self, plan: StepPlan) -> list[int]:
        """End of each step of a plan, counted from its start, deciding left out."""
        ...


class PartCosts:
    """Predicts the parts of steps."""

    def __init__(
        self, cost: PartialCost, moves: MoveTimes | None = None, drafting: SpeculationCost | None = None
    ) -> None:
        self._cost = cost
        self._moves = moves
        self._drafting = drafting

    def parts(self, plan: StepPlan, result: StepResult, num_drafts: int) -> StepParts:
        """What a step of one plan takes, given what was kept of its drafts and how many came next."""
        draft_ns = 0
        if self._drafting is not None:
            rows = rows_going_on(plan, result.num_accepted)
            draft_ns = self._drafting.draft_ns(plan, rows if num_drafts else [], num_drafts)
        num_swapped = len(plan.blocks_to_swap_out) + len(plan.blocks_to_swap_in)
        num_copied, moves = len(plan.blocks_to_copy), self._moves
        return StepParts(
            self._cost.schedule_ns(plan),
            moves.host_ns(num_swapped) if moves is not None and num_swapped else 0,
            moves.device_ns(num_copied) if moves is not None and num_copied else 0,
            self._cost.model_ends_ns(plan)[0],
            draft_ns,
        )
