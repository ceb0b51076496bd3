"""`BuddyPool`: a buddy allocator over any number of slots (Knuth, TAOCP 1, 2.5).

Memory is cut into chunks whose sizes are powers of two, each beginning at a multiple of its size; what is
asked for is rounded up to such a size. A larger chunk is halved until one fits, and two free halves of one
chunk are joined again. A pool whose size is no power of two begins as several chunks: 13 = 8 + 4 + 1.

    take 3 of 8      [ . . . . . . . . ]  ->  [ . . . . | . . . . ]  ->  [ x x x - | . . . . ]
                                              halved                     1 slot lost to rounding

Invariants: chunks tile the memory; no two free buddies stand side by side.
"""

from __future__ import annotations

import heapq

from sim.core.compiling import mypyc_attr


@mypyc_attr(allow_interpreted_subclasses=True)
class BuddyPool:
    """Slots 0 to `num_blocks` - 1, handed out in stretches."""

    __slots__ = ("_asked", "_free", "_order_at", "_order_of", "num_blocks", "num_extra_holders", "num_used")

    def __init__(self, num_slots: int) -> None:
        if num_slots < 1:
            raise ValueError(f"a pool needs at least one slot, not {num_slots}")
        self.num_blocks = num_slots
        """Slots in all."""
        self.num_extra_holders = 0
        """None: a stretch has one holder."""
        self.num_used = 0
        """Slots that were asked for and not given back; rounding is not among them."""
        self._order_of: dict[int, int] = {}
        """Held chunks: log2 of the size, by first slot."""
        self._asked: dict[int, int] = {}
        """Slots asked for, by first slot."""
        self._free: list[list[int]] = [[] for _ in range(num_slots.bit_length())]
        """Free chunks' first slots by order, each a heap: the lowest address is taken first."""
        self._order_at: dict[int, int] = {}
        """Free chunks: order by first slot; entries of the heaps that are not here are stale."""
        start = 0
        for order in reversed(range(num_slots.bit_length())):
            if num_slots >> order & 1:
                self._add_free(start, order)
                start += 1 << order

    @property
    def num_free(self) -> int:
        """Slots in free chunks, however scattered."""
        return sum(1 << order for order in self._order_at.values())

    def can_ever_take(self, num_slots: int) -> bool:
        """Whether so many slots fit the largest chunk."""
        return _order(num_slots) < len(self._free)

    def is_free(self, block: int) -> bool:
        """Never asked for: nothing here is found by content."""
        return False

    def take_stretch(self, num_slots: int) -> int | None:
        """The first of `num_slots` adjacent slots; None if no free chunk is large enough."""
        wanted = _order(num_slots)
        for order in range(wanted, len(self._free)):
            start = self._pop_free(order)
            if start is not None:
                break
        else:
            return None
        while order > wanted:
            order -= 1
            self._add_free(start + (1 << order), order)
        self._order_of[start] = wanted
        self._asked[start] = num_slots
        self.num_used += num_slots
        return start

    def give_stretch(self, start: int) -> None:
        """Give back the stretch that begins at `start`.

        Raises:
            KeyError: None does.
        """
        order = self._order_of.pop(start)
        self.num_used -= self._asked.pop(start)
        while (buddy := start ^ (1 << order)) in self._order_at and self._order_at[buddy] == order:
            del self._order_at[buddy]
            start = min(start, buddy)
            order += 1
        self._add_free(start, order)

    def size_of(self, start: int) -> int:
        """Slots that were asked for at `start`."""
        return self._asked[start]

    def stretches(self) -> list[tuple[int, int, int]]:
        """(first slot, slots asked for, slots of the chunk) of each held stretch, by address."""
        return [(start, self._asked[start], 1 << self._order_of[start]) for start in sorted(self._asked)]

    def check_invariants(self) -> None:
        """Chunks tile the memory; AssertionError says what does not add up."""
        chunks = sorted([*self._order_of.items(), *self._order_at.items()])
        at = 0
        for start, order in chunks:
            assert start == at, f"chunks overlap or leave a gap at slot {at}"
            assert start % (1 << order) == 0, f"the chunk at {start} is out of place"
            at += 1 << order
        assert at == self.num_blocks, "slots are lost"
        assert sum(self._asked.values()) == self.num_used, "used slots miscounted"
        for start, order in self._order_at.items():
            assert self._order_at.get(start ^ (1 << order)) != order, "two free buddies are not joined"
        assert all(0 < asked <= 1 << self._order_of[start] for start, asked in self._asked.items())

    def _add_free(self, start: int, order: int) -> None:
        self._order_at[start] = order
        heapq.heappush(self._free[order], start)

    def _pop_free(self, order: int) -> int | None:
        heap = self._free[order]
        while heap:
            start = heapq.heappop(heap)
            if self._order_at.get(start) == order:
                del self._order_at[start]
                return start
        return None


def largest_chunk(num_slots: int) -> int:
    """Slots of the largest chunk of a pool of so many: no longer stretch can ever be taken."""
    return 1 << (num_slots.bit_length() - 1)


def _order(num_slots: int) -> int:
    """log2 of the least power of two that holds so many slots."""
    return (num_slots - 1).bit_length()
