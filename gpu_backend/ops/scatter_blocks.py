"""Unpacking swapped blocks from the staging tensor into the caches: the inverse of `gather_blocks`.

    caches[c][blocks[i]] = staging[i, c]

Owns the op in its three forms. Refuses to know the host. Invariant, which the caller answers for: no block
is named twice.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from gpu_backend.launches import count_launch
from gpu_backend.ops.block_moves import check_caches, moved_bytes
from gpu_backend.ops.implementation import Implementation, require, require_same_device, require_shape


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
            raise NotImplementedError


def _scatter_each(caches: Sequence[torch.Tensor], blocks: torch.Tensor, staging: torch.Tensor) -> None:
    for index, cache in enumerate(caches):
        cache[blocks] = staging[:, index]
