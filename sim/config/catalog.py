"""The catalogue of GPUs, models and attention kernels that ships with the package, and files of one's own.

Owns where `sim/catalog/{hardware,models,attention}/*.yaml` lie, and the form of the latter two.
A reference with a slash or ending in .yaml or .json is a path, anything else a name in the catalogue.
"""

from __future__ import annotations

from importlib.resources import as_file, files
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import Field, ValidationError, model_validator

from sim.config.errors import did_you_mean, in_file_order, problems_of
from sim.config.hardware import HardwareFile, SourceName
from sim.config.hf import read_hf_config
from sim.config.value_types import Count, CountOrZero, Section
from sim.config.yaml_source import read_yaml
from sim.cost.block_reads import AttentionKernel
from sim.cost.hardware import Gpu, Source
from sim.cost.model import ModelShape
from sim.cost.quantization import GROUP_SIZE, quantized
from sim.errors import ConfigError, Problem

WeightType = Literal["none", "fp8", "int8", "int4", "awq", "gptq"]
"""What `sim.cost.quantization` knows."""


class ModelFile(Section):
    """Sizes of a decoder-only transformer, named as in a Hugging Face config.json."""

    name: str = Field(description="What reports call it.")
    source: SourceName = Field(description="Where the sizes come from.")
    num_hidden_layers: Count = Field(description="Layers.")
    hidden_size: Count = Field(description="Width of the residual stream.")
    num_attention_heads: Count = Field(description="Query heads.")
    num_key_value_heads: Count = Field(description="Key and value heads; query heads share them evenly.")
    head_dim: Count = Field(description="Size of one head.")
    intermediate_size: Count = Field(description="Width of the MLP.")
    vocab_size: Count = Field(description="Tokens it knows.")
    max_position_embeddings: Count = Field(description="Longest context it was made for, in tokens.")
    tie_word_embeddings: bool = Field(default=False, description="Output projection is the embedding.")
    gated_mlp: bool = Field(default=True, description="Three MLP matrices (Llama) instead of two (OPT).")
    qkv_bias: bool = Field(default=False, description="Query, key and value have biases (Qwen2).")
    qk_norm: bool = Field(default=False, description="Queries and keys are normalised (Qwen3).")
    learned_positions: bool = Field(default=False, description="Positions are a table (OPT).")
    num_experts: CountOrZero = Field(default=0, description="Routed experts of a layer; 0: a dense MLP.")
    num_experts_per_tok: CountOrZero = Field(default=0, description="Experts that each token visits.")
    moe_intermediate_size: CountOrZero = Field(default=0, description="Width of one expert.")
    num_shared_experts: CountOrZero = Field(default=0, description="Experts that every token visits.")
    first_k_dense_replace: CountOrZero = Field(default=0, description="First layers with a dense MLP.")
    kv_lora_rank: CountOrZero = Field(
        default=0, description="Latent that keys and values come from; 0: none."
    )
    q_lora_rank: CountOrZero = Field(default=0, description="Latent that queries come from; 0: none.")
    qk_nope_head_dim: CountOrZero = Field(default=0, description="Part of a head without positions.")
    qk_rope_head_dim: CountOrZero = Field(default=0, description="Part of a head with positions.")
    v_head_dim: CountOrZero = Field(default=0, description="Size of a value head beside a latent.")
    quantization: WeightType = Field(
        default="none", description="How the published checkpoint stores its layers' weights; none: 16 bits."
    )
    quantization_group_size: Count = Field(
        default=GROUP_SIZE, description="Weights that share a scale, in int4."
    )

    @model_validator(mode="after")
    def _heads_share_evenly(self) -> ModelFile:
        if self.num_attention_heads % self.num_key_value_heads:
            raise ValueError(
                f"num_attention_heads ({self.num_attention_heads}) is not a multiple of "
                f"num_key_value_heads ({self.num_key_value_heads})"
            )
        return self

    @model_validator(mode="after")
    def _experts_and_latents_are_whole(self) -> ModelFile:
        if self.num_experts and not 0 < self.num_experts_per_tok <= self.num_experts:
            raise ValueError(
                f"num_experts_per_tok ({self.num_experts_per_tok}) must be from 1 to num_experts "
                f"({self.num_experts})"
            )
        if self.num_experts and not self.moe_intermediate_size:
            raise ValueError("num_experts needs moe_intermediate_size, the width of one expert")
        if self.first_k_dense_replace > self.num_hidden_layers:
            raise ValueError("first_k_dense_replace is more than num_hidden_layers")
        if self.kv_lora_rank and not (self.qk_nope_head_dim and self.qk_rope_head_dim and self.v_head_dim):
            raise ValueError("kv_lora_rank needs qk_nope_head_dim, qk_rope_head_dim and v_head_dim")
        return self

    def shape(self) -> ModelShape:
        """The values behind it."""
        not_sizes = {"quantization", "quantization_group_size"}
        sizes = ModelShape(**self.model_dump(exclude=not_sizes))
        return quantized(sizes, self.quantization, self.quantization_group_size)


