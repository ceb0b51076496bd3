"""Rotary embedding of queries and keys, and the write of keys and values into the paged cache, in one pass.

    first, second = x[:head_dim / 2], x[head_dim / 2:]        the layout of Hugging Face's Llama
    rotated = (first cos - second sin, second cos + first sin)      in float32, then rounded once

The rotated key and the value of token t go to slot slot_mapping[t]; attention reads them from there, so the
rotated keys are not returned. Owns the op in its three forms. Refuses to know how the angles come about
(Llama-3 scaling and the like are the caller's `cos_sin`). Invariants: a slot below zero is written nowhere
(padded rows of a CUDA graph); no slot is named twice.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

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


@dataclass(frozen=True, slots=True)
class NewTokens:
    """Queries, keys and values of new tokens before rotation; may be views of one fused projection."""

    query: torch.Tensor  # [num_tokens, num_heads, head_dim]
    key: torch.Tensor  # [num_tokens, num_kv_heads, head_dim]
    value: torch.Tensor  # [num_tokens, num_kv_heads, head_dim]
    positions: torch.Tensor  # [num_tokens] int32 or int64
    slot_mapping: torch.Tensor  # [num_tokens] int32 or int64, below zero for none


def rotary_and_cache(
    new: NewTokens,
    cos_sin: torch.Tensor,  # [max_positions, head_dim] float32: cosines of head_dim / 2 angles, then sines
    key_cache: torch.Tensor,  # [num_blocks, block_size, num_kv_heads, head_dim]
    value_cache: torch.Tensor,  # [num_blocks, block_size, num_kv_heads, head_dim]
    implementation: Implementation = Implementation.TWIN,
) -> torch.Tensor:
    """Rotates and writes keys and values; returns the rotated queries [num_tokens, num_heads, head_dim].

    Raises:
        OpInputError: for shapes, dtypes, strides or devices that do not go together.
    """
    _check(new, cos_sin, key_cache, value_cache)
    match implementation:
        case Implementation.TWIN:
            query = _twin(new, cos_sin, key_cache, value_cache)
            count_launch("rotary_and_cache", lambda: _operands(new, cos_sin), (query, new.key, new.value))
            return query
        case Implementation.UNFUSED:
            return _unfused(new, cos_sin, key_cache, value_cache)
        case Implementation.KERNEL:
            return _launch(new, cos_sin, key_cache, value_cache)


def _check(new: NewTokens, cos_sin: torch.Tensor, key_cache: torch.Tensor, value_cache: torch.Tensor) -> None:
    require(new.query.dim() == 3, f"query has {new.query.dim()} dimensions, expected 3")
    num_tokens, _, head_dim = new.query.shape
    require(key_cache.dim() == 4, f"key_cache has {key_cache.dim()} dimensions, expected 4")
    require(head_dim % 2 == 0, f"head_dim {head_dim} is odd: nothing to rotate in pairs")
    require_shape("key", new.key, (num_tokens, key_cache.shape[2], head_dim))
    require_shape("value", new.value, tuple(new.key.shape))
    require_shape("value_cache", value_cache, tuple(key_cache.shape))
    require_shape("positions", new.positions, (num_tokens,))
    require_shape("slot_mapping", new.slot_mapping, (num_tokens,))
    require_shape("cos_sin", cos_sin, (cos_sin.shape[0], head_dim))
    require(head_dim == key_cache.shape[3], f"keys have head_dim {head_dim}, the cache {key_cache.shape[3]}")
    require(new.key.dtype == key_cache.dtype == value_cache.dtype, "keys and caches differ in dtype")
    require_integers("positions", new.positions)
    require_integers("slot_mapping", new.slot_mapping)
    require_same_device(
        query=new.query, key=new.key, positions=new.positions, slot_mapping=new.slot_mapping, cos_sin=cos_sin
    )
    require_same_device(key=new.key, key_cache=key_cache, value_cache=value_cache)
    for name, tensor in (
        ("query", new.query),
        ("key", new.key),
        ("value", new.value),
        ("key_cache", key_cache),
    ):
        require_dense_rows(name, tensor)


def _operands(new: NewTokens, cos_sin: torch.Tensor) -> tuple[torch.Tensor | int, ...]:
    angles_bytes = new.positions.numel() * cos_sin.shape[1] * cos_sin.element_size()
    return new.query, new.key, new.value, new.positions, new.slot_mapping, angles_bytes


def _twin(
    new: NewTokens, cos_sin: torch.Tensor, key_cache: torch.Tensor, value_cache: torch.Tensor
) -> torch.Tensor:
    cos, sin = cos_sin.index_select(0, new.positions)[:, None].chunk(
        2, -1
    )  # [num_tokens, 1, head_dim / 2] each
    _write(key_cache, _rotated(new.key, cos, sin), new.slot_mapping)
    _write(value_cache, new.value, new.slot_mapping)
    return _rotated(new.query, cos, sin)


def _rotated(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    first, second = x.chunk(2, -1)  # [num_tokens, heads, head_dim / 2] each
    return torch.cat((first * cos - second * sin, second * cos + first * sin), -1).to(x.dtype)


def _write(cache: torch.Tensor, rows: torch.Tensor, slots: torch.Tensor) -> None:
    """Writes rows [num_tokens, num_kv_heads, head_dim] into their slots; slots below zero are left out."""
    if bool((slots < 0).any()):
        kept = slots >= 0
        rows, slots = rows[kept], slots[kept]
    block_size = cache.shape[1]
    cache[slots // block_size, slots % block_size] = rows


def _unfused(
    new: NewTokens, cos_sin: torch.Tensor, key_cache: torch.Tensor, value_cache: torch.Tensor
) -> torch.Tensor:
    angles = pieces.take_rows(cos_sin, new.positions)[:, None]  # [num_tokens, 1, head_dim]
    cos, sin = angles.chunk(2, -1)
    for cache, rows in ((key_cache, _unfused_rotated(new.key, cos, sin)), (value_cache, new.value)):
        _write(cache, rows, new.slot_mapping)
        count_launch("write_slots", (rows, new.slot_mapping), (rows,))
    return _unfused_rotated(new.query, cos, sin)


def _unfused_rotated(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    first, second = x.chunk(2, -1)
    left = pieces.subtract(pieces.multiply(first, cos), pieces.multiply(second, sin))
    right = pieces.add(pieces.multiply(second, cos), pieces.multiply(first, sin))
    return pieces.cast(pieces.concatenate(left, right), x.dtype)


def _launch(
    new: NewTokens, cos_sin: torch.Tensor, key_cache: torch.Tensor, value_cache: torch.Tensor
) -> torch.Tensor:
    require_triton()
    num_tokens, num_heads, head_dim = new.query.shape
    rotated = torch.empty((num_tokens, num_heads, head_dim), dtype=new.query.dtype, device=new.query.device)
    require(cos_sin.is_contiguous(), "cos_sin is not contiguous")
    require(key_cache.stride() == value_cache.stride(), "key_cache and value_cache differ in strides")
    if num_tokens == 0:
        return rotated
    block_size, num_kv_heads = key_cache.shape[1:3]
    _rotary_and_cache_kernel[(num_tokens,)](
        new.query,
        new.key,
        new.value,
        rotated,
        key_cache,
        value_cache,
        cos_sin,
        new.positions,
        new.slot_mapping,
        *new.query.stride()[:2],
        *new.key.stride()[:2],
        *new.value.stride()[:2],
        *key_cache.stride()[:3],
        BLOCK_SIZE=block_size,
        NUM_HEADS=num_heads,
        NUM_KV_HEADS=num_kv_heads,
        HALF=head_dim // 2,
        HEADS_TILE=next_power_of_2(num_heads),
        KV_HEADS_TILE=next_power_of_2(num_kv_heads),
        HALF_TILE=next_power_of_2(head_dim // 2),
        num_warps=4,
    )
    count_launch("rotary_and_cache", lambda: _operands(new, cos_sin), (rotated, new.key, new.value))
    return rotated


@kernel()
def _rotary_and_cache_kernel(
    query_ptr,
    key_ptr,
    value_ptr,
    rotated_ptr,
    key_cache_ptr,
    value_cache_ptr,
    cos_sin_ptr,
    positions_ptr,
    slots_ptr,
    query_token_stride,
    query_head_stride,
    key_token_stride,
    key_head_stride,
    value_token_stride,
    value_head_stride,
    cache_block_stride,
    cache_slot_stride,
    cache_head_stride,
    BLOCK_SIZE: tl.constexpr,
    NUM_HEADS: tl.constexpr,
    NUM_KV_HEADS: tl.constexpr,
    HALF: tl.constexpr,
    HEADS_TILE: tl.constexpr,
    KV_HEADS_TILE: tl.constexpr,
    HALF_TILE: tl.constexpr,
):
    token = tl.program_id(0).to(tl.int64)
    dims = tl.arange(0, HALF_TILE)  # [HALF_TILE]
    angles_ptr = cos_sin_ptr + tl.load(positions_ptr + token).to(tl.int64) * (2 * HALF)
    cos = tl.load(angles_ptr + dims, mask=dims < HALF, other=0.0).to(tl.float32)[None, :]
    sin = tl.load(angles_ptr + HALF + dims, mask=dims < HALF, other=0.0).to(tl.float32)[None, :]

    heads = tl.arange(0, HEADS_TILE)  # [HEADS_TILE]
    inside = (heads[:, None] < NUM_HEADS) & (dims[None, :] < HALF)  # [HEADS_TILE, HALF_TILE]
    from_ptr = query_ptr + token * query_token_stride + heads[:, None] * query_head_stride + dims[None, :]
    to_ptr = rotated_ptr + (token * NUM_HEADS + heads[:, None]) * (2 * HALF) + dims[None, :]
    first = tl.load(from_ptr, mask=inside, other=0.0).to(tl.float32)
    second = tl.load(from_ptr + HALF, mask=inside, other=0.0).to(tl.float32)
    tl.store(to_ptr, (first * cos - second * sin).to(rotated_ptr.dtype.element_ty), mask=inside)
    tl.store(to_ptr + HALF, (second * cos + first * sin).to(rotated_ptr.dtype.element_ty), mask=inside)

    slot = tl.load(slots_ptr + token).to(tl.int64)
    if slot >= 0:
        kv_heads = tl.arange(0, KV_HEADS_TILE)  # [KV_HEADS_TILE]
        is_kv = (kv_heads[:, None] < NUM_KV_HEADS) & (dims[None, :] < HALF)  # [KV_HEADS_TILE, HALF_TILE]
        at = (
            (slot // BLOCK_SIZE) * cache_block_stride
            + (slot % BLOCK_SIZE) * cache_slot_stride
            + kv_heads[:, None] * cache_head_stride
            + dims[None, :]
        )  # [KV_HEADS_TILE, HALF_TILE]
        keys_ptr = key_ptr + token * key_token_stride + kv_heads[:, None] * key_head_stride + dims[None, :]
        key_first = tl.load(keys_ptr, mask=is_kv, other=0.0).to(tl.float32)
        key_second = tl.load(keys_ptr + HALF, mask=is_kv, other=0.0).to(tl.float32)
        key_type = key_cache_ptr.dtype.element_ty
        tl.store(key_cache_ptr + at, (key_first * cos - key_second * sin).to(key_type), mask=is_kv)
        tl.store(key_cache_ptr + at + HALF, (key_second * cos + key_first * sin).to(key_type), mask=is_kv)

        values_ptr = value_ptr + token * value_token_stride + kv_heads[:, None] * value_head_stride
        values_ptr = values_ptr + dims[None, :]
        tl.store(value_cache_ptr + at, tl.load(values_ptr, mask=is_kv, other=0.0), mask=is_kv)
        tl.store(value_cache_ptr + at + HALF, tl.load(values_ptr + HALF, mask=is_kv, other=0.0), mask=is_kv)
