"""How long the parts of a step take: by the processor's own time on a CPU, by the wall's on a device.

A CPU's wall clock counts the neighbours on a shared machine; the thread's own time does not, as long as torch
computes in that one thread (`single_thread`). A device works on its own, so its laps wait for it. Refuses to
know what is measured.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch


class Stopwatch:
    """Laps in nanoseconds."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._last_ns = self._now_ns()

    def restart(self) -> None:
        """The next lap begins now."""
        self._last_ns = self._now_ns()

    def lap_ns(self) -> int:
        """Time since the last lap ended, all launched work included."""
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        now_ns = self._now_ns()
        lap_ns, self._last_ns = now_ns - self._last_ns, now_ns
        return lap_ns

    def _now_ns(self) -> int:
        return time.thread_time_ns() if self._device.type == "cpu" else time.perf_counter_ns()


@contextmanager
def single_thread() -> Iterator[None]:
    """Torch computes in the calling thread alone."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
