"""Where a replay runs: which device, by which form of the ops, with which numbers, with memory enough or not.

    cpu        the torch twins, in float32
    cuda       the Triton kernels, in bfloat16 unless another dtype is asked for
    interpret  the Triton kernels in Triton's interpreter: exact, and for small runs only

Owns what each of these needs, and says what is missing before anything starts.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

import torch

from gpu_backend.ops.implementation import Implementation
from gpu_backend.ops.language import has_triton
from sim.cost.kernels import Fusion
from sim.errors import ConfigError, Problem
from sim.results.environment import cpu_model

_DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


class DeviceKind(Enum):
    """What a user asks for."""

    AUTO = "auto"
    CPU = "cpu"
    CUDA = "cuda"
    INTERPRET = "interpret"


@dataclass(frozen=True, slots=True)
class Place:
    """Where and how a replay computes."""

    device: torch.device
    implementation: Implementation
    dtype: torch.dtype
    uses_graphs: bool
    name: str
    """For people: the processor's or the card's."""
    kind: DeviceKind
    """What was asked for; never `AUTO`."""

    @property
    def is_cuda(self) -> bool:
        """Whether it is a card."""
        return self.device.type == "cuda"

    @property
    def fusion(self) -> Fusion:
        """How much of a step is one kernel here."""
        if self.implementation is Implementation.UNFUSED:
            return Fusion.NONE
        return Fusion.GRAPH if self.uses_graphs else Fusion.FUSED


def find_place(kind: DeviceKind, fusion: Fusion | None, dtype: str | None = None) -> Place:
    """Where a replay is to run.

    Args:
        kind: What was asked for; `AUTO` takes a card if there is one.
        fusion: How much of a step is one kernel; None: as much as there is.
        dtype: float32, float16 or bfloat16; None: what suits the device.

    Raises:
        ConfigError: The device, Triton or the dtype is not there.
    """
    if kind is DeviceKind.AUTO:
        kind = DeviceKind.CUDA if torch.cuda.is_available() else DeviceKind.CPU
    if dtype is not None and dtype not in _DTYPES:
        raise _wrong("--dtype", f"must be one of {', '.join(_DTYPES)}, not {dtype!r}")
    is_cuda = kind is DeviceKind.CUDA
    if is_cuda and not torch.cuda.is_available():
        raise _wrong(
            "--device", f"cuda: torch {torch.__version__} finds no CUDA device here; try --device cpu"
        )
    if kind is DeviceKind.INTERPRET and os.environ.get("TRITON_INTERPRET") != "1":
        raise _wrong("--device", "interpret: set TRITON_INTERPRET=1 in the environment first")
    device = torch.device("cuda" if is_cuda else "cpu")
    numbers = _DTYPES[dtype] if dtype else torch.bfloat16 if is_cuda else torch.float32
    name = torch.cuda.get_device_name(device) if is_cuda else cpu_model()
    implementation = _implementation(kind, fusion)
    if implementation is Implementation.KERNEL and not has_triton():
        raise _wrong("--device", f"{kind.value}: Triton is not installed, and its kernels are asked for")
    if implementation is Implementation.KERNEL and is_cuda and not _has_compiler():
        raise _wrong("--device", "cuda: Triton compiles with a C compiler, and none is found: install gcc")
    uses_graphs = is_cuda and fusion in (None, Fusion.GRAPH)
    return Place(device, implementation, numbers, uses_graphs, name, kind)


def _has_compiler() -> bool:
    """Whether Triton finds what it compiles its launchers with."""
    names = (os.environ.get("CC"), "gcc", "clang", "cc")
    return any(name is not None and shutil.which(name) is not None for name in names)


def pads(kind: DeviceKind, fusion: Fusion) -> bool:
    """Whether attention takes as long as if all sequences of a step were as long as the longest."""
    return _implementation(kind, fusion) is not Implementation.KERNEL


def _implementation(kind: DeviceKind, fusion: Fusion | None) -> Implementation:
    if fusion is Fusion.NONE:
        return Implementation.UNFUSED
    return Implementation.TWIN if kind is DeviceKind.CPU else Implementation.KERNEL


def available_bytes(device: torch.device) -> int | None:
    """Memory that can be taken now; None where the system does not tell."""
    if device.type == "cuda":
        torch.cuda.empty_cache()  # what torch keeps for later can be taken too
        return torch.cuda.mem_get_info(device)[0]
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    sizes = (line.split() for line in lines if line.startswith("MemAvailable:"))
    return next((int(size[1]) * 1024 for size in sizes), None)


def check_room(place: Place, needed_bytes: int, what: str) -> None:
    """Whether something fits into the device's memory.

    Raises:
        ConfigError: It does not; the message says how much is needed and there, and what would help.
    """
    available = available_bytes(place.device)
    if available is not None and needed_bytes > available:
        raise _wrong(
            "engine.num_gpu_blocks_override",
            f"{what} needs {needed_bytes / 2**30:.2f} GiB and {place.name} has {available / 2**30:.2f} GiB "
            "left: set fewer blocks",
        )


@contextmanager
def memory_that_suffices() -> Iterator[None]:
    """Turns memory that runs out into bad input.

    Raises:
        ConfigError: It did.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        what = str(error).splitlines()[0] if str(error) else "out of memory"
        raise _wrong("engine.num_gpu_blocks_override", f"{what}: set fewer blocks") from error


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error of torch's says that memory ran out, on a card or on the host."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    return isinstance(error, RuntimeError) and "can't allocate memory" in str(error)


def _wrong(source: str, message: str) -> ConfigError:
    return ConfigError([Problem(source, "", message)])
