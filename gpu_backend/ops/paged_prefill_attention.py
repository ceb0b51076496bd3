"""Attention of several new tokens per sequence over its paged context, causal over the paged keys.

    sequence s has tokens query_starts[s] .. query_starts[s + 1] - 1 of query: the last ones of its context
    token i of n sees positions 0 .. context_lens[s] - n + i

    context_lens = 9, n = 3      position  0 1 2 3 4 5 6 7 8
                                 token 0   x x x x x x x
                                 token 1   x x x x x x x x
                                 token 2   x x x x x x x x x

A whole prompt (n = context), a later chunk of one (n < context) and the K + 1 tokens of a verify pass are
the same thing.

The kernel's rows are (token, head of the group), so that a few tokens of grouped heads fill a tensor core's
tile. Which sequence a tile belongs to it finds by bisection, as vLLM's unified kernel does, so that the
launch needs no length from the device: sequence s owns the tiles from query_starts[s] group // ROW_TILE + s
on.

Owns the op in its three forms. Invariants: nothing outside the contexts is read; rows of query past the
last start give zeros.
"""

from __future__ import annotations

import math

import torch
from torch.nn import functional

from gpu_backend.ops import pieces
from gpu_backend.ops.implementation import (
    Implementation,
    require,
    require_dense_rows,
    require_integers,
    require_same_device,
    require_shape,
)
from gpu_backend.ops.language import kernel, next_power_of_2, require_triton, tl
from gpu_backend.ops.launches import count_launch
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
            return _launch(query, context, query_starts, scale)


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


