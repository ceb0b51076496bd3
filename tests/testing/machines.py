"""Our own allocator before the machine: once with swap, once with a prefix cache and its host tier."""

from __future__ import annotations

from collections.abc import Hashable

from sim.testing import AllocatorMachine, PagedAllocator, claim, holds


class SwapMachine(AllocatorMachine):
    """Forks, copy-on-write, swap."""

    def make_allocator(self, num_blocks: int, block_size: int, num_host_blocks: int) -> PagedAllocator:
        return PagedAllocator(num_blocks, block_size, num_host_blocks)


class PrefixMachine(AllocatorMachine):
    """Forks, copy-on-write, prefix reuse, the host tier, and the order in which contents are evicted."""

    def __init__(self) -> None:
        super().__init__()
        self.freed: dict[tuple[Hashable, ...], None] = {}
        """Contents that nobody holds any more, least recently freed first."""

    def make_allocator(self, num_blocks: int, block_size: int, num_host_blocks: int) -> PagedAllocator:
        return PagedAllocator(
            num_blocks, block_size, caches_prefixes=True, num_offload_blocks=num_host_blocks
        )

    @property
    def paged(self) -> PagedAllocator:
        assert isinstance(self.allocator, PagedAllocator), "made above"
        return self.allocator

    def read_back(self, newcomer: object = None) -> dict[str, object]:
        """With what can be found by its content."""
        found = [content for content in self.freed if self.paged.holds(content)]
        return {**super().read_back(newcomer), "what is found": found}

    def _free(self, seq_id: int) -> None:
        history = (self.histories | self.swapped)[seq_id]
        blocks = list(self.paged.table(seq_id))
        super()._free(seq_id)
        size = self.paged.block_size
        for place in reversed(range(len(history) // size)):
            content = tuple(history[: (place + 1) * size])
            if not self.paged.num_references(blocks[place]) and not self._is_held(content, seq_id):
                self.freed.pop(content, None)
                self.freed[content] = None

    def _is_held(self, content: tuple[Hashable, ...], but: int) -> bool:
        """Whether a sequence holds a block with this content, its own copy perhaps."""
        size = len(content)
        return any(
            seq_id != but and tuple(history[:size]) == content for seq_id, history in self.histories.items()
        )

    @claim
    def the_least_recently_freed_content_goes_first(self) -> None:
        """Of the contents nobody holds, those that were lost are the ones freed longest ago."""
        for content in [content for content in self.freed if self._is_held(content, -1)]:
            del self.freed[content]
        kept = [self.paged.holds(content) for content in self.freed]
        holds(
            "the_least_recently_freed_content_goes_first",
            kept == sorted(kept),
            f"of {len(kept)} free contents, oldest first, these are left: {kept}",
        )
        self.freed = {content: None for content, is_kept in zip(self.freed, kept, strict=True) if is_kept}

    @claim
    def what_is_held_is_found(self) -> None:
        """A full block of a live sequence can be found by its content."""
        size = self.paged.block_size
        for seq_id, history in self.histories.items():
            for stop in range(size, len(history) + 1, size):
                holds("what_is_held_is_found", self.paged.holds(history[:stop]), f"{stop} tokens of {seq_id}")
