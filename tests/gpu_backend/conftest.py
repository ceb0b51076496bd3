"""Engine tests: one thread per process, and bfloat16 repaired where kernels run in Triton's interpreter."""

from __future__ import annotations

import os

if os.environ.get("TRITON_INTERPRET") == "1":
    from tests.gpu_backend.interpreter_repair import install

    install()
