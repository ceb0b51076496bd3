"""`Settling`: what a step gave is committed - tokens become known, rejected drafts go, what ended is freed.

The second half of `scheduler.py`, under the same rules (vLLM V1): in scheduled order, each sequence that
yields gets its accepted drafts and one token more; tokens past its end are dropped; a sequence that ended
frees its blocks there and then, so they count in the next schedule.

Refuses to know how a step was filled.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sim.core.kv_memory import KVMemory
from sim.core.request import FinishReason, Sequence, SequenceStatus
from sim.core.step import DraftRun, ScheduledSequence, ScheduleKind, StepOutcome, StepPlan, StepResult

if TYPE_CHECKING:
    from sim.core.scheduler import Scheduler


class Settling:
    """Commits steps of one scheduler."""

    __slots__ = ("_is_async", "_kv", "_scheduler", "draft_runs")

    def __init__(self, scheduler: Scheduler, kv: KVMemory) -> None:
        self._scheduler = scheduler
        self._kv = kv
        self._is_async = scheduler.config.async_scheduling
        self.draft_runs: dict[DraftRun, int] = {}
        """How often drafts were verified with this outcome."""

    def settle(self, plan: StepPlan, result: StepResult, num_steps: int) -> StepOutcome:
        """Commit the first `num_steps` steps of a plan."""
        scheduler, pool = self._scheduler, self._kv.pool
        steady = scheduler.steady
        saved_blocks = pool.num_extra_holders
        filled_slots = steady.sum_known - saved_blocks * self._kv.block_size
        filled_slots += scheduler.num_single_tokens
        used_blocks = [pool.num_used]
        promised_slots = self._kv.num_promised_slots
        finished: list[Sequence] = []
        last_step = plan.step + num_steps - 1
        if plan.num_steady_seqs:
            if num_steps > 1:
                steady.repeat(plan.step + 1, num_steps - 1, used_blocks)
            steady.advance(num_steps)
            for seq in scheduler.pop_finished(last_step):
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
        reason = self._finish_reason(seq, result)
        if reason is not None:
            seq.emit(plan.step, num_new)
            self._scheduler.remove(seq, plan.step + 1)
            seq.end(reason, plan.step)
            return True
        if is_running and self._scheduler.settle_into_steady(seq, plan.step):
            return False
        seq.emit(plan.step, num_new)
        if is_running:
            if self._is_async:
                self._kv.register_computed(seq, seq.num_computed - seq.num_in_flight)
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
