"""The elementwise pieces that unfused ops are made of: one torch call, one launch each.

Owns nothing but the counting around each call. On a CUDA device each of these is one kernel of torch.
"""

from __future__ import annotations

import torch
from torch.nn import functional

from gpu_backend.ops.launches import count_launch


def add(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """Left + right, of one shape."""
    result = left + right
    count_launch("add", (left, right), (result,))
    return result


def subtract(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """Left - right, broadcast."""
    result = left - right
    count_launch("subtract", (left, right), (result,))
    return result


def multiply(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """Left x right, broadcast."""
    result = left * right
    count_launch("multiply", (left, right), (result,))
    return result


def scaled(values: torch.Tensor, factor: float) -> torch.Tensor:
    """Values times one number."""
    result = values * factor
    count_launch("scale", (values,), (result,))
    return result


def divide(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """Left / right, broadcast."""
    result = left / right
    count_launch("divide", (left, right), (result,))
    return result


def cast(values: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Values in another dtype; no launch where they have it already."""
    if values.dtype == dtype:
        return values
    result = values.to(dtype)
    count_launch("cast", (values,), (result,))
    return result


def silu(values: torch.Tensor) -> torch.Tensor:
    """X times sigmoid(x)."""
    result = functional.silu(values)
    count_launch("silu", (values,), (result,))
    return result


def square(values: torch.Tensor) -> torch.Tensor:
    """X times x."""
    result = values.square()
    count_launch("square", (values,), (result,))
    return result


def mean_of_rows(values: torch.Tensor) -> torch.Tensor:
    """Mean over the last dimension, which stays as 1."""
    result = values.mean(-1, keepdim=True)
    count_launch("mean", (values,), (result,))
    return result


def reciprocal_root(values: torch.Tensor, eps: float) -> torch.Tensor:
    """1 / sqrt(x + eps); two launches."""
    shifted = values + eps
    count_launch("add", (values,), (shifted,))
    result = shifted.rsqrt()
    count_launch("rsqrt", (shifted,), (result,))
    return result


def concatenate(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """Both, side by side in the last dimension."""
    result = torch.cat((left, right), -1)
    count_launch("concatenate", (left, right), (result,))
    return result


def take_rows(table: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    """table[rows], copied."""
    result = table[rows]
    count_launch("take_rows", (rows, result.numel() * result.element_size()), (result,))
    return result


def matmul(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """Left @ right."""
    result = left @ right
    count_launch("matmul", (left, right), (result,))
    return result


def fill_where(values: torch.Tensor, where: torch.Tensor, value: float) -> torch.Tensor:
    """Values, with one number where the mask says so."""
    result = values.masked_fill(where, value)
    count_launch("fill_where", (values, where), (result,))
    return result


def softmax(values: torch.Tensor) -> torch.Tensor:
    """Softmax over the last dimension."""
    result = values.softmax(-1)
    count_launch("softmax", (values,), (result,))
    return result
