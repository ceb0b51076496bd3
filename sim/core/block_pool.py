"""The blocks of one memory tier: their ids, who shares them, and in which order free ones are handed out.

The pool is the one authority on what is free. It refuses to know sequences, tokens or content.

Free order, as in vLLM: blocks are taken from the head of one queue. Freed blocks whose content can no
longer be found go back to the head, findable ones to the tail, so the latter live longest. That queue is
kept in two parts, which makes taking and giving whole tables a slice:

    head                                                              tail
    [ never used, or freed without content ... ][ freed with content ... ]
      `_front`: a list, next at its end           `_back`: least recently freed first

Only blocks with content are ever taken out of the middle (a prefix hit), and those all lie in `_back`.

Invariants: every block is either in exactly one part of the queue, or held; a held block has one holder
more than `_extra_holders` says (absent: one holder).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from enum import Enum
from itertools import islice

from sim.core.compiling import mypyc_attr


class FreeOrder(Enum):
    """Where freed blocks without findable content go."""

    UNHASHED_FIRST = "unhashed_first"
    """To the head of the queue: vLLM after 0.16."""
    TAIL = "tail"
    """To the tail like all others: vLLM up to 0.16."""


@mypyc_attr(native_class=False)
class NoFreeBlocksError(RuntimeError):
    """More blocks were taken than are free; callers must ask `num_free` first."""


@mypyc_attr(allow_interpreted_subclasses=True)
class BlockPool:
    """Free order and reference counts of `num_blocks` blocks with ids `first_id` and up."""

    __slots__ = ("_back", "_extra_holders", "_front", "first_id", "num_blocks", "num_extra_holders")

    def __init__(self, num_blocks: int, first_id: int = 1) -> None:
        if num_blocks < 1:
            raise ValueError(f"a block pool needs at least one block, not {num_blocks}")
        self.num_blocks = num_blocks
        self.first_id = first_id
        """vLLM's V1 pool starts at 1: its block 0 is a null block that nobody gets."""
        self.num_extra_holders = 0
        """Sum over held blocks of (holders - 1)."""
        self._front = list(range(first_id + num_blocks - 1, first_id - 1, -1))
        self._back: OrderedDict[int, None] = OrderedDict()
        self._extra_holders: dict[int, int] = {}

    @property
    def num_free(self) -> int:
        """Blocks nobody holds, those with findable content included."""
        return len(self._front) + len(self._back)

    @property
    def num_contentless(self) -> int:
        """Free blocks that were never used, or freed without findable content."""
        return len(self._front)

    @property
    def num_used(self) -> int:
        """Blocks somebody holds, shared ones counted once."""
        return self.num_blocks - len(self._front) - len(self._back)

    def is_free(self, block: int) -> bool:
        """Whether a block with content is free, that is, waits at the tail part of the queue."""
        return block in self._back

    def num_holders(self, block: int) -> int:
        """How many tables hold a block that is not free."""
        return 1 + self._extra_holders.get(block, 0)

    def take(self, count: int) -> tuple[list[int], list[int]]:
        """Take blocks from the head of the queue.

        Returns:
            The blocks, and those among them whose content is thereby lost.
        """
        front = self._front
        if count <= len(front):
            if count == 1:
                return [front.pop()], []
            if count == 0:
                return [], []
            taken = front[-count:]
            del front[-count:]
            taken.reverse()
            return taken, []
        if count > self.num_free:
            raise NoFreeBlocksError(f"{count} blocks wanted, {self.num_free} free of {self.num_blocks}")
        front.reverse()
        taken = front[:]
        front.clear()
        pop = self._back.popitem
        evicted = [pop(last=False)[0] for _ in range(count - len(taken))]
        return taken + evicted, evicted

    def take_one_each(self, tables: Iterable[list[int]], count: int) -> list[int]:
        """Append one block to each of `count` tables, in order; returns those whose content is lost."""
        front = self._front
        if count <= len(front):
            for table in tables:
                table.append(front.pop())
            return []
        blocks, evicted = self.take(count)
        for table, block in zip(tables, blocks, strict=True):
            table.append(block)
        return evicted

    def share(self, block: int) -> None:
        """Add a holder: to a held block, or to a free one with content, which leaves the queue."""
        if block in self._back:
            del self._back[block]
        else:
            self._extra_holders[block] = self._extra_holders.get(block, 0) + 1
            self.num_extra_holders += 1

    def drop(self, block: int) -> bool:
        """Remove one holder; True if that was the last, and the block now wants a place in the queue."""
        holders = self._extra_holders.get(block)
        if holders is None:
            return True
        self.num_extra_holders -= 1
        if holders == 1:
            del self._extra_holders[block]
        else:
            self._extra_holders[block] = holders - 1
        return False

    def give_front(self, blocks: Iterable[int]) -> None:
        """Put blocks at the head of the queue; the last one given will be taken first."""
        self._front.extend(blocks)

    def give_back(self, block: int) -> None:
        """Put a block at the tail of the queue."""
        self._back[block] = None

    def head(self, count: int) -> list[int]:
        """The next blocks to be taken, at most `count`, in order."""
        front = self._front[-count:][::-1] if count else []
        return front + list(islice(self._back, count - len(front)))

    def free_blocks(self) -> list[int]:
        """All free blocks in the order in which they will be taken."""
        return self._front[::-1] + list(self._back)


def check_pool(pool: BlockPool, tables: Iterable[list[int]]) -> None:
    """Recount a pool from all tables that hold blocks of it; AssertionError says what does not add up."""
    counts: dict[int, int] = {}
    for table in tables:
        assert len(set(table)) == len(table), f"a table holds a block twice: {table}"
        for block in table:
            counts[block] = counts.get(block, 0) + 1
    free = pool.free_blocks()
    assert len(set(free)) == len(free), "a block is free twice"
    assert not counts.keys() & set(free), "a held block is free"
    assert sorted([*counts, *free]) == list(range(pool.first_id, pool.first_id + pool.num_blocks)), (
        "a block is lost"
    )
    for block, count in counts.items():
        assert pool.num_holders(block) == count, f"block {block} has {count} holders"
    assert pool.num_extra_holders == sum(counts.values()) - len(counts), "extra holders miscounted"
