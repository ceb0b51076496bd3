"""The host tier as it reads at its plainest: one order, looked through from the front; a test's oracle."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable, Iterable

from sim.core.step import BlockCopy


class PlainHostTier:
    """Host blocks by content, least recently used first; see `sim.core.host_tier.HostTier`."""

    def __init__(self, num_blocks: int) -> None:
        self._block_of: OrderedDict[Hashable, int] = OrderedDict()
        self._free = list(range(num_blocks - 1, -1, -1))
        self._loaded: set[Hashable] = set()
        self._moves_out: list[BlockCopy] = []
        self._moves_in: list[BlockCopy] = []

    def contents(self) -> list[Hashable]:
        """What is here, least recently used first."""
        return list(self._block_of)

    def keep(self, key: Hashable, device_block: int) -> None:
        """The device evicts the block with this content."""
        if key in self._block_of:
            self._block_of.move_to_end(key)
            return
        block = self._free.pop() if self._free else self._evict()
        if block is not None:
            self._block_of[key] = block
            self._moves_out = [move for move in self._moves_out if move.dst != block]
            self._moves_out.append(BlockCopy(device_block, block))

    def hold(self, keys: Iterable[Hashable]) -> None:
        """The step being planned will load these."""
        for key in keys:
            self._block_of.move_to_end(key)
            self._loaded.add(key)

    def load(self, key: Hashable, device_block: int) -> None:
        """Copy a content that is held into a device block."""
        self._moves_in.append(BlockCopy(self._block_of[key], device_block))

    def take_moves(self) -> tuple[tuple[BlockCopy, ...], tuple[BlockCopy, ...]]:
        """Copies of the step being planned."""
        moves = tuple(self._moves_out), tuple(self._moves_in)
        self._moves_out, self._moves_in = [], []
        self._loaded.clear()
        return moves

    def _evict(self) -> int | None:
        for key in self._block_of:
            if key not in self._loaded:
                return self._block_of.pop(key)
        return None
