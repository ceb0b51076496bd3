"""Engine tests: one thread per process, and bfloat16 repaired where kernels run in Triton's interpreter."""

from __future__ import annotations

import os

import pytest

# Triton 3.9 warns of a coming change of this default where it is not set; 3.7 knows no such variable.
os.environ.setdefault("TRITON_DEFAULT_FP_FUSION", "1")

# cuBLAS takes 32 MiB for each stream of a large card where nothing is said; memory is compared in one test.
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":16:8")

try:
    import torch
except ImportError:
    pass  # the tests say for themselves that they need it
else:
    torch.set_num_threads(1)  # the tests run side by side: threads of one would wait for those of the other

if os.environ.get("TRITON_INTERPRET") == "1":
    from tests.gpu_backend.interpreter_repair import install

    install()


@pytest.fixture(autouse=True)
def _skips_without_a_card(request: pytest.FixtureRequest) -> None:
    """Tests that need a CUDA device say so where there is none."""
    if request.node.get_closest_marker("gpu") is not None and not torch.cuda.is_available():
        pytest.skip("no CUDA device")
