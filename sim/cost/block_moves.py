"""`BlockMoves`: how long it takes to move KV blocks to the host and back, and to copy them on the device.

    swap, one direction   copies x latency + bytes / bandwidth to the host    (PagedAttention paper, Fig. 19)
    copy-on-write         2 x bytes / memory bandwidth: read and written

How many copies a block is depends on how its bytes lie. In the paper's layout each layer has a tensor of
keys and one of values, so a block is 2 x layers small pieces, and small blocks are slow to move; engines of
today lay the pieces of a block side by side, so it is one. GPUs that share a model each move their own part
over a link of their own; those that share one take turns. Replicas that share one are the affair
of `sim.fleet.links`. Refuses to know who waits.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Protocol

from sim.cost.hardware import Gpu
from sim.cost.model import ModelShape

_NS_PER_S = 1e9


class MoveTimes(Protocol):
    """Whoever knows how long blocks take to move."""

    def host_ns(self, num_blocks: int) -> int:
        """Moving so many blocks over the link, one direction, when nobody else uses it."""
        ...

    def device_ns(self, num_blocks: int) -> int:
        """Copying so many blocks within the device's memory."""
        ...


class BlockLayout(Enum):
    """How the bytes of one block lie."""

    PER_LAYER = "per_layer"
    """Keys and values of each layer apart: 2 x layers pieces."""
    WHOLE = "whole"
    """All in one piece."""


@dataclass(frozen=True, slots=True)
class BlockMoves:
    """Cost of moving the blocks of one replica; each of its GPUs moves its part at the same time.

    Attributes:
        block_bytes: Of one block on one GPU.
        gpus_per_link: How many GPUs of the replica share a link to the host.
        copies_per_block: Pieces that one block is.
        copy_latency_ns: Time of one copy over the host's link, beside its bytes.
    """

    block_bytes: float
    copies_per_block: int
    copy_latency_ns: float
    host_bandwidth_bytes_per_s: float
    memory_bandwidth_bytes_per_s: float
    gpus_per_link: int = 1

    @classmethod
    def of(
        cls,
        model: ModelShape,
        gpu: Gpu,
        *,
        block_size: int,
        tensor_parallel_size: int = 1,
        layout: BlockLayout = BlockLayout.PER_LAYER,
        draft: ModelShape | None = None,
        draft_tensor_parallel_size: int = 1,
    ) -> BlockMoves:
        """Moves of a model's blocks of `block_size` tokens on one kind of GPU.

        A block has room for the keys and values of a draft model too, and they travel with it; where that is
        split over fewer GPUs than the model, the fullest GPU counts.
        """
        token_bytes = model.kv_bytes_per_token * model.kv_share(tensor_parallel_size)
        num_layers = model.num_hidden_layers
        if draft is not None:
            token_bytes += draft.kv_bytes_per_token * draft.kv_share(draft_tensor_parallel_size)
            num_layers += draft.num_hidden_layers
        return cls(
            block_bytes=token_bytes * block_size,
            copies_per_block=1 if layout is BlockLayout.WHOLE else 2 * num_layers,
            copy_latency_ns=gpu.host_copy_latency_ns,
            host_bandwidth_bytes_per_s=gpu.achieved_host_bandwidth_bytes_per_s,
            memory_bandwidth_bytes_per_s=gpu.achieved_bandwidth_bytes_per_s,
            gpus_per_link=min(gpu.gpus_per_host_link, tensor_parallel_size),
        )

    def host_ns(self, num_blocks: int) -> int:
        """Moving so many blocks over the link, one direction, when nobody else uses it."""
        ns_per_block = (
            self.copies_per_block * self.copy_latency_ns
            + self.block_bytes * _NS_PER_S / self.host_bandwidth_bytes_per_s
        )
        return round(num_blocks * self.gpus_per_link * ns_per_block)

    def device_ns(self, num_blocks: int) -> int:
        """Copying so many blocks within the device's memory."""
        return round(2 * num_blocks * self.block_bytes * _NS_PER_S / self.memory_bandwidth_bytes_per_s)