class BlockBegin(Section):
    """A figure of an attention kernel, in tokens."""

    value: float = Field(ge=0, le=1e6, allow_inf_nan=False, description="The number.")
    unit: Literal["tokens"] = Field(description="Its unit.")
    source: SourceName = Field(description="Where it comes from.")
    note: str = Field(default="", description="What a reader should know of it.")


class AttentionFile(Section):
    """An attention kernel."""

    name: str = Field(description="What reports call it.")
    block_begin: BlockBegin = Field(
        description="How many tokens longer each KV block seems; 0 where nothing was measured."
    )

    def kernel(self) -> AttentionKernel:
        """The values behind it."""
        begin = self.block_begin
        return AttentionKernel(self.name, begin.value, Source(begin.source), begin.note)


def hardware_names() -> list[str]:
    """GPUs in the catalogue."""
    return _names("hardware")


def model_names() -> list[str]:
    """Models in the catalogue."""
    return _names("models")


def load_attention(reference: str, folder: Path = Path()) -> AttentionKernel:
    """An attention kernel of the catalogue, or of a file of one's own (relative to `folder`).

    Raises:
        ConfigError: The file is wrong; all faults of it.
        ValueError: There is none of that name.
    """
    return _load("attention", reference, folder, AttentionFile).kernel()


def load_gpu(reference: str, folder: Path = Path()) -> Gpu:
    """A GPU of the catalogue, or of a file of one's own (relative to `folder`).

    Raises:
        ConfigError: The file is wrong; all faults of it.
        ValueError: There is none of that name.
    """
    return _load("hardware", reference, folder, HardwareFile).gpu()


def hardware_document(reference: str, folder: Path = Path()) -> dict[str, Any]:
    """What a hardware file says, as it is written there, after it was checked as a whole.

    Raises:
        ConfigError: The file is wrong; all faults of it.
        ValueError: There is none of that name.
    """
    load_gpu(reference, folder)
    if is_path(reference):
        return dict(read_yaml(folder / reference).data)
    with as_file(_shelf("hardware") / f"{reference}.yaml") as path:
        return dict(read_yaml(path).data)


def load_model(reference: str, folder: Path = Path()) -> ModelShape:
    """A model of the catalogue, of a file of one's own, or of a Hugging Face config.json.

    Paths are relative to `folder`.

    Raises:
        ConfigError: The file is wrong; all faults of it.
        ValueError: There is none of that name.
    """
    if reference.endswith(".json"):
        return _of_hf_config(folder / reference).shape()
    return _load("models", reference, folder, ModelFile).shape()


def _of_hf_config(path: Path) -> ModelFile:
    fields = read_hf_config(path, frozenset(ModelFile.model_fields))
    try:
        return ModelFile.model_validate(fields)
    except ValidationError as error:
        faults = [
            Problem(str(path), ".".join(map(str, detail["loc"])), str(detail["msg"]).lower())
            for detail in error.errors(include_url=False)
        ]
        raise ConfigError(faults) from error


def is_path(reference: str) -> bool:
    """Whether a reference is a path rather than a name."""
    return "/" in reference or "\\" in reference or reference.endswith((".yaml", ".yml", ".json"))


_File = TypeVar("_File", HardwareFile, ModelFile, AttentionFile)


def _load(shelf: str, reference: str, folder: Path, form: type[_File]) -> _File:
    if is_path(reference):
        return _read(folder / reference, form)
    known = _names(shelf)
    if reference not in known:
        hint = did_you_mean(reference, known) or f", which has {', '.join(known)}"
        raise ValueError(
            f"'{reference}' is not in the catalogue{hint}; a path ending in .yaml names a file of your own"
        )
    with as_file(_shelf(shelf) / f"{reference}.yaml") as path:
        return _read(path, form)


def _read(path: Path, form: type[_File]) -> _File:
    document = read_yaml(path)
    problems = list(document.problems)
    try:
        entry = form.model_validate(document.data)
    except ValidationError as error:
        problems += problems_of(error, form, document)
        raise ConfigError(in_file_order(problems)) from error
    if problems:
        raise ConfigError(problems)
    return entry


def _shelf(shelf: str) -> Traversable:
    return files("sim") / "catalog" / shelf


def _names(shelf: str) -> list[str]:
    return sorted(entry.name.removesuffix(".yaml") for entry in _shelf(shelf).iterdir())
