"""Packing the blocks that are swapped out into one contiguous tensor: one copy takes them to the host.

    staging[i, c] = caches[c][blocks[i]]        block after block, in each block all layers' keys and values

Owns the op in its three forms; `scatter_blocks` is its inverse. Refuses to know the host.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from gpu_backend.ops.block_moves import check_caches, launch_over_caches, moved_bytes
from gpu_backend.ops.implementation import Implementation
from gpu_backend.ops.language import kernel, tl
from gpu_backend.ops.launches import count_launch


def gather_blocks(
    caches: Sequence[torch.Tensor],  # each [num_blocks, block_size, num_kv_heads, head_dim]
    blocks: torch.Tensor,  # [num_moved] int64
    implementation: Implementation = Implementation.TWIN,
) -> torch.Tensor:
    """Returns the named blocks, packed: [num_moved, num_caches, block_size, num_kv_heads, head_dim].

    Raises:
        OpInputError: for caches of different shapes.
    """
    check_caches(caches, blocks)
    staging = caches[0].new_empty((blocks.numel(), len(caches), *caches[0].shape[1:]))
    if blocks.numel() == 0:
        return staging
    match implementation:
        case Implementation.TWIN:
            _gather_each(caches, blocks, staging)
            count_launch("gather_blocks", (moved_bytes(caches, blocks), blocks), (staging,))
        case Implementation.UNFUSED:
            _gather_each(caches, blocks, staging)
            for cache in caches:
                moved = moved_bytes((cache,), blocks)
                count_launch("take_rows", (moved, blocks), (moved,))
        case Implementation.KERNEL:
            _launch(caches, blocks, staging)
    return staging


def _gather_each(caches: Sequence[torch.Tensor], blocks: torch.Tensor, staging: torch.Tensor) -> None:
    for index, cache in enumerate(caches):
        staging[:, index] = cache[blocks]


def _launch(caches: Sequence[torch.Tensor], blocks: torch.Tensor, staging: torch.Tensor) -> None:
    launch_over_caches(_gather_blocks_kernel, caches, blocks, staging)
    count_launch("gather_blocks", (moved_bytes(caches, blocks), blocks), (staging,))


@kernel()
def _gather_blocks_kernel(
    cache_pointers_ptr,
    blocks_ptr,
    staging_ptr,
    block_stride_words,
    BLOCK_WORDS: tl.constexpr,
    TILE_WORDS: tl.constexpr,
):
    move = tl.program_id(0).to(tl.int64)
    cache = tl.program_id(1)
    cache_ptr = tl.load(cache_pointers_ptr + cache).to(tl.pointer_type(tl.int32))
    cache_ptr = tl.multiple_of(cache_ptr, 16)
    words = tl.program_id(2) * TILE_WORDS + tl.arange(0, TILE_WORDS)  # [TILE_WORDS]
    block = tl.load(blocks_ptr + move).to(tl.int64) * block_stride_words
    packed = (move * tl.num_programs(1) + cache) * BLOCK_WORDS
    inside = words < BLOCK_WORDS
    tl.store(staging_ptr + packed + words, tl.load(cache_ptr + block + words, mask=inside), mask=inside)
