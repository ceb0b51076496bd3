"""The keys of an experiment file, their units and what they mean.

Owns the form and the defaults, and what each release of the reference engine does where releases differ.
`pagecast schema` prints it for editors. Refuses to know the sizes of models and GPUs, and whether
sections fit together (`sim.config.checks`).
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, ValidationInfo, WithJsonSchema

from sim.config.catalog import WeightType, is_path, load_attention, load_gpu, load_model
from sim.config.crosscheck import CrosscheckSection
from sim.config.own import OwnClass
from sim.config.own_reading import ReadsOwn
from sim.config.paths import expand_path, folder_of
from sim.config.roles import ALLOCATOR, ROUTER, SCHEDULER, VICTIM_CHOICE, WAITING_ORDER
from sim.config.sampling import SamplingSection
from sim.config.speculation import SpeculationSection, StepTimeSection
from sim.config.sweep import SweepSection
from sim.config.value_types import WHOLE, Count, CountOrZero, Duration, Memory, Pause, Section, Share
from sim.config.workload import WorkloadSection
from sim.core.policy import Batching, Continuous, Dynamic, Static
from sim.fleet.cluster import ClusterConfig
from sim.fleet.router import RouterKind
from sim.metrics.summary import Slo

PAPER = "vllm-v0"
"""The scheduler of the PagedAttention paper (vLLM 0.2.7)."""
NEWEST = "vllm-0.33"
Release = Literal["vllm-0.33", "vllm-0.32", "vllm-0.16", "vllm-0.10", "vllm-v0"]
KvElement = Literal["auto", "fp16", "bf16", "fp8", "int8"]
KV_BYTES: dict[str, int] = {"auto": 2, "fp16": 2, "bf16": 2, "fp8": 1, "int8": 1}
"""Of one element of the KV cache; `auto` is the model's own 16 bits."""

RouterName = Annotated[str | OwnClass, ReadsOwn(ROUTER, tuple(kind.value for kind in RouterKind))]
Allocation = Annotated[str | OwnClass, ReadsOwn(ALLOCATOR, ("paged", "max", "pow2", "oracle"))]
OwnOrder = Annotated[OwnClass, ReadsOwn(WAITING_ORDER)]
OwnVictims = Annotated[OwnClass, ReadsOwn(VICTIM_CHOICE)]
OwnScheduler = Annotated[OwnClass, ReadsOwn(SCHEDULER)]

_V1 = {
    "enable_chunked_prefill": True,
    "watermark": 0.0,
    "max_num_batched_tokens": 8192,
    "attention_backend": "flash_attn",
}
_SINCE_0_32 = _V1 | {"full_sequence_gate": True, "exempt_lone_prompt": True, "free_order": "unhashed_first"}
RELEASE_RULES: dict[str, dict[str, Any]] = {
    "vllm-0.33": _SINCE_0_32,
    "vllm-0.32": _SINCE_0_32,
    "vllm-0.16": _V1 | {"full_sequence_gate": False, "exempt_lone_prompt": False, "free_order": "tail"},
    "vllm-0.10": _V1 | {"full_sequence_gate": False, "exempt_lone_prompt": False, "free_order": "tail"},
    PAPER: {
        "enable_chunked_prefill": False,
        "watermark": 0.01,
        "max_paddings": 256,
        "preemption_mode": "by_width",
        "attention_backend": "paged_attention",
    },
}
"""What the engine's settings are by default, where releases differ."""
_LEAST_PROMPT_STEP_TOKENS = 2560
"""Of vLLM 0.2.7: `max_num_batched_tokens` is this, or the longest sequence if that is more."""


def _known_model(reference: str, info: ValidationInfo) -> str:
    reference = _absolute(reference, info)
    load_model(reference)
    return reference


def _known_gpu(reference: str, info: ValidationInfo) -> str:
    reference = _absolute(reference, info)
    load_gpu(reference)
    return reference


def _known_attention(reference: str, info: ValidationInfo) -> str:
    reference = _absolute(reference, info)
    load_attention(reference)
    return reference


def _absolute(reference: str, info: ValidationInfo) -> str:
    return str(expand_path(reference, folder_of(info))) if is_path(reference) else reference


class ContinuousSection(Section):
    """Newcomers join at any step that has room (iteration-level batching)."""

    kind: Literal["continuous"] = "continuous"

    def value(self) -> Batching:
        """The policy behind it."""
        return Continuous()


