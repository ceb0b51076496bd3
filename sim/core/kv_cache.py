"""`KVCacheManager`: gives sequences the blocks that their next tokens need, on demand, and takes them back.

    tokens   < computed >|< hit >|<      new      >|< lookahead >
    blocks   held        | found | to take, so that all of it has a slot

A sequence gets a block only when it computes into it, so at most `block_size - 1` slots of its last
block are empty (plus lookahead slots, where drafts need them). With prefix caching a full block is
registered when the step that fills it is scheduled, so two requests with one prompt share within the
same step.

Rules and their order are vLLM's (V1). Owns the pool and the prefix index; refuses to know queues,
budgets and time. A shortage is an answer (`AllocStatus`), never an exception.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from dataclasses import dataclass
from enum import Enum
from itertools import chain
from typing import NamedTuple

from sim.core.block_pool import BlockPool, FreeOrder, check_pool
from sim.core.compiling import mypyc_attr
from sim.core.host_tier import HostTier
from sim.core.prefix_cache import PrefixCache
from sim.core.request import Sequence
from sim.core.step import BlockCopy

Moves = tuple[tuple[BlockCopy, ...], tuple[BlockCopy, ...]]
"""Copies to the host, and from it."""
NO_MOVES: Moves = ((), ())


class AllocStatus(Enum):
    """Is there room?"""

    OK = "ok"
    LATER = "later"
    """Not now; when others have ended there will be."""


@mypyc_attr(native_class=False)
@dataclass(frozen=True, slots=True)
class CacheConfig:
    """Size and rules of one replica's KV cache.

    Attributes:
        num_blocks: Blocks that can be handed out.
        block_size: Tokens a block holds.
        enable_prefix_caching: Whether full blocks stay findable by content.
        free_order: Where freed blocks without content go.
        has_null_block: Whether the engine sets one more block aside (vLLM V1's block 0). It is not part of
            `num_blocks`, but fractions of the pool count it.
        num_offload_blocks: Blocks of the host tier that evicted content goes to.
        drops_last_hit: Whether the last block found is computed again (EAGLE, up to vLLM 0.32).
        num_key_lookahead_tokens: Tokens after a block that its key covers too (EAGLE, vLLM 0.33: 1); it is
            registered when they are known.
    """

    num_blocks: int
    block_size: int = 16
    enable_prefix_caching: bool = True
    free_order: FreeOrder = FreeOrder.UNHASHED_FIRST
    has_null_block: bool = True
    num_offload_blocks: int = 0
    drops_last_hit: bool = False
    num_key_lookahead_tokens: int = 0

    def __post_init__(self) -> None:
        if self.num_offload_blocks < 0 or (self.num_offload_blocks and not self.enable_prefix_caching):
            raise ValueError(
                f"num_offload_blocks ({self.num_offload_blocks}) must be at least 0, and needs prefix caching"
            )
        if self.num_blocks < 1 or self.block_size < 1:
            raise ValueError(
                f"num_blocks ({self.num_blocks}) and block_size ({self.block_size}) must be at least 1"
            )

    def fraction_of_blocks(self, fraction: float) -> int:
        """`fraction` of the whole pool in blocks, rounded down, the null block counted as vLLM does."""
        return int(fraction * (self.num_blocks + self.has_null_block))


@mypyc_attr(native_class=False)
@dataclass(slots=True)
class PrefixCacheStats:
    """Tokens asked for and found, counted once for each admission; those of preempted sequences apart."""

    queries: int = 0
    hits: int = 0
    host_hits: int = 0
    """Tokens brought back from the host tier; part of the hits."""
    preempted_queries: int = 0
    preempted_hits: int = 0


class Admission(NamedTuple):
    """What has to be free for a waiting sequence to be let in."""

    num_tokens: int
    """Tokens to compute in this step, beyond the hit."""
    watermark_blocks: int = 0
    """Free blocks that must be left over."""
    whole_sequence: bool = True
    """Whether the whole known sequence must fit, not only this step's part (nothing is reserved by this)."""
    host_hit: tuple[Hashable, ...] = ()
    """Contents of the blocks after the hit that the host tier brings back."""


@mypyc_attr(allow_interpreted_subclasses=True)
class KVCacheManager:
    """Paged KV memory of one replica."""

    __slots__ = (
        "_cache",
        "_max_model_len",
        "_num_lookahead_slots",
        "_tier",
        "_to_tail",
        "block_size",
        "caches_prefixes",
        "config",
        "num_blocks_allocated",
        "num_promised_slots",
        "offloads",
        "pool",
        "stats",
    )

    def __init__(self, config: CacheConfig, *, max_model_len: int, num_lookahead_slots: int = 0) -> None:
        self.config = config
        self.block_size = config.block_size
        self.pool = BlockPool(config.num_blocks, first_id=1 if config.has_null_block else 0)
        self.stats = PrefixCacheStats()
        self.num_blocks_allocated = 0
        self._cache = PrefixCache() if config.enable_prefix_caching else None
        self._tier = HostTier(config.num_offload_blocks) if config.num_offload_blocks else None
        self._max_model_len = max_model_len
        self._num_lookahead_slots = num_lookahead_slots
        self._to_tail = config.free_order is FreeOrder.TAIL
        self.num_promised_slots = 0
        """Slots reserved for tokens to come: none, a block is taken when it is computed into."""
        self.offloads = config.num_offload_blocks > 0
        """Whether evicted blocks go to the host; only then are there moves and host hits."""
        self.caches_prefixes = config.enable_prefix_caching
        """Whether full blocks are registered for reuse."""

    @property
    def num_cached_blocks(self) -> int:
        """Blocks that carry a content key, held or free."""
        return len(self._cache) if self._cache is not None else 0

    def num_blocks_for(self, num_tokens: int) -> int:
        """Blocks that hold `num_tokens` tokens with their lookahead slots."""
        slots = min(num_tokens + self._num_lookahead_slots, self._max_model_len)
        return -(-slots // self.block_size)

    def can_ever_hold(self, seqs: list[Sequence], num_more_tokens: int) -> bool:
        """Whether each of these sequences, with so many more tokens, could be held if it were alone."""
        longest = max(seq.max_known for seq in seqs) - 1 + num_more_tokens
        return self.num_blocks_for(longest) <= self.pool.num_blocks

    def find_hit(self, seq: Sequence) -> list[int]:
        """Blocks that hold the longest known prefix already; the last token is never among them."""
        if self._cache is None or seq.request.content is None:
            return []
        most = (seq.num_known - 1) // self.block_size
        hit = self._cache.find(seq.request.content.keys(seq.sample, 0, most))
        return hit[:-1] if self.config.drops_last_hit else hit

    def find_host_hit(self, seq: Sequence, num_hit_blocks: int) -> tuple[Hashable, ...]:
        """Contents of the blocks after the hit that the host tier has; the last token is never among them."""
        if self._tier is None or seq.request.content is None:
            return ()
        most = (seq.num_known - 1) // self.block_size
        return tuple(self._tier.find(seq.request.content.keys(seq.sample, num_hit_blocks, most)))

    def take_moves(self) -> Moves:
        """Copies to the host and back that the step being planned needs before it computes."""
        return self._tier.take_moves() if self._tier is not None else NO_MOVES

    @property
    def num_free_unmoved(self) -> int:
        """Free blocks that can be handed out without copying anything to the host."""
        return self.pool.num_free if self._tier is None else self.pool.num_contentless

    def admit(self, seq: Sequence, hit: list[int], admission: Admission) -> AllocStatus:
        """Give a waiting sequence its table: the hit blocks, then new ones for this step's tokens.

        Nothing is touched when the answer is LATER.
        """
        pool = self.pool
        num_hit, host_hit = len(hit), admission.host_hit
        num_found_tokens = (num_hit + len(host_hit)) * self.block_size
        num_new = max(self.num_blocks_for(num_found_tokens + admission.num_tokens) - num_hit, 0)
        num_most = num_new
        if admission.whole_sequence:
            num_most = max(num_new, -(-min(seq.num_known, self._max_model_len) // self.block_size) - num_hit)
        num_hit_free = sum(map(pool.is_free, hit)) if hit else 0
        if num_most + num_hit_free + admission.watermark_blocks > pool.num_free:
            return AllocStatus.LATER
        for block in hit:
            pool.share(block)
        seq.table = hit
        seq.num_keyed_blocks = num_hit
        if host_hit:
            self._bring_back(seq, num_new, host_hit)
        else:
            self._take(seq, num_new)
        self._register(seq, min(num_found_tokens + admission.num_tokens, seq.num_known))
        self._count_query(seq, num_found_tokens)
        return AllocStatus.OK

    def grow(self, seq: Sequence, num_tokens: int) -> AllocStatus:
        """Give a running sequence what `num_tokens` tokens more need; nothing is touched on LATER."""
        num_tokens_after = seq.num_computed + num_tokens
        num_new = self.num_blocks_for(num_tokens_after) - len(seq.table)
        if num_new > 0:
            if num_new > self.pool.num_free:
                return AllocStatus.LATER
            self._take(seq, num_new)
        self._register(seq, min(num_tokens_after, seq.num_known))
        return AllocStatus.OK

    def take_one_each(self, tables: Iterable[list[int]], count: int) -> None:
        """Append one new block to each of `count` tables, in order."""
        evicted = self.pool.take_one_each(tables, count)
        if evicted:
            self._forget(evicted)
        self.num_blocks_allocated += count

    def fork(self, parent: Sequence, child: Sequence) -> None:
        """Let `child` share all blocks of `parent`; no block is taken."""
        self.share_leading(parent, child, len(parent.table))

    def share_leading(self, holder: Sequence, other: Sequence, count: int) -> None:
        """Let `other`, which holds nothing, share the first `count` blocks of `holder`."""
        other.table = holder.table[:count]
        other.num_keyed_blocks = min(holder.num_keyed_blocks, count)
        for block in other.table:
            self.pool.share(block)

    def share_table(self, seq: Sequence) -> list[int]:
        """All blocks of a sequence, held once more for another that will take this table over."""
        for block in seq.table:
            self.pool.share(block)
        return seq.table[:]

    def append_slot(self, seq: Sequence) -> BlockCopy | None:
        """Make sure the newest known token has a slot of its own; one block must be free.

        A new block where the last one is full; where the last one is shared, a copy of it for this
        sequence alone (copy-on-write). The last holder writes in place.

        Returns:
            The copy to be made, if any.
        """
        if len(seq.table) * self.block_size < seq.num_known:
            self._take(seq, 1)
            return None
        shared = seq.table[-1]
        if self.pool.num_holders(shared) == 1:
            return None
        self.pool.drop(shared)
        seq.table.pop()
        self._take(seq, 1)
        return BlockCopy(shared, seq.table[-1])

    def register_computed(self, seq: Sequence, num_tokens: int) -> None:
        """Make the full blocks among the first `num_tokens` tokens findable."""
        self._register(seq, num_tokens)

    def free(self, seq: Sequence) -> None:
        """Take back all blocks of a sequence; the deepest ones of a prefix will be handed out first.

        Raises:
            ValueError: It holds none: freed twice, or never admitted.
        """
        table = seq.table
        if not table:
            raise ValueError(f"{seq!r} holds no block to free")
        pool, cache = self.pool, self._cache
        to_tail = self._to_tail
        if cache is None and not to_tail and not pool.num_extra_holders:
            pool.give_front(table)
        else:
            contentless = []
            for block in reversed(table):
                if not pool.drop(block):
                    continue
                if to_tail or (cache is not None and block in cache):
                    pool.give_back(block)
                else:
                    contentless.append(block)
            contentless.reverse()
            pool.give_front(contentless)
        seq.table = []
        seq.num_keyed_blocks = 0

    def free_head(self, count: int) -> list[int]:
        """The first `count` blocks of the free queue."""
        return self.pool.head(count)

    def state(self, holders: Iterable[Sequence]) -> Hashable:
        """All that decisions hang on while these hold blocks; which ids the blocks have does not count."""
        cache = self._cache
        if cache is None:
            return self.pool.num_free
        tables = [seq.table for seq in holders]
        place_of: dict[int, int] = {}
        for block in (*chain.from_iterable(tables), *self.pool.free_blocks()):
            place_of.setdefault(block, len(place_of))
        return (
            tuple(tuple(map(place_of.__getitem__, table)) for table in tables),
            tuple(map(cache.key_of, place_of)),
            frozenset(
                (key, *map(place_of.__getitem__, blocks)) for key, blocks in cache.duplicates().items()
            ),
            tuple(self._tier.keys()) if self._tier is not None else (),
        )

    def check_invariants(self, holders: Iterable[Sequence]) -> None:
        """Recount everything from the tables of `holders`, which must be all live sequences."""
        check_pool(self.pool, [seq.table for seq in holders])
        if self._cache is not None:
            self._cache.check_invariants()
        if self._tier is not None:
            self._tier.check_invariants()

    def _take(self, seq: Sequence, count: int) -> None:
        if count:
            blocks, evicted = self.pool.take(count)
            if evicted:
                self._forget(evicted)
            self.num_blocks_allocated += count
            seq.table += blocks

    def _bring_back(self, seq: Sequence, num_new: int, host_hit: tuple[Hashable, ...]) -> None:
        """Take new blocks, the first of them for what the host tier has."""
        assert self._tier is not None, "only a host tier has hits"
        self._tier.hold(host_hit)
        num_hit = len(seq.table)
        self._take(seq, num_new)
        for key, block in zip(host_hit, seq.table[num_hit:], strict=False):
            self._tier.load(key, block)
        self.stats.host_hits += len(host_hit) * self.block_size

    def _forget(self, evicted: list[int]) -> None:
        """Blocks were handed out again: their content is lost, or goes to the host if it was the last one."""
        cache, tier = self._cache, self._tier
        if cache is None:
            return
        if tier is None:
            cache.forget(evicted)
            return
        for block in evicted:
            key = cache.key_of(block)
            cache.forget((block,))
            if key is not None and not cache.holds(key):
                tier.keep(key, block)

    def _register(self, seq: Sequence, num_tokens: int) -> None:
        if self._cache is None or seq.request.content is None:
            return
        lookahead = self.config.num_key_lookahead_tokens
        if lookahead:
            num_tokens = min(num_tokens, seq.num_known - lookahead)
        start, stop = seq.num_keyed_blocks, num_tokens // self.block_size
        if stop > start:
            self._cache.register(seq.table[start:stop], seq.request.content.keys(seq.sample, start, stop))
            seq.num_keyed_blocks = stop

    def _count_query(self, seq: Sequence, num_hit_tokens: int) -> None:
        if self._cache is None or seq.request.content is None:
            return
        if seq.preemptions:
            self.stats.preempted_queries += seq.num_known
            self.stats.preempted_hits += num_hit_tokens
        else:
            self.stats.queries += seq.num_known
            self.stats.hits += num_hit_tokens
