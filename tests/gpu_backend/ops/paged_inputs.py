"""Paged contexts with poison wherever nothing may be read, and attention written out word by word."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from gpu_backend.ops.paged_context import PagedContext
from tests.gpu_backend.ops.ways import POISON

FOREIGN_BLOCK = 2_000_000_000
"""What the tables hold past a context: looking there would leave every tensor."""


def poisoned_context(
    context_lens: Sequence[int],
    *,
    num_kv_heads: int,
    head_dim: int,
    block_size: int,
    dtype: torch.dtype,
    device: str = "cpu",
) -> PagedContext:
    """Random keys and values in shuffled blocks; other slots are NaN, other table entries foreign."""
    generator = torch.Generator().manual_seed(len(context_lens) + 7 * head_dim)
    num_blocks = [-(-length // block_size) for length in context_lens]
    order = torch.randperm(sum(num_blocks) + 3, generator=generator).tolist()
    shape = (len(order), block_size, num_kv_heads, head_dim)
    keys, values = torch.full(shape, POISON), torch.full(shape, POISON)
    tables = torch.full((len(context_lens), max(num_blocks) + 1), FOREIGN_BLOCK, dtype=torch.int32)
    for seq, length in enumerate(context_lens):
        for index in range(num_blocks[seq]):
            block, used = order.pop(), min(block_size, length - index * block_size)
            tables[seq, index] = block
            keys[block, :used] = torch.randn((used, *shape[2:]), generator=generator)
            values[block, :used] = torch.randn((used, *shape[2:]), generator=generator)
    lens = torch.tensor(context_lens, dtype=torch.int32)
    return PagedContext(keys.to(device, dtype), values.to(device, dtype), tables.to(device), lens.to(device))


def exact(context: PagedContext) -> PagedContext:
    """The same context in float64, on the CPU."""
    keys, values = context.key_cache.double().cpu(), context.value_cache.double().cpu()
    return PagedContext(keys, values, context.block_tables.cpu(), context.context_lens.cpu())


def attention_word_by_word(
    query: torch.Tensor,  # [num_tokens, num_heads, head_dim]
    context: PagedContext,
    query_starts: Sequence[int],
    scale: float,
) -> torch.Tensor:
    """The definition: one sequence, one token, one head at a time."""
    out = torch.zeros_like(query)
    group = query.shape[1] // context.num_kv_heads
    for seq, length in enumerate(context.context_lens.tolist()):
        first, stop = query_starts[seq], query_starts[seq + 1]
        slots = [
            (int(context.block_tables[seq, position // context.block_size]), position % context.block_size)
            for position in range(length)
        ]
        for token in range(first, stop):
            seen = slots[: length - (stop - 1 - token)]
            for head in range(query.shape[1]):
                keys = torch.stack([context.key_cache[block, slot, head // group] for block, slot in seen])
                values = torch.stack(
                    [context.value_cache[block, slot, head // group] for block, slot in seen]
                )
                weights = (keys @ query[token, head] * scale).softmax(0)
                out[token, head] = weights @ values
    return out


def starts_of(num_new: Sequence[int]) -> torch.Tensor:
    """query_starts of sequences with so many new tokens each: [num_seqs + 1] int32."""
    return torch.tensor([0, *torch.tensor(num_new).cumsum(0).tolist()], dtype=torch.int32)
