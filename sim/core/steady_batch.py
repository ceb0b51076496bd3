"""The hot path: decoding sequences whose state moves forward without being touched.

A sequence that decodes computes one token a step, step after step, until it ends, is preempted, or has
to be looked at singly. While it is a member here its counts are implied:

    num_computed before step s  =  s - base_step          num_known  =  num_computed + 1
    it needs a new block in     steps s with  s % block_size == base_step % block_size
    a block of it becomes full  in steps s with  (s + 1) % block_size == base_step % block_size
    it ends at the end of       step finish_at_step

        step            0    1    2    3    4    5    6    7    8          block_size 4
        sequence a    [ 5 ][ 6 ][ 7 ][ 8*][ 9 ][10 ][11 ][12*][13 ]        base_step -5, bucket 3
        sequence b              [ 4*][ 5 ][ 6 ][ 7 ][ 8*][ 9 ][10 ]        base_step -2, bucket 2
                        (numbers: tokens computed before the step; * takes a block)

So the members of one bucket need their blocks in the same steps, and the work is per block, not per
token. Buckets keep the running order, since blocks are handed out in that order. The plain way, one
sequence at a time, is in `scheduler.py`; tests hold this file against it.

Invariants: every member takes part in every step; `sum_known` is the sum of its members' `num_known`.
"""

from __future__ import annotations

import heapq

from sim.core.compiling import mypyc_attr
from sim.core.kv_memory import KVMemory
from sim.core.request import Sequence


@mypyc_attr(allow_interpreted_subclasses=True)
class SteadyBatch:
    """Decoding sequences, bucketed by the phase in which they need blocks."""

    __slots__ = ("_block_size", "_buckets", "_finishers", "_kv", "_num_joins", "num_seqs", "sum_known")

    def __init__(self, kv: KVMemory) -> None:
        self.num_seqs = 0
        self.sum_known = 0
        self._kv = kv
        self._block_size = kv.block_size
        self._buckets: list[dict[Sequence, list[int]]] = [{} for _ in range(kv.block_size)]
        """Members and their block tables."""
        self._finishers: list[tuple[int, int, int, Sequence]] = []
        self._num_joins = 0

    def join(self, seq: Sequence, step: int) -> None:
        """Take in a running sequence that got a token in the step before; its first step here is `step`."""
        seq.in_steady_batch = True
        known = seq.num_known
        seq.base_step = base = step - known + 1
        seq.finish_at_step = finish_at = step + seq.max_known - known - 1
        seq.run_start = step - 1
        if seq.runs and seq.runs[-1][0] + seq.runs[-1][1] == step - 1:
            seq.run_start = seq.runs.pop()[0]
        self._num_joins += 1
        heapq.heappush(self._finishers, (finish_at, seq.order, self._num_joins, seq))
        self._enter_bucket(seq, base % self._block_size)
        self.num_seqs += 1
        self.sum_known += known

    def leave(self, seq: Sequence, step: int) -> None:
        """Let a member go, with its counts as they are before `step`."""
        computed = step - seq.base_step
        seq.num_computed = computed
        seq.num_known = computed + 1
        seq.in_steady_batch = False
        if step > seq.run_start:
            seq.runs.append((seq.run_start, step - seq.run_start, 1))
        del self._buckets[seq.base_step % self._block_size][seq]
        self.num_seqs -= 1
        self.sum_known -= computed + 1

    def takers(self, step: int) -> dict[Sequence, list[int]]:
        """Members that need a new block in `step`, in running order."""
        return self._buckets[step % self._block_size]

    def grow(self, step: int) -> None:
        """Hand out the blocks of `step`, all of which must be free."""
        takers = self._buckets[step % self._block_size]
        if takers:
            self._kv.take_one_each(takers.values(), len(takers))

    def repeat(self, first_step: int, num_steps: int, used_blocks: list[int]) -> None:
        """Hand out and register the blocks of `num_steps` steps; appends the blocks held during each."""
        buckets, size, take_one_each = self._buckets, self._block_size, self._kv.take_one_each
        caches_prefixes = self._kv.caches_prefixes
        num_used = used_blocks[-1]
        for step in range(first_step, first_step + num_steps):
            takers = buckets[step % size]
            if takers:
                num_takers = len(takers)
                take_one_each(takers.values(), num_takers)
                num_used += num_takers
            if caches_prefixes:
                self.register(step)
            used_blocks.append(num_used)

    def register(self, step: int) -> None:
        """Make the blocks findable that `step` fills."""
        for seq in self._buckets[(step + 1) % self._block_size]:
            self._kv.register_computed(seq, step + 1 - seq.base_step)

    def advance(self, num_steps: int) -> None:
        """All members have computed `num_steps` tokens."""
        self.sum_known += self.num_seqs * num_steps

    def horizon(self, step: int, limit: int) -> int:
        """How many steps from `step` on are alike: until a member ends or blocks run out, at most `limit`.

        A step that would have to copy a block to the host is not like the others.

        The blocks of `step` itself have been handed out.
        """
        finishers = self._finishers
        while not _is_current(finishers[0][-1], finishers[0][0]):
            heapq.heappop(finishers)
        steps = min(finishers[0][0] - step + 1, limit)
        if steps <= 1:
            return steps
        num_free = self._kv.num_free_unmoved
        if num_free >= self.num_seqs * (-(-(steps - 1) // self._block_size)):
            return steps
        buckets, size = self._buckets, self._block_size
        for ahead in range(1, steps):
            num_free -= len(buckets[(step + ahead) % size])
            if num_free < 0:
                return ahead
        return steps

    def pop_finished(self, step: int) -> list[Sequence]:
        """Members that end at the end of `step`, in running order; they leave."""
        finishers = self._finishers
        finished = []
        while finishers and finishers[0][0] <= step:
            finish_at, _, _, seq = heapq.heappop(finishers)
            if _is_current(seq, finish_at):
                self.leave(seq, step + 1)
                finished.append(seq)
        return finished

    def check_invariants(self, step: int) -> None:
        """Recount the members from the buckets."""
        members = [seq for bucket in self._buckets for seq in bucket]
        assert len(members) == self.num_seqs, "members miscounted"
        assert all(seq.in_steady_batch for seq in members), "a member does not know it is one"
        assert sum(step - seq.base_step + 1 for seq in members) == self.sum_known, "tokens miscounted"
        for phase, bucket in enumerate(self._buckets):
            orders = [seq.order for seq in bucket]
            assert orders == sorted(orders), "a bucket is out of running order"
            assert all(seq.base_step % self._block_size == phase for seq in bucket), "in the wrong bucket"
        for seq in members:
            assert self._buckets[seq.base_step % self._block_size][seq] is seq.table, "not its table"
            held = -(-(step - seq.base_step) // self._block_size)
            assert len(seq.table) == held, f"{seq!r} should hold {held} blocks"

    def _enter_bucket(self, seq: Sequence, phase: int) -> None:
        bucket = self._buckets[phase]
        is_last = not bucket or next(reversed(bucket)).order < seq.order
        bucket[seq] = seq.table
        if not is_last:
            members = sorted(bucket, key=lambda member: member.order)
            self._buckets[phase] = {member: member.table for member in members}


def _is_current(seq: Sequence, finish_at_step: int) -> bool:
    """Whether a heap entry still speaks of this stay in the batch."""
    return seq.in_steady_batch and seq.finish_at_step == finish_at_step
