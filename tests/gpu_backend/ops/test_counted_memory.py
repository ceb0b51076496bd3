"""What the executed kernels move, against what they have to: exact counts, so no noise and no device."""

from __future__ import annotations

import os
from functools import cache

import pytest

pytest.importorskip("torch", reason="the engine needs torch")
pytest.importorskip("triton", reason="Triton is not installed")
if os.environ.get("TRITON_INTERPRET") == "1":
    pytest.skip("the interpreter counts nothing", allow_module_level=True)

from gpu_backend.ops.implementation import Implementation
from gpu_backend.ops.launches import LaunchLog, counted_launches
from tests.gpu_backend.kernel_cases import KernelCase, kernel_cases
from tests.gpu_backend.ptx.executing import Execution, executed

CASES = kernel_cases()
TOLERATED = 1.05
REQUESTED = {  # requests over the least: what several programs, or several passes of one, ask for again
    "decode": 1.05,
    "decode, 4 splits": 1.05,
    "prefill": 1.55,  # each tile of queries reads the keys before it
    "verify 5 tokens": 1.05,
    "rotary_and_cache": 1.25,  # each warp asks for the token's angles
    "add_rms_norm": 1.25,  # each row asks for the weight
    "rms_norm": 1.45,
    "silu_and_mul": 1.0,
    "copy_blocks": 1.05,
    "gather_blocks": 1.05,
    "scatter_blocks": 1.05,
    "softmax_and_sample": 2.05,  # two passes over the logits
    "softmax_and_sample, probs": 1.35,
    "rejection_sample": 2.1,  # two passes over the target's row
}
FUSED_FRACTION = {  # bytes of the fused form over those of the unfused one, at most
    "decode": 0.23,
    "prefill": 0.38,
    "verify 5 tokens": 0.24,
    "rotary_and_cache": 0.13,
    "add_rms_norm": 0.18,
    "silu_and_mul": 0.6,
    "softmax_and_sample": 0.06,
    "rejection_sample": 0.13,
}
FUSED = [case for case in CASES if case.name in FUSED_FRACTION]


@cache
def _counted(case: KernelCase) -> tuple[LaunchLog, Execution]:
    with counted_launches() as log, executed(case.caches) as execution:
        case.run(Implementation.KERNEL)
    return log, execution


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_kernels_move_what_they_must_without_a_bank_conflict(case: KernelCase) -> None:
    log, execution = _counted(case)
    assert log.num_launches == len(execution.costs)  # the counter on launches missed none
    for launch, (name, cost) in zip(log.launches, execution.costs, strict=True):
        # A few scalars cost a whole sector each: 32 bytes for a length, a slot or a token.
        small = 64 * 32
        assert name == f"_{launch.kernel}_kernel".replace("_rms_norm_kernel", "_add_rms_norm_kernel").replace(
            "_add_add_", "_add_"
        )
        assert launch.bytes_moved - small <= cost.bytes_moved <= TOLERATED * launch.bytes_moved + small
        assert cost.bytes_requested <= REQUESTED[case.name] * launch.bytes_moved + small
        assert cost.bank_conflicts == 0


@pytest.mark.parametrize(
    "case", [case for case in CASES if case.name in FUSED_FRACTION], ids=lambda case: case.name
)
def test_fusing_saves_bytes_and_launches(case: KernelCase) -> None:
    with counted_launches() as fused:
        case.run(Implementation.TWIN)
    with counted_launches() as unfused:
        case.run(Implementation.UNFUSED)
    assert fused.num_launches == 1 < unfused.num_launches
    assert fused.bytes_moved <= FUSED_FRACTION[case.name] * unfused.bytes_moved


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_twins_count_what_kernels_count(case: KernelCase) -> None:
    with counted_launches() as twin:
        case.run(Implementation.TWIN)
    log, _ = _counted(case)
    assert twin.launches[0].kernel == log.launches[0].kernel
    if "splits" not in case.name:  # the twin knows no splits
        assert twin.launches == log.launches
