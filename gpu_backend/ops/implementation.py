"""Which of its three forms an op takes, and the checks that all forms share.

Owns `Implementation` and `OpInputError`. Refuses to know any op.
"""

from __future__ import annotations

from enum import Enum

import torch


class Implementation(Enum):
    """How an op is carried out."""

    TWIN = "twin"
    """Plain torch, as few calls as possible: the specification, and what runs on a CPU."""
    KERNEL = "kernel"
    """The fused Triton kernel: compiled on a device, interpreted under TRITON_INTERPRET=1."""
    UNFUSED = "unfused"
    """One torch call, and so one launch, per elementwise piece: what fusion is measured against."""


class OpInputError(ValueError):
    """An op was called with tensors whose shape, dtype, stride or device it cannot take."""


def require(condition: bool, message: str) -> None:
    """Raises OpInputError with `message` unless `condition` holds."""
    if not condition:
        raise OpInputError(message)


def require_shape(name: str, tensor: torch.Tensor, shape: tuple[int, ...]) -> None:
    """Raises OpInputError unless `tensor` has exactly this shape."""
    if tuple(tensor.shape) != shape:
        raise OpInputError(f"{name} has shape {list(tensor.shape)}, expected {list(shape)}")


def require_integers(name: str, tensor: torch.Tensor) -> None:
    """Raises OpInputError unless `tensor` holds int32 or int64."""
    if tensor.dtype not in (torch.int32, torch.int64):
        raise OpInputError(f"{name} is {tensor.dtype}, expected torch.int32 or torch.int64")


def require_same_device(**tensors: torch.Tensor) -> None:
    """Raises OpInputError unless all tensors lie on the device of the first."""
    first, *rest = tensors.items()
    for name, tensor in rest:
        if tensor.device != first[1].device:
            raise OpInputError(f"{name} lies on {tensor.device}, {first[0]} on {first[1].device}")


def require_dense_rows(name: str, tensor: torch.Tensor) -> None:
    """Raises OpInputError unless neighbours in the last dimension are neighbours in memory."""
    if tensor.shape[-1] > 1 and tensor.stride(-1) != 1:
        raise OpInputError(f"{name} has stride {tensor.stride(-1)} in its last dimension, expected 1")
