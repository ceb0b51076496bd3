"""Where the keys and values of sequences lie, and how the twins gather them.

    block_tables[s] = [ 7, 2, 9, ? ]      block_size 4, context_lens[s] = 9
    position   0 1 2 3   4 5 6 7   8
    slot       28 ... 31 8 ... 11  36     nothing past position 8 is ever looked at: not the fourth
                                          entry of the table, nor slots 37 to 39

Owns the checks and the gathering that decode and prefill attention share. Refuses to know attention.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from gpu_backend.ops.implementation import (
    require,
    require_dense_rows,
    require_integers,
    require_same_device,
    require_shape,
)


@dataclass(frozen=True, slots=True)
class PagedContext:
    """The cached keys and values of one layer, and which slots belong to which sequence."""

    key_cache: torch.Tensor  # [num_blocks, block_size, num_kv_heads, head_dim]
    value_cache: torch.Tensor  # [num_blocks, block_size, num_kv_heads, head_dim]
    block_tables: torch.Tensor  # [num_seqs, max_blocks] int32
    context_lens: torch.Tensor  # [num_seqs] int32

    @property
    def block_size(self) -> int:
        """Slots per block."""
        return self.key_cache.shape[1]

    @property
    def num_kv_heads(self) -> int:
        """Heads of keys and values."""
        return self.key_cache.shape[2]

    def bytes_of_contexts(self) -> int:
        """Bytes of all keys and values of these contexts; waits for the device."""
        per_token = 2 * self.key_cache[0, 0].numel() * self.key_cache.element_size()
        return int(self.context_lens.sum()) * per_token

    def of(self, rows: torch.Tensor) -> PagedContext:
        """The context of some of the sequences; rows is [num_rows] int64."""
        return PagedContext(
            self.key_cache, self.value_cache, self.block_tables[rows], self.context_lens[rows]
        )


def check_context(query: torch.Tensor, context: PagedContext) -> None:
    """Raises OpInputError where query [n, num_heads, head_dim] and the context do not go together."""
    keys, tables = context.key_cache, context.block_tables
    require(query.dim() == 3, f"query has {query.dim()} dimensions, expected 3: tokens, heads, head_dim")
    require(keys.dim() == 4, f"key_cache has {keys.dim()} dimensions, expected 4")
    require(tables.dim() == 2, f"block_tables has {tables.dim()} dimensions, expected 2")
    require_shape("value_cache", context.value_cache, tuple(keys.shape))
    require_shape("context_lens", context.context_lens, (tables.shape[0],))
    require_integers("block_tables", tables)
    require_integers("context_lens", context.context_lens)
    heads, head_dim = query.shape[1:]
    require(head_dim == keys.shape[3], f"query has head_dim {head_dim}, the cache {keys.shape[3]}")
    require(heads % keys.shape[2] == 0, f"{heads} query heads cannot share {keys.shape[2]} key heads evenly")
    require(query.dtype == keys.dtype == context.value_cache.dtype, "query and caches differ in dtype")
    require_same_device(
        query=query,
        key_cache=keys,
        value_cache=context.value_cache,
        block_tables=tables,
        context_lens=context.context_lens,
    )
    for name, tensor in (("query", query), ("key_cache", keys), ("value_cache", context.value_cache)):
        require_dense_rows(name, tensor)


def context_slots(context: PagedContext) -> tuple[torch.Tensor, torch.Tensor]:
    """Slot of every position, and which positions exist: both [num_seqs, longest context].

    A position past its sequence's context names the slot of position 0, so nothing foreign is read.
    """
    lens = context.context_lens
    longest = max(1, int(lens.max())) if lens.numel() else 1
    positions = torch.arange(longest, device=lens.device)  # [longest]
    valid = positions < lens[:, None]  # [num_seqs, longest]
    inside = torch.where(valid, positions, 0)  # [num_seqs, longest]
    blocks = context.block_tables.gather(1, inside // context.block_size)  # [num_seqs, longest]
    slots = blocks.long() * context.block_size + inside % context.block_size
    empty = lens == 0
    if bool(empty.any()):  # its table may hold anything
        slots = slots.masked_fill(empty[:, None], 0)
    return slots, valid


def gather_slots(cache: torch.Tensor, slots: torch.Tensor) -> torch.Tensor:
    """Copies of some slots of a cache: [*slots.shape, num_kv_heads, head_dim]."""
    num_blocks, block_size = cache.shape[:2]
    if cache.stride(0) != block_size * cache.stride(1) and num_blocks > 1:
        return cache[slots // block_size, slots % block_size]
    rows = cache.as_strided((num_blocks * block_size, *cache.shape[2:]), cache.stride()[1:])
    return rows.index_select(0, slots.reshape(-1)).view(*slots.shape, *cache.shape[2:])
