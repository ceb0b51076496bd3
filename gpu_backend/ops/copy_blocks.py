"""Copying whole blocks inside the caches: a step's copy-on-write list, as one launch over all layers.

    cache[dst[i]] = cache[src[i]]    for every cache (keys and values of each layer) and every i

Owns the op in its three forms. Refuses to know why blocks are copied. Invariant, which the block pool keeps
and the caller answers for: no destination is named twice, and none is also a source; the order of copies
then does not matter.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from gpu_backend.ops.block_moves import check_caches, move_shape, moved_bytes
from gpu_backend.ops.implementation import Implementation, require_shape
from gpu_backend.ops.language import kernel, require_triton, tl
from gpu_backend.ops.launches import count_launch


def copy_blocks(
    caches: Sequence[torch.Tensor],  # each [num_blocks, block_size, num_kv_heads, head_dim]
    src_blocks: torch.Tensor,  # [num_copies] int64
    dst_blocks: torch.Tensor,  # [num_copies] int64
    implementation: Implementation = Implementation.TWIN,
) -> None:
    """Copies blocks in place.

    Raises:
        OpInputError: for caches of different shapes, or lists of different lengths.
    """
    check_caches(caches, src_blocks)
    require_shape("dst_blocks", dst_blocks, tuple(src_blocks.shape))
    if src_blocks.numel() == 0:
        return
    match implementation:
        case Implementation.TWIN:
            _copy_each(caches, src_blocks, dst_blocks)
            moved = moved_bytes(caches, src_blocks)
            count_launch("copy_blocks", (moved, src_blocks, dst_blocks), (moved,))
        case Implementation.UNFUSED:
            _copy_each(caches, src_blocks, dst_blocks)
            for cache in caches:
                moved = moved_bytes((cache,), src_blocks)
                count_launch("take_rows", (moved, src_blocks), (moved,))
                count_launch("put_rows", (moved, dst_blocks), (moved,))
        case Implementation.KERNEL:
            _launch(caches, src_blocks, dst_blocks)


def _copy_each(caches: Sequence[torch.Tensor], src_blocks: torch.Tensor, dst_blocks: torch.Tensor) -> None:
    for cache in caches:
        cache[dst_blocks] = cache[src_blocks]


def _launch(caches: Sequence[torch.Tensor], src_blocks: torch.Tensor, dst_blocks: torch.Tensor) -> None:
    require_triton()
    shape = move_shape(caches)
    _copy_blocks_kernel[shape.grid(src_blocks.numel())](
        shape.cache_pointers,
        src_blocks,
        dst_blocks,
        shape.block_stride_words,
        BLOCK_WORDS=shape.block_words,
        TILE_WORDS=shape.tile_words,
        num_warps=4,
    )
    moved = moved_bytes(caches, src_blocks)
    count_launch("copy_blocks", (moved, src_blocks, dst_blocks), (moved,))


@kernel()
def _copy_blocks_kernel(
    cache_pointers_ptr,
    src_blocks_ptr,
    dst_blocks_ptr,
    block_stride_words,
    BLOCK_WORDS: tl.constexpr,
    TILE_WORDS: tl.constexpr,
):
    move = tl.program_id(0)
    cache_ptr = tl.load(cache_pointers_ptr + tl.program_id(1)).to(tl.pointer_type(tl.int32))
    cache_ptr = tl.multiple_of(cache_ptr, 16)
    words = tl.program_id(2) * TILE_WORDS + tl.arange(0, TILE_WORDS)  # [TILE_WORDS]
    src = tl.load(src_blocks_ptr + move).to(tl.int64) * block_stride_words
    dst = tl.load(dst_blocks_ptr + move).to(tl.int64) * block_stride_words
    inside = words < BLOCK_WORDS
    tl.store(cache_ptr + dst + words, tl.load(cache_ptr + src + words, mask=inside), mask=inside)
