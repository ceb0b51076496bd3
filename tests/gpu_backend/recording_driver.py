"""A Triton driver without a device: the real launch path up to the launch, which is noted instead of made.

Specialisation, compilation, caching and the check of resources are Triton's own; tensors lie in ordinary
memory. What is noted holds the compiled kernel, so that its code can be looked at, or executed by
`tests/gpu_backend/ptx`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

from triton.backends.compiler import GPUTarget
from triton.backends.driver import DriverBase
from triton.runtime import driver as active_driver

SHARED_LIMIT_BYTES = {80: 166912, 90: 232448, 100: 232448, "gfx942": 65536}
"""What one program may hold: the opt-in limits of A100, H100 and B200, the LDS of a MI300."""


def target_of(arch: int | str) -> GPUTarget:
    """Triton's name for sm_`arch`, or for an AMD architecture."""
    return GPUTarget("cuda", arch, 32) if isinstance(arch, int) else GPUTarget("hip", arch, 64)


@dataclass(frozen=True, slots=True)
class DryLaunch:
    """One launch that was not made."""

    name: str
    grid: tuple[int, int, int]
    args: dict[str, Any]  # every parameter of the kernel, constants of the compiler included
    compiled: Any  # triton.compiler.CompiledKernel


@dataclass
class RecordingDriver(DriverBase):  # type: ignore[misc]  # Triton has no types
    """Notes launches for one target; `on_launch` may carry them out."""

    arch: int | str = 80
    on_launch: Callable[[DryLaunch], None] | None = None
    launches: list[DryLaunch] = field(default_factory=list)
    compiled: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.target = target_of(self.arch)
        limit = {"max_shared_mem": SHARED_LIMIT_BYTES[self.arch]}
        self.utils = SimpleNamespace(load_binary=self._load, get_device_properties=lambda device: limit)
        self.launcher_cls = self._launcher

    def _load(
        self, name: str, binary: bytes, shared: int, device: object
    ) -> tuple[object, int, int, int, int]:
        self.compiled.append(name)
        return object(), 1, 0, 0, 1024

    def _launcher(self, source: Any, metadata: Any) -> Callable[..., None]:
        def launch(x: int, y: int, z: int, *rest: Any) -> None:
            values = dict(zip(source.fn.arg_names, rest[6:], strict=True))
            kernels = source.fn.device_caches[self.get_current_device()][0].values()
            compiled = next(kernel for kernel in kernels if kernel.metadata is metadata)
            noted = DryLaunch(metadata.name, (x, y, z), values, compiled)
            active = active_driver.active  # a compiled kernel outlives the driver that it was compiled under
            assert isinstance(active, RecordingDriver)
            active.launches.append(noted)
            if active.on_launch is not None:
                active.on_launch(noted)

        return launch

    def is_active(self) -> bool:
        return True

    def map_python_to_cpp_type(self, ty: str) -> str:
        return ty

    def get_current_target(self) -> GPUTarget:
        return self.target

    def get_current_device(self) -> int | str:
        return self.arch

    def get_current_stream(self, device: object) -> int:
        return 0

    def get_active_torch_device(self) -> str:
        return "cpu"

    def get_benchmarker(self) -> Any:
        raise AssertionError("nothing is timed here")


@contextmanager
def recording(
    arch: int | str = 80, on_launch: Callable[[DryLaunch], None] | None = None
) -> Iterator[RecordingDriver]:
    """Makes launches inside the `with` block go to a recording driver."""
    before = active_driver._active
    recorder = RecordingDriver(arch, on_launch)
    active_driver.set_active(recorder)
    try:
        yield recorder
    finally:
        active_driver._active = before
