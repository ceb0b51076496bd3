"""`GroupSettling`: the second half of the paper's scheduler - tokens become known, samples are forked.

One token for each scheduled sequence. When a prompt is done its other samples begin, sharing every block;
beams that changed parents give up what they have and take over others'. What ended frees its blocks. Refuses
to know how a step was filled.
"""

from __future__ import annotations

from sim.core.compiling import mypyc_attr
from sim.core.group import Group
from sim.core.group_queues import GroupQueues
from sim.core.kv_cache import KVCacheManager
from sim.core.request import FinishReason, Sequence, SequenceStatus
from sim.core.step import BeamFork, StepOutcome, StepPlan, StepResult


@mypyc_attr(allow_interpreted_subclasses=True)
class GroupSettling:
    """Commits the steps of one scheduler to the queues that both work on."""

    def __init__(self, groups: GroupQueues, kv: KVCacheManager) -> None:
        self._groups = groups
        self._kv = kv

    def settle(self, plan: StepPlan, result: StepResult) -> StepOutcome:
        """Commit one token for each scheduled sequence, fork what is to be forked, free what ended."""
        pool = self._kv.pool
        used_blocks, saved_blocks, filled_slots = (
            pool.num_used,
            pool.num_extra_holders,
            self._num_filled_slots(plan),
        )
        for row in plan.rows:
            seq = row.seq
            if not seq.is_finished:
                seq.num_computed = seq.num_known
                seq.num_known += 1
                seq.emit(plan.step, 1)
        ended = [row.seq for row in plan.rows if self._end_reason(row.seq, result) is not None]
        for group in list(self._groups.running):
            if group.unborn and group.seqs[0].num_computed:
                ended += self._bear_samples(group, result)
            if group.request.request_id in result.beams:
                self._branch(group, result.beams[group.request.request_id])
        for seq in ended:
            self._end(seq, self._end_reason(seq, result) or FinishReason.LENGTH, plan.step)
        hopeless = self._groups.pop_hopeless()
        for seq in hopeless:
            self._end(seq, FinishReason.REJECTED, plan.step)
        ended += hopeless
        return StepOutcome(ended, [used_blocks], filled_slots, 0, saved_blocks=saved_blocks)

    @staticmethod
    def _end_reason(seq: Sequence, result: StepResult) -> FinishReason | None:
        if seq.is_finished:
            return None
        if result.stopped and seq.seq_id in result.stopped:
            return FinishReason.STOP
        return seq.length_reason()

    def _end(self, seq: Sequence, reason: FinishReason, step: int) -> None:
        self._groups.remove(seq)
        seq.end(reason, step)

    def _num_filled_slots(self, plan: StepPlan) -> int:
        """Token states stored once the step has computed, shared ones counted once.

        All shared blocks are full, but for the last ones of groups forked in an earlier prompt step that
        have not decoded since.
        """
        size = self._kv.block_size
        is_row = {row.seq for row in plan.rows}
        num_filled = sum(row.seq.num_known for row in plan.rows) - self._kv.pool.num_extra_holders * size
        for group in self._groups.running:
            if group.seqs[0] in is_row:
                continue
            num_filled += sum(seq.num_computed for seq in group.seqs)
            holders: dict[int, int] = {}
            for seq in group.seqs:
                last = seq.table[-1]
                empty = len(seq.table) * size - seq.num_computed
                num_filled += empty if last in holders else 0
                holders[last] = 1
        return num_filled

    def _bear_samples(self, group: Group, result: StepResult) -> list[Sequence]:
        """The prompt is done: the other samples begin with all its blocks; returns those that end now."""
        first, samples = group.seqs[0], group.unborn
        group.unborn = []
        ended = []
        for seq in samples:
            _copy_state(first, seq)
            self._kv.fork(first, seq)
            group.seqs.append(seq)
            if self._end_reason(seq, result) is not None:
                ended.append(seq)
        return ended

    def _branch(self, group: Group, forks: tuple[BeamFork, ...]) -> None:
        """Beams change parents: one that nobody continues gives up what it has and takes over another.

        It moves to the end of the group, as a newly forked sequence does. All forks come before anything is
        given up, so a beam may be forked and dropped at once, and may even take over from itself.
        """
        tables = [self._kv.share_table(parent) for parent, _ in forks]
        for (parent, child), table in zip(forks, tables, strict=True):
            self._kv.free(child)
            group.seqs.remove(child)
            child.table = table
            if child is not parent:
                _copy_state(parent, child)
            group.seqs.append(child)


def _copy_state(parent: Sequence, child: Sequence) -> None:
    """The child goes on from where its parent is."""
    child.num_known, child.num_computed = parent.num_known, parent.num_computed
    child.first_scheduled_step = parent.first_scheduled_step
    child.status = SequenceStatus.RUNNING
    child.runs = parent.runs[:]
