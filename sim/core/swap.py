"""`SwapSpace`: moves the blocks of preempted sequences to host memory and back, sharing kept.

A block that several tables share is moved once, and is shared there as it was here. Owns the host pool;
refuses to know why and when something is moved, and how long that takes.
"""

from __future__ import annotations

from collections.abc import Sequence as AbstractSequence

from sim.core.block_pool import BlockPool, check_pool
from sim.core.compiling import mypyc_attr
from sim.core.request import Sequence
from sim.core.step import BlockCopy


@mypyc_attr(allow_interpreted_subclasses=True)
class SwapSpace:
    """Host blocks behind one device pool."""

    __slots__ = ("_device", "host")

    def __init__(self, device: BlockPool, num_host_blocks: int) -> None:
        self._device = device
        self.host = BlockPool(num_host_blocks, first_id=0)

    def can_swap_out(self, seqs: AbstractSequence[Sequence]) -> bool:
        """Whether the host has room for all their blocks."""
        return num_distinct_blocks(seqs) <= self.host.num_free

    def swap_out(self, seqs: AbstractSequence[Sequence]) -> list[BlockCopy]:
        """Move all blocks of these sequences (all that share any of them) to the host."""
        return _move(seqs, self._device, self.host)

    def swap_in(self, seqs: AbstractSequence[Sequence]) -> list[BlockCopy]:
        """Move all their blocks back to the device."""
        return _move(seqs, self.host, self._device)

    def check_invariants(self, swapped: AbstractSequence[Sequence]) -> None:
        """Recount the host pool from the tables of `swapped`, which must be all swapped sequences."""
        check_pool(self.host, [seq.table for seq in swapped])

    def free(self, seq: Sequence) -> None:
        """Give up the host blocks of a swapped sequence."""
        give_up(self.host, seq.table)
        seq.table = []


def num_distinct_blocks(seqs: AbstractSequence[Sequence]) -> int:
    """Blocks these sequences hold, shared ones counted once."""
    return len({block for seq in seqs for block in seq.table})


def give_up(pool: BlockPool, table: AbstractSequence[int]) -> None:
    """Drop one reference to each block of a table; those nobody holds any more are free."""
    pool.give_front([block for block in table if pool.drop(block)])


def _move(seqs: AbstractSequence[Sequence], source: BlockPool, target: BlockPool) -> list[BlockCopy]:
    new_block: dict[int, int] = {}
    copies: list[BlockCopy] = []
    for seq in seqs:
        moved = []
        for block in seq.table:
            if block in new_block:
                target.share(new_block[block])
            else:
                new_block[block] = target.take(1)[0][0]
                copies.append(BlockCopy(block, new_block[block]))
            moved.append(new_block[block])
        give_up(source, seq.table)
        seq.table = moved
    return copies