class StaticSection(Section):
    """A batch of what waits, fixed until its last member ends."""

    kind: Literal["static"]
    max_batch_size: Count = Field(description="Most sequences in a batch.")

    def value(self) -> Batching:
        """The policy behind it."""
        return Static(self.max_batch_size)


class DynamicSection(Section):
    """A fixed batch that starts when it is full, or when its oldest member has waited long enough."""

    kind: Literal["dynamic"]
    max_batch_size: Count = Field(description="Most sequences in a batch.")
    max_wait: Pause = Field(description="Longest wait for a batch to fill, such as 50 ms.")

    def value(self) -> Batching:
        """The policy behind it."""
        return Dynamic(self.max_batch_size, self.max_wait)


BatchingSection = Annotated[ContinuousSection | StaticSection | DynamicSection, Field(discriminator="kind")]


class EngineSection(Section):
    """Settings of each replica's engine, named and defaulted as in vLLM."""

    scheduler: Release = Field(
        default="vllm-0.33",
        description="Release whose rules apply; sets what is not given where releases differ. vllm-v0 is the "
        "PagedAttention paper's: groups, copy-on-write, beam search and swap.",
    )
    block_size: Count = Field(default=16, description="Tokens in a KV block.")
    kv_allocation: Allocation = Field(
        default="paged",
        description="Blocks on demand; or, as before paging, one contiguous stretch for each sequence: max "
        "(the longest), pow2 (the output rounded up to a power of two) or oracle (just what it will need); "
        "or an allocator of your own, my_module:MyAllocator (not vllm-v0).",
    )
    kv_cache_dtype: KvElement = Field(
        default="auto", description="Element type of the KV cache; auto: 16 bits, as the weights."
    )
    quantization: WeightType | None = Field(
        default=None,
        description="How the layers' weights are stored; embedding, output projection and KV cache are not "
        "touched. fp8: products at the GPU's 8-bit rate where it has one; int8, int4 (also called awq, gptq; "
        "groups of 128): weights alone, products in 16 bits; left out: as the model's checkpoint has them.",
    )
    gpu_memory_utilization: Share = Field(
        default=0.9, description="Part of GPU memory the engine may use (0 to 1)."
    )
    num_gpu_blocks_override: Annotated[int, Field(ge=2, le=10**9), WHOLE] | None = Field(
        default=None,
        description="KV blocks, instead of what memory allows; as in vLLM one of them, the null block, is "
        "never handed out, so 27001 gives 27000 usable ones.",
    )
    max_num_seqs: Count = Field(default=256, description="Most running sequences.")
    max_num_batched_tokens: Count | None = Field(
        default=None,
        description="Most tokens computed in a step; left out: 8192 (vllm-v0: max_model_len, at least 2560).",
    )
    max_num_scheduled_tokens: Count | None = Field(
        default=None, description="Most tokens scheduled in a step; left out: max_num_batched_tokens."
    )
    max_model_len: Count | None = Field(
        default=None,
        description="Longest sequence in tokens, prompt and output together; left out: the model's own.",
    )
    enable_prefix_caching: bool | None = Field(
        default=None,
        description="Reuse KV blocks of equal content; left out: yes, where memory is paged (not vllm-v0).",
    )
    enable_chunked_prefill: bool | None = Field(
        default=None, description="Compute long prompts in parts; left out: yes (vllm-v0 never does)."
    )
    long_prefill_token_threshold: CountOrZero = Field(
        default=0, description="Most tokens one sequence gets in a step; 0: no limit."
    )
    prefill_schedule_interval: Count = Field(
        default=1,
        description="Steps from one that computes prompts to the next, while others decode; 1: every step "
        "may (vllm-0.33).",
    )
    scheduling_policy: Literal["fcfs", "priority"] = Field(
        default="fcfs", description="Waiting order: first come first served, or by priority."
    )
    waiting_order: OwnOrder | None = Field(
        default=None,
        description="A waiting order of your own, my_module:MyOrder, for scheduling_policy's (not vllm-v0).",
    )
    victim_choice: OwnVictims | None = Field(
        default=None,
        description="Whom a shortage of KV blocks costs its place: a class of your own, my_module:MyChoice; "
        "left out: as scheduling_policy says (not vllm-v0).",
    )
    scheduler_cls: OwnScheduler | None = Field(
        default=None,
        description="A whole scheduler of your own, my_module:MyScheduler, perhaps a subclass of "
        "pagecast.Scheduler; all other keys keep their meaning (not vllm-v0).",
    )
    watermark: Annotated[float, Field(ge=0, lt=1)] | None = Field(
        default=None,
        description="Part of the KV blocks that an admission leaves free while others run; left out: 0 "
        "(vllm-v0: 0.01, always).",
    )
    preemption_mode: Literal["by_width", "recompute", "swap", "auto"] | None = Field(
        default=None,
        description="vllm-v0: what a victim loses. by_width: groups of several sequences are swapped, others "
        "recomputed; auto: whichever is cheaper by the cost model.",
    )
    max_paddings: CountOrZero | None = Field(
        default=None, description="vllm-v0: most tokens of a prompt step that may be padding (256)."
    )
    full_sequence_gate: bool | None = Field(
        default=None, description="Let a request in only if all it has so far would fit (not up to 0.16)."
    )
    exempt_lone_prompt: bool | None = Field(
        default=None, description="No long_prefill_token_threshold for a lone request (not up to 0.16)."
    )
    free_order: Literal["unhashed_first", "tail"] | None = Field(
        default=None, description="Where freed blocks without content go (tail up to 0.16)."
    )
    async_scheduling: bool = Field(
        default=False, description="Use the rules of scheduling a step before the last one has settled."
    )
    batching: BatchingSection = Field(
        default=ContinuousSection(), description="When newcomers may join a batch."
    )
    fusion: Literal["none", "fused", "graph", "roofline"] = Field(
        default="graph",
        description="Step times from the kernels a step launches: each operation its own (none), fused, or "
        "fused and replayed as a CUDA graph; roofline: one roofline for all linear layers instead, of dense "
        "models on one stage.",
    )
    attention_backend: Annotated[str, AfterValidator(_known_attention)] | None = Field(
        default=None,
        description="Attention kernel, whose reading of small blocks may cost time: flash_attn, flashinfer, "
        "paged_attention (the paper's of 2023), or path of a YAML file of one's own; left out: the release's "
        "(flash_attn; vllm-v0: paged_attention).",
    )
    max_horizon: Count | None = Field(
        default=None,
        description="Most equal steps simulated at once; 1 simulates each by itself, with the same result.",
    )

    def with_release_rules(self, model_max_len: int) -> EngineSection:
        """The same with nothing left to the release but `max_model_len`.

        Args:
            model_max_len: The longest sequence of the model, for where none is given.
        """
        rules = dict(RELEASE_RULES[self.scheduler])
        is_paper = self.scheduler == PAPER
        rules["enable_prefix_caching"] = not is_paper and self.kv_allocation == "paged"
        if is_paper:
            longest = self.max_model_len or model_max_len
            rules["max_num_batched_tokens"] = max(longest, _LEAST_PROMPT_STEP_TOKENS)
        return self.model_copy(update={name: rules[name] for name in rules if getattr(self, name) is None})


