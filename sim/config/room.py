"""What to say of a model that does not fit its GPUs: by how much, and what would make it fit.

Each remedy is tried before it is named: with it alone there is room for the longest sequence. Refuses to say
which remedy is the best.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from sim.config.catalog import hardware_names, load_gpu
from sim.cost.hardware import Gpu
from sim.cost.memory import GpuMemory
from sim.cost.model import ModelShape
from sim.cost.quantization import quantized

_GB = 1e9
_DEGREES = (2, 4, 8, 16, 32, 64)


@dataclass(frozen=True, slots=True)
class Room:
    """A model on GPUs.

    Attributes:
        num_blocks: KV blocks of the longest sequence, and one to spare.
        memory: What each GPU would hold, given all of these.
    """

    model: ModelShape
    gpu: Gpu
    tensor_parallel_size: int
    pipeline_parallel_size: int
    block_size: int
    num_blocks: int
    memory: Callable[[Room], GpuMemory]

    @property
    def has_enough(self) -> bool:
        """Whether the longest sequence fits."""
        return self.memory(self).num_kv_blocks(self.block_size) >= self.num_blocks


def does_not_fit(room: Room) -> str:
    """The whole message."""
    memory = room.memory(room)
    block_bytes = memory.kv_bytes_per_token * room.block_size
    short = memory.weight_bytes + memory.reserved_bytes + 2 * block_bytes - memory.available_bytes
    remedies = list(_remedies(room))
    would = f"would do: {', or '.join(remedies)}" if remedies else "no number of these GPUs would do"
    return (
        f"{room.model.name} does not fit {room.gpu.name}: {memory.weight_bytes / _GB:.1f} GB of weights "
        f"and {memory.reserved_bytes / _GB:.1f} GB reserved leave no KV block in the "
        f"{memory.available_bytes / _GB:.1f} GB that the engine may use; short by {short / _GB:.2f} GB "
        f"({would})"
    )


def _remedies(room: Room) -> Iterator[str]:
    for size in _DEGREES:
        is_more = size > room.tensor_parallel_size and room.model.can_be_split(size)
        if is_more and replace(room, tensor_parallel_size=size).has_enough:
            yield f"tensor_parallel_size {size}"
            break
    for size in _DEGREES:
        is_more = room.pipeline_parallel_size < size <= room.model.num_hidden_layers
        if is_more and replace(room, pipeline_parallel_size=size).has_enough:
            yield f"pipeline_parallel_size {size}"
            break
    for name in ("fp8", "int4"):
        if replace(room, model=quantized(room.model, name)).has_enough:
            yield f"quantization {name}"
            break
    yield from _larger_gpu(room)


def _larger_gpu(room: Room) -> Iterator[str]:
    """The smallest of the catalogue that would do."""
    gpus = sorted((load_gpu(name) for name in hardware_names()), key=lambda gpu: gpu.memory_bytes)
    fitting = (gpu.name for gpu in gpus if replace(room, gpu=gpu).has_enough)
    name = next(fitting, None)
    if name is not None:
        yield f"hardware {name}"
