"""Golden figures of the compiled kernels, one file for each version of Triton.

    python -m tests.gpu_backend.golden      writes those of the Triton that is installed

A change of a kernel, or of Triton, that costs registers, shared memory or matrix instructions is a change of
this file, so that somebody sees it. Exact: the same compiler gives the same code.
"""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import triton

from gpu_backend.ops.implementation import Implementation
from tests.gpu_backend.kernel_cases import KernelCase, kernel_cases
from tests.gpu_backend.machine_code import MachineCode, machine_code
from tests.gpu_backend.recording_driver import DryLaunch, recording

ARCHITECTURES: tuple[int | str, ...] = (80, 90, 100, "gfx942")
FILE = Path(__file__).parent / "golden" / f"triton-{triton.__version__}.json"


def compiled_launches(case: KernelCase, arch: int | str) -> list[tuple[DryLaunch, MachineCode]]:
    """What a case launches on an architecture, and the code of each."""
    with recording(arch) as recorder:
        case.run(Implementation.KERNEL)
    return [(launch, machine_code(launch.compiled)) for launch in recorder.launches]


def figures(launches: list[tuple[DryLaunch, MachineCode]]) -> list[dict[str, Any]]:
    """What is golden of a case's launches."""
    return [{"kernel": launch.name, **asdict(code)} for launch, code in launches]


def golden(case: KernelCase, arch: int | str) -> list[dict[str, Any]] | None:
    """The golden figures of a case; None where this version of Triton has none."""
    if not FILE.exists():
        return None
    found: list[dict[str, Any]] = json.loads(FILE.read_text(encoding="utf-8"))[str(arch)][case.name]
    return found


def main() -> None:
    """Write the file of this version."""
    table = {
        str(arch): {case.name: figures(compiled_launches(case, arch)) for case in kernel_cases()}
        for arch in ARCHITECTURES
    }
    FILE.parent.mkdir(exist_ok=True)
    FILE.write_text(json.dumps(table, indent=1) + "\n", encoding="utf-8")
    sys.stdout.write(f"wrote {FILE}\n")


if __name__ == "__main__":
    main()
