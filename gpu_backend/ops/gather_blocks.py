"""Packing the blocks that are swapped out into one contiguous tensor: one copy takes them to the host.

    staging[i, c] = caches[c][blocks[i]]        block after block, in each block all layers' keys and values

Owns the op in its three forms; `scatter_blocks` is its inverse. Refuses to know the host.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from gpu_backend.launches import count_launch
from gpu_backend.ops.block_moves import check_caches, moved_bytes
from gpu_backend.ops.implementation import Implementation


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
            raise NotImplementedError
    return staging


def _gather_each(caches: Sequence[torch.Tensor], blocks: torch.Tensor, staging: torch.Tensor) -> None:
    for index, cache in enumerate(caches):
        staging[:, index] = cache[blocks]
