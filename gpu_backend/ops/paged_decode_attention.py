"""Attention of one new token per sequence over its paged context.

    out[s, h] = sum_t softmax_t(scale query[s, h] . key[t, h / group]) value[t, h / group], t < context_len[s]

where key[t] lies in block block_tables[s, t // block_size], slot t % block_size (`paged_context.py` has the
picture). Owns the op in its three forms. Refuses to know prompts: queries of several tokens are
`paged_prefill_attention`.

Invariants: nothing outside the contexts is read, whatever lies there; a sequence without context gives
zeros (padded rows of a CUDA graph).
"""

from __future__ import annotations

import math

import torch
from torch.nn import functional

from gpu_backend.ops import pieces
from gpu_backend.ops.implementation import Implementation, require, require_dense_rows
from gpu_backend.ops.language import kernel, next_power_of_2, require_triton, tl
from gpu_backend.ops.launches import count_launch
from gpu_backend.ops.paged_context import PagedContext, check_context, context_slots, gather_slots

_WANTED_PROGRAMS = 2 * 132  # two for each multiprocessor of an H100
_MIN_SPLIT_TOKENS = 256  # below this, merging costs more than the wider spread gains
_MOST_PADDING = 4
"""How many slots the twin looks at for one that counts, before it takes sequences apart."""


