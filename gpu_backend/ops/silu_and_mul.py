"""The gate of a SwiGLU feed-forward layer: silu(gate) x up, in one pass.

    out[t, i] = gate_up[t, i] sigmoid(gate_up[t, i]) gate_up[t, width + i]      in float32, then rounded once

Owns the op in its three forms.
"""

from __future__ import annotations

import torch
from torch.nn import functional

from gpu_backend.launches import count_launch
from gpu_backend.ops import pieces
from gpu_backend.ops.implementation import Implementation, require


def silu_and_mul(
    gate_up: torch.Tensor,  # [num_tokens, 2 x width]
    implementation: Implementation = Implementation.TWIN,
) -> torch.Tensor:
    """Returns silu(left half) x right half: [num_tokens, width].

    Raises:
        OpInputError: for a width that is odd.
    """
    require(gate_up.dim() == 2, f"gate_up has {gate_up.dim()} dimensions, expected 2")
    require(gate_up.shape[1] % 2 == 0, f"gate_up has {gate_up.shape[1]} columns: no two halves")
    match implementation:
        case Implementation.TWIN:
            out = _twin(gate_up)
            count_launch("silu_and_mul", (gate_up,), (out,))
            return out
        case Implementation.UNFUSED:
            gate, up = gate_up.chunk(2, -1)
            return pieces.multiply(pieces.silu(gate), up)
        case Implementation.KERNEL:
            raise NotImplementedError


def _twin(gate_up: torch.Tensor) -> torch.Tensor:
    gate, up = gate_up.chunk(2, -1)  # [num_tokens, width] each
    if gate.dtype in (torch.float32, torch.float64):
        return functional.silu(gate) * up
    return (functional.silu(gate.float()) * up.float()).to(gate.dtype)
