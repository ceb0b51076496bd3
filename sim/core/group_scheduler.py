"""`GroupScheduler`: the scheduler of the PagedAttention paper (vLLM 0.2.7, "V0").

The unit is a group: one request with all its samples or beams, scheduled, preempted and swapped together. A
step is all prompts or all decodes. Prompts first, unless something is swapped; then decodes, in order of
arrival, each group needing a free block for each of its sequences whether it takes one or not; then, if
nobody was preempted, swapped groups come back. A group that can have only one sequence from now on is
preempted by recompute, any other by swap.

Where we differ: that engine fails when the host pool is full; here such a victim is recomputed, its prompt
once for all its sequences, and is counted. It also leaks the blocks of ended sequences when a group with one
live sequence is recomputed; here only live sequences hold blocks. And a group that can never go on is ended
instead of standing still for ever.

Refuses to know time, and how long a swap takes.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from enum import Enum

from sim.core.kv_cache import KVCacheManager
from sim.core.request import Request, Sequence, SequenceStatus
from sim.core.step import BeamUpdate, BlockCopy, ScheduledSequence, ScheduleKind, StepPlan, StepResult
from sim.core.swap import SwapSpace, num_distinct_blocks


class PreemptionMode(Enum):
    """What a victim loses."""

    AUTOMATIC = "automatic"
    """Recompute groups that can have one sequence only, swap all others."""
    RECOMPUTE = "recompute"
    SWAP = "swap"


@dataclass(frozen=True, slots=True)
class GroupSchedulerConfig:
    """Limits of the scheduler; names are vLLM's.

    Attributes:
        max_model_len: Longest sequence, prompt and output together.
        max_num_seqs: Most running sequences.
        max_num_batched_tokens: Most tokens of a prompt step, each prompt counted as long as the longest.
        max_paddings: Most tokens of a prompt step that may be padding.
        watermark_fraction: Part of the pool that an admission or a swap-in must leave free.
        num_host_blocks: Size of the host pool.
        preemption: What a victim loses.
    """

    max_model_len: int
    max_num_seqs: int = 256
    max_num_batched_tokens: int = 2560
    max_paddings: int = 256
    watermark_fraction: float = 0.01
    num_host_blocks: int = 0
    preemption: PreemptionMode = PreemptionMode.AUTOMATIC


class Group:
    """A request's sequences; they share blocks and fate."""

    __slots__ = ("beam_width", "request", "seqs", "unborn")

    def __init__(self, request: Request, seqs: list[Sequence]) -> None:
        self.request = request
        self.seqs = seqs[:1]
        """Live sequences, in order of their making."""
        self.unborn = seqs[1:]
        """Samples that will be forked off the first when its prompt is done."""
        self.beam_width = request.beam_width
        """0: no beam search."""

    @property
    def max_num_running_seqs(self) -> int:
        """Sequences it can have running from now on."""
        return max(len(self.seqs) + len(self.unborn), self.beam_width)


class _Draft:
    """A plan while it is being made."""

    __slots__ = ("copies", "preempted", "rows", "step", "swap_in", "swap_out")

    def __init__(self, step: int) -> None:
        self.step = step
        self.rows: list[ScheduledSequence] = []
        self.preempted: list[Sequence] = []
        self.swap_out: list[BlockCopy] = []
        self.swap_in: list[BlockCopy] = []
        self.copies: list[BlockCopy] = []

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


