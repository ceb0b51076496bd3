"""The one place that imports Triton, so that everything else loads where it is missing.

Owns `kernel`, which marks a Triton kernel, and `tl`, its language. A module with kernels imports both from
here; where Triton is missing the marked function stays a plain one, and a launcher that needs it calls
`require_triton` first.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

try:
    import triton
    import triton.language as tl
except ImportError:  # the twins need no Triton
    triton = None
    tl = None

__all__ = ["KernelUnavailableError", "has_triton", "kernel", "next_power_of_2", "require_triton", "tl"]


class KernelUnavailableError(RuntimeError):
    """A Triton kernel was asked for where Triton is not installed."""


def kernel(*, varying: Sequence[str] = (), anywhere: Sequence[str] = ()) -> Callable[..., Any]:
    """Marks a Triton kernel; `kernel[grid](...)` launches it where Triton is installed.

    Triton compiles a kernel once for each kind of argument: integers that are 1 or divide by 16, pointers
    that are aligned. Arguments that go by a step's batch are exempted, so that no batch has to compile.

    Args:
        varying: Integers that differ from batch to batch.
        anywhere: Pointers into the middle of tensors, aligned or not.
    """
    if triton is None:
        return lambda function: function
    return triton.jit(  # type: ignore[no-any-return]
        do_not_specialize=list(varying), do_not_specialize_on_alignment=list(anywhere)
    )


def has_triton() -> bool:
    """Whether kernels can be launched."""
    return triton is not None


def require_triton() -> None:
    """Raises KernelUnavailableError where Triton is missing."""
    if triton is None:
        raise KernelUnavailableError(
            "Triton is not installed: pip install triton, or let the torch twins run"
        )


def next_power_of_2(number: int) -> int:
    """The smallest power of two that is at least `number`, as the sides of Triton's tiles must be."""
    return 1 << max(0, number - 1).bit_length()
