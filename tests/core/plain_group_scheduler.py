"""The rules of the PagedAttention paper's scheduler (vLLM 0.2.7), written once more and plainly: an oracle.

Blocks are names: each table is a list of them, sharing is a name in two tables, and what is used is how many
different names there are. It shares no code with the core but the settings and requests that both are given.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import count

from sim.core.group import GroupSchedulerConfig, PreemptionMode
from sim.core.kv_cache import CacheConfig
from sim.core.request import Request

Told = tuple[int, int, int]
"""Sequence, tokens to compute, tokens computed before."""


@dataclass(eq=False)
class PlainSample:
    """A sequence of a group."""

    seq_id: int
    end: int
    known: int
    table: list[int] = field(default_factory=list)


@dataclass(eq=False)
class PlainGroup:
    """A request's live sequences, and those that will be forked when its prompt is done."""

    request: Request
    seqs: list[PlainSample]
    unborn: list[PlainSample]

    @property
    def num_seats(self) -> int:
        return max(len(self.seqs) + len(self.unborn), self.request.beam_width)

    @property
    def turn(self) -> tuple[int, int]:
        return self.request.arrival_ns, self.request.request_id


class PlainGroupScheduler:
    """Queues, blocks and rules in one place."""

    def __init__(self, rules: GroupSchedulerConfig, cache: CacheConfig) -> None:
        self.rules, self.cache = rules, cache
        self.waiting: list[PlainGroup] = []
        self.running: list[PlainGroup] = []
        self.swapped: list[PlainGroup] = []
        self.watermark = cache.fraction_of_blocks(rules.watermark_fraction)
        self.num_seqs = 0
        self.num_copies = self.num_swapped_out = self.num_swapped_in = 0
        self._names = count()

    # Coming and going

    def submit(self, request: Request) -> None:
        seqs = []
        for sample in range(request.num_samples):
            asked = request.sample_tokens[sample] if request.sample_tokens else request.max_tokens
            end = min(request.num_prompt_tokens + asked, self.rules.max_model_len + 1)
            seqs.append(PlainSample(self.num_seqs, end, request.num_prompt_tokens))
            self.num_seqs += 1
        self.waiting.append(PlainGroup(request, seqs[:1], seqs[1:]))

    def abort(self, request_id: int) -> list[int]:
        for queue in (self.waiting, self.running, self.swapped):
            for group in [group for group in queue if group.request.request_id == request_id]:
                queue.remove(group)
                return sorted(seq.seq_id for seq in (*group.seqs, *group.unborn))
        return []

    # Blocks

    def num_free(self) -> int:
        return self.cache.num_blocks - _num_different(self.running)

    def num_free_on_host(self) -> int:
        return self.rules.num_host_blocks - _num_different(self.swapped)

    def _blocks(self, num_tokens: int) -> int:
        return -(-num_tokens // self.cache.block_size)

    def _new(self, number: int) -> list[int]:
        return [next(self._names) for _ in range(number)]

    # A step

    def schedule(self) -> tuple[list[Told], list[int]]:
        """Who computes what, and who was preempted."""
        self.num_copies = self.num_swapped_out = self.num_swapped_in = 0
        self.preempted: list[int] = []
        if not self.swapped:
            prompts = self._prompts()
            if prompts:
                return prompts, []
        self._decode()
        self.swapped.sort(key=lambda group: group.turn)
        if not self.preempted:
            self._swap_in()
        rows = [(seq.seq_id, 1, seq.known - 1) for group in self.running for seq in group.seqs]
        return rows, self.preempted

    def _prompts(self) -> list[Told]:
        rows: list[Told] = []
        lengths: list[int] = []
        while self.waiting:
            group = self.waiting[0]
            shared = group.request.num_prompt_tokens // self.cache.block_size if len(group.seqs) > 1 else 0
            first = group.seqs[0]
            computed = [0 if seq is first else shared * self.cache.block_size for seq in group.seqs]
            lengths += [seq.known - before for seq, before in zip(group.seqs, computed, strict=True)]
            wanted = shared + sum(self._blocks(seq.known) - shared for seq in group.seqs)
            padded = len(lengths) * max(lengths)
            is_wide_and_first = not rows and len(group.seqs) > 1
            if (
                wanted + self.watermark > self.num_free()
                or sum(one.num_seats for one in (*self.running, group)) > self.rules.max_num_seqs
                or (padded > self.rules.max_num_batched_tokens and not is_wide_and_first)
                or (padded - sum(lengths) > self.rules.max_paddings and rows)
            ):
                break
            self.running.append(self.waiting.pop(0))
            for seq, before in zip(group.seqs, computed, strict=True):
                kept = first.table[: before // self.cache.block_size]
                seq.table = kept + self._new(self._blocks(seq.known) - len(kept))
                rows.append((seq.seq_id, seq.known - before, before))
        return rows

    def _decode(self) -> None:
        left = sorted(self.running, key=lambda group: group.turn)
        served: list[PlainGroup] = []
        while left:
            group = left.pop(0)
            self.running = [*served, group, *left]
            while len(group.seqs) > self.num_free():
                victim = left.pop() if left else group
                self.running.remove(victim)
                self._preempt(victim)
                if victim is group:
                    break
            else:
                self._slots(group)
                served.append(group)
        self.running = served

    def _slots(self, group: PlainGroup) -> None:
        """Each newest token needs a slot of its own; the last holder of a block writes in place."""
        for seq in group.seqs:
            if len(seq.table) < self._blocks(seq.known):
                seq.table += self._new(1)
            elif sum(seq.table[-1] in other.table for other in group.seqs) > 1:
                seq.table[-1:] = self._new(1)
                self.num_copies += 1

    def _preempt(self, group: PlainGroup) -> None:
        self.preempted += [seq.seq_id for seq in group.seqs]
        by_swap = self.rules.preemption is PreemptionMode.SWAP or (
            self.rules.preemption is PreemptionMode.BY_WIDTH and group.num_seats > 1
        )
        if by_swap and _num_different([group]) <= self.num_free_on_host():
            self.num_swapped_out += _num_different([group])
            self.swapped.append(group)
            return
        for seq in group.seqs:
            seq.table = []
        self.waiting.insert(0, group)

    def _swap_in(self) -> None:
        while self.swapped:
            group = self.swapped[0]
            different = _num_different([group])
            if different + len(group.seqs) + self.watermark > self.num_free():
                return
            if sum(one.num_seats for one in (*self.running, group)) > self.rules.max_num_seqs:
                return
            self.num_swapped_in += different
            self.running.append(self.swapped.pop(0))
            self._slots(group)

    # What it gave

    def settle(self, rows: list[Told], forks: dict[int, list[tuple[int, int]]]) -> list[int]:
        """Deliver tokens, fork, and end; who ended, in order. `forks`: parent and child, by request."""
        stepped = {seq_id for seq_id, *_ in rows}
        for group in self.running:
            for seq in group.seqs:
                seq.known += seq.seq_id in stepped
        order = [seq_id for seq_id, *_ in rows]
        for group in self.running:
            if group.unborn and group.seqs[0].seq_id in stepped:
                for seq in group.unborn:
                    seq.known, seq.table = group.seqs[0].known, group.seqs[0].table[:]
                    order.append(seq.seq_id)
                group.seqs += group.unborn
                group.unborn = []
            self._branch(group, forks.get(group.request.request_id, []))
        ended = [
            (order.index(seq.seq_id), group, seq)
            for group in self.running
            for seq in group.seqs
            if seq.known == seq.end
        ]
        for _, group, seq in ended:
            group.seqs.remove(seq)
        self.running = [group for group in self.running if group.seqs]
        return [seq.seq_id for _, _, seq in sorted(ended, key=lambda entry: entry[0])]

    @staticmethod
    def _branch(group: PlainGroup, forks: list[tuple[int, int]]) -> None:
        seq_of = {seq.seq_id: seq for seq in group.seqs}
        tables = [seq_of[parent].table[:] for parent, _ in forks]
        for (_, child), table in zip(forks, tables, strict=True):
            seq_of[child].table = table
            group.seqs.remove(seq_of[child])
            group.seqs.append(seq_of[child])


def _num_different(groups: list[PlainGroup]) -> int:
    return len({name for group in groups for seq in group.seqs for name in seq.table})
