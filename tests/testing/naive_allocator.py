"""A naive allocator, as a first attempt looks: it shares blocks and forgets that writers must not."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Sequence

from sim.testing import LATER, AllocatorMachine, AllocStatus, Grant


class NaiveAllocator:
    """Blocks from a list, references in a counter, no copy-on-write, no swap."""

    def __init__(self, num_blocks: int, block_size: int) -> None:
        self.num_blocks, self.block_size, self.num_host_blocks = num_blocks, block_size, 0
        self.num_free_host = 0
        self._free = list(range(num_blocks))
        self._tables: dict[int, list[int]] = {}
        self._lengths: dict[int, int] = {}
        self._references: Counter[int] = Counter()

    @property
    def num_free(self) -> int:
        return len(self._free)

    def admit(self, seq_id: int, tokens: Sequence[Hashable]) -> Grant:
        if -(-len(tokens) // self.block_size) > len(self._free):
            return LATER
        self._tables[seq_id], self._lengths[seq_id] = [], 0
        for token in tokens:
            self.append(seq_id, token)
        return Grant(AllocStatus.OK)

    def append(self, seq_id: int, token: Hashable) -> Grant:
        if self._lengths[seq_id] == len(self._tables[seq_id]) * self.block_size:
            if not self._free:
                return LATER
            block = self._free.pop()
            self._references[block] = 1
            self._tables[seq_id].append(block)
        self._lengths[seq_id] += 1
        return Grant(AllocStatus.OK)

    def fork(self, parent_id: int, child_id: int) -> None:
        self._tables[child_id] = self._tables[parent_id][:]
        self._lengths[child_id] = self._lengths[parent_id]
        self._references.update(self._tables[child_id])

    def free(self, seq_id: int) -> None:
        for block in self._tables.pop(seq_id):
            self._references[block] -= 1
            if not self._references[block]:
                self._free.append(block)

    def swap_out(self, seq_ids: Sequence[int]) -> Grant:
        return LATER

    def swap_in(self, seq_ids: Sequence[int]) -> Grant:
        return LATER

    def table(self, seq_id: int) -> Sequence[int]:
        return self._tables[seq_id]

    def num_references(self, block: int) -> int:
        return self._references[block]


class NaiveMachine(AllocatorMachine):
    """The naive allocator before the machine."""

    def make_allocator(self, num_blocks: int, block_size: int, num_host_blocks: int) -> NaiveAllocator:
        return NaiveAllocator(num_blocks, block_size)
