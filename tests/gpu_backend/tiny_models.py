"""Random tiny checkpoints of every supported kind, as transformers writes them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import LlamaConfig, MistralConfig, PreTrainedModel, Qwen2Config, Qwen3Config

SIZES: dict[str, Any] = {
    "vocab_size": 97,
    "hidden_size": 48,
    "intermediate_size": 80,
    "num_hidden_layers": 3,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "bos_token_id": 0,
    "eos_token_id": 0,
}
LLAMA3_SCALING = {
    "rope_type": "llama3",
    "rope_theta": 10_000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}
KINDS = ("llama", "llama-mha", "llama-tied", "llama-3-scaled", "llama-linear", "mistral", "qwen2", "qwen3")


def oracle(kind: str) -> PreTrainedModel:
    """A random model of a kind in float32, seeded, its norms and biases away from ones and zeros."""
    torch.manual_seed(7)
    model: PreTrainedModel = _model_class(kind)(_config(kind)).float().eval()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "norm" in name:
                weight.copy_(0.5 + torch.rand_like(weight))
            elif name.endswith("bias"):
                weight.copy_(torch.randn_like(weight))
            else:
                weight.mul_(4.0)  # so that attention is far from even
    return model


def save(kind: str, folder: Path, **options: Any) -> PreTrainedModel:
    """Write a model of a kind to a folder and return it."""
    model = oracle(kind)
    model.save_pretrained(folder, **options)
    return model


def _model_class(kind: str) -> Any:
    match kind:
        case "qwen2":
            return transformers.Qwen2ForCausalLM
        case "qwen3":
            return transformers.Qwen3ForCausalLM
        case "mistral":
            return transformers.MistralForCausalLM
        case _:
            return transformers.LlamaForCausalLM


def _config(kind: str) -> Any:
    match kind:
        case "llama":
            return LlamaConfig(**SIZES)
        case "llama-mha":
            return LlamaConfig(**SIZES | {"num_key_value_heads": 6})
        case "llama-tied":
            return LlamaConfig(**SIZES, tie_word_embeddings=True)
        case "llama-3-scaled":
            return LlamaConfig(**SIZES, rope_parameters=LLAMA3_SCALING)
        case "llama-linear":
            scaling = {"rope_type": "linear", "rope_theta": 10_000.0, "factor": 4.0}
            return LlamaConfig(**SIZES, rope_parameters=scaling)
        case "mistral":
            return MistralConfig(**SIZES, sliding_window=None, head_dim=16)
        case "qwen2":
            return Qwen2Config(**SIZES, tie_word_embeddings=True)
        case "qwen3":
            return Qwen3Config(**SIZES, head_dim=16)
        case _:
            raise ValueError(kind)
