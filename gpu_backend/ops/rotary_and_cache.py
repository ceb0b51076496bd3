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

from gpu_backend.launches import count_launch
from gpu_backend.ops import pieces
from gpu_backend.ops.implementation import (
    Implementation,
    require,
    require_dense_rows,
    require_integers,
    require_same_device,
    require_shape,
)


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
            raise NotImplementedError


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
