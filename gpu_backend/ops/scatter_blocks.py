"""Unpacking swapped blocks from the staging tensor into the caches: the inverse of `gather_blocks`.

    caches[c][blocks[i]] = staging[i, c]

Owns the op in its three forms. Refuses to know the host. Invariant, which the caller answers for: no block
is named twice.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from gpu_backend.ops.block_moves import check_caches, launch_over_caches, moved_bytes
from gpu_backend.ops.implementation import Implementation, require, require_same_device, require_shape
from gpu_backend.ops.language import kernel, tl
from gpu_backend.ops.launches import count_launch


def scatter_blocks(
    caches: Sequence[torch.Tensor],  # each [num_blocks, block_size, num_kv_heads, head_dim]
    blocks: torch.Tensor,  # [num_moved] int64
    staging: torch.Tensor,  # [num_moved, num_caches, block_size, num_kv_heads, head_dim]
    implementation: Implementation = Implementation.TWIN,
) -> None:
    """Writes the packed blocks back to where `blocks` says.

    Raises:
        OpInputError: for caches of different shapes, or a staging tensor that does not fit them.
    """
    check_caches(caches, blocks)
    require_shape("staging", staging, (blocks.numel(), len(caches), *caches[0].shape[1:]))
    require(staging.dtype == caches[0].dtype, f"staging is {staging.dtype}, the caches {caches[0].dtype}")
    require(staging.is_contiguous(), "staging is not contiguous")
    require_same_device(cache=caches[0], staging=staging)
    if blocks.numel() == 0:
        return
    match implementation:
        case Implementation.TWIN:
            _scatter_each(caches, blocks, staging)
            count_launch("scatter_blocks", (staging, blocks), (moved_bytes(caches, blocks),))
        case Implementation.UNFUSED:
            _scatter_each(caches, blocks, staging)
            for cache in caches:
                moved = moved_bytes((cache,), blocks)
                count_launch("put_rows", (moved, blocks), (moved,))
        case Implementation.KERNEL:
            _launch(caches, blocks, staging)


def _scatter_each(caches: Sequence[torch.Tensor], blocks: torch.Tensor, staging: torch.Tensor) -> None:
    for index, cache in enumerate(caches):
        cache[blocks] = staging[:, index]


def _launch(caches: Sequence[torch.Tensor], blocks: torch.Tensor, staging: torch.Tensor) -> None:
    launch_over_caches(_scatter_blocks_kernel, caches, blocks, staging)
    count_launch("scatter_blocks", (staging, blocks), (moved_bytes(caches, blocks),))


@kernel()
def _scatter_blocks_kernel(
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
    tl.store(cache_ptr + block + words, tl.load(staging_ptr + packed + words, mask=inside), mask=inside)
