"""The ways in which a kernel can be run by the same test.

`interpreter`: Triton's interpreter on a CPU; needs TRITON_INTERPRET=1 before Triton is imported, so these
tests run in a process of their own (`test_in_the_interpreter.py`). `ptx`: the compiled sm_80 code, executed
on numpy. `cuda`: a device.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytest
import torch

from tests.gpu_backend.ptx.executing import Execution, executed

INTERPRETING = os.environ.get("TRITON_INTERPRET") == "1"
CUDA = pytest.param("cuda", marks=pytest.mark.gpu)
WAYS: list[Any] = ["interpreter"] if INTERPRETING else ["ptx", CUDA]
WAYS_OF_FLOAT32: list[Any] = ["interpreter"] if INTERPRETING else [CUDA]
"""Matrix products of float32 compile to thousands of single steps: too slow to execute."""

TOLERANCE = {torch.float32: 2e-6, torch.float16: 1e-3, torch.bfloat16: 8e-3}
"""Relative to the largest number: units in the last place; results are rounded once, sums are float32."""

POISON = float("nan")


def device_of(way: str) -> str:
    """Where the tensors lie."""
    if way == "cuda" and not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    return "cuda" if way == "cuda" else "cpu"


@contextmanager
def running(way: str, reachable: Sequence[torch.Tensor] = ()) -> Iterator[Execution | None]:
    """Lets kernels be launched inside the `with` block; yields what was counted, where something counts."""
    if way == "ptx":
        with executed(reachable) as execution:
            yield execution
    else:
        yield None


def assert_close(found: torch.Tensor, exact: torch.Tensor) -> None:
    """Compares with a float64 result: no poison left, and no further away than rounding explains."""
    assert found.shape == exact.shape
    assert bool(found.isfinite().all()), "poison came through, or something was not written"
    scale = max(1.0, float(exact.abs().max())) if exact.numel() else 1.0
    error = float((found.double() - exact.double()).abs().max()) if exact.numel() else 0.0
    assert error <= TOLERANCE[found.dtype] * scale
