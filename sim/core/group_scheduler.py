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
from collections.abc import Iterable, Iterator

from sim.core.compiling import mypyc_attr
from sim.core.group import Group, GroupSchedulerConfig, PreemptionMode, VictimCost
from sim.core.group_draft import GroupDraft
from sim.core.group_queues import GroupQueues
from sim.core.group_settling import GroupSettling
from sim.core.kv_cache import KVCacheManager
from sim.core.request import Request, Sequence, SequenceStatus
from sim.core.step import (
    DraftRun,
    ScheduledSequence,
    ScheduleKind,
    StepOutcome,
    StepPlan,
    StepResult,
)
from sim.core.swap import SwapSpace, num_distinct_blocks


@mypyc_attr(allow_interpreted_subclasses=True)
class GroupScheduler:
    """Queues of one replica under the paper's rules; a `StepScheduler`."""

    def __init__(
        self, config: GroupSchedulerConfig, kv: KVCacheManager, victim_cost: VictimCost | None = None
    ) -> None:
        if config.preemption is PreemptionMode.AUTO and victim_cost is None:
            raise ValueError("preemption by what is cheaper needs to know what that is: give a victim_cost")
        self.config = config
        self._swap = SwapSpace(kv.pool, config.num_host_blocks) if config.num_host_blocks else None
        self.groups = GroupQueues(kv, self._swap)
        self.num_swap_fallbacks = 0
        """Victims that were recomputed because the host pool was full."""
        self.num_recomputed_tokens = 0
        self.draft_runs: dict[DraftRun, int] = {}
        """Nothing is drafted."""
        self._kv = kv
        self._settling = GroupSettling(self.groups, kv)
        self._victim_cost = victim_cost
        self._watermark_blocks = kv.config.fraction_of_blocks(config.watermark_fraction)

    # The queues -----------------------------------------------------------------------------------

    @property
    def running(self) -> Iterator[Sequence]:
        """Sequences that are neither waiting nor swapped, in order of admission."""
        return _sequences(self.groups.running)

    @property
    def waiting(self) -> Iterator[Sequence]:
        """Swapped sequences, then waiting ones."""
        return _sequences([*self.groups.swapped, *self.groups.waiting])

    @property
    def num_running(self) -> int:
        """How many run."""
        return sum(len(group.seqs) for group in self.groups.running)

    @property
    def num_waiting(self) -> int:
        """How many wait or are swapped."""
        return sum(group.num_live_seqs for group in (*self.groups.swapped, *self.groups.waiting))

    @property
    def num_free_host_blocks(self) -> int:
        """Free blocks of the host pool."""
        return self._swap.host.num_free if self._swap is not None else 0

    @property
    def num_used_host_blocks(self) -> int:
        """Blocks of the host pool that hold swapped sequences."""
        return self._swap.host.num_used if self._swap is not None else 0

    @property
    def is_circling(self) -> bool:
        """Never: the first to arrive is preempted last, and a group that gets stuck alone is ended."""
        return False

    def can_ever_fit(self, seqs: list[Sequence]) -> bool:
        """Whether a newcomer, alone and with nothing shared but its prompt, could run to its end.

        Stricter than the engine, which lets it in and ends it, or stands still, when it gets stuck.
        """
        config, size = self.config, self._kv.block_size
        longest = max(seq.max_known for seq in seqs) - 1
        num_shared = seqs[0].num_prompt_tokens // size
        num_blocks = num_shared + sum(-(-(seq.max_known - 1) // size) - num_shared for seq in seqs)
        return (
            seqs[0].num_prompt_tokens <= config.max_model_len
            and longest <= min(config.max_model_len, config.max_num_batched_tokens)
            and len(seqs) <= config.max_num_seqs
            and num_blocks + len(seqs) + self._watermark_blocks <= self._kv.pool.num_blocks
        )

    def enqueue(self, request: Request, seqs: list[Sequence]) -> bool:
        """Add a newcomer with all its samples; it may always join the next step."""
        self.groups.enqueue(Group(request, seqs))
        return True

    def wake_ns(self) -> int | None:
        """Never: nothing here waits for time."""
        return None

    # One step -------------------------------------------------------------------------------------

    def schedule(self, step: int, now_ns: int = 0) -> StepPlan | None:
        """Fill one step: prompts, or else decodes; None if there is nothing to compute."""
        draft = GroupDraft(step)
        if not self.groups.swapped:
            self._schedule_prompts(draft)
        if not (draft.rows or self.groups.hopeless):
            self._schedule_running(draft)
            self.groups.swapped.sort(key=_arrival)
            if not draft.preempted:
                self._schedule_swapped(draft)
            self._add_decode_rows(draft)
        if not (draft.rows or draft.preempted or self.groups.hopeless):
            return None
        return draft.plan(self.num_running)

    def _schedule_prompts(self, draft: GroupDraft) -> None:
        config = self.config
        lengths: list[int] = []
        num_seqs = sum(group.max_num_running_seqs for group in self.groups.running)
        while self.groups.waiting:
            group = self.groups.waiting[0]
            if self._can_never_fit(group):
                self.groups.hopeless += [*group.seqs, *group.unborn]
                self.groups.waiting.popleft()
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
            self._admit(self.groups.waiting.popleft(), draft)

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

    def _admit(self, group: Group, draft: GroupDraft) -> None:
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
        self.groups.running.append(group)

    def _schedule_running(self, draft: GroupDraft) -> None:
        """Give each running group its slots, in order of arrival; a shortage costs the last one its place."""
        running = deque(sorted(self.groups.running, key=_arrival))
        self.groups.running = []
        while running:
            group = running.popleft()
            while len(group.seqs) > self._kv.pool.num_free:
                is_alone = not (running or self.groups.running or self.groups.swapped)
                victim = running.pop() if running else group
                self._preempt(victim, draft)
                if victim is group:
                    if is_alone:
                        self.groups.hopeless += group.seqs
                    break
            else:
                self._append_slots(group, draft)
                self.groups.running.append(group)

    def _append_slots(self, group: Group, draft: GroupDraft) -> None:
        for seq in group.seqs:
            num_held = len(seq.table)
            copy = self._kv.append_slot(seq)
            if copy is not None:
                draft.copies.append(copy)
                draft.new_blocks[seq] = [copy.dst]
            elif len(seq.table) > num_held:
                draft.new_blocks[seq] = seq.table[num_held:]

    def _schedule_swapped(self, draft: GroupDraft) -> None:
        num_seqs = sum(group.max_num_running_seqs for group in self.groups.running)
        while self.groups.swapped and self._swap is not None:
            group = self.groups.swapped[0]
            num_wanted = num_distinct_blocks(group.seqs) + len(group.seqs) + self._watermark_blocks
            if num_wanted > self._kv.pool.num_blocks:
                self.groups.hopeless += group.seqs
                return
            num_seqs += group.max_num_running_seqs
            if num_wanted > self._kv.pool.num_free or num_seqs > self.config.max_num_seqs:
                return
            draft.swap_in += self._swap.swap_in(group.seqs)
            for seq in group.seqs:
                seq.status = SequenceStatus.RUNNING
                seq.preemptions[-1] = (seq.preemptions[-1][0], draft.step)
            self._append_slots(group, draft)
            draft.new_blocks.update({seq: seq.table[:] for seq in group.seqs})
            self.groups.running.append(self.groups.swapped.pop(0))

    def _add_decode_rows(self, draft: GroupDraft) -> None:
        for group in self.groups.running:
            for seq in group.seqs:
                kind, new_blocks = ScheduleKind.RUNNING, draft.new_blocks.get(seq, [])
                draft.rows.append(ScheduledSequence(seq, 1, seq.num_computed, new_blocks, 0, kind, True))

    # Preemption -----------------------------------------------------------------------------------

    def _preempt(self, group: Group, draft: GroupDraft) -> None:
        for seq in group.seqs:
            seq.status = SequenceStatus.PREEMPTED
            seq.preemptions.append((draft.step, None))
        draft.preempted += group.seqs
        if self._swap is not None and self._swaps(group, self._swap):
            draft.swap_out += self._swap.swap_out(group.seqs)
            self.groups.swapped.append(group)
            return
        for seq in reversed(group.seqs):
            self._kv.free(seq)
            seq.num_lost_tokens, seq.num_computed = seq.num_computed, 0
        self.groups.waiting.appendleft(group)

    def _swaps(self, group: Group, swap: SwapSpace) -> bool:
        match self.config.preemption:
            case PreemptionMode.BY_WIDTH:
                wants_swap = group.max_num_running_seqs > 1
            case PreemptionMode.RECOMPUTE:
                wants_swap = False
            case PreemptionMode.SWAP:
                wants_swap = True
            case PreemptionMode.AUTO:
                wants_swap = self._swap_is_cheaper(group)
        fits = swap.can_swap_out(group.seqs)
        self.num_swap_fallbacks += wants_swap and not fits
        return wants_swap and fits

    def _swap_is_cheaper(self, group: Group) -> bool:
        cost = self._victim_cost
        assert cost is not None, "checked when this was made"
        num_tokens = sum(self._lengths_to_compute(group))
        return cost.swap_ns(num_distinct_blocks(group.seqs)) < cost.recompute_ns(num_tokens)

    # Settling and ends ----------------------------------------------------------------------------

    def settle(self, plan: StepPlan, result: StepResult, num_steps: int = 1) -> StepOutcome:
        """Commit one token for each scheduled sequence, fork what is to be forked, free what ended."""
        return self._settling.settle(plan, result)

    def remove(self, seq: Sequence, step: int = 0) -> None:
        """Take a live sequence out, wherever it stands, with all it holds."""
        self.groups.remove(seq)

    def check_invariants(self, step: int = 0) -> None:
        """Recount both pools from the tables of live sequences."""
        self.groups.check_invariants()


def _sequences(groups: Iterable[Group]) -> Iterator[Sequence]:
    for group in groups:
        yield from group.seqs
        yield from group.unborn


def _arrival(group: Group) -> tuple[int, int]:
    return group.request.arrival_ns, group.request.request_id
