"""What the kernels cost, as one page: `make kernels` writes `results/kernels.md`.

Nothing here runs on a GPU. Machine code is compiled for each architecture and read; launches are executed as
sm_80 code on numpy, which counts bytes and bank conflicts exactly; times are rooflines by counted bytes and
FLOPs and the datasheet rates, and so lower bounds.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch
import triton

from gpu_backend.ops.implementation import Implementation
from gpu_backend.ops.launches import LaunchLog, counted_launches
from sim.config.catalog import load_gpu
from sim.cost.hardware import Gpu
from tests.gpu_backend.kernel_cases import KernelCase, kernel_cases
from tests.gpu_backend.machine_code import machine_code
from tests.gpu_backend.ptx.executing import Execution, executed
from tests.gpu_backend.recording_driver import recording

REPO = Path(__file__).resolve().parents[2]
ARCHITECTURES: tuple[int | str, ...] = (80, 90, 100, "gfx942")
GPUS = ("a100-80gb-sxm", "h100-sxm")
INTRODUCTION = """# Kernels

Written by `make kernels` with Triton {triton} and torch {torch}, on a CPU: nothing was measured on a GPU.
Shapes are those of Llama-3 8B in fp16 (32 query heads, 8 key heads, head size 128, blocks of 16), a few short
sequences each, and a sixteenth of the vocabulary (`tests/gpu_backend/kernel_cases.py`).
"""
MOVED = """
## What moves

Counted by executing the compiled sm_80 code on numpy. *Ideal* is each operand once and each result once.
*Moved* are the 32-byte sectors that were touched; *requested* counts a sector each time it is asked for,
caches or not. *Unfused* is the same op from elementwise pieces. The roofline is the larger of moved bytes
over the memory's bandwidth and FLOPs over the rate of the matrix units (datasheet): a bound, which launches
as small as these do not reach.
"""
COMPILED = """
## What is compiled

Registers per thread / spilled bytes / shared memory / matrix instructions / accesses of 16 bytes per thread.
"""


def main(arguments: Sequence[str] | None = None) -> None:
    """Writes the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=REPO / "results" / "kernels.md")
    output: Path = parser.parse_args(arguments).output
    cases = kernel_cases()
    page = INTRODUCTION.format(triton=triton.__version__, torch=torch.__version__.split("+")[0])
    page += MOVED + "\n" + _table(_moved_header(), [row for case in cases for row in _moved_rows(case)])
    header = ["kernel", *(f"sm_{arch}" if isinstance(arch, int) else arch for arch in ARCHITECTURES)]
    page += COMPILED + "\n" + _table(header, [_compiled_row(case) for case in cases])
    output.write_text(page, encoding="utf-8")


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "".join("| " + " | ".join(line) + " |\n" for line in lines)


def _moved_header() -> list[str]:
    rooflines = [f"roofline {gpu}, us" for gpu in GPUS]
    counts = ["ideal bytes", "moved / ideal", "requested / ideal", "bank conflicts"]
    return ["op", "kernel", *counts, *rooflines, "launches fused / unfused", "bytes fused / unfused"]


def _moved_rows(case: KernelCase) -> list[list[str]]:
    """One row per launch; what concerns the whole op stands in the first."""
    with counted_launches() as log, executed(case.caches) as execution:
        case.run(Implementation.KERNEL)
    with counted_launches() as unfused:
        case.run(Implementation.UNFUSED)
    rows = [_launch_cells(log, execution, index, case) for index in range(log.num_launches)]
    share = log.bytes_moved / unfused.bytes_moved
    rows[0] += [f"{log.num_launches} / {unfused.num_launches}", f"{share:.2f}"]
    return [[case.name, *cells] if index == 0 else ["", *cells, "", ""] for index, cells in enumerate(rows)]


def _launch_cells(log: LaunchLog, execution: Execution, index: int, case: KernelCase) -> list[str]:
    launch, (_, cost) = log.launches[index], execution.costs[index]
    flops = case.num_flops if index == 0 else 0
    return [
        launch.kernel,
        f"{launch.bytes_moved:,}",
        f"{cost.bytes_moved / launch.bytes_moved:.3f}",
        f"{cost.bytes_requested / launch.bytes_moved:.3f}",
        str(cost.bank_conflicts),
        *(f"{_roofline_us(load_gpu(gpu), cost.bytes_moved, flops):.3f}" for gpu in GPUS),
    ]


def _roofline_us(gpu: Gpu, num_bytes: int, flops: int) -> float:
    return 1e6 * max(num_bytes / gpu.memory_bandwidth_bytes_per_s, flops / gpu.compute_flops_per_s)


def _compiled_row(case: KernelCase) -> list[str]:
    cells = [case.name]
    for arch in ARCHITECTURES:
        with recording(arch) as recorder:
            case.run(Implementation.KERNEL)
        code = machine_code(recorder.launches[0].compiled)
        cells.append(
            f"{code.registers} / {code.spilled_bytes} / {code.shared_bytes:,} / "
            f"{code.matrix_instructions} / {code.wide_accesses}"
        )
    return cells


if __name__ == "__main__":
    main()
