"""`Yardstick`: small steps of the model, always the same, measured now and then, a size after the other.

A shared machine is not equally fast all the time: neighbours take its caches and its memory. A yardstick that
is measured during a calibration and again during a replay says how much slower the machine was meanwhile,
whatever the workload did. It finds the caches as a step finds them, and is of several sizes, since neighbours
do not slow all of them alike. Refuses to correct anything.

Its keys and values are a few blocks of its own, so it leaves no trace.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from gpu_backend.memory.fixed_blocks import FixedBlocks
from gpu_backend.model.llama import LayerCache, LlamaModel, PagedBatch
from gpu_backend.stopwatch import Stopwatch
from sim.core.step import Executor, StepPlan, StepResult

SIZES, CONTEXT = (1, 2, 4, 8), 120
EVERY_STEPS = 4


class _Mark(NamedTuple):
    """Sequences that decode their 121st token."""

    batch: PagedBatch
    caches: list[LayerCache]


class Yardstick:
    """Steps of each of `SIZES` in turn."""

    def __init__(self, model: LlamaModel) -> None:
        self._model = model
        self._marks = [_mark(model, size) for size in SIZES]
        self._watch = Stopwatch(model.device)
        self.times_ns: list[int] = []
        """Of `SIZES[0]`, `SIZES[1]`, ..., and again."""

    def measure(self) -> None:
        """Take the time of the next size."""
        mark = self._marks[len(self.times_ns) % len(SIZES)]
        self._watch.restart()
        self._model.forward(mark.batch, mark.caches)
        self.times_ns.append(self._watch.lap_ns())

    def relative(self) -> NDArray[np.float64]:
        """Every time as a fraction of the mean of its size.  # [num_times]."""
        times = np.array(self.times_ns, dtype=float)
        for size in range(len(SIZES)):
            of_size = times[size :: len(SIZES)]
            of_size /= of_size.mean() if of_size.size else 1.0
        return times

    @property
    def mean_us(self) -> float | None:
        """Mean over the sizes of their means, without their first times; None before there are others."""
        return mean_us([self])


def mean_us(yardsticks: Sequence[Yardstick]) -> float | None:
    """The same over some of them."""
    by_size = [
        [time for each in yardsticks for time in each.times_ns[len(SIZES) :][size :: len(SIZES)]]
        for size in range(len(SIZES))
    ]
    if not all(by_size):
        return None
    return float(np.mean([np.mean(times) for times in by_size])) / 1e3


def _mark(model: LlamaModel, size: int) -> _Mark:
    layout = FixedBlocks(model, size, CONTEXT + 4)
    for cache in layout.caches:
        cache.key.zero_()
        cache.value.zero_()
    layout.lens = [CONTEXT] * size
    return _Mark(layout.batch([[0]] * size), layout.caches)


class WithYardstick:
    """Carries plans out by another executor, and measures the machine between steps."""

    def __init__(self, executor: Executor, yardstick: Yardstick) -> None:
        self._executor = executor
        self._yardstick = yardstick
        self._num_steps = 0

    @torch.inference_mode()
    def execute(self, plan: StepPlan) -> StepResult:
        """See `sim.core.step.Executor`; a step's own time has none of it."""
        if self._num_steps % EVERY_STEPS == 0:
            self._yardstick.measure()
        self._num_steps += 1
        return self._executor.execute(plan)
