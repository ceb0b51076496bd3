"""Attention of several new tokens per sequence over its paged context, causal over the paged keys.

    sequence s has tokens query_starts[s] .. query_starts[s + 1] - 1 of query: the last ones of its context
    token i of n sees positions 0 .. context_lens[s] - n + i

    context_lens = 9, n = 3      position  0 1 2 3 4 5 6 7 8
                                 token 0   x x x x x x x
                                 token 1   x x x x x x x x
                                 token 2   x x x x x x x x x

A whole prompt (n = context), a later chunk of one (n < context) and the K + 1 tokens of a verify pass are
the same thing. Owns the op in its three forms. Invariants: nothing outside the contexts is read; rows of
query past the last start give zeros.
"""

from __future__ import annotations

import torch
from torch.nn import functional

from gpu_backend.launches import count_launch
from gpu_backend.ops import pieces
from gpu_backend.ops.implementation import (
    Implementation,
    require_integers,
    require_same_device,
    require_shape,
)
from gpu_backend.ops.paged_context import PagedContext, check_context, context_slots, gather_slots


def paged_prefill_attention(
    query: torch.Tensor,  # [num_tokens, num_heads, head_dim]
    context: PagedContext,
    query_starts: torch.Tensor,  # [num_seqs + 1] int32
    scale: float,
    implementation: Implementation = Implementation.TWIN,
) -> torch.Tensor:
    """Attends from the newest tokens of each sequence; returns [num_tokens, num_heads, head_dim].

    Args:
        query: rotated queries of all new tokens, sequence after sequence.
        context: caches and tables; context_lens count the new tokens, already cached.
        query_starts: where the tokens of each sequence begin in query, and where the last ones end.
        scale: factor on the scores, usually head_dim ** -0.5.
        implementation: which form of the op.

    Raises:
        OpInputError: for shapes, dtypes, strides or devices that do not go together.
    """
    check_context(query, context)
    require_integers("query_starts", query_starts)
    require_shape("query_starts", query_starts, (context.block_tables.shape[0] + 1,))
    require_same_device(query=query, query_starts=query_starts)
    match implementation:
        case Implementation.TWIN:
            bytes_of_contexts = context.bytes_of_contexts
            count_launch("paged_prefill_attention", lambda: (query, bytes_of_contexts()), (query,))
            return _by_length(query, context, query_starts, scale, fused=True)
        case Implementation.UNFUSED:
            return _by_length(query, context, query_starts, scale, fused=False)
        case Implementation.KERNEL:
            raise NotImplementedError


def _by_length(
    query: torch.Tensor, context: PagedContext, query_starts: torch.Tensor, scale: float, *, fused: bool
) -> torch.Tensor:
    """One batched attention per distinct number of new tokens; there are few."""
    num_tokens, num_seqs = query.shape[0], context.block_tables.shape[0]
    lens = query_starts.diff()  # [num_seqs]
    distinct = torch.unique(lens).tolist()
    attend = _fused_rows if fused else _unfused_rows
    if len(distinct) == 1 and num_tokens == num_seqs * distinct[0]:
        rows = query.reshape(num_seqs, distinct[0], *query.shape[1:])  # [num_seqs, n, num_heads, head_dim]
        return attend(rows, context, scale).reshape(query.shape)
    out = torch.zeros_like(query)
    for length in distinct:
        if length == 0:
            continue
        seqs = (lens == length).nonzero().squeeze(1)  # [num_rows]
        tokens = query_starts[:-1][seqs, None] + torch.arange(length, device=query.device)  # [num_rows, n]
        out[tokens] = attend(query[tokens], context.of(seqs), scale)
    return out


def _fused_rows(rows: torch.Tensor, context: PagedContext, scale: float) -> torch.Tensor:
    """Rows [num_seqs, n, num_heads, head_dim] -> the same shape."""
    keys_of, hidden = _visible(rows.shape[1], context)
    keys = gather_slots(context.key_cache, keys_of).transpose(
        1, 2
    )  # [num_seqs, num_kv_heads, longest, head_dim]
    values = gather_slots(context.value_cache, keys_of).transpose(1, 2)
    queries = rows.transpose(1, 2)  # [num_seqs, num_heads, n, head_dim]
    group = rows.shape[2] // context.num_kv_heads
    out = functional.scaled_dot_product_attention(
        queries, keys, values, attn_mask=~hidden[:, None], scale=scale, enable_gqa=group > 1
    )
    return out.transpose(1, 2)


def _unfused_rows(rows: torch.Tensor, context: PagedContext, scale: float) -> torch.Tensor:
    keys_of, hidden = _visible(rows.shape[1], context)
    keys = pieces.take_rows(
        context.key_cache.flatten(0, 1), keys_of
    )  # [num_seqs, longest, num_kv_heads, head_dim]
    values = pieces.take_rows(context.value_cache.flatten(0, 1), keys_of)
    grouped = rows.reshape(*rows.shape[:2], context.num_kv_heads, -1, rows.shape[3]).permute(
        0, 2, 3, 1, 4
    )  # [num_seqs, kv_heads, group, n, dim]
    scores = pieces.matmul(
        grouped, keys.permute(0, 2, 3, 1)[:, :, None]
    )  # [num_seqs, kv_heads, group, n, longest]
    scores = pieces.fill_where(pieces.scaled(scores, scale), hidden[:, None, None], float("-inf"))
    weights = pieces.softmax(scores)
    out = pieces.matmul(
        weights, values.transpose(1, 2)[:, :, None]
    )  # [num_seqs, kv_heads, group, n, head_dim]
    return out.permute(0, 3, 1, 2, 4).reshape(rows.shape)


def _visible(num_new: int, context: PagedContext) -> tuple[torch.Tensor, torch.Tensor]:
    """Slots [num_seqs, longest], and which positions a token may not see [num_seqs, num_new, longest]."""
    slots, _ = context_slots(context)
    device = slots.device
    last_seen = (
        context.context_lens[:, None] - num_new + torch.arange(num_new, device=device)
    )  # [num_seqs, num_new]
    return slots, torch.arange(slots.shape[1], device=device) > last_seen[:, :, None]
