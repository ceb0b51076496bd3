"""`Settling`: what a step gave is committed - tokens become known, rejected drafts go, what ended is freed.

The second half of `scheduler.py`, under the same rules (vLLM V1): in scheduled order, each sequence that
yields gets its accepted drafts and one token more; tokens past its end are dropped; a sequence that ended
frees its blocks there and then, so they count in the next schedule. Under asynchronous scheduling the blocks
that these tokens fill become findable here, those of a sequence that ends included.

Refuses to know how a step was filled.
"""

from __future__ import annotations

from sim.core.compiling import mypyc_attr
from sim.core.kv_memory import KVMemory
from sim.core.queues import Queues
from sim.core.request import FinishReason, Sequence, SequenceStatus
from sim.core.scheduler_config import SchedulerConfig
from sim.core.step import DraftRun, ScheduledSequence, ScheduleKind, StepOutcome, StepPlan, StepResult


@mypyc_attr(allow_interpreted_subclasses=True)
class Settling:
    """Commits the steps of one scheduler to the queues that both work on."""

    __slots__ = ("_allows_steady", "_is_async", "_kv", "_queues", "_registers", "draft_runs")

    def __init__(self, queues: Queues, kv: KVMemory, config: SchedulerConfig, *, allows_steady: bool) -> None:
        self._queues = queues
        self._kv = kv
        self._is_async = config.async_scheduling
        self._registers = config.async_scheduling or (
            config.registers_at_update and config.num_speculative_tokens > 0
        )
        self._allows_steady = allows_steady
        self.draft_runs: dict[DraftRun, int] = {}
        """How often drafts were verified with this outcome."""

    def settle(self, plan: StepPlan, result: StepResult, num_steps: int) -> StepOutcome:
        """Commit the first `num_steps` steps of a plan."""
        queues, pool = self._queues, self._kv.pool
        steady = queues.steady
        saved_blocks = pool.num_extra_holders
        filled_slots = steady.sum_known - saved_blocks * self._kv.block_size
        filled_slots += queues.num_single_tokens
        used_blocks = [pool.num_used]
        promised_slots = self._kv.num_promised_slots
        finished: list[Sequence] = []
        last_step = plan.step + num_steps - 1
        if plan.num_steady_seqs:
            if num_steps > 1:
                steady.repeat(plan.step + 1, num_steps - 1, used_blocks)
            steady.advance(num_steps)
            for seq in queues.pop_finished(last_step):
                self._kv.free(seq)
                seq.end(self._finish_reason(seq, result) or FinishReason.LENGTH, last_step)
                finished.append(seq)
        if plan.rows:
            finished += [row.seq for row in plan.rows if self._settle(row, plan, result)]
        return StepOutcome(
            finished, used_blocks, filled_slots, plan.num_steady_seqs, promised_slots, saved_blocks
        )

    def _settle(self, row: ScheduledSequence, plan: StepPlan, result: StepResult) -> bool:
        """Commit what one sequence got; True if it ended."""
        seq = row.seq
        if seq.is_finished or not row.yields_token:
            return False
        num_accepted = 0
        if row.num_draft_tokens:
            num_accepted = result.num_accepted.get(seq.seq_id, 0)
            if row.kind is ScheduleKind.RUNNING:
                self._count_run(row, num_accepted)
        is_running = seq.status is SequenceStatus.RUNNING
        if self._is_async:
            seq.num_in_flight -= 1 + row.num_draft_tokens
        if is_running:
            seq.num_computed -= row.num_draft_tokens - num_accepted
        num_new = min(num_accepted + 1, seq.max_known - seq.num_known)
        seq.num_known += num_new
        if is_running and self._registers:
            num_dropped = num_accepted + 1 - num_new
            self._kv.register_computed(seq, seq.num_computed - seq.num_in_flight - num_dropped)
        reason = self._finish_reason(seq, result)
        if reason is not None:
            seq.emit(plan.step, num_new)
            self._queues.remove(seq, plan.step + 1)
            seq.end(reason, plan.step)
            return True
        if is_running and self._allows_steady:
            self._queues.settle_into_steady(seq, plan.step)
            return False
        seq.emit(plan.step, num_new)
        if is_running and not self._is_async:
            seq.num_drafts = result.num_drafts.get(seq.seq_id, 0)
        return False

    def _count_run(self, row: ScheduledSequence, num_accepted: int) -> None:
        """Note what became of a sequence's drafts; to be called before they are committed."""
        num_left, num_drafts = row.seq.max_known - row.seq.num_known, row.num_draft_tokens
        num_tested, num_kept = min(num_drafts, num_left), min(num_accepted, num_left)
        run = DraftRun(num_drafts, num_tested, num_kept, min(num_accepted + 1, num_left))
        self.draft_runs[run] = self.draft_runs.get(run, 0) + 1

    @staticmethod
    def _finish_reason(seq: Sequence, result: StepResult) -> FinishReason | None:
        if result.stopped and seq.seq_id in result.stopped:
            return FinishReason.STOP
        return seq.length_reason()
