"""Whether a model can be spread over the GPUs that an experiment asks for.

Owns degrees against heads and layers. Refuses to know memory (`sim.config.room`).
"""

from __future__ import annotations

from collections.abc import Iterator

from sim.config.schema import PAPER, ExperimentFile
from sim.config.yaml_source import KeyPath
from sim.cost.model import ModelShape

Fault = tuple[KeyPath, str]
_TENSOR = ("parallelism", "tensor_parallel_size")
_STAGES = ("parallelism", "pipeline_parallel_size")
_LARGEST_ADVISED = 64


def parallelism_faults(
    file: ExperimentFile, model: ModelShape, draft: ModelShape | None, draft_size: int
) -> Iterator[Fault]:
    """Degrees that do not suit the model; `draft_size` is the draft model's own."""
    size = file.parallelism.tensor_parallel_size
    if not model.can_be_split(size):
        sizes = ", ".join(str(size) for size in range(1, _LARGEST_ADVISED + 1) if model.can_be_split(size))
        heads = f"the {model.num_attention_heads} query and {model.num_key_value_heads} KV heads"
        yield _TENSOR, f"{heads} of {model.name} do not divide over {size} GPUs: use one of {sizes}"
    if draft is not None and not draft.can_be_split(draft_size):
        message = (
            f"{draft.name} cannot be split over {draft_size} GPUs: its {draft.num_attention_heads} query and "
            f"{draft.num_key_value_heads} KV heads do not divide; set it to 1"
        )
        yield ("speculation", "draft_tensor_parallel_size"), message
    if file.parallelism.pipeline_parallel_size > 1:
        yield from _stage_faults(file, model)


def _stage_faults(file: ExperimentFile, model: ModelShape) -> Iterator[Fault]:
    stages, layers = file.parallelism.pipeline_parallel_size, model.num_hidden_layers
    if stages > layers:
        yield _STAGES, f"the {layers} layers of {model.name} make {layers} stages at most, not {stages}"
    beside = {
        f"engine.scheduler {PAPER}": file.engine.scheduler == PAPER,
        "speculation": file.speculation is not None,
        "offload": file.offload is not None,
    }
    for name in (name for name, is_there in beside.items() if is_there):
        yield _STAGES, f"stages are not simulated together with {name}: set it to 1"
