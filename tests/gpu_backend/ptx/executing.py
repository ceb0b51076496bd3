"""Carries out what the recording driver notes: launches of the project's own code, run on numpy."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache

import torch

from tests.gpu_backend.ptx.machine import Machine
from tests.gpu_backend.ptx.memory import Counters, GlobalMemory
from tests.gpu_backend.ptx.parsing import Program, parse
from tests.gpu_backend.recording_driver import DryLaunch, recording


@dataclass
class Execution:
    """The launches that were carried out, and what each cost."""

    reachable: list[torch.Tensor]
    costs: list[tuple[str, Counters]] = field(default_factory=list)
    memories: list[GlobalMemory] = field(default_factory=list)

    def run(self, launch: DryLaunch) -> None:
        """Executes the compiled code of one launch on the tensors that it was given."""
        tensors = [value for value in launch.args.values() if isinstance(value, torch.Tensor)]
        memory = GlobalMemory(Counters())
        memory.register([*tensors, *self.reachable])
        program = _parsed(launch.compiled.asm["ptx"])
        machine = Machine(program, _params(launch, program), launch.compiled.metadata.shared)
        self.costs.append((launch.name, machine.run(launch.grid, memory)))
        self.memories.append(memory)

    def was_read(self, tensor: torch.Tensor) -> torch.Tensor:
        """Which bytes of a contiguous tensor any launch read: bool, [tensor.numel() x element_size]."""
        base = tensor.untyped_storage().data_ptr()
        start = tensor.data_ptr() - base
        stop = start + tensor.numel() * tensor.element_size()
        read = torch.zeros(stop - start, dtype=torch.bool)
        for memory in self.memories:
            if base in memory.regions:
                read |= torch.from_numpy(memory.regions[base].was_read[start:stop])
        return read


@lru_cache(maxsize=64)
def _parsed(text: str) -> Program:
    return parse(text)


def _params(launch: DryLaunch, program: Program) -> dict[str, int | float]:
    """The kernel's parameters: what Triton did not fold into the code, then its scratch pointers."""
    values: list[int | float] = []
    for name, kind in launch.compiled.src.signature.items():
        if kind == "constexpr":
            continue
        value = launch.args[name]
        values.append(value.data_ptr() if isinstance(value, torch.Tensor) else value)
    assert all(math.isfinite(value) for value in values)
    values += [0] * (len(program.params) - len(values))
    return dict(zip(program.params, values, strict=True))


@contextmanager
def executed(reachable: Iterable[torch.Tensor] = ()) -> Iterator[Execution]:
    """Runs the sm_80 code of every launch inside the `with` block.

    Args:
        reachable: tensors whose addresses the kernels find in memory, and not among their arguments.
    """
    execution = Execution(list(reachable))
    with recording(80, execution.run):
        yield execution
