"""Whether a model can be spread over the GPUs that an experiment asks for, and priced as the file wants it.

Owns degrees against heads and layers, and what one roofline cannot price. Refuses to know memory
(`sim.config.room`).
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
    if file.engine.fusion == "roofline" and file.step_time is None:
        yield from _roofline_faults(file, [model] if draft is None else [model, draft])


def _roofline_faults(file: ExperimentFile, models: list[ModelShape]) -> Iterator[Fault]:
    """One roofline is of dense layers on one stage; nothing else would be timed by it."""
    key, remedy = ("engine", "fusion"), "choose graph, fused or none"
    for model in models:
        if model.num_experts or model.latent_size:
            what = "a mixture of experts" if model.num_experts else "latent attention"
            yield key, f"roofline prices dense layers only, and {model.name} has {what}: {remedy}"
    stages = file.parallelism.pipeline_parallel_size
    if stages > 1:
        yield key, f"roofline prices one stage only, and pipeline_parallel_size is {stages}: {remedy}"


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
