"""`CheaperOfTwo`: what a victim's return takes, by swap and by recompute; the `auto` mode of preemption.

    by swap        its blocks to the host and back, on an idle link
    by recompute   one step that computes its tokens as a prompt, alone

Refuses to decide; implements `sim.core.group.VictimCost`.
"""

from __future__ import annotations

from sim.core.request import Request, Sequence
from sim.core.step import ScheduledSequence, ScheduleKind, StepPlan
from sim.cost.block_moves import MoveTimes
from sim.cost.cost_model import CostModel


class CheaperOfTwo:
    """Costs of bringing victims back, by a cost model."""

    __slots__ = ("_cost", "_moves", "_recompute_ns")

    def __init__(self, moves: MoveTimes, cost: CostModel) -> None:
        self._moves = moves
        self._cost = cost
        self._recompute_ns: dict[int, int] = {}

    def swap_ns(self, num_blocks: int) -> int:
        """To the host and back."""
        return 2 * self._moves.host_ns(num_blocks)

    def recompute_ns(self, num_tokens: int) -> int:
        """One step that computes so many tokens as a prompt."""
        if num_tokens not in self._recompute_ns:
            self._recompute_ns[num_tokens] = self._cost.step_ends_ns(_prompt_step(num_tokens))[0]
        return self._recompute_ns[num_tokens]


def _prompt_step(num_tokens: int) -> StepPlan:
    seq = Sequence(0, Request(0, 0, num_tokens, 1), 0, num_tokens + 1)
    row = ScheduledSequence(seq, num_tokens, 0, [], 0, ScheduleKind.RESUMED, True)
    return StepPlan(
        step=0,
        horizon=1,
        num_decode_seqs=0,
        decode_context_tokens=0,
        chunks=(row,),
        preempted=(),
        num_running=1,
        rows=(row,),
        num_steady_seqs=0,
    )
