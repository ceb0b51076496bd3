"""The tensors that hold keys and values, on the device and on the host, and how blocks move between them.

    device   one tensor per layer    [2 (key, value), num_blocks, block_size, num_kv_heads, head_dim]
    host     one tensor              [num_host_blocks, 2 num_layers, block_size, num_kv_heads, head_dim]

A block on the host holds all layers, so a swapped block is one contiguous piece there; on the way it is
packed by one launch over all layers. Owns the order of a plan's moves: swap out, swap in, copy. Refuses to
decide which blocks move (`sim/core`). Draft and target have one storage each, under the same block ids.

Invariants: memory is taken once, at construction; after `apply`, whatever is launched on the current stream
sees all moves. On CUDA the way over the link is asynchronous, on a stream of its own; host memory is read and
written by that stream alone, so its moves keep their order.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from gpu_backend.model.llama import LayerCache
from gpu_backend.model.model_config import ModelConfig
from gpu_backend.ops.copy_blocks import copy_blocks
from gpu_backend.ops.gather_blocks import gather_blocks
from gpu_backend.ops.implementation import Implementation
from gpu_backend.ops.scatter_blocks import scatter_blocks
from sim.core.step import BlockCopy, StepPlan


@dataclass(frozen=True, slots=True)
class StorageShape:
    """How much is stored; ids below these counts can be named.

    Device pools count from 1 (`sim/core/block_pool.py`), so a pool of n blocks needs n + 1 here.
    """

    num_device_blocks: int
    num_host_blocks: int
    block_size: int


class KVStorage:
    """One model's keys and values."""

    def __init__(
        self,
        config: ModelConfig,
        shape: StorageShape,
        dtype: torch.dtype,
        device: torch.device,
        implementation: Implementation = Implementation.TWIN,
    ) -> None:
        block = (shape.block_size, config.num_key_value_heads, config.head_dim)
        num_layers = config.num_hidden_layers
        self._layers = [
            torch.empty((2, shape.num_device_blocks, *block), dtype=dtype, device=device)
            for _ in range(num_layers)
        ]
        self.caches = [LayerCache(layer[0], layer[1]) for layer in self._layers]
        self._flat = [cache for layer in self.caches for cache in layer]
        is_cuda = device.type == "cuda"
        host_shape = (shape.num_host_blocks, 2 * num_layers, *block)
        self._host = torch.empty(host_shape, dtype=dtype, pin_memory=is_cuda and shape.num_host_blocks > 0)
        self.num_host_blocks = shape.num_host_blocks
        """Blocks on the host."""
        self.device_bytes = sum(layer.nbytes for layer in self._layers)
        """Memory taken on the device."""
        self.host_bytes = self._host.nbytes
        """Memory taken on the host."""
        self._link = torch.cuda.Stream(device) if is_cuda else None  # type: ignore[no-untyped-call]  # torch's
        self._implementation = implementation

    def release(self) -> None:
        """Give the memory back; nothing can be stored or moved afterwards."""
        for tensors in (self._layers, self.caches, self._flat):
            tensors.clear()
        self._host = self._host.new_empty(0)

    def apply(self, plan: StepPlan) -> None:
        """Carry out a plan's moves in their order."""
        self.swap(plan)
        self.copy(plan)

    def swap(self, plan: StepPlan) -> None:
        """To the host, and back; comes before copying."""
        self._swap_out(plan.blocks_to_swap_out)
        self._swap_in(plan.blocks_to_swap_in)

    def copy(self, plan: StepPlan) -> None:
        """Within the device."""
        self._copy(plan.blocks_to_copy)

    def _swap_out(self, moves: Sequence[BlockCopy]) -> None:
        if not moves:
            return
        moves = sorted(moves, key=lambda move: move.dst)  # neighbours on the host are one transfer
        packed = gather_blocks(self._flat, self._ids(move.src for move in moves), self._implementation)
        if self._link is None:
            self._host[[move.dst for move in moves]] = packed
            return
        self._link.wait_stream(torch.cuda.current_stream(packed.device))
        with torch.cuda.stream(self._link):
            for begin, length, host_block in _runs([move.dst for move in moves]):
                piece = packed[begin : begin + length]
                self._host[host_block : host_block + length].copy_(piece, non_blocking=True)
        packed.record_stream(self._link)  # its memory is not given away before it has been read

    def _swap_in(self, moves: Sequence[BlockCopy]) -> None:
        if not moves:
            return
        moves = sorted(moves, key=lambda move: move.src)
        packed = self._fetched([move.src for move in moves])
        scatter_blocks(self._flat, self._ids(move.dst for move in moves), packed, self._implementation)

    def _fetched(self, host_blocks: list[int]) -> Tensor:
        """Host blocks on the device.  # [num_moved, 2 num_layers, block_size, num_kv_heads, head_dim]."""
        if self._link is None:
            return self._host[host_blocks]
        device = self._layers[0].device
        current = torch.cuda.current_stream(device)
        packed = torch.empty((len(host_blocks), *self._host.shape[1:]), dtype=self._host.dtype, device=device)
        self._link.wait_stream(current)  # the memory of `packed` may have been in use there
        with torch.cuda.stream(self._link):
            for begin, length, host_block in _runs(host_blocks):
                piece = self._host[host_block : host_block + length]
                packed[begin : begin + length].copy_(piece, non_blocking=True)
        packed.record_stream(self._link)
        current.wait_stream(self._link)
        return packed

    def _copy(self, moves: Sequence[BlockCopy]) -> None:
        if moves:
            src, dst = self._ids(move.src for move in moves), self._ids(move.dst for move in moves)
            copy_blocks(self._flat, src, dst, self._implementation)

    def _ids(self, blocks: Iterator[int]) -> Tensor:
        """Block ids on the device.  # [num_moved] int64."""
        return torch.tensor(list(blocks), dtype=torch.int64, device=self._layers[0].device)


def _runs(blocks: Sequence[int]) -> Iterator[tuple[int, int, int]]:
    """Stretches of consecutive ids: where each begins in the list, how long it is, and its first id."""
    begin = 0
    for place in range(1, len(blocks) + 1):
        if place == len(blocks) or blocks[place] != blocks[place - 1] + 1:
            yield begin, place - begin, blocks[begin]
            begin = place