def paged_decode_attention(
    query: torch.Tensor,  # [num_seqs, num_heads, head_dim]
    context: PagedContext,
    scale: float,
    implementation: Implementation = Implementation.TWIN,
    num_splits: int | None = None,
) -> torch.Tensor:
    """Attends from one token per sequence; returns [num_seqs, num_heads, head_dim].

    Args:
        query: rotated queries of the newest token of each sequence.
        context: caches and tables; context_lens count the new token, whose key and value are already cached.
        scale: factor on the scores, usually head_dim ** -0.5.
        implementation: which form of the op.
        num_splits: parts of each context that the kernel attends to at once; as many as fill a device where
            it is not given. With more than one, a second launch merges them.

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
            return _launch(query, context, scale, num_splits or _wanted_splits(query, context))


def _twin(query: torch.Tensor, context: PagedContext, scale: float) -> torch.Tensor:
    """Sequences side by side, padded to the longest; by order of length where that is mostly padding."""
    if len(query) == 0:
        return torch.empty_like(query)
    count_launch("paged_decode_attention", lambda: (query, context.bytes_of_contexts()), (query,))
    lens = context.context_lens.tolist()
    if len(lens) * max(lens) <= _MOST_PADDING * sum(lens):
        return _padded(query, context, scale)
    out = torch.empty_like(query)
    orders = torch.tensor([length.bit_length() for length in lens], device=query.device)
    for order in sorted(set(orders.tolist())):
        rows = (orders == order).nonzero().squeeze(1)  # [num_rows]
        out[rows] = _padded(query[rows], context.of(rows), scale)
    return out


def _padded(query: torch.Tensor, context: PagedContext, scale: float) -> torch.Tensor:
    num_seqs, num_heads, head_dim = query.shape
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
    return _zero_without_context(out.reshape(num_seqs, num_heads, head_dim), context.context_lens)


def _unfused(query: torch.Tensor, context: PagedContext, scale: float) -> torch.Tensor:
    num_seqs, num_heads, head_dim = query.shape
    if num_seqs == 0:
        return torch.empty_like(query)
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


def _wanted_splits(query: torch.Tensor, context: PagedContext) -> int:
    """Enough programs for a large device, by shapes alone: reading the lengths would wait for it.

    A power of two, since each number is a kernel of its own to compile.
    """
    most_tokens = context.block_tables.shape[1] * context.block_size
    programs = max(1, query.shape[0] * context.num_kv_heads)
    splits = max(1, min(-(-_WANTED_PROGRAMS // programs), most_tokens // _MIN_SPLIT_TOKENS))
    return 1 << (splits.bit_length() - 1)


def _launch(query: torch.Tensor, context: PagedContext, scale: float, num_splits: int) -> torch.Tensor:
    require_triton()
    num_seqs, num_heads, head_dim = query.shape
    out = torch.empty((num_seqs, num_heads, head_dim), dtype=query.dtype, device=query.device)
    if num_seqs == 0:
        return out
    keys, values = context.key_cache, context.value_cache
    require(keys.stride() == values.stride(), "key_cache and value_cache differ in strides")
    require_dense_rows("block_tables", context.block_tables)
    partial = out
    logsumexp = query.new_empty(
        (num_seqs, num_heads, num_splits) if num_splits > 1 else (1,), dtype=torch.float32
    )
    if num_splits > 1:
        partial = query.new_empty((num_seqs, num_heads, num_splits, head_dim), dtype=torch.float32)
    group = num_heads // context.num_kv_heads
    _paged_decode_attention_kernel[(num_seqs, context.num_kv_heads, num_splits)](
        query,
        keys,
        values,
        context.block_tables,
        context.context_lens,
        partial,
        logsumexp,
        scale * math.log2(math.e),
        *query.stride()[:2],
        *keys.stride()[:3],
        context.block_tables.stride(0),
        BLOCK_SIZE=context.block_size,
        GROUP=group,
        GROUP_TILE=max(16, next_power_of_2(group)),
        HEAD_DIM=head_dim,
        HEAD_DIM_TILE=max(16, next_power_of_2(head_dim)),
        KEY_TILE=64,
        NUM_SPLITS=num_splits,
        num_warps=4,
        num_stages=3,
    )
    count_launch("paged_decode_attention", lambda: (query, context.bytes_of_contexts()), (partial,))
    if num_splits > 1:
        _merge_splits(partial, logsumexp, out)
    return out


def _merge_splits(partial: torch.Tensor, logsumexp: torch.Tensor, out: torch.Tensor) -> None:
    num_seqs, num_heads, num_splits, head_dim = partial.shape
    _merge_splits_kernel[(num_seqs, num_heads)](
        partial,
        logsumexp,
        out,
        NUM_SPLITS=num_splits,
        SPLITS_TILE=next_power_of_2(num_splits),
        HEAD_DIM=head_dim,
        HEAD_DIM_TILE=max(16, next_power_of_2(head_dim)),
        num_warps=1,
    )
    count_launch("merge_splits", (partial, logsumexp), (out,))


@kernel(varying=("table_stride",), anywhere=("block_tables_ptr", "context_lens_ptr"))
def _paged_decode_attention_kernel(
    query_ptr,
    key_cache_ptr,
    value_cache_ptr,
    block_tables_ptr,
    context_lens_ptr,
    out_ptr,
    logsumexp_ptr,
    scale_log2,
    query_seq_stride,
    query_head_stride,
    cache_block_stride,
    cache_slot_stride,
    cache_head_stride,
    table_stride,
    BLOCK_SIZE: tl.constexpr,
    GROUP: tl.constexpr,
    GROUP_TILE: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    HEAD_DIM_TILE: tl.constexpr,
    KEY_TILE: tl.constexpr,
    NUM_SPLITS: tl.constexpr,
):
    seq = tl.program_id(0).to(tl.int64)
    kv_head = tl.program_id(1)
    split = tl.program_id(2)
    context_len = tl.load(context_lens_ptr + seq)
    split_tokens = tl.cdiv(tl.cdiv(context_len, KEY_TILE), NUM_SPLITS) * KEY_TILE
    first = split * split_tokens
    last = tl.minimum(first + split_tokens, context_len)

    members = tl.arange(0, GROUP_TILE)  # [GROUP_TILE], padded to the least that a tensor core takes
    dims = tl.arange(0, HEAD_DIM_TILE)  # [HEAD_DIM_TILE]
    heads = kv_head * GROUP + members
    is_head = (members[:, None] < GROUP) & (dims[None, :] < HEAD_DIM)  # [GROUP_TILE, HEAD_DIM_TILE]
    query_at = seq * query_seq_stride + heads[:, None] * query_head_stride + dims[None, :]
    query = tl.load(query_ptr + query_at, mask=is_head, other=0.0)

    largest = tl.full([GROUP_TILE], float("-inf"), tl.float32)
    total = tl.zeros([GROUP_TILE], tl.float32)
    out = tl.zeros([GROUP_TILE, HEAD_DIM_TILE], tl.float32)
    for start in range(first, last, KEY_TILE):
        tokens = start + tl.arange(0, KEY_TILE)  # [KEY_TILE]
        seen = tokens < last
        blocks = tl.load(block_tables_ptr + seq * table_stride + tokens // BLOCK_SIZE, mask=seen, other=0)
        slots = blocks.to(tl.int64) * cache_block_stride + (tokens % BLOCK_SIZE) * cache_slot_stride
        rows = slots + kv_head * cache_head_stride  # [KEY_TILE]
        is_key = seen[:, None] & (dims[None, :] < HEAD_DIM)  # [KEY_TILE, HEAD_DIM_TILE]
        keys = tl.load(key_cache_ptr + rows[:, None] + dims[None, :], mask=is_key, other=0.0)
        values = tl.load(value_cache_ptr + rows[:, None] + dims[None, :], mask=is_key, other=0.0)
        scores = tl.dot(query, tl.trans(keys), input_precision="ieee") * scale_log2  # [GROUP_TILE, KEY_TILE]
        scores = tl.where(seen[None, :], scores, float("-inf"))
        raised = tl.maximum(largest, tl.max(scores, 1))  # finite: each tile has at least one token
        weights = tl.exp2(scores - raised[:, None])
        fade = tl.exp2(largest - raised)
        total = total * fade + tl.sum(weights, 1)
        out = out * fade[:, None] + tl.dot(weights.to(values.dtype), values, input_precision="ieee")
        largest = raised

    divisor = tl.where(total == 0.0, 1.0, total)  # no token in this split, or a padded sequence: zeros
    rows = (seq * tl.num_programs(1) * GROUP + heads) * NUM_SPLITS + split  # [GROUP_TILE]
    out_at = rows[:, None] * HEAD_DIM + dims[None, :]
    tl.store(out_ptr + out_at, (out / divisor[:, None]).to(out_ptr.dtype.element_ty), mask=is_head)
    if NUM_SPLITS > 1:
        logsumexp = largest + tl.log2(divisor)  # of base 2; minus infinity for a split without tokens
        tl.store(logsumexp_ptr + rows, logsumexp, mask=members < GROUP)


@kernel()
def _merge_splits_kernel(
    partial_ptr,
    logsumexp_ptr,
    out_ptr,
    NUM_SPLITS: tl.constexpr,
    SPLITS_TILE: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    HEAD_DIM_TILE: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64) * tl.num_programs(1) + tl.program_id(1)
    splits = tl.arange(0, SPLITS_TILE)  # [SPLITS_TILE]
    dims = tl.arange(0, HEAD_DIM_TILE)  # [HEAD_DIM_TILE]
    logsumexp = tl.load(
        logsumexp_ptr + row * NUM_SPLITS + splits, mask=splits < NUM_SPLITS, other=float("-inf")
    )
    largest = tl.max(logsumexp, 0)
    shares = tl.exp2(logsumexp - tl.where(largest == float("-inf"), 0.0, largest))  # [SPLITS_TILE]
    total = tl.sum(shares, 0)
    inside = (splits[:, None] < NUM_SPLITS) & (dims[None, :] < HEAD_DIM)  # [SPLITS_TILE, HEAD_DIM_TILE]
    partial_at = (row * NUM_SPLITS + splits)[:, None] * HEAD_DIM + dims[None, :]
    partial = tl.load(partial_ptr + partial_at, mask=inside, other=0.0)
    out = tl.sum(partial * shares[:, None], 0) / tl.where(total == 0.0, 1.0, total)  # [HEAD_DIM_TILE]
    tl.store(out_ptr + row * HEAD_DIM + dims, out.to(out_ptr.dtype.element_ty), mask=dims < HEAD_DIM)
