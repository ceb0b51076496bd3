"""The model as training sees it: whole windows, no cache, gradients.

Owns the mathematics once more, apart from the serving model (`gpu_backend.model.llama`), whose paged caches
are written in place and have no gradients. That both give the same logits is a test. Weights are a plain dict
under their Hugging Face names, so what is trained is what is saved.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from gpu_backend.model.model_config import ModelConfig

Weights = dict[str, Tensor]


def random_weights(config: ModelConfig, generator: torch.Generator) -> Weights:
    """Weights to begin training with; projections into the residual stream are scaled down by depth."""
    depth_scale = (2 * config.num_hidden_layers) ** -0.5

    def matrix(rows: int, columns: int, scale: float = 1.0) -> Tensor:
        deviation: float = scale * columns**-0.5
        return torch.randn(rows, columns, generator=generator) * deviation

    hidden, attention, mlp = config.hidden_size, config.attention_size, config.intermediate_size
    weights = {"model.embed_tokens.weight": matrix(config.vocab_size, hidden, scale=0.5)}
    for layer in range(config.num_hidden_layers):
        name = f"model.layers.{layer}"
        weights[f"{name}.input_layernorm.weight"] = torch.ones(hidden)
        weights[f"{name}.self_attn.q_proj.weight"] = matrix(attention, hidden)
        weights[f"{name}.self_attn.k_proj.weight"] = matrix(config.kv_size, hidden)
        weights[f"{name}.self_attn.v_proj.weight"] = matrix(config.kv_size, hidden)
        weights[f"{name}.self_attn.o_proj.weight"] = matrix(hidden, attention, depth_scale)
        weights[f"{name}.post_attention_layernorm.weight"] = torch.ones(hidden)
        weights[f"{name}.mlp.gate_proj.weight"] = matrix(mlp, hidden)
        weights[f"{name}.mlp.up_proj.weight"] = matrix(mlp, hidden)
        weights[f"{name}.mlp.down_proj.weight"] = matrix(hidden, mlp, depth_scale)
    weights["model.norm.weight"] = torch.ones(hidden)
    if not config.tie_word_embeddings:
        weights["lm_head.weight"] = matrix(config.vocab_size, hidden, scale=0.5)
    return weights


def logits_of(weights: Weights, config: ModelConfig, tokens: Tensor) -> Tensor:
    """Logits after each token of each window.

    Args:
        weights: Under their Hugging Face names.
        config: A plain Llama: no biases, no query and key norms, no rotary scaling.
        tokens: Token ids.  # [batch, length] int64.

    Returns:
        Logits.  # [batch, length, vocab]
    """
    assert config.rope_scaling is None
    assert not config.qkv_bias
    assert not config.qk_norm
    rotation = _rotation(config, tokens.shape[1])
    hidden = functional.embedding(tokens, weights["model.embed_tokens.weight"])  # [batch, length, hidden]
    for layer in range(config.num_hidden_layers):
        name = f"model.layers.{layer}"
        normed = _norm(hidden, weights[f"{name}.input_layernorm.weight"], config)
        hidden = hidden + _attention(weights, config, f"{name}.self_attn", normed, rotation)
        normed = _norm(hidden, weights[f"{name}.post_attention_layernorm.weight"], config)
        gate = functional.silu(functional.linear(normed, weights[f"{name}.mlp.gate_proj.weight"]))
        up = functional.linear(normed, weights[f"{name}.mlp.up_proj.weight"])
        hidden = hidden + functional.linear(gate * up, weights[f"{name}.mlp.down_proj.weight"])
    hidden = _norm(hidden, weights["model.norm.weight"], config)
    head = "model.embed_tokens.weight" if config.tie_word_embeddings else "lm_head.weight"
    return functional.linear(hidden, weights[head])


def _attention(
    weights: Weights, config: ModelConfig, name: str, hidden: Tensor, rotation: tuple[Tensor, Tensor]
) -> Tensor:
    heads = [
        functional.linear(hidden, weights[f"{name}.{part}_proj.weight"])
        .view(*hidden.shape[:2], -1, config.head_dim)
        .transpose(1, 2)  # [batch, heads, length, head_dim]
        for part in ("q", "k", "v")
    ]
    query, key = _rotate(heads[0], rotation), _rotate(heads[1], rotation)
    mixed = functional.scaled_dot_product_attention(query, key, heads[2], is_causal=True, enable_gqa=True)
    return functional.linear(mixed.transpose(1, 2).flatten(-2), weights[f"{name}.o_proj.weight"])


def _rotation(config: ModelConfig, length: int) -> tuple[Tensor, Tensor]:
    frequencies = config.rope_theta ** (-torch.arange(0, config.head_dim, 2).double() / config.head_dim)
    angles = torch.outer(torch.arange(length).double(), frequencies)  # [length, head_dim / 2]
    return angles.cos().float(), angles.sin().float()


def _rotate(heads: Tensor, rotation: tuple[Tensor, Tensor]) -> Tensor:
    cos, sin = rotation
    first, second = heads.chunk(2, dim=-1)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)


def _norm(hidden: Tensor, weight: Tensor, config: ModelConfig) -> Tensor:
    return functional.rms_norm(hidden, (config.hidden_size,), weight, config.rms_norm_eps)
