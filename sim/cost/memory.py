"""How many KV blocks a GPU has room for.

    memory x gpu_memory_utilization   |  weights  |  reserved  |  KV blocks ...  |

The engine measures what is reserved at start-up, hardware files carry it as a figure. Where the block
count of a real engine is known, set that (`engine.num_gpu_blocks_override`) instead of deriving it:
nothing else moves the answers as much. Refuses to know who uses the blocks.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from sim.cost.hardware import Gpu
from sim.cost.model import ModelShape


@dataclass(frozen=True, slots=True)
class GpuMemory:
    """What one GPU of those that share a model holds of it, in bytes."""

    available_bytes: int
    """What the engine may use."""
    weight_bytes: int
    reserved_bytes: int
    kv_bytes_per_token: float

    @property
    def kv_cache_bytes(self) -> int:
        """What is left for the KV cache; negative if the model does not fit."""
        return self.available_bytes - self.weight_bytes - self.reserved_bytes

    def num_kv_blocks(self, block_size: int) -> int:
        """Blocks of so many tokens that fit; 0 if none does."""
        return max(int(self.kv_cache_bytes / (self.kv_bytes_per_token * block_size)), 0)


def gpu_memory(
    model: ModelShape,
    gpu: Gpu,
    *,
    utilization_fraction: float = 0.9,
    tensor_parallel_size: int = 1,
    pipeline_parallel_size: int = 1,
    draft: ModelShape | None = None,
    draft_tensor_parallel_size: int = 1,
) -> GpuMemory:
    """Memory of each GPU when a model is split over so many stages of `tensor_parallel_size` GPUs each.

    All stages hold the same tokens, each those of its own layers, so the GPU with room for the fewest tokens
    is the answer. A draft model's weights and KV cache come out of the same memory: each block has room for
    the keys and values of both. Where it is split over fewer GPUs than the model, the fullest GPU counts.
    """
    kv_bytes_per_token = model.kv_bytes_per_token * model.kv_share(tensor_parallel_size)
    layers = model.stage_layers(pipeline_parallel_size)
    weights = model.stage_weight_bytes(pipeline_parallel_size)
    available_bytes = int(gpu.memory_bytes * utilization_fraction)
    stages = [
        GpuMemory(
            available_bytes=available_bytes,
            weight_bytes=-(-stage_bytes // tensor_parallel_size),
            reserved_bytes=gpu.reserved_memory_bytes,
            kv_bytes_per_token=kv_bytes_per_token * num_layers / model.num_hidden_layers,
        )
        for num_layers, stage_bytes in zip(layers, weights, strict=True)
    ]
    fullest = min(stages, key=lambda stage: stage.kv_cache_bytes / stage.kv_bytes_per_token)
    if draft is None:
        return fullest
    return replace(
        fullest,
        weight_bytes=fullest.weight_bytes + -(-draft.weight_bytes // draft_tensor_parallel_size),
        kv_bytes_per_token=fullest.kv_bytes_per_token
        + draft.kv_bytes_per_token * draft.kv_share(draft_tensor_parallel_size),
    )


def num_kv_blocks(
    model: ModelShape,
    gpu: Gpu,
    *,
    block_size: int = 16,
    utilization_fraction: float = 0.9,
    tensor_parallel_size: int = 1,
) -> int:
    """KV blocks a replica has room for, the engine's null block included; 0 if the model does not fit."""
    memory = gpu_memory(
        model, gpu, utilization_fraction=utilization_fraction, tensor_parallel_size=tensor_parallel_size
    )
    return memory.num_kv_blocks(block_size)
