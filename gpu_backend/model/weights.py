"""The weights a Llama-family model needs: names, shapes, and how they are packed for serving.

Owns Hugging Face's names, and the packing: query, key and value projections are one matrix, gate and up
another, so that each is one product. Refuses to know files (`loading.py`) and what is computed (`llama.py`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from gpu_backend.model.model_config import ModelConfig

EMBEDDING = "model.embed_tokens.weight"
HEAD = "lm_head.weight"
FINAL_NORM = "model.norm.weight"


@dataclass(frozen=True, slots=True)
class QkNorm:
    """Weights that normalise each query and key head (Qwen3)."""

    query: Tensor  # [head_dim]
    key: Tensor  # [head_dim]


@dataclass(frozen=True, slots=True)
class LayerWeights:
    """One layer, packed."""

    input_norm: Tensor  # [hidden]
    qkv: Tensor  # [(num_heads + 2 num_kv_heads) head_dim, hidden]
    qkv_bias: Tensor | None  # [(num_heads + 2 num_kv_heads) head_dim]
    qk_norm: QkNorm | None
    output: Tensor  # [hidden, num_heads head_dim]
    mlp_norm: Tensor  # [hidden]
    gate_up: Tensor  # [2 intermediate, hidden]
    down: Tensor  # [hidden, intermediate]


@dataclass(frozen=True, slots=True)
class ModelWeights:
    """A whole model, packed; `head` is `embedding` itself where they are tied."""

    embedding: Tensor  # [vocab, hidden]
    layers: tuple[LayerWeights, ...]
    final_norm: Tensor  # [hidden]
    head: Tensor  # [vocab, hidden]


def expected_shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Every tensor of a checkpoint by its Hugging Face name, with its shape."""
    hidden = config.hidden_size
    shapes: dict[str, tuple[int, ...]] = {EMBEDDING: (config.vocab_size, hidden), FINAL_NORM: (hidden,)}
    if not config.tie_word_embeddings:
        shapes[HEAD] = (config.vocab_size, hidden)
    for layer in range(config.num_hidden_layers):
        layer_shapes = _expected_layer_shapes(config)
        shapes.update({f"model.layers.{layer}.{name}": shape for name, shape in layer_shapes.items()})
    return shapes


def _expected_layer_shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    hidden, mlp = config.hidden_size, config.intermediate_size
    widths = {"q": config.attention_size, "k": config.kv_size, "v": config.kv_size}
    shapes: dict[str, tuple[int, ...]] = {
        "input_layernorm.weight": (hidden,),
        "self_attn.o_proj.weight": (hidden, config.attention_size),
        "post_attention_layernorm.weight": (hidden,),
        "mlp.gate_proj.weight": (mlp, hidden),
        "mlp.up_proj.weight": (mlp, hidden),
        "mlp.down_proj.weight": (hidden, mlp),
    }
    for part, width in widths.items():
        shapes[f"self_attn.{part}_proj.weight"] = (width, hidden)
        if config.qkv_bias:
            shapes[f"self_attn.{part}_proj.bias"] = (width,)
    if config.qk_norm:
        shapes["self_attn.q_norm.weight"] = shapes["self_attn.k_norm.weight"] = (config.head_dim,)
    return shapes


def pack(config: ModelConfig, tensors: Mapping[str, Tensor]) -> ModelWeights:
    """Pack tensors that have `expected_shapes`, all of one dtype and device."""
    embedding = tensors[EMBEDDING]
    return ModelWeights(
        embedding=embedding,
        layers=tuple(
            _pack_layer(config, tensors, f"model.layers.{layer}") for layer in range(config.num_hidden_layers)
        ),
        final_norm=tensors[FINAL_NORM],
        head=embedding if config.tie_word_embeddings else tensors[HEAD],
    )


def _pack_layer(config: ModelConfig, tensors: Mapping[str, Tensor], layer: str) -> LayerWeights:
    def stacked(block: str, parts: tuple[str, ...], kind: str) -> Tensor:
        return torch.cat([tensors[f"{layer}.{block}.{part}_proj.{kind}"] for part in parts])

    norm = None
    if config.qk_norm:
        norm = QkNorm(
            tensors[f"{layer}.self_attn.q_norm.weight"], tensors[f"{layer}.self_attn.k_norm.weight"]
        )
    return LayerWeights(
        input_norm=tensors[f"{layer}.input_layernorm.weight"],
        qkv=stacked("self_attn", ("q", "k", "v"), "weight"),
        qkv_bias=stacked("self_attn", ("q", "k", "v"), "bias") if config.qkv_bias else None,
        qk_norm=norm,
        output=tensors[f"{layer}.self_attn.o_proj.weight"],
        mlp_norm=tensors[f"{layer}.post_attention_layernorm.weight"],
        gate_up=stacked("mlp", ("gate", "up"), "weight"),
        down=tensors[f"{layer}.mlp.down_proj.weight"],
    )
