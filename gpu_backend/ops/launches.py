"""Counting kernel launches, and the bytes they must move, as they happen.

Owns `Launch`, `LaunchLog` and the context in which launches are counted. Every op under `ops/` says here
what it launches: the Triton launchers once per `kernel[grid](...)`, the unfused forms once per elementwise
piece, the torch twins once per kernel that they stand for. Refuses to know what an op computes, and how
long anything takes.

Invariants: counting never changes a result, and costs one context-variable look-up where nobody counts.
Bytes are those of a perfect kernel: each operand once from memory, each result once to memory, nothing read
twice.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field

import torch

Moved = Sequence[torch.Tensor | int]
"""Operands (whole tensors) or plain numbers of bytes."""


@dataclass(frozen=True, slots=True)
class Launch:
    """One launch of one kernel, with the bytes it has to move."""

    kernel: str
    bytes_read: int
    bytes_written: int

    @property
    def bytes_moved(self) -> int:
        """Bytes read and written."""
        return self.bytes_read + self.bytes_written


@dataclass(slots=True)
class LaunchLog:
    """The launches of one counted stretch, in order."""

    launches: list[Launch] = field(default_factory=list)

    @property
    def num_launches(self) -> int:
        """How many kernels were launched."""
        return len(self.launches)

    @property
    def bytes_moved(self) -> int:
        """Bytes read and written by all of them."""
        return sum(launch.bytes_moved for launch in self.launches)

    def per_kernel(self) -> Counter[str]:
        """Number of launches by the name of the kernel."""
        return Counter(launch.kernel for launch in self.launches)


_log: ContextVar[LaunchLog | None] = ContextVar("launch_log", default=None)


@contextmanager
def counted_launches() -> Iterator[LaunchLog]:
    """Counts the launches made inside the `with` block; an inner block hides them from the outer one."""
    log = LaunchLog()
    token = _log.set(log)
    try:
        yield log
    finally:
        _log.reset(token)


def is_counting() -> bool:
    """Whether somebody counts just now."""
    return _log.get() is not None


def count_launch(kernel: str, read: Moved | Callable[[], Moved], written: Moved) -> None:
    """Notes one launch; `read` may be a function where its size takes work to find out."""
    log = _log.get()
    if log is None:
        return
    operands = read() if callable(read) else read
    log.launches.append(Launch(kernel, _num_bytes(operands), _num_bytes(written)))


def _num_bytes(moved: Moved) -> int:
    return sum(item if isinstance(item, int) else item.numel() * item.element_size() for item in moved)
