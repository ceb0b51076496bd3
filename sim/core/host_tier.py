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

    least recently used                                              most recently used
    [ contents that the step has not touched ][ contents that it keeps or loads ]
      `_untouched`: make room from the front     `_touched`, of which `_kept` may make room too

In these parts each eviction is one look, however many contents a step loads.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable, Iterable

from sim.core.compiling import mypyc_attr
from sim.core.step import BlockCopy


@mypyc_attr(allow_interpreted_subclasses=True)
class HostTier:
    """Host blocks by content, least recently used first."""

    __slots__ = (
        "_block_of",
        "_free",
        "_kept",
        "_loaded",
        "_moves_in",
        "_moves_out",
        "_touched",
        "_untouched",
        "num_blocks",
    )

    def __init__(self, num_blocks: int) -> None:
        if num_blocks < 1:
            raise ValueError(f"a host tier needs at least one block, not {num_blocks}")
        self.num_blocks = num_blocks
        self._block_of: dict[Hashable, int] = {}
        self._untouched: OrderedDict[Hashable, None] = OrderedDict()
        self._touched: OrderedDict[Hashable, None] = OrderedDict()
        self._kept: OrderedDict[Hashable, None] = OrderedDict()
        self._free = list(range(num_blocks - 1, -1, -1))
        self._loaded: set[Hashable] = set()
        """Contents that the step being planned loads."""
        self._moves_out: dict[int, BlockCopy] = {}
        """By host block, which a step overwrites once: what came and went within it is not copied."""
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
            self._touch(key)
            return
        block = self._free.pop() if self._free else self._evict()
        if block is not None:
            self._block_of[key] = block
            self._touched[key] = self._kept[key] = None
            self._moves_out.pop(block, None)
            self._moves_out[block] = BlockCopy(device_block, block)

    def hold(self, keys: Iterable[Hashable]) -> None:
        """The step being planned will load these: none of them may go before it has."""
        for key in keys:
            self._loaded.add(key)
            self._touch(key)

    def load(self, key: Hashable, device_block: int) -> None:
        """Copy a content that is held into a device block."""
        assert key in self._loaded, "not held"
        self._moves_in.append(BlockCopy(self._block_of[key], device_block))

    def take_moves(self) -> tuple[tuple[BlockCopy, ...], tuple[BlockCopy, ...]]:
        """Copies to the host and back that the step being planned needs; the next step begins with none."""
        moves = tuple(self._moves_out.values()), tuple(self._moves_in)
        if self._moves_out or self._moves_in:
            self._moves_out, self._moves_in = {}, []
        if self._touched:
            self._untouched.update(self._touched)
            self._touched.clear()
            self._kept.clear()
            self._loaded.clear()
        return moves

    def check_invariants(self) -> None:
        """Every host block is free or holds one content."""
        blocks = sorted([*self._block_of.values(), *self._free])
        assert blocks == list(range(self.num_blocks)), "a host block is lost, or holds two contents"
        assert self._block_of.keys() == self._untouched.keys() | self._touched.keys(), (
            "a content has no order"
        )
        assert not self._untouched.keys() & self._touched.keys(), "a content stands in the order twice"
        assert self._kept.keys() == self._touched.keys() - self._loaded, "what a step loads may go"

    def _touch(self, key: Hashable) -> None:
        """A content is used: it goes last, and not at all in this step if that loads it."""
        self._untouched.pop(key, None)
        self._touched[key] = None
        self._touched.move_to_end(key)
        self._kept.pop(key, None)
        if key not in self._loaded:
            self._kept[key] = None

    def _evict(self) -> int | None:
        """Drop the least recently used content that the step does not load; its block, if there is one."""
        if self._untouched:
            key, _ = self._untouched.popitem(last=False)
        elif self._kept:
            key, _ = self._kept.popitem(last=False)
            del self._touched[key]
        else:
            return None
        return self._block_of.pop(key)