class SwapSection(Section):
    """Host memory for preempted sequences, and how blocks get there (vllm-v0)."""

    space: Memory = Field(default=4 * 2**30, description="Host memory for each GPU, such as 4 GiB.")
    num_blocks: Count | None = Field(default=None, description="Host blocks, instead of what space allows.")
    overlap: bool = Field(
        default=False, description="Let a step compute while its blocks are moved, instead of after."
    )
    layout: Literal["per_layer", "whole"] = Field(
        default="per_layer",
        description="Whether a block is 2 x layers small copies, as in the paper, or one piece.",
    )


class OffloadSection(Section):
    """Host memory that keeps what the prefix cache evicts, and how blocks get there and back (V1)."""

    space: Memory = Field(description="Host memory for each GPU, such as 64 GiB.")
    num_blocks: Count | None = Field(default=None, description="Host blocks, instead of what space allows.")
    overlap: bool = Field(
        default=True, description="Let a step compute while its blocks are moved, instead of after."
    )
    layout: Literal["per_layer", "whole"] = Field(
        default="whole", description="Whether a block is 2 x layers small copies or one piece."
    )


class ParallelismSection(Section):
    """How a replica is spread over GPUs."""

    tensor_parallel_size: Annotated[int, Field(ge=1, le=1024), WHOLE] = Field(
        default=1, description="GPUs that share each layer of one replica."
    )
    pipeline_parallel_size: Annotated[int, Field(ge=1, le=1024), WHOLE] = Field(
        default=1,
        description="Stages that the layers of one replica are cut into, one after another; a replica has "
        "tensor_parallel_size x pipeline_parallel_size GPUs.",
    )


