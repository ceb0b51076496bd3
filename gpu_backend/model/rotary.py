"""The angles of the rotary embedding: one table of cosines and sines, with the scaling a config asks for.

Owns frequencies and their scaling. Refuses to know queries, keys and caches (`ops/rotary_and_cache.py` turns
those). Angles are computed in float64 and rounded once, so a far position is as exact as a near one.
"""

from __future__ import annotations

import math

import torch

from gpu_backend.model.model_config import LinearRopeScaling, Llama3RopeScaling, ModelConfig


def rotary_table(config: ModelConfig, device: torch.device) -> torch.Tensor:
    """Cosines, then sines, of every position.  # [max_position_embeddings, head_dim] float32."""
    positions = torch.arange(config.max_position_embeddings, dtype=torch.float64)
    angles = torch.outer(positions, _frequencies(config))  # [max_position_embeddings, head_dim / 2]
    return torch.cat((angles.cos(), angles.sin()), dim=-1).to(device, torch.float32)


def _frequencies(config: ModelConfig) -> torch.Tensor:
    """Radians per position of each pair.  # [head_dim / 2] float64."""
    exponents = torch.arange(0, config.head_dim, 2, dtype=torch.float64) / config.head_dim
    frequencies = config.rope_theta**-exponents
    match config.rope_scaling:
        case None:
            return frequencies
        case LinearRopeScaling(factor):
            return frequencies / factor
        case Llama3RopeScaling() as scaling:
            return _llama3_scaled(frequencies, scaling)


def _llama3_scaled(frequencies: torch.Tensor, scaling: Llama3RopeScaling) -> torch.Tensor:
    """Keep what turns often within the original context, divide what does not, blend between.

    Source: `apply_scaling` of Meta's llama-models, as transformers has it under `rope_type: llama3`.
    """
    turns = scaling.original_max_position_embeddings * frequencies / (2 * math.pi)  # [head_dim / 2]
    span = scaling.high_freq_factor - scaling.low_freq_factor
    kept_fraction = ((turns - scaling.low_freq_factor) / span).clamp(0.0, 1.0)
    return kept_fraction * frequencies + (1 - kept_fraction) * frequencies / scaling.factor
