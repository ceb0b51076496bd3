"""The machine code of every kernel: it fits, spills nothing, and uses what each of four architectures has."""

from __future__ import annotations

import os

import pytest

pytest.importorskip("torch", reason="the engine needs torch")
pytest.importorskip("triton", reason="Triton is not installed")
if os.environ.get("TRITON_INTERPRET") == "1":
    pytest.skip("the interpreter compiles nothing", allow_module_level=True)

from gpu_backend.ops.implementation import Implementation
from tests.gpu_backend.golden import ARCHITECTURES, FILE, compiled_launches, figures, golden
from tests.gpu_backend.kernel_cases import KernelCase, kernel_cases
from tests.gpu_backend.recording_driver import SHARED_LIMIT_BYTES, recording

CASES = kernel_cases()
MAX_REGISTERS = {80: 255, 90: 255, 100: 255, "gfx942": 256}


@pytest.mark.parametrize("arch", ARCHITECTURES)
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_compiled_code_spills_nothing_and_uses_wide_and_matrix_instructions(
    case: KernelCase, arch: int | str
) -> None:
    launches = compiled_launches(case, arch)
    assert launches
    for launch, code in launches:
        assert code.spilled_bytes == 0
        assert code.shared_bytes <= SHARED_LIMIT_BYTES[arch]
        assert code.registers <= MAX_REGISTERS[arch]
        if case.is_attention and launch.name != "_merge_splits_kernel":
            assert code.matrix_instructions > 0
        if launch.name != "_rejection_sample_kernel" and launch.name != "_softmax_and_sample_kernel":
            assert code.wide_accesses > 0
    expected = golden(case, arch)
    if expected is None:
        pytest.skip(f"{FILE.name} is not there: python -m tests.gpu_backend.golden writes it")
    assert figures(launches) == expected, "kernels changed: look why, then python -m tests.gpu_backend.golden"


def test_a_second_step_of_the_same_shapes_compiles_nothing_new() -> None:
    with recording(80) as recorder:
        for case in CASES:
            case.run(Implementation.KERNEL)
        known = list(recorder.compiled)
        for case in CASES:
            case.run(Implementation.KERNEL)
    assert recorder.compiled == known
