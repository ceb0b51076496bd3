"""Faults to be planted in our allocator, one at a time, each a small patch; the machine must find them all."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any
from unittest.mock import patch

from sim.core import swap
from sim.core.block_pool import BlockPool
from sim.core.host_tier import HostTier
from sim.core.kv_cache import AllocStatus, KVCacheManager
from sim.core.prefix_cache import PrefixCache
from sim.core.request import Request, Sequence
from sim.core.step import BlockCopy
from sim.core.swap import SwapSpace
from sim.testing import Grant, PagedAllocator


@dataclass(frozen=True)
class Fault:
    """One fault: what is patched, and by what.

    Attributes:
        make: Gives the wrong function, from the right one.
        machine: Which machine must find it: `swap` or `prefix`.
    """

    what: str
    owner: Any
    name: str
    make: Callable[[Any], Any]
    machine: str = "swap"

    def planted(self) -> AbstractContextManager[Any]:
        """While this lasts, the fault is there."""
        return patch.object(self.owner, self.name, self.make(self.owner.__dict__[self.name]))


def _free_all_but(right: Any) -> Any:
    def free(self: KVCacheManager, seq: Any) -> None:
        if len(seq.table) > 1:
            seq.table = seq.table[:-1]
        right(self, seq)

    return free


def _free_twice(right: Any) -> Any:
    def free(self: KVCacheManager, seq: Any) -> None:
        table = seq.table[:]
        right(self, seq)
        self.pool.give_front(table)

    return free


def _no_copy_on_write(right: Any) -> Any:
    def append_slot(self: KVCacheManager, seq: Any) -> BlockCopy | None:
        if len(seq.table) * self.block_size < seq.num_known:
            return right(self, seq)  # type: ignore[no-any-return]
        return None

    return append_slot


def _with_copy(change: Callable[[BlockCopy], BlockCopy | None]) -> Callable[[Any], Any]:
    def make(right: Any) -> Any:
        def append_slot(self: KVCacheManager, seq: Any) -> BlockCopy | None:
            copy = right(self, seq)
            return None if copy is None else change(copy)

        return append_slot

    return make


def _copy_keeps_its_reference(right: Any) -> Any:
    def append_slot(self: KVCacheManager, seq: Any) -> BlockCopy | None:
        shared = seq.table[-1] if seq.table else None
        copy = right(self, seq)
        if copy is not None and shared is not None:
            self.pool.share(shared)
        return copy  # type: ignore[no-any-return]

    return append_slot


def _last_holder_copies_too(right: Any) -> Any:
    def append_slot(self: KVCacheManager, seq: Any) -> BlockCopy | None:
        if len(seq.table) * self.block_size < seq.num_known or self.pool.num_holders(seq.table[-1]) > 1:
            return right(self, seq)  # type: ignore[no-any-return]
        old = seq.table.pop()
        self._take(seq, 1)
        return BlockCopy(old, seq.table[-1])

    return append_slot


def _edge(shift: int) -> Callable[[Any], Any]:
    def make(right: Any) -> Any:
        def append_slot(self: KVCacheManager, seq: Any) -> BlockCopy | None:
            seq.num_known += shift
            try:
                return right(self, seq)  # type: ignore[no-any-return]
            finally:
                seq.num_known -= shift

        return append_slot

    return make


def _blocks_for(shift: int) -> Callable[[Any], Any]:
    return lambda right: lambda self, num_tokens: max(right(self, num_tokens) + shift, 0)


def _fork_shares(count: Callable[[int], int]) -> Callable[[Any], Any]:
    def make(right: Any) -> Any:
        def fork(self: KVCacheManager, parent: Any, child: Any) -> None:
            self.share_leading(parent, child, count(len(parent.table)))

        return fork

    return make


def _fork_without_references(right: Any) -> Any:
    def fork(self: KVCacheManager, parent: Any, child: Any) -> None:
        child.table = parent.table[:]

    return fork


def _fork_uses_the_same_list(right: Any) -> Any:
    def fork(self: KVCacheManager, parent: Any, child: Any) -> None:
        right(self, parent, child)
        child.table = parent.table

    return fork


def _move(*, shares: bool = True, gives_up: bool = True, reversed_: bool = False) -> Callable[[Any], Any]:
    """`swap._move` with something left out."""

    def make(_: Any) -> Any:
        def move(seqs: Any, source: BlockPool, target: BlockPool) -> list[BlockCopy]:
            new_block: dict[int, int] = {}
            copies = []
            for seq in seqs:
                moved = []
                for block in seq.table:
                    if block in new_block and shares:
                        target.share(new_block[block])
                    elif block not in new_block:
                        new_block[block] = target.take(1)[0][0]
                        pair = (new_block[block], block) if reversed_ else (block, new_block[block])
                        copies.append(BlockCopy(*pair))
                    moved.append(new_block[block])
                if gives_up:
                    swap.give_up(source, seq.table)
                seq.table = moved
            return copies

        return move

    return make


def _move_each_table_by_itself(_: Any) -> Any:
    def move(seqs: Any, source: BlockPool, target: BlockPool) -> list[BlockCopy]:
        copies = []
        for seq in seqs:
            moved, _evicted = target.take(len(seq.table))
            copies += [BlockCopy(*pair) for pair in zip(seq.table, moved, strict=True)]
            swap.give_up(source, seq.table)
            seq.table = moved
        return copies

    return move


def _host_twice_as_large(right: Any) -> Any:
    return lambda self, device, num_host_blocks: right(self, device, 2 * num_host_blocks)


def _swapped_end_keeps_its_blocks(right: Any) -> Any:
    def free(self: SwapSpace, seq: Any) -> None:
        seq.table = []

    return free


def _take_and_keep(right: Any) -> Any:
    def take(self: BlockPool, count: int) -> Any:
        taken, evicted = right(self, count)
        self._front += taken[-1:]
        return taken, evicted

    return take


def _newest_content_first(right: Any) -> Any:
    def take(self: BlockPool, count: int) -> Any:
        self._back = type(self._back)(reversed(self._back.items()))
        try:
            return right(self, count)
        finally:
            self._back = type(self._back)(reversed(self._back.items()))

    return take


def _content_goes_to_the_front(right: Any) -> Any:
    return lambda self, block: self._front.append(block)


def _share_takes_it_not_out_of_the_queue(right: Any) -> Any:
    def share(self: BlockPool, block: int) -> None:
        if block not in self._back:
            right(self, block)

    return share


def _find_by_own_tokens_only(right: Any) -> Any:
    def find(self: PrefixCache, keys: Iterable[Any]) -> list[int]:
        keys = list(keys)
        size = len(keys[0]) if keys else 0
        own = {key[-size:]: block for key, block in self._block_of.items()}  # type: ignore[index]
        found = []
        for key in keys:
            if key[-size:] not in own:
                break
            found.append(own[key[-size:]])
        return found if len(set(found)) == len(found) else found[:1]

    return find


def _find_one_less(right: Any) -> Any:
    return lambda self, keys: right(self, keys)[1:]


def _hit_the_last_token(right: Any) -> Any:
    def find_hit(self: KVCacheManager, seq: Any) -> list[int]:
        seq.num_known += 1
        try:
            return right(self, seq)  # type: ignore[no-any-return]
        finally:
            seq.num_known -= 1

    return find_hit


def _register_one_too_early(right: Any) -> Any:
    def register(self: KVCacheManager, seq: Any, num_tokens: int) -> None:
        start, stop = seq.num_keyed_blocks, min(-(-num_tokens // self.block_size), len(seq.table))
        if self._cache is not None and seq.request.content is not None and stop > start:
            keys = seq.request.content.keys(seq.sample, start, stop)
            self._cache.register(seq.table[start:stop], keys)
            seq.num_keyed_blocks = stop

    return register


def _keys_of_the_next_block(right: Any) -> Any:
    def register(self: PrefixCache, blocks: Any, keys: Any) -> None:
        right(self, blocks, [key[::-1] for key in keys])

    return register


def _keep_over_what_is_loading(right: Any) -> Any:
    def hold(self: HostTier, keys: Iterable[Hashable]) -> None:
        keys = list(keys)
        right(self, keys)
        self._kept.update(dict.fromkeys(keys))
        self._loaded = _ForgetsForOthers(self._loaded)

    return hold


class _ForgetsForOthers(set[Hashable]):
    """Is empty to whoever counts it against the order; loading still finds what it held."""

    def __rsub__(self, other: Any) -> Any:
        return other


def _load_without_the_assertion(right: Any) -> Any:
    def load(self: HostTier, key: Hashable, device_block: int) -> None:
        other = next(iter(self._block_of.values()))
        self._moves_in.append(BlockCopy(other, device_block))

    return load


def _keep_copies_of_what_left_again(right: Any) -> Any:
    def keep(self: HostTier, key: Hashable, device_block: int) -> None:
        before = list(self._moves_out.values())
        right(self, key, device_block)
        new = {block: move for block, move in self._moves_out.items() if move not in before}
        self._moves_out = {-1 - place: move for place, move in enumerate(before)} | new

    return keep


def _forget_to_copy_out(right: Any) -> Any:
    def keep(self: HostTier, key: Hashable, device_block: int) -> None:
        right(self, key, device_block)
        self._moves_out.clear()

    return keep


# One fault a line reads best, however long.
# fmt: off
# ruff: noqa: E501
def _after_a_refusal(act: Callable[..., object]) -> Callable[[Any], Any]:
    """The right operation, and if it is refused, something more."""

    def make(right: Any) -> Any:
        def operation(self: Any, *arguments: Any) -> Any:
            answer = right(self, *arguments)
            status = answer.status if isinstance(answer, Grant) else answer
            if status is AllocStatus.LATER:
                act(self, *arguments)
            return answer

        return operation

    return make


def _leave_a_table(self: PagedAllocator, seq_id: int, tokens: Any) -> None:
    self._seqs[seq_id] = Sequence(seq_id, Request(seq_id, 0, 1, 1), 0, 2)


def _hold_what_was_found(self: KVCacheManager, seq: Any, hit: list[int], admission: Any) -> None:
    for block in hit:
        self.pool.share(block)


def _lose_what_was_found(self: KVCacheManager, seq: Any, hit: list[int], admission: Any) -> None:
    if self._cache is not None:
        self._cache.forget(hit)


def _count_the_token(self: PagedAllocator, seq_id: int, token: Hashable) -> None:
    self._seqs[seq_id].num_known += 1


def _call_it_swapped(self: PagedAllocator, seq_ids: list[int]) -> None:
    self._swapped.update(seq_ids)


FAULTS: tuple[Fault, ...] = (
    Fault("the last block leaks when a sequence ends", KVCacheManager, "free", _free_all_but),
    Fault("the blocks of a sequence are freed twice", KVCacheManager, "free", _free_twice),
    Fault("copy-on-write is skipped", KVCacheManager, "append_slot", _no_copy_on_write),
    Fault("the copy of a write is not reported", KVCacheManager, "append_slot", _with_copy(lambda _: None)),
    Fault(
        "the copy of a write goes the wrong way",
        KVCacheManager,
        "append_slot",
        _with_copy(lambda copy: BlockCopy(copy.dst, copy.src)),
    ),
    Fault("the copied block keeps a reference", KVCacheManager, "append_slot", _copy_keeps_its_reference),
    Fault(
        "the last holder loses the block it copies", KVCacheManager, "append_slot", _last_holder_copies_too
    ),
    Fault("the next block comes one token too late", KVCacheManager, "append_slot", _edge(-1)),
    Fault("the next block comes one token too early", KVCacheManager, "append_slot", _edge(1)),
    Fault("an admission gets a block too few", KVCacheManager, "num_blocks_for", _blocks_for(-1)),
    Fault("an admission gets a block too many", KVCacheManager, "num_blocks_for", _blocks_for(1)),
    Fault("a fork shares a block too few", KVCacheManager, "fork", _fork_shares(lambda count: count - 1)),
    Fault("a fork adds no references", KVCacheManager, "fork", _fork_without_references),
    Fault("a fork shares the very table", KVCacheManager, "fork", _fork_uses_the_same_list),
    Fault("a swap moves shared blocks once for each holder", swap, "_move", _move_each_table_by_itself),
    Fault("a swap counts one holder of a shared block", swap, "_move", _move(shares=False)),
    Fault("a swap keeps the blocks it leaves", swap, "_move", _move(gives_up=False)),
    Fault("a swap copies the wrong way", swap, "_move", _move(reversed_=True)),
    Fault("the host pool is counted twice", SwapSpace, "__init__", _host_twice_as_large),
    Fault("a full host pool is not noticed", SwapSpace, "can_swap_out", lambda _: lambda self, seqs: True),
    Fault("ending a swapped sequence leaks host blocks", SwapSpace, "free", _swapped_end_keeps_its_blocks),
    Fault("a block is handed out and stays free", BlockPool, "take", _take_and_keep),
    Fault(
        "the first holder to leave frees a shared block",
        BlockPool,
        "drop",
        lambda _: lambda self, block: True,
    ),
    Fault("no holder that leaves frees a block", BlockPool, "drop", lambda _: lambda self, block: False),
    Fault("sharing adds no reference", BlockPool, "share", lambda _: lambda self, block: None),
    Fault("the newest content is evicted first", BlockPool, "take", _newest_content_first, "prefix"),
    Fault(
        "freed content goes to the head of the queue",
        BlockPool,
        "give_back",
        _content_goes_to_the_front,
        "prefix",
    ),
    Fault(
        "a hit stays in the free queue", BlockPool, "share", _share_takes_it_not_out_of_the_queue, "prefix"
    ),
    Fault("a block is found by its own tokens, whatever came before", PrefixCache, "find", _find_by_own_tokens_only, "prefix"),
    Fault("a look-up forgets the first block", PrefixCache, "find", _find_one_less, "prefix"),
    Fault(
        "an evicted block can still be found",
        PrefixCache,
        "forget",
        lambda _: lambda self, blocks: None,
        "prefix",
    ),
    Fault(
        "content is registered under another key", PrefixCache, "register", _keys_of_the_next_block, "prefix"
    ),
    Fault(
        "the last token is taken from the cache", KVCacheManager, "find_hit", _hit_the_last_token, "prefix"
    ),
    Fault(
        "a block is registered before it is full",
        KVCacheManager,
        "_register",
        _register_one_too_early,
        "prefix",
    ),
    Fault(
        "a host block is overwritten while it loads", HostTier, "hold", _keep_over_what_is_loading, "prefix"
    ),
    Fault("another content is loaded from the host", HostTier, "load", _load_without_the_assertion, "prefix"),
    Fault("a host block is copied to twice in a step", HostTier, "keep", _keep_copies_of_what_left_again, "prefix"),
    Fault("an evicted content is not copied out", HostTier, "keep", _forget_to_copy_out, "prefix"),
    Fault("a refused newcomer leaves a table", PagedAllocator, "admit", _after_a_refusal(_leave_a_table)),
    Fault("a refused token is counted", PagedAllocator, "append", _after_a_refusal(_count_the_token)),
    Fault("a refused swap counts as done", PagedAllocator, "swap_out", _after_a_refusal(_call_it_swapped)),
    Fault("a refused newcomer holds what it found", KVCacheManager, "admit", _after_a_refusal(_hold_what_was_found), "prefix"),
    Fault("a refused newcomer loses what it found", KVCacheManager, "admit", _after_a_refusal(_lose_what_was_found), "prefix"),
)
