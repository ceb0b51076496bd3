"""The ops load and their twins run where Triton is missing; a kernel asked for there says so."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("torch", reason="the engine needs torch")

REPO = Path(__file__).parents[3]
PROGRAM = """
import sys
sys.modules["triton"] = None  # any import of it fails
import pkgutil, importlib, torch
import gpu_backend.ops
for module in pkgutil.iter_modules(gpu_backend.ops.__path__):
    importlib.import_module(f"gpu_backend.ops.{module.name}")
from gpu_backend.ops.implementation import Implementation
from gpu_backend.ops.language import KernelUnavailableError
from gpu_backend.ops.silu_and_mul import silu_and_mul
assert silu_and_mul(torch.ones(1, 4)).shape == (1, 2)
try:
    silu_and_mul(torch.ones(1, 4), Implementation.KERNEL)
except KernelUnavailableError as error:
    print(error)
"""


def test_ops_need_no_triton_until_a_kernel_is_asked_for() -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], cwd=REPO, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "Triton is not installed" in done.stdout