class GroupScheduler:
    """Queues of one replica under the paper's rules."""

    def __init__(self, config: GroupSchedulerConfig, kv: KVCacheManager) -> None:
        self.config = config
        self.waiting: deque[Group] = deque()
        self.running: list[Group] = []
        self.swapped: list[Group] = []
        self.num_swap_fallbacks = 0
        """Victims that were recomputed because the host pool was full."""
        self.num_recomputed_tokens = 0
        self._hopeless: list[Sequence] = []
        """Sequences that can never fit: their prompt, or their group though it has the pool to itself."""
        self._group_of: dict[Sequence, Group] = {}
        self._kv = kv
        self._swap = SwapSpace(kv.pool, config.num_host_blocks) if config.num_host_blocks else None
        self._watermark_blocks = kv.config.fraction_of_blocks(config.watermark_fraction)

    @property
    def num_free_host_blocks(self) -> int:
        """Free blocks of the host pool."""
        return self._swap.host.num_free if self._swap is not None else 0

    def enqueue(self, request: Request, seqs: list[Sequence]) -> None:
        """Add a newcomer with all its samples."""
        group = Group(request, seqs)
        self._group_of.update(dict.fromkeys(seqs, group))
        self.waiting.append(group)

    # One step -------------------------------------------------------------------------------------

    def schedule(self, step: int) -> StepPlan | None:
        """Fill one step: prompts, or else decodes; None if there is nothing to compute."""
        draft = _Draft(step)
        if not self.swapped:
            self._schedule_prompts(draft)
        if not (draft.rows or self._hopeless):
            self._schedule_running(draft)
            self.swapped.sort(key=_arrival)
            if not draft.preempted:
                self._schedule_swapped(draft)
            self._add_decode_rows(draft)
        if not (draft.rows or draft.preempted or self._hopeless):
            return None
        return draft.plan(sum(len(group.seqs) for group in self.running))

    def _schedule_prompts(self, draft: _Draft) -> None:
        config = self.config
        lengths: list[int] = []
        num_seqs = sum(group.max_num_running_seqs for group in self.running)
        while self.waiting:
            group = self.waiting[0]
            if self._can_never_fit(group):
                self._hopeless += [*group.seqs, *group.unborn]
                self.waiting.popleft()
                continue
            lengths += self._lengths_to_compute(group)
            num_tokens = len(lengths) * max(lengths)
            num_seqs += group.max_num_running_seqs
            is_first = not draft.rows
            if (
                self._num_blocks_to_admit(group) + self._watermark_blocks > self._kv.pool.num_free
                or num_seqs > config.max_num_seqs
                or (num_tokens > config.max_num_batched_tokens and not (is_first and len(group.seqs) > 1))
                or (num_tokens - sum(lengths) > config.max_paddings and not is_first)
            ):
                return
            self._admit(self.waiting.popleft(), draft)

    def _num_shared_blocks(self, group: Group) -> int:
        """Full prompt blocks that all sequences of a group recompute together."""
        return group.request.num_prompt_tokens // self._kv.block_size if len(group.seqs) > 1 else 0

    def _lengths_to_compute(self, group: Group) -> list[int]:
        """Tokens each sequence of a waiting group has to compute: its first one the prompt for all."""
        shared = self._num_shared_blocks(group) * self._kv.block_size
        return [seq.num_known - (shared if place else 0) for place, seq in enumerate(group.seqs)]

    def _num_blocks_to_admit(self, group: Group) -> int:
        shared = self._num_shared_blocks(group)
        return shared + sum(self._kv.num_blocks_for(seq.num_known) - shared for seq in group.seqs)

    def _can_never_fit(self, group: Group) -> bool:
        """Whether a prompt exceeds a step, the model, the pool or the seats: it is ended at once."""
        config = self.config
        limit = min(config.max_model_len, config.max_num_batched_tokens)
        return (
            any(seq.num_known > limit for seq in group.seqs)
            or group.max_num_running_seqs > config.max_num_seqs
            or self._num_blocks_to_admit(group) + self._watermark_blocks > self._kv.pool.num_blocks
        )

    def _admit(self, group: Group, draft: _Draft) -> None:
        lengths, shared = self._lengths_to_compute(group), self._num_shared_blocks(group)
        first = group.seqs[0]
        for seq, num_tokens in zip(group.seqs, lengths, strict=True):
            kind = ScheduleKind.NEW
            if seq.status is SequenceStatus.PREEMPTED:
                kind = ScheduleKind.RESUMED
                seq.preemptions[-1] = (seq.preemptions[-1][0], draft.step)
                self.num_recomputed_tokens += min(seq.num_lost_tokens, num_tokens)
            else:
                seq.first_scheduled_step = draft.step
            seq.status = SequenceStatus.RUNNING
            if seq is not first:
                self._kv.share_leading(first, seq, shared)
            self._kv.grow(seq, seq.num_known)
            computed = seq.num_known - num_tokens
            draft.rows.append(ScheduledSequence(seq, num_tokens, computed, seq.table[:], 0, kind, True))
        self.running.append(group)

    def _schedule_running(self, draft: _Draft) -> None:
        """Give each running group its slots, in order of arrival; a shortage costs the last one its place."""
        running = deque(sorted(self.running, key=_arrival))
        self.running = []
        while running:
            group = running.popleft()
            while len(group.seqs) > self._kv.pool.num_free:
                is_alone = not (running or self.running or self.swapped)
                victim = running.pop() if running else group
                self._preempt(victim, draft)
                if victim is group:
                    if is_alone:
                        self._hopeless += group.seqs
                    break
            else:
                self._append_slots(group, draft)
                self.running.append(group)

    def _append_slots(self, group: Group, draft: _Draft) -> None:
        for seq in group.seqs:
            copy = self._kv.append_slot(seq)
            if copy is not None:
                draft.copies.append(copy)

    def _schedule_swapped(self, draft: _Draft) -> None:
        num_seqs = sum(group.max_num_running_seqs for group in self.running)
        while self.swapped and self._swap is not None:
            group = self.swapped[0]
            num_wanted = num_distinct_blocks(group.seqs) + len(group.seqs) + self._watermark_blocks
            if num_wanted > self._kv.pool.num_blocks:
                self._hopeless += group.seqs
                return
            num_seqs += group.max_num_running_seqs
            if num_wanted > self._kv.pool.num_free or num_seqs > self.config.max_num_seqs:
                return
            draft.swap_in += self._swap.swap_in(group.seqs)
            for seq in group.seqs:
                seq.status = SequenceStatus.RUNNING
                seq.preemptions[-1] = (seq.preemptions[-1][0], draft.step)
            self._append_slots(group, draft)
            self.running.append(self.swapped.pop(0))

    def _add_decode_rows(self, draft: _Draft) -> None:
        for group in self.running:
            for seq in group.seqs:
                kind = ScheduleKind.RUNNING
                draft.rows.append(ScheduledSequence(seq, 1, seq.num_computed, [], 0, kind, True))

    # Preemption -----------------------------------------------------------------------------------

    def _preempt(self, group: Group, draft: _Draft) -> None:
        for seq in group.seqs:
            seq.status = SequenceStatus.PREEMPTED
            seq.preemptions.append((draft.step, None))
        draft.preempted += group.seqs
        if self._swap is not None and self._swaps(group, self._swap):
            draft.swap_out += self._swap.swap_out(group.seqs)
            self.swapped.append(group)
            return
        for seq in reversed(group.seqs):
            self._kv.free(seq)
            seq.num_lost_tokens, seq.num_computed = seq.num_computed, 0
        self.waiting.appendleft(group)

    def _swaps(self, group: Group, swap: SwapSpace) -> bool:
        match self.config.preemption:
            case PreemptionMode.AUTOMATIC:
                wants_swap = group.max_num_running_seqs > 1
            case PreemptionMode.RECOMPUTE:
                wants_swap = False
            case PreemptionMode.SWAP:
                wants_swap = True
        fits = swap.can_swap_out(group.seqs)
        self.num_swap_fallbacks += wants_swap and not fits
        return wants_swap and fits

    # Settling -------------------------------------------------------------------------------------

    def settle(self, plan: StepPlan, result: StepResult) -> list[Sequence]:
        """Commit one token for each scheduled sequence, fork what is to be forked; returns what ended."""
        for row in plan.rows:
            seq = row.seq
            if not seq.is_finished:
                seq.num_computed = seq.num_known
                seq.num_known += 1
                seq.emit(plan.step, 1)
        ended = [row.seq for row in plan.rows if row.seq.num_known >= row.seq.max_known]
        for group in list(self.running):
            if group.unborn and group.seqs[0].num_computed:
                ended += self._bear_samples(group)
            if group.request.request_id in result.beams:
                ended += self._branch(group, result.beams[group.request.request_id])
        ended += self._hopeless
        self._hopeless = []
        for seq in ended:
            self.remove(seq)
        return ended

    def _bear_samples(self, group: Group) -> list[Sequence]:
        """The prompt is done: the other samples begin with all of its blocks; returns those of one token."""
        first, samples = group.seqs[0], group.unborn
        group.unborn = []
        ended = []
        for seq in samples:
            _copy_state(first, seq)
            if seq.num_known < seq.max_known:
                self._kv.fork(first, seq)
                group.seqs.append(seq)
            else:
                ended.append(seq)
        return ended

    def _branch(self, group: Group, update: BeamUpdate) -> tuple[Sequence, ...]:
        """Beams change parents: those with several children are forked; returns those without one."""
        for parent, child in update.forks:
            _copy_state(parent, child)
            self._kv.fork(parent, child)
            group.seqs.append(child)
            self._group_of[child] = group
        return update.dropped

    # Ends -----------------------------------------------------------------------------------------

    def remove(self, seq: Sequence) -> None:
        """Take a live sequence out, wherever it stands, with all it holds."""
        group = self._group_of.pop(seq)
        if seq in group.unborn:
            group.unborn.remove(seq)
        elif seq in group.seqs:
            group.seqs.remove(seq)
            if group in self.swapped:
                assert self._swap is not None, "swapped groups have a host pool"
                self._swap.free(seq)
            elif seq.table:
                self._kv.free(seq)
        if not group.seqs:
            for queue in (self.waiting, self.running, self.swapped):
                if group in queue:
                    queue.remove(group)

    def check_invariants(self) -> None:
        """Recount both pools from the tables of live sequences."""
        self._kv.check_invariants([seq for group in self.running for seq in group.seqs])
        for group in self.waiting:
            assert not any(seq.table for seq in group.seqs), "a waiting sequence holds blocks"
        if self._swap is not None:
            self._swap.check_invariants([seq for group in self.swapped for seq in group.seqs])


def _copy_state(parent: Sequence, child: Sequence) -> None:
    """The child goes on from where its parent is."""
    child.num_known, child.num_computed = parent.num_known, parent.num_computed
    child.first_scheduled_step = parent.first_scheduled_step
    child.status = SequenceStatus.RUNNING
    child.runs = parent.runs[:]


def _arrival(group: Group) -> tuple[int, int]:
    return group.request.arrival_ns, group.request.request_id
