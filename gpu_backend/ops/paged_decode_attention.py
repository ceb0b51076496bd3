"""Attention of one new token per sequence over its paged context.

    out[s, h] = sum_t softmax_t(scale query[s, h] . key[t, h / group]) value[t, h / group], t < context_len[s]

where key[t] lies in block block_tables[s, t // block_size], slot t % block_size (`paged_context.py` has the
picture). Owns the op in its three forms. Refuses to know prompts: queries of several tokens are
`paged_prefill_attention`.

Invariants: nothing outside the contexts is read, whatever lies there; a sequence without context gives
zeros (padded rows of a CUDA graph).
"""

from __future__ import annotations

import torch
from torch.nn import functional

from gpu_backend.launches import count_launch
from gpu_backend.ops import pieces
from gpu_backend.ops.implementation import Implementation, require
from gpu_backend.ops.paged_context import PagedContext, check_context, context_slots, gather_slots


def paged_decode_attention(
    query: torch.Tensor,  # [num_seqs, num_heads, head_dim]
    context: PagedContext,
    scale: float,
    implementation: Implementation = Implementation.TWIN,
) -> torch.Tensor:
    """Attends from one token per sequence; returns [num_seqs, num_heads, head_dim].

    Args:
        query: rotated queries of the newest token of each sequence.
        context: caches and tables; context_lens count the new token, whose key and value are already cached.
        scale: factor on the scores, usually head_dim ** -0.5.
        implementation: which form of the op.

    Raises:
        OpInputError: for shapes, dtypes, strides or devices that do not go together.
    """
    check_context(query, context)
    require(query.shape[0] == context.block_tables.shape[0], "one query per sequence is needed")
    match implementation:
        case Implementation.TWIN:
            return _twin(query, context, scale)
        case Implementation.UNFUSED:
            return _unfused(query, context, scale)
        case Implementation.KERNEL:
            raise NotImplementedError


def _twin(query: torch.Tensor, context: PagedContext, scale: float) -> torch.Tensor:
    num_seqs, num_heads, head_dim = query.shape
    if num_seqs == 0:
        return torch.empty_like(query)
    slots, valid = context_slots(context)  # [num_seqs, longest]
    keys = gather_slots(context.key_cache, slots).transpose(
        1, 2
    )  # [num_seqs, num_kv_heads, longest, head_dim]
    values = gather_slots(context.value_cache, slots).transpose(1, 2)
    grouped = query.reshape(
        num_seqs, context.num_kv_heads, -1, head_dim
    )  # the heads of a group are rows of one product
    out = functional.scaled_dot_product_attention(
        grouped, keys, values, attn_mask=valid[:, None, None, :], scale=scale
    )  # [num_seqs, num_kv_heads, group, head_dim]
    count_launch("paged_decode_attention", lambda: (query, context.bytes_of_contexts()), (out,))
    return _zero_without_context(out.reshape(num_seqs, num_heads, head_dim), context.context_lens)


def _unfused(query: torch.Tensor, context: PagedContext, scale: float) -> torch.Tensor:
    num_seqs, num_heads, head_dim = query.shape
    slots, valid = context_slots(context)  # [num_seqs, longest]
    keys = pieces.take_rows(
        context.key_cache.flatten(0, 1), slots
    )  # [num_seqs, longest, num_kv_heads, head_dim]
    values = pieces.take_rows(context.value_cache.flatten(0, 1), slots)
    grouped = query.reshape(num_seqs, context.num_kv_heads, -1, head_dim)
    scores = pieces.matmul(grouped, keys.permute(0, 2, 3, 1))  # [num_seqs, num_kv_heads, group, longest]
    scores = pieces.scaled(scores, scale)
    scores = pieces.fill_where(scores, ~valid[:, None, None, :], float("-inf"))
    weights = pieces.softmax(scores)
    out = pieces.matmul(weights, values.transpose(1, 2))  # [num_seqs, num_kv_heads, group, head_dim]
    return _zero_without_context(out.reshape(num_seqs, num_heads, head_dim), context.context_lens)


def _zero_without_context(out: torch.Tensor, context_lens: torch.Tensor) -> torch.Tensor:
    empty = context_lens == 0  # [num_seqs]
    return out.masked_fill(empty[:, None, None], 0.0) if bool(empty.any()) else out
