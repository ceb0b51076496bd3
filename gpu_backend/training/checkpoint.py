"""What is written while training: weights and optimiser state, to go on from; then a Hugging Face folder.

Files are written under another name and renamed, so that an interrupted write leaves the former file whole.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors
import torch
from safetensors.torch import save_file
from torch import Tensor

from gpu_backend.model.model_config import CONFIG_FILE, ModelConfig
from gpu_backend.training.network import Weights

WEIGHTS_FILE = "model.safetensors"
_STEPS = "num_steps"
_WEIGHT, _STATE = "weight:", "state:"


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A run after so many steps."""

    num_steps: int
    weights: Weights
    optimizer_state: dict[str, Tensor]


def save_checkpoint(path: Path, checkpoint: Checkpoint) -> None:
    """Write a checkpoint in float32."""
    tensors = {_WEIGHT + name: weight.detach() for name, weight in checkpoint.weights.items()}
    tensors |= {_STATE + name: tensor for name, tensor in checkpoint.optimizer_state.items()}
    _save(path, tensors, {_STEPS: str(checkpoint.num_steps)})


def load_checkpoint(path: Path) -> Checkpoint | None:
    """The checkpoint at a path, or None where there is none."""
    if not path.exists():
        return None
    weights: Weights = {}
    state: dict[str, Tensor] = {}
    with safetensors.safe_open(path, framework="pt") as file:
        num_steps = int(file.metadata()[_STEPS])
        for name in file.keys():  # noqa: SIM118  # it is no mapping
            kind, _, rest = name.partition(":")
            (weights if f"{kind}:" == _WEIGHT else state)[rest] = file.get_tensor(name)
    return Checkpoint(num_steps, weights, state)


def export(folder: Path, config: ModelConfig, weights: Weights) -> None:
    """Write `config.json` and float16 weights as Hugging Face lays them out."""
    folder.mkdir(parents=True, exist_ok=True)
    halves = {name: weight.detach().to(torch.float16).contiguous() for name, weight in weights.items()}
    _save(folder / WEIGHTS_FILE, halves, {"format": "pt"})
    (folder / CONFIG_FILE).write_text(
        json.dumps(hugging_face_config(config), indent=2) + "\n", encoding="utf-8"
    )


def hugging_face_config(config: ModelConfig) -> dict[str, Any]:
    """The `config.json` of a plain Llama, spelt as transformers before and after 5 both read it."""
    (end_of_text_id,) = config.eos_token_ids
    return {
        "architectures": [config.architecture],
        "model_type": "llama",
        "torch_dtype": "float16",
        "vocab_size": config.vocab_size,
        "hidden_size": config.hidden_size,
        "intermediate_size": config.intermediate_size,
        "num_hidden_layers": config.num_hidden_layers,
        "num_attention_heads": config.num_attention_heads,
        "num_key_value_heads": config.num_key_value_heads,
        "head_dim": config.head_dim,
        "hidden_act": "silu",
        "max_position_embeddings": config.max_position_embeddings,
        "rms_norm_eps": config.rms_norm_eps,
        "rope_theta": config.rope_theta,
        "attention_bias": False,
        "mlp_bias": False,
        "tie_word_embeddings": config.tie_word_embeddings,
        "bos_token_id": end_of_text_id,
        "eos_token_id": end_of_text_id,
    }


def _save(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str]) -> None:
    unfinished = path.with_name(f"{path.name}.unfinished")
    save_file(tensors, unfinished, metadata)
    unfinished.replace(path)
