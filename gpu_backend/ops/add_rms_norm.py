"""Adding the residual and normalising by the root mean square, in one pass.

    summed = x + residual                                     in the dtype of x
    normed = summed / sqrt(mean(summed ** 2) + eps) * weight  in float32, then rounded once

Owns both `add_rms_norm` and `rms_norm`, its form without a residual (the first layer, and the query and key
norms of Qwen3, where a row is one head). Each row is normalised over its last dimension.
"""

from __future__ import annotations

import torch

from gpu_backend.ops import pieces
from gpu_backend.ops.implementation import (
    Implementation,
    require,
    require_dense_rows,
    require_same_device,
    require_shape,
)
from gpu_backend.ops.language import kernel, next_power_of_2, require_triton, tl
from gpu_backend.ops.launches import count_launch


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
            return _launch(x, residual, weight, eps)


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
            return _launch(x, None, weight, eps)[0]


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


def _launch(
    x: torch.Tensor, residual: torch.Tensor | None, weight: torch.Tensor, eps: float
) -> tuple[torch.Tensor, torch.Tensor]:
    require_triton()
    require(weight.is_contiguous(), "weight is not contiguous")
    require_dense_rows("x", x)
    if residual is not None:
        require(x.is_contiguous() and residual.is_contiguous(), "x and residual are not contiguous")
    width = x.shape[-1]
    rows = x if x.dim() == 3 else x.reshape(-1, 1, width)  # [tokens, heads or one, width]
    normed = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    summed = x if residual is None else torch.empty_like(normed)
    if x.numel() == 0:
        return normed, summed
    tile = next_power_of_2(width)
    _add_rms_norm_kernel[tuple(rows.shape[:2])](
        x,
        x if residual is None else residual,
        weight,
        normed,
        summed,
        *rows.stride()[:2],
        width,
        eps,
        HAS_RESIDUAL=residual is not None,
        TILE=tile,
        num_warps=min(16, max(1, tile // 512)),
    )
    if residual is None:
        count_launch("rms_norm", (x, weight), (normed,))
    else:
        count_launch("add_rms_norm", (x, residual, weight), (normed, summed))
    return normed, summed


@kernel()
def _add_rms_norm_kernel(
    x_ptr,
    residual_ptr,
    weight_ptr,
    normed_ptr,
    summed_ptr,
    outer_stride,
    inner_stride,
    width,
    eps,
    HAS_RESIDUAL: tl.constexpr,
    TILE: tl.constexpr,
):
    outer, inner = tl.program_id(0).to(tl.int64), tl.program_id(1)
    x_row = outer * outer_stride + inner * inner_stride
    row = (outer * tl.num_programs(1) + inner) * width
    columns = tl.arange(0, TILE)  # [TILE], one row whole: it is read once
    inside = columns < width
    x = tl.load(x_ptr + x_row + columns, mask=inside, other=0.0)
    if HAS_RESIDUAL:
        residual = tl.load(residual_ptr + row + columns, mask=inside, other=0.0)
        x = (x.to(tl.float32) + residual.to(tl.float32)).to(summed_ptr.dtype.element_ty)
        tl.store(summed_ptr + row + columns, x, mask=inside)
    exact = x.to(tl.float32)
    factor = 1.0 / tl.sqrt(tl.sum(exact * exact, 0) / width + eps)
    weight = tl.load(weight_ptr + columns, mask=inside, other=0.0).to(tl.float32)
    normed = exact * factor * weight
    tl.store(normed_ptr + row + columns, normed.to(normed_ptr.dtype.element_ty), mask=inside)
