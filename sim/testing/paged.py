"""`PagedAllocator`: our own paged memory behind the interface that `AllocatorMachine` faces.

Composes what the schedulers use: `KVCacheManager` with its prefix cache and host tier, and `SwapSpace`. As in
the simulator, a memory either swaps or caches prefixes.
"""

from __future__ import annotations

from collections.abc import Hashable
from collections.abc import Sequence as AbstractSequence

from sim.core.allocator import LATER, Grant
from sim.core.kv_cache import Admission, AllocStatus, CacheConfig, KVCacheManager
from sim.core.request import Request, Sequence
from sim.core.swap import SwapSpace, num_distinct_blocks

_LONGEST = 2**40
"""Tokens of a sequence: what it holds is bounded by the pool alone."""


class _Content:
    """A block's content is all tokens up to its end."""

    def __init__(self, tokens: list[Hashable], block_size: int) -> None:
        self.tokens = tokens
        self._block_size = block_size

    def keys(self, sample: int, start: int, stop: int) -> list[Hashable]:
        """The keys of full blocks."""
        return [tuple(self.tokens[: (block + 1) * self._block_size]) for block in range(start, stop)]


class PagedAllocator:
    """Implements `sim.core.allocator.KVAllocator`.

    Args:
        num_blocks: Blocks of the device.
        block_size: Tokens of a block.
        num_host_blocks: Host blocks for swapped sequences; 0 where prefixes are cached.
        caches_prefixes: Whether full blocks are found again by content.
        num_offload_blocks: Host blocks of the prefix cache's second tier.
    """

    def __init__(
        self,
        num_blocks: int,
        block_size: int,
        num_host_blocks: int = 0,
        *,
        caches_prefixes: bool = False,
        num_offload_blocks: int = 0,
    ) -> None:
        config = CacheConfig(
            num_blocks,
            block_size,
            enable_prefix_caching=caches_prefixes,
            has_null_block=False,
            num_offload_blocks=num_offload_blocks,
        )
        self.num_blocks = num_blocks
        self.block_size = block_size
        self.num_host_blocks = 0 if caches_prefixes else num_host_blocks
        self.num_offload_blocks = num_offload_blocks
        self._kv = KVCacheManager(config, max_model_len=_LONGEST)
        self._swap = SwapSpace(self._kv.pool, self.num_host_blocks) if self.num_host_blocks else None
        self._seqs: dict[int, Sequence] = {}
        self._contents: dict[int, _Content] = {}
        self._swapped: set[int] = set()

    @property
    def num_free(self) -> int:
        """Device blocks that can be handed out."""
        return self._kv.pool.num_free

    @property
    def num_free_host(self) -> int:
        """Host blocks that can be handed out."""
        return self._swap.host.num_free if self._swap is not None else 0

    def admit(self, seq_id: int, tokens: AbstractSequence[Hashable]) -> Grant:
        """See `KVAllocator`."""
        content = _Content(list(tokens), self.block_size)
        request = Request(seq_id, 0, len(tokens), _LONGEST - len(tokens), content=content)
        seq = Sequence(seq_id, request, 0, _LONGEST)
        hit = self._kv.find_hit(seq)
        host_hit = self._kv.find_host_hit(seq, len(hit))
        num_cached = (len(hit) + len(host_hit)) * self.block_size
        admission = Admission(len(tokens) - num_cached, host_hit=host_hit)
        if self._kv.admit(seq, hit, admission) is AllocStatus.LATER:
            return LATER
        self._seqs[seq_id], self._contents[seq_id] = seq, content
        to_host, from_host = self._kv.take_moves()
        return Grant(AllocStatus.OK, num_cached, to_host, from_host)

    def append(self, seq_id: int, token: Hashable) -> Grant:
        """See `KVAllocator`."""
        seq = self._seqs[seq_id]
        if self._needs_block(seq) and not self._kv.pool.num_free:
            return LATER
        self._contents[seq_id].tokens.append(token)
        seq.num_known += 1
        copy = self._kv.append_slot(seq)
        self._kv.register_computed(seq, seq.num_known)
        to_host, from_host = self._kv.take_moves()
        return Grant(AllocStatus.OK, 0, to_host, from_host, () if copy is None else (copy,))

    def _needs_block(self, seq: Sequence) -> bool:
        is_full = len(seq.table) * self.block_size < seq.num_known + 1
        return is_full or self._kv.pool.num_holders(seq.table[-1]) > 1

    def fork(self, parent_id: int, child_id: int) -> None:
        """See `KVAllocator`."""
        parent, tokens = self._seqs[parent_id], self._contents[parent_id].tokens
        content = _Content(tokens[:], self.block_size)
        request = Request(child_id, 0, parent.num_prompt_tokens, _LONGEST, content=content)
        child = Sequence(child_id, request, 0, _LONGEST)
        child.num_known = parent.num_known
        self._kv.fork(parent, child)
        self._seqs[child_id], self._contents[child_id] = child, content

    def free(self, seq_id: int) -> None:
        """See `KVAllocator`."""
        seq = self._seqs.pop(seq_id)
        del self._contents[seq_id]
        if seq_id in self._swapped:
            assert self._swap is not None, "only a host pool holds swapped sequences"
            self._swapped.remove(seq_id)
            self._swap.free(seq)
        else:
            self._kv.free(seq)

    def swap_out(self, seq_ids: AbstractSequence[int]) -> Grant:
        """See `KVAllocator`."""
        seqs = [self._seqs[seq_id] for seq_id in seq_ids]
        if self._swap is None or not self._swap.can_swap_out(seqs):
            return LATER
        moves = self._swap.swap_out(seqs)
        self._swapped.update(seq_ids)
        return Grant(AllocStatus.OK, to_host=tuple(moves))

    def swap_in(self, seq_ids: AbstractSequence[int]) -> Grant:
        """See `KVAllocator`."""
        seqs = [self._seqs[seq_id] for seq_id in seq_ids]
        if self._swap is None or num_distinct_blocks(seqs) > self._kv.pool.num_free:
            return LATER
        moves = self._swap.swap_in(seqs)
        self._swapped.difference_update(seq_ids)
        return Grant(AllocStatus.OK, from_host=tuple(moves))

    def table(self, seq_id: int) -> list[int]:
        """See `KVAllocator`."""
        return self._seqs[seq_id].table

    def num_references(self, block: int) -> int:
        """See `KVAllocator`."""
        return 0 if block in self._kv.pool.free_blocks() else self._kv.pool.num_holders(block)

    def holds(self, tokens: AbstractSequence[Hashable]) -> bool:
        """Whether a block of the device with this content, of whole blocks, can be found."""
        key = tuple(tokens)
        return bool(self._kv.caches_prefixes and self._kv._cache is not None and self._kv._cache.holds(key))
