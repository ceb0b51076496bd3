"""Sizes of a model from its Hugging Face `config.json`: `model: {hf_config: path}`.

Owns how the architectures of that format spell what `ModelFile` calls by one name, and the defaults that a
config.json leaves to its model class. Refuses architectures whose cost is not that of a decoder-only
transformer as `sim.cost.model` knows it. Nothing is downloaded: the path is a file.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sim.config.errors import did_you_mean
from sim.errors import ConfigError, Problem
from workloads.text import parse_json

_LLAMA: dict[str, Any] = {}
ARCHITECTURES: Mapping[str, Mapping[str, Any]] = {
    "llama": _LLAMA,
    "mistral": _LLAMA,
    "qwen2": {"qkv_bias": True},
    "qwen3": {"qk_norm": True},
    "qwen3_moe": {"qk_norm": True},
    "mixtral": {},
    "opt": {"gated_mlp": False, "qkv_bias": True, "learned_positions": True, "tie_word_embeddings": True},
    "deepseek_v3": {},
}
"""By `model_type`: what the class fixes and the file does not say."""
_SPELLINGS = {
    "num_local_experts": "num_experts",
    "n_routed_experts": "num_experts",
    "n_shared_experts": "num_shared_experts",
    "ffn_dim": "intermediate_size",
}

_FP8_METHODS = ("fp8", "fbfp8_gemm")
_INTEGER_METHODS = ("awq", "gptq", "compressed-tensors")


def read_hf_config(path: Path, known: frozenset[str]) -> dict[str, Any]:
    """The fields of a model file, as far as a config.json says them.

    Args:
        path: The file.
        known: Names of the fields of a model file.

    Raises:
        ConfigError: It cannot be read, is of another architecture, or lacks a size.
    """
    config = _read(path)
    kind = str(config.get("model_type"))
    if kind not in ARCHITECTURES:
        hint = did_you_mean(kind, ARCHITECTURES) or f": known are {', '.join(sorted(ARCHITECTURES))}"
        raise ConfigError(
            [Problem(str(path), "model_type", f"{kind!r} is not an architecture known here{hint}")]
        )
    found = {_SPELLINGS.get(key, key): value for key, value in config.items() if value is not None}
    sizes = {key: value for key, value in found.items() if key in known and key not in ("name", "source")}
    sizes |= {key: value for key, value in ARCHITECTURES[kind].items() if key not in sizes}
    heads = sizes.get("num_attention_heads")
    if isinstance(heads, int) and heads:
        sizes.setdefault("num_key_value_heads", heads)
        if kind == "deepseek_v3":
            sizes.setdefault("head_dim", sizes.get("v_head_dim"))
        elif isinstance(sizes.get("hidden_size"), int):
            sizes.setdefault("head_dim", sizes["hidden_size"] // heads)
    if kind == "mixtral":
        sizes.setdefault("moe_intermediate_size", sizes.get("intermediate_size"))
    if kind == "qwen3_moe" and not sizes.get("num_experts"):
        sizes.pop("moe_intermediate_size", None)
    name = str(config.get("_name_or_path") or "").rstrip("/").rpartition("/")[2] or path.resolve().parent.name
    return {"name": name, "source": "datasheet", **sizes, **_quantization(path, config)}


def _quantization(path: Path, config: Mapping[str, Any]) -> dict[str, Any]:
    """How the checkpoint stores its weights, as `ModelFile` says it; nothing for 16 bits.

    Raises:
        ConfigError: In a way that is not known here.
    """
    section = config.get("quantization_config")
    if not isinstance(section, dict):
        return {}
    method, name = section.get("quant_method"), None
    weights: Mapping[str, Any] = section
    if method == "compressed-tensors":
        weights = _compressed_weights(section)
    bits = weights.get("num_bits", weights.get("bits"))
    if method in _FP8_METHODS or (method == "compressed-tensors" and weights.get("type") == "float"):
        name = "fp8" if bits in (8, None) else None
    elif method in _INTEGER_METHODS:
        name = {4: "int4", 8: "int8"}.get(bits) if isinstance(bits, int) else None
    if name is None:
        width = "weights" if bits is None else f"weights of {bits} bits"
        message = (
            f"{width} by {method!r} are not known here: known are {', '.join(_FP8_METHODS)}, and "
            f"{', '.join(_INTEGER_METHODS)} with 4 or 8 bits; without this section they are 16 bits"
        )
        raise ConfigError([Problem(str(path), "quantization_config", message)])
    group_size = weights.get("group_size")
    has_groups = name == "int4" and isinstance(group_size, int) and group_size > 0
    return {"quantization": name, **({"quantization_group_size": group_size} if has_groups else {})}


def _compressed_weights(section: Mapping[str, Any]) -> Mapping[str, Any]:
    """How the first group of layers is stored: such checkpoints may mix, and hardly ever do."""
    groups = section.get("config_groups")
    first = next(iter(groups.values()), None) if isinstance(groups, dict) else None
    weights = first.get("weights") if isinstance(first, dict) else None
    return weights if isinstance(weights, dict) else {}


def _read(path: Path) -> dict[str, Any]:
    try:
        config = parse_json(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError([Problem(str(path), "", f"cannot be read: {error}")]) from error
    except json.JSONDecodeError as error:
        message = f"is not JSON: {error.msg}"
        raise ConfigError([Problem(str(path), "", message, error.lineno, error.colno)]) from error
    if not isinstance(config, dict):
        raise ConfigError([Problem(str(path), "", "must be an object, as a Hugging Face config.json is")])
    return config
