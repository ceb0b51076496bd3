"""The gate of a SwiGLU feed-forward layer: silu(gate) x up, in one pass.

    out[t, i] = gate_up[t, i] sigmoid(gate_up[t, i]) gate_up[t, width + i]      in float32, then rounded once

Owns the op in its three forms.
"""

from __future__ import annotations

import torch
from torch.nn import functional

from gpu_backend.ops import pieces
from gpu_backend.ops.implementation import Implementation, require, require_dense_rows
from gpu_backend.ops.language import kernel, next_power_of_2, require_triton, tl
from gpu_backend.ops.launches import count_launch


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
            return _launch(gate_up)


def _twin(gate_up: torch.Tensor) -> torch.Tensor:
    gate, up = gate_up.chunk(2, -1)  # [num_tokens, width] each
    if gate.dtype in (torch.float32, torch.float64):
        return functional.silu(gate) * up
    return (functional.silu(gate.float()) * up.float()).to(gate.dtype)


def _launch(gate_up: torch.Tensor) -> torch.Tensor:
    require_triton()
    require_dense_rows("gate_up", gate_up)
    num_tokens, width = gate_up.shape[0], gate_up.shape[1] // 2
    out = gate_up.new_empty((num_tokens, width))
    if out.numel() == 0:
        return out
    tile = min(2048, next_power_of_2(width))
    grid = (num_tokens, -(-width // tile))
    _silu_and_mul_kernel[grid](gate_up, out, gate_up.stride(0), width, TILE=tile, num_warps=4)
    count_launch("silu_and_mul", (gate_up,), (out,))
    return out


@kernel()
def _silu_and_mul_kernel(gate_up_ptr, out_ptr, gate_up_stride, width, TILE: tl.constexpr):
    token = tl.program_id(0).to(tl.int64)
    columns = tl.program_id(1) * TILE + tl.arange(0, TILE)  # [TILE]
    inside = columns < width
    row_ptr = gate_up_ptr + token * gate_up_stride
    gate = tl.load(row_ptr + columns, mask=inside, other=0.0).to(tl.float32)
    up = tl.load(row_ptr + width + columns, mask=inside, other=0.0).to(tl.float32)
    product = gate / (1.0 + tl.exp(-gate)) * up
    tl.store(out_ptr + token * width + columns, product.to(out_ptr.dtype.element_ty), mask=inside)
