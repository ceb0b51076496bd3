"""What a compiled kernel needs and uses, read from its machine code by the tools that ship with Triton."""

from __future__ import annotations

import re
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import triton

TOOLS = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"


@dataclass(frozen=True, slots=True)
class MachineCode:
    """Figures of one kernel on one architecture."""

    registers: int  # per thread; on AMD the vector registers
    spilled_bytes: int
    shared_bytes: int
    matrix_instructions: int
    wide_accesses: int  # of 16 bytes per thread, to global memory


def machine_code(compiled: Any) -> MachineCode:
    """Reads the figures of a `triton.compiler.CompiledKernel`."""
    return _amd(compiled) if "amdgcn" in compiled.asm else _nvidia(compiled)


def _nvidia(compiled: Any) -> MachineCode:
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(compiled.asm["cubin"])
        file.flush()
        usage = _run("cuobjdump", "--dump-resource-usage", file.name)
        code = _run("nvdisasm", "-c", file.name)
    found = re.search(r"REG:(\d+) STACK:(\d+) SHARED:(\d+) LOCAL:(\d+)", usage)
    assert found is not None, usage
    registers, stack, _, local = map(int, found.groups())
    return MachineCode(
        registers,
        stack + local + 4 * len(re.findall(r"\b(?:LDL|STL)\b", code)),
        compiled.metadata.shared,
        len(re.findall(r"\b(?:HMMA|HGMMA|UTC\w*MMA)\b", code)),
        len(re.findall(r"\b(?:LDG|STG|LDGSTS)\.E\S*\.128", code)),
    )


def _amd(compiled: Any) -> MachineCode:
    code = compiled.asm["amdgcn"]

    def number(name: str) -> int:
        found = re.search(rf"\.{name}:\s*(\d+)", code)
        assert found is not None, name
        return int(found[1])

    return MachineCode(
        number("vgpr_count"),
        4 * number("vgpr_spill_count") + number("private_segment_fixed_size"),
        compiled.metadata.shared,
        len(re.findall(r"\bv_mfma_\w+", code)),
        len(re.findall(r"\b(?:global|buffer)_(?:load|store)_dwordx4", code)),
    )


def _run(tool: str, *arguments: str) -> str:
    return subprocess.run([TOOLS / tool, *arguments], capture_output=True, text=True, check=True).stdout
