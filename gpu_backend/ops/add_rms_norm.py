"""Adding the residual and normalising by the root mean square, in one pass.

    summed = x + residual                                     in the dtype of x
    normed = summed / sqrt(mean(summed ** 2) + eps) * weight  in float32, then rounded once

Owns both `add_rms_norm` and `rms_norm`, its form without a residual (the first layer, and the query and key
norms of Qwen3, where a row is one head). Each row is normalised over its last dimension.
"""

from __future__ import annotations

import torch

from gpu_backend.launches import count_launch
from gpu_backend.ops import pieces
from gpu_backend.ops.implementation import Implementation, require_same_device, require_shape


def add_rms_norm(
    x: torch.Tensor,  # [num_tokens, hidden]
    residual: torch.Tensor,  # [num_tokens, hidden]
    weight: torch.Tensor,  # [hidden]
    eps: float,
    implementation: Implementation = Implementation.TWIN,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns (normed, summed), both new and of the shape of x; summed is the next residual.

    Raises:
        OpInputError: for shapes or devices that do not go together.
    """
    _check(x, weight)
    require_shape("residual", residual, tuple(x.shape))
    match implementation:
        case Implementation.TWIN:
            summed = x + residual
            normed = _twin(summed, weight, eps)
            count_launch("add_rms_norm", (x, residual, weight), (normed, summed))
            return normed, summed
        case Implementation.UNFUSED:
            summed = pieces.add(x, residual)
            return _unfused(summed, weight, eps), summed
        case Implementation.KERNEL:
            raise NotImplementedError


def rms_norm(
    x: torch.Tensor,  # [..., hidden]
    weight: torch.Tensor,  # [hidden]
    eps: float,
    implementation: Implementation = Implementation.TWIN,
) -> torch.Tensor:
    """Normalises the rows of x; the shape stays.

    Raises:
        OpInputError: for shapes or devices that do not go together.
    """
    _check(x, weight)
    match implementation:
        case Implementation.TWIN:
            normed = _twin(x, weight, eps)
            count_launch("rms_norm", (x, weight), (normed,))
            return normed
        case Implementation.UNFUSED:
            return _unfused(x, weight, eps)
        case Implementation.KERNEL:
            raise NotImplementedError


def _check(x: torch.Tensor, weight: torch.Tensor) -> None:
    require_shape("weight", weight, (x.shape[-1],))
    require_same_device(x=x, weight=weight)


def _twin(x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
    if x.dtype in (torch.float32, torch.float64):
        return torch.nn.functional.rms_norm(x, weight.shape, weight, eps)
    normed = torch.nn.functional.rms_norm(x.float(), weight.shape, weight.float(), eps)
    return normed.to(x.dtype)


def _unfused(x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
    exact = pieces.cast(x, torch.promote_types(x.dtype, torch.float32))
    factor = pieces.reciprocal_root(pieces.mean_of_rows(pieces.square(exact)), eps)  # [..., 1]
    return pieces.cast(pieces.multiply(pieces.multiply(exact, factor), weight), x.dtype)
