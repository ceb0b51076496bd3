"""`GroupDraft`: a plan of the paper's scheduler while it is being made."""

from __future__ import annotations

from sim.core.compiling import mypyc_attr
from sim.core.request import Sequence
from sim.core.step import BlockCopy, ScheduledSequence, StepPlan


@mypyc_attr(allow_interpreted_subclasses=True)
class GroupDraft:
    """A plan while it is being made."""

    __slots__ = ("copies", "new_blocks", "preempted", "rows", "step", "swap_in", "swap_out")

    def __init__(self, step: int) -> None:
        self.step = step
        self.rows: list[ScheduledSequence] = []
        self.preempted: list[Sequence] = []
        self.swap_out: list[BlockCopy] = []
        self.swap_in: list[BlockCopy] = []
        self.copies: list[BlockCopy] = []
        self.new_blocks: dict[Sequence, list[int]] = {}
        """Blocks that decoding sequences got in this step."""

    def plan(self, num_running: int) -> StepPlan:
        """The finished plan."""
        decodes = [row for row in self.rows if row.is_decode]
        return StepPlan(
            step=self.step,
            horizon=1,
            num_decode_seqs=len(decodes),
            decode_context_tokens=sum(row.num_computed_tokens + 1 for row in decodes),
            chunks=tuple(row for row in self.rows if not row.is_decode),
            preempted=tuple(self.preempted),
            num_running=num_running,
            rows=tuple(self.rows),
            num_steady_seqs=0,
            blocks_to_swap_out=tuple(self.swap_out),
            blocks_to_swap_in=tuple(self.swap_in),
            blocks_to_copy=tuple(self.copies),
        )