class ClusterSection(Section):
    """The fleet."""

    replicas: Annotated[int, Field(ge=1, le=10_000), WHOLE] = Field(
        default=1, description="Engines, each with memory of its own."
    )
    router: RouterName = Field(
        default="round_robin",
        description="How a request finds its replica; round_robin, least_outstanding, prefix_affine, or a "
        "class of your own, my_module:MyRouter.",
    )
    max_affinity_excess: CountOrZero = Field(
        default=8,
        description="With prefix_affine: how many more unfinished requests than the idlest replica the "
        "preferred one may have.",
    )

    def value(self) -> ClusterConfig:
        """The configuration behind it."""
        if isinstance(self.router, OwnClass):
            return ClusterConfig(self.replicas, make_router=self.router)
        return ClusterConfig(self.replicas, RouterKind(self.router), self.max_affinity_excess)


class SloSection(Section):
    """Latency goals; a request is good if it meets all that are given."""

    ttft: Duration | None = Field(default=None, description="Time to first token, queueing included: 500 ms.")
    tpot: Duration | None = Field(default=None, description="Mean time per further output token: 50 ms.")
    e2el: Duration | None = Field(default=None, description="From arrival to the last token: 10 s.")

    def value(self) -> Slo:
        """The goals behind it."""
        return Slo(self.ttft, self.tpot, self.e2el)


class ResultsSection(Section):
    """The folder of results."""

    dir: str = Field(default="results", description="Folder, relative to where the command is run.")


def _known_draft(section: SpeculationSection | None, info: ValidationInfo) -> SpeculationSection | None:
    if section is None or section.draft_model is None:
        return section
    return section.model_copy(update={"draft_model": _known_model(section.draft_model, info)})


def _reference_of(model: object) -> object:
    """`{hf_config: path}` is the path of a config.json."""
    if isinstance(model, dict) and set(model) == {"hf_config"} and isinstance(model["hf_config"], str):
        path = model["hf_config"]
        return path if path.endswith(".json") else f"{path.rstrip('/')}/config.json"
    return model


_MODEL_SCHEMA = WithJsonSchema(
    {
        "anyOf": [
            {"type": "string"},
            {
                "type": "object",
                "properties": {"hf_config": {"type": "string"}},
                "required": ["hf_config"],
                "additionalProperties": False,
            },
        ]
    }
)


class ExperimentFile(Section):
    """One experiment: a model on some hardware, an engine's settings, a workload, latency goals."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=100)] | None = Field(
        default=None, description="Names the folder of results; left out: the file's own name."
    )
    seed: Annotated[int, Field(ge=0, le=2**63 - 1), WHOLE] = Field(
        default=0, description="Everything random comes from it."
    )
    model: Annotated[str, BeforeValidator(_reference_of), AfterValidator(_known_model), _MODEL_SCHEMA] = (
        Field(description="Name in the catalogue, such as llama-3-8b, or path of a YAML file of one's own.")
    )
    hardware: Annotated[str, AfterValidator(_known_gpu)] = Field(
        description="Name in the catalogue, such as a100-80gb-sxm, or path of a YAML file of one's own."
    )
    parallelism: ParallelismSection = Field(default=ParallelismSection(), description="GPUs of a replica.")
    cluster: ClusterSection = Field(default=ClusterSection(), description="Replicas and router.")
    engine: EngineSection = Field(default=EngineSection(), description="Settings of each replica's engine.")
    swap: SwapSection | None = Field(default=None, description="Host memory of vllm-v0.")
    offload: OffloadSection | None = Field(
        default=None, description="A second tier of the prefix cache, in host memory."
    )
    speculation: Annotated[SpeculationSection | None, AfterValidator(_known_draft)] = Field(
        default=None, description="Speculative decoding."
    )
    step_time: StepTimeSection | None = Field(
        default=None, description="Step times that are known, instead of the cost model's."
    )
    sampling: SamplingSection = Field(
        default=SamplingSection(), description="How a real engine chooses tokens."
    )
    workload: WorkloadSection = Field(description="The requests.")
    slo: SloSection = Field(default=SloSection(), description="Latency goals.")
    crosscheck: CrosscheckSection = Field(
        default=CrosscheckSection(), description="How far a simulation may be from its replay."
    )
    results: ResultsSection = Field(default=ResultsSection(), description="Where results go.")
    sweep: SweepSection | None = Field(
        default=None, description="What pagecast sweep varies; no part of a single run."
    )


def json_schema() -> dict[str, Any]:
    """JSON Schema (2020-12) of an experiment file, for editors."""
    schema = ExperimentFile.model_json_schema()
    title = {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "pagecast experiment"}
    return {**title, **{key: value for key, value in schema.items() if key != "title"}}
