"""`StepDraft`: a plan while it is being made - what is left of the budgets, who is in, who was thrown out."""

from __future__ import annotations

from sim.core.compiling import mypyc_attr
from sim.core.request import Sequence
from sim.core.scheduler_config import SchedulerConfig
from sim.core.step import ScheduledSequence

_NO_LIMIT = 2**62


@mypyc_attr(allow_interpreted_subclasses=True)
class StepDraft:
    """A plan while it is being made: what is left of the budgets, and who is in."""

    __slots__ = (
        "_num_draft_rows",
        "has_prompt",
        "holds_prompts",
        "num_charged",
        "preempted",
        "rows",
        "step",
        "threshold",
        "token_budget",
        "token_rows",
    )

    def __init__(self, step: int, config: SchedulerConfig) -> None:
        self.step = step
        self.token_budget = config.token_budget
        self.token_rows = config.max_num_batched_tokens
        """Input rows left: tokens, and the draft rows each sequence takes besides."""
        self.threshold = config.long_prefill_token_threshold or _NO_LIMIT
        """Most tokens one sequence gets."""
        self._num_draft_rows = config.num_draft_rows
        self.num_charged = 0
        """Steady sequences that the budgets have paid for."""
        self.holds_prompts = False
        """Whether prompts are not computed in this step."""
        self.has_prompt = False
        """Whether any is."""
        self.rows: list[ScheduledSequence] = []
        self.preempted: list[Sequence] = []

    def lift_threshold(self) -> None:
        """Let one sequence have as many tokens as the budget holds."""
        self.threshold = _NO_LIMIT

    def charge_steady(self, num_seqs: int) -> None:
        """Pay one token for each steady sequence."""
        self.num_charged = num_seqs
        self.token_budget -= num_seqs
        self.token_rows -= num_seqs

    def add(self, row: ScheduledSequence) -> None:
        """Let a sequence in and pay for it."""
        self.token_budget -= row.num_tokens
        self.token_rows -= row.num_tokens + self._num_draft_rows
        self.rows.append(row)

    def undo(self, victim: Sequence) -> None:
        """A victim scheduled earlier in this step leaves it, and its tokens go back to the budgets."""
        if victim.in_steady_batch:
            if self.num_charged:
                self.token_budget += 1
                self.token_rows += 1
            return
        for place, row in enumerate(self.rows):
            if row.seq is victim:
                self.token_budget += row.num_tokens
                self.token_rows += row.num_tokens + self._num_draft_rows
                del self.rows[place]
                return
