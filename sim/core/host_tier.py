"""`HostTier`: the prefix cache's second home - full blocks that the device evicted, kept in host memory.

    device evicts a block of known content  ->  copied out, least recently used host block makes room
    a newcomer's prefix goes on in the host ->  copied in, into a new device block that is findable again

What today's engines call KV offloading (the device's own copy of a content goes first; a host copy stays
when it is loaded). Unlike swap it keeps content, not sequences. Where they differ: engines copy blocks out
as they are computed and load them while the request waits; here a block leaves when it is evicted, and a
load belongs to the step that admits the request.

The copies of a step are carried out before it computes, those to the host first. So a host block that a
step loads is not overwritten in that step. Owns the host's blocks and their order; refuses to know
sequences, and how long a copy takes.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable, Iterable

from sim.core.compiling import mypyc_attr
from sim.core.step import BlockCopy


@mypyc_attr(allow_interpreted_subclasses=True)
class HostTier:
    """Host blocks by content, least recently used first."""

    __slots__ = ("_block_of", "_free", "_loaded", "_moves_in", "_moves_out", "num_blocks")

    def __init__(self, num_blocks: int) -> None:
        if num_blocks < 1:
            raise ValueError(f"a host tier needs at least one block, not {num_blocks}")
        self.num_blocks = num_blocks
        self._block_of: OrderedDict[Hashable, int] = OrderedDict()
        self._free = list(range(num_blocks - 1, -1, -1))
        self._loaded: set[Hashable] = set()
        """Contents that the step being planned loads."""
        self._moves_out: list[BlockCopy] = []
        self._moves_in: list[BlockCopy] = []

    def __len__(self) -> int:
        return len(self._block_of)

    def keys(self) -> Iterable[Hashable]:
        """What is here, least recently used first."""
        return self._block_of.keys()

    def find(self, keys: Iterable[Hashable]) -> list[Hashable]:
        """The longest leading run of keys that are here."""
        found = []
        for key in keys:
            if key not in self._block_of:
                break
            found.append(key)
        return found

    def keep(self, key: Hashable, device_block: int) -> None:
        """The device evicts the block with this content; it is dropped if all blocks here are loading."""
        if key in self._block_of:
            self._block_of.move_to_end(key)
            return
        block = self._free.pop() if self._free else self._evict()
        if block is not None:
            self._block_of[key] = block
            # A content that came and went within this step is not copied: one copy for each host block.
            self._moves_out = [move for move in self._moves_out if move.dst != block]
            self._moves_out.append(BlockCopy(device_block, block))

    def hold(self, keys: Iterable[Hashable]) -> None:
        """The step being planned will load these: none of them may go before it has."""
        for key in keys:
            self._block_of.move_to_end(key)
            self._loaded.add(key)

    def load(self, key: Hashable, device_block: int) -> None:
        """Copy a content that is held into a device block."""
        assert key in self._loaded, "not held"
        self._moves_in.append(BlockCopy(self._block_of[key], device_block))

    def take_moves(self) -> tuple[tuple[BlockCopy, ...], tuple[BlockCopy, ...]]:
        """Copies to the host and back that the step being planned needs; the next step begins with none."""
        moves = tuple(self._moves_out), tuple(self._moves_in)
        if self._moves_out or self._moves_in:
            self._moves_out, self._moves_in = [], []
        self._loaded.clear()
        return moves

    def check_invariants(self) -> None:
        """Every host block is free or holds one content."""
        blocks = sorted([*self._block_of.values(), *self._free])
        assert blocks == list(range(self.num_blocks)), "a host block is lost, or holds two contents"

    def _evict(self) -> int | None:
        for key in self._block_of:
            if key not in self._loaded:
                return self._block_of.pop(key)
        return None
