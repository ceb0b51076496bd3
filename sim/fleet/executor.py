"""`SimExecutor`: carries a plan out by predicting how long it takes, as a `CostModel` says."""

from __future__ import annotations

from sim.core.step import StepPlan, StepResult
from sim.cost.block_moves import MoveTimes
from sim.cost.cost_model import CostModel
from sim.fleet.beam_search import BeamChanges
from sim.speculation.speculator import Speculator


class SimExecutor:
    """Predicts instead of computing; implements `sim.core.step.Executor`.

    Copies within the device come before the step computes. Transfers to and from the host are not in the
    answer: they share a link, so the driver lets them take their time.
    """

    __slots__ = ("_beams", "_cost", "_moves", "_speculator")

    def __init__(
        self,
        cost: CostModel,
        moves: MoveTimes | None = None,
        beams: BeamChanges | None = None,
        speculator: Speculator | None = None,
    ) -> None:
        self._cost = cost
        self._moves = moves
        self._beams = beams
        self._speculator = speculator

    def execute(self, plan: StepPlan) -> StepResult:
        """The predicted ends of all steps of the plan."""
        ends_ns = self._cost.step_ends_ns(plan)
        if plan.blocks_to_copy and self._moves is not None:
            copy_ns = self._moves.device_ns(len(plan.blocks_to_copy))
            ends_ns = [end_ns + copy_ns for end_ns in ends_ns]
        if self._speculator is not None:
            speculated = self._speculator.speculate(plan)
            ends_ns = [end_ns + speculated.draft_ns for end_ns in ends_ns]
            return StepResult(
                ends_ns,
                num_accepted=speculated.num_accepted,
                num_drafts=speculated.num_drafts,
                draft_ns=speculated.draft_ns,
            )
        if self._beams is not None:
            return StepResult(ends_ns, beams=self._beams.forks(plan))
        return StepResult(ends_ns)
