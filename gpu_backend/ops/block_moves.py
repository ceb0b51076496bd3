"""What the ops that move whole blocks (`copy_blocks`, `gather_blocks`, `scatter_blocks`) check and count."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from gpu_backend.ops.implementation import (
    OpInputError,
    require,
    require_integers,
    require_same_device,
    require_shape,
)


def check_caches(caches: Sequence[torch.Tensor], blocks: torch.Tensor) -> None:
    """Raises OpInputError unless all caches are alike and contiguous within a block."""
    require(len(caches) > 0, "no cache to move blocks of")
    require(blocks.dim() == 1, f"the list of blocks has {blocks.dim()} dimensions, expected 1")
    require_integers("the list of blocks", blocks)
    require_same_device(cache=caches[0], blocks=blocks)
    for cache in caches:
        require_shape("a cache", cache, tuple(caches[0].shape))
        require(cache.dtype == caches[0].dtype, "caches differ in dtype")
        if cache.stride() != caches[0].stride() or not cache[:1].is_contiguous():
            raise OpInputError("caches differ in strides, or have blocks that are not contiguous")


def block_bytes(cache: torch.Tensor) -> int:
    """Bytes of one block of one cache."""
    return cache[0].numel() * cache.element_size()


def moved_bytes(caches: Sequence[torch.Tensor], blocks: torch.Tensor) -> int:
    """Bytes of these blocks in all caches."""
    return len(caches) * blocks.numel() * block_bytes(caches[0])