def _launch(
    query: torch.Tensor, context: PagedContext, query_starts: torch.Tensor, scale: float
) -> torch.Tensor:
    require_triton()
    num_tokens, num_heads, head_dim = query.shape
    num_seqs = context.block_tables.shape[0]
    out = torch.zeros((num_tokens, num_heads, head_dim), dtype=query.dtype, device=query.device)
    if num_tokens == 0 or num_seqs == 0:
        return out
    keys, values = context.key_cache, context.value_cache
    require(keys.stride() == values.stride(), "key_cache and value_cache differ in strides")
    require_dense_rows("block_tables", context.block_tables)
    group = num_heads // context.num_kv_heads
    row_tile = min(64, max(16, next_power_of_2(-(-num_tokens * group // num_seqs))))
    num_tiles = num_tokens * group // row_tile + num_seqs
    _paged_prefill_attention_kernel[(num_tiles, context.num_kv_heads)](
        query,
        keys,
        values,
        context.block_tables,
        context.context_lens,
        query_starts,
        out,
        scale * math.log2(math.e),
        num_seqs,
        *query.stride()[:2],
        *out.stride()[:2],
        *keys.stride()[:3],
        context.block_tables.stride(0),
        BLOCK_SIZE=context.block_size,
        GROUP=group,
        HEAD_DIM=head_dim,
        HEAD_DIM_TILE=max(16, next_power_of_2(head_dim)),
        ROW_TILE=row_tile,
        KEY_TILE=32 if row_tile == 64 else 64,  # more would spill registers on sm_80
        num_warps=4,
        num_stages=2,
    )
    count_launch("paged_prefill_attention", lambda: (query, context.bytes_of_contexts()), (out,))
    return out


@kernel(
    varying=("num_seqs", "table_stride"),
    anywhere=("block_tables_ptr", "context_lens_ptr", "query_starts_ptr"),
)
def _paged_prefill_attention_kernel(
    query_ptr,
    key_cache_ptr,
    value_cache_ptr,
    block_tables_ptr,
    context_lens_ptr,
    query_starts_ptr,
    out_ptr,
    scale_log2,
    num_seqs,
    query_token_stride,
    query_head_stride,
    out_token_stride,
    out_head_stride,
    cache_block_stride,
    cache_slot_stride,
    cache_head_stride,
    table_stride,
    BLOCK_SIZE: tl.constexpr,
    GROUP: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    HEAD_DIM_TILE: tl.constexpr,
    ROW_TILE: tl.constexpr,
    KEY_TILE: tl.constexpr,
):
    tile = tl.program_id(0)
    kv_head = tl.program_id(1)
    low = tl.full([], 0, tl.int32)
    high = low + num_seqs
    while high - low > 1:  # the last sequence whose first tile is not past this one
        middle = (low + high) // 2
        first_tile = tl.load(query_starts_ptr + middle) * GROUP // ROW_TILE + middle
        low = tl.where(first_tile <= tile, middle, low)
        high = tl.where(first_tile <= tile, high, middle)
    seq = low
    query_start = tl.load(query_starts_ptr + seq)
    num_new = tl.load(query_starts_ptr + seq + 1) - query_start
    first_row = (tile - (query_start * GROUP // ROW_TILE + seq)) * ROW_TILE
    if first_row < num_new * GROUP:  # tiles are counted generously; some are left over
        context_len = tl.load(context_lens_ptr + seq)
        rows = first_row + tl.arange(
            0, ROW_TILE
        )  # [ROW_TILE]: token after token, in each the heads of the group
        new_tokens = rows // GROUP
        heads = kv_head * GROUP + rows % GROUP
        positions = context_len - num_new + new_tokens  # [ROW_TILE]
        dims = tl.arange(0, HEAD_DIM_TILE)  # [HEAD_DIM_TILE]
        is_row = (new_tokens[:, None] < num_new) & (dims[None, :] < HEAD_DIM)  # [ROW_TILE, HEAD_DIM_TILE]
        tokens = (query_start + new_tokens).to(tl.int64)[:, None]
        query_at = tokens * query_token_stride + heads[:, None] * query_head_stride + dims[None, :]
        query = tl.load(query_ptr + query_at, mask=is_row, other=0.0)

        largest = tl.full([ROW_TILE], float("-inf"), tl.float32)
        total = tl.zeros([ROW_TILE], tl.float32)
        out = tl.zeros([ROW_TILE, HEAD_DIM_TILE], tl.float32)
        last_new = (first_row + ROW_TILE - 1) // GROUP
        last = tl.minimum(context_len - num_new + last_new + 1, context_len)
        table_ptr = block_tables_ptr + seq.to(tl.int64) * table_stride
        for start in range(0, last, KEY_TILE):
            key_tokens = start + tl.arange(0, KEY_TILE)  # [KEY_TILE]
            exists = key_tokens < last
            blocks = tl.load(table_ptr + key_tokens // BLOCK_SIZE, mask=exists, other=0)
            slots = blocks.to(tl.int64) * cache_block_stride + (key_tokens % BLOCK_SIZE) * cache_slot_stride
            key_rows = slots + kv_head * cache_head_stride  # [KEY_TILE]
            is_key = exists[:, None] & (dims[None, :] < HEAD_DIM)  # [KEY_TILE, HEAD_DIM_TILE]
            keys = tl.load(key_cache_ptr + key_rows[:, None] + dims[None, :], mask=is_key, other=0.0)
            values = tl.load(value_cache_ptr + key_rows[:, None] + dims[None, :], mask=is_key, other=0.0)
            scores = (
                tl.dot(query, tl.trans(keys), input_precision="ieee") * scale_log2
            )  # [ROW_TILE, KEY_TILE]
            seen = exists[None, :] & (key_tokens[None, :] <= positions[:, None])  # [ROW_TILE, KEY_TILE]
            scores = tl.where(seen, scores, float("-inf"))
            raised = tl.maximum(largest, tl.max(scores, 1))  # finite: every row sees position 0
            weights = tl.exp2(scores - raised[:, None])
            fade = tl.exp2(largest - raised)
            total = total * fade + tl.sum(weights, 1)
            out = out * fade[:, None] + tl.dot(weights.to(values.dtype), values, input_precision="ieee")
            largest = raised

        out = out / tl.where(total == 0.0, 1.0, total)[:, None]
        out_at = tokens * out_token_stride + heads[:, None] * out_head_stride + dims[None, :]
        tl.store(out_ptr + out_at, out.to(out_ptr.dtype.element_ty), mask=is_row)
