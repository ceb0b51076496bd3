"""Which block holds which content: the index that lets a new sequence find blocks that an earlier one filled.

Keys are chained: a key names a block's tokens and all before it. Only full blocks get one. Several
blocks may carry the same key (two sequences computed the same tokens side by side; tables only grow,
nothing is merged): the one registered first is found. A block keeps its key when it becomes free and
loses it when it is handed out again, which is the eviction.

Owns the index and nothing else: it neither holds nor frees blocks.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence

from sim.core.compiling import mypyc_attr


@mypyc_attr(allow_interpreted_subclasses=True)
class PrefixCache:
    """Content key to block, and back."""

    __slots__ = ("_block_of", "_key_of", "_later_blocks")

    def __init__(self) -> None:
        self._block_of: dict[Hashable, int] = {}
        self._key_of: dict[int, Hashable] = {}
        self._later_blocks: dict[Hashable, list[int]] = {}

    def __len__(self) -> int:
        return len(self._key_of)

    def __contains__(self, block: int) -> bool:
        return block in self._key_of

    def key_of(self, block: int) -> Hashable | None:
        """What a block holds, if that is known."""
        return self._key_of.get(block)

    def holds(self, key: Hashable) -> bool:
        """Whether any block holds this content."""
        return key in self._block_of

    def duplicates(self) -> dict[Hashable, list[int]]:
        """Blocks of each key that several carry, the one that is found first."""
        return {key: [self._block_of[key], *later] for key, later in self._later_blocks.items()}

    def find(self, keys: Iterable[Hashable]) -> list[int]:
        """Blocks of the longest leading run of keys that are present."""
        block_of = self._block_of
        found: list[int] = []
        for key in keys:
            block = block_of.get(key)
            if block is None:
                break
            found.append(block)
        return found

    def register(self, blocks: Sequence[int], keys: Sequence[Hashable]) -> None:
        """Note that each block holds the content its key names.

        Raises:
            ValueError: A block has a key already.
        """
        block_of, key_of = self._block_of, self._key_of
        for block, key in zip(blocks, keys, strict=True):
            if block in key_of:
                raise ValueError(f"block {block} is registered already")
            key_of[block] = key
            if block_of.setdefault(key, block) != block:
                self._later_blocks.setdefault(key, []).append(block)

    def forget(self, blocks: Iterable[int]) -> None:
        """The blocks were handed out again: their content is gone."""
        for block in blocks:
            key = self._key_of.pop(block, None)
            if key is not None:
                self._forget_key(key, block)

    def _forget_key(self, key: Hashable, block: int) -> None:
        later = self._later_blocks.get(key)
        if later is None:
            del self._block_of[key]
            return
        if self._block_of[key] == block:
            self._block_of[key] = later.pop(0)
        else:
            later.remove(block)
        if not later:
            del self._later_blocks[key]

    def check_invariants(self) -> None:
        """Every key's blocks and every block's key must agree."""
        pairs = [(block, key) for key, block in self._block_of.items()]
        pairs += [(block, key) for key, later in self._later_blocks.items() for block in later]
        assert len(pairs) == len(self._key_of), "a block is indexed twice"
        assert dict(pairs) == self._key_of, "the index and the blocks' keys differ"
