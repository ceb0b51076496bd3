"""What the ops that move whole blocks (`copy_blocks`, `gather_blocks`, `scatter_blocks`) check and count."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch

from gpu_backend.ops.implementation import (
    OpInputError,
    require,
    require_integers,
    require_same_device,
    require_shape,
)
from gpu_backend.ops.language import next_power_of_2, require_triton

WORD_BYTES = 4
"""The kernels move words whatever the caches hold, and 16 bytes at a time: blocks are multiples of it."""

MAX_WORDS_PER_PROGRAM = 1024


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


@dataclass(frozen=True, slots=True)
class MoveShape:
    """What the kernels that move blocks are told about the caches."""

    cache_pointers: torch.Tensor  # [num_caches] int64 addresses
    block_words: int
    block_stride_words: int
    tile_words: int

    def grid(self, num_blocks: int) -> tuple[int, int, int]:
        """One program per block, cache and tile."""
        return num_blocks, self.cache_pointers.numel(), -(-self.block_words // self.tile_words)


def move_shape(caches: Sequence[torch.Tensor]) -> MoveShape:
    """Describes the caches in words.

    Raises:
        OpInputError: for blocks that are no multiple of 16 bytes.
    """
    first = caches[0]
    stride_bytes = first.stride(0) * first.element_size()
    for num_bytes in (block_bytes(first), stride_bytes, *(cache.data_ptr() for cache in caches)):
        require(num_bytes % 16 == 0, "blocks do not begin and end on multiples of 16 bytes")
    words = block_bytes(first) // WORD_BYTES
    pointers = _pointer_table(tuple(cache.data_ptr() for cache in caches), first.device)
    return MoveShape(
        pointers, words, stride_bytes // WORD_BYTES, min(MAX_WORDS_PER_PROGRAM, next_power_of_2(words))
    )


def launch_over_caches(
    kernel: Any,
    caches: Sequence[torch.Tensor],  # each [num_blocks, block_size, num_kv_heads, head_dim]
    blocks: torch.Tensor,  # [num_moved] int64
    staging: torch.Tensor,  # [num_moved, num_caches, block_size, num_kv_heads, head_dim]
) -> None:
    """Launch a kernel that moves whole blocks between the caches and a packed tensor, one way or the other.

    Raises:
        OpInputError: for blocks that are no multiple of 16 bytes.
        KernelUnavailableError: without Triton.
    """
    require_triton()
    shape = move_shape(caches)
    kernel[shape.grid(blocks.numel())](
        shape.cache_pointers,
        blocks,
        staging.view(torch.int32),
        shape.block_stride_words,
        BLOCK_WORDS=shape.block_words,
        TILE_WORDS=shape.tile_words,
        num_warps=4,
    )


@lru_cache(maxsize=16)
def _pointer_table(addresses: tuple[int, ...], device: torch.device) -> torch.Tensor:
    """The addresses on the device; kept, because the caches of an engine stay where they are."""
    return torch.tensor(addresses, dtype=torch.int64, device=device)
