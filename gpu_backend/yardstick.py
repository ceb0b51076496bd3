"""`Yardstick`: one small step of the model, always the same, measured now and then.

A shared machine is not equally fast all the time: neighbours take its caches and its memory. A yardstick that
is measured during a calibration and again during a replay says how much slower the machine was meanwhile,
whatever the workload did. Refuses to correct anything.

Its keys and values are a few blocks of its own, so it leaves no trace.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from gpu_backend.fixed_blocks import FixedBlocks
from gpu_backend.llama import LlamaModel
from gpu_backend.stopwatch import Stopwatch
from sim.core.step import Executor, StepPlan, StepResult

NUM_SEQS, CONTEXT = 8, 120
EVERY_STEPS = 6


class Yardstick:
    """Eight sequences that decode their 121st token."""

    def __init__(self, model: LlamaModel) -> None:
        self._model = model
        layout = FixedBlocks(model, NUM_SEQS, CONTEXT + 4)
        for cache in layout.caches:
            cache.key.zero_()
            cache.value.zero_()
        layout.lens = [CONTEXT] * NUM_SEQS
        self._caches = layout.caches
        self._batch = layout.batch([[0]] * NUM_SEQS)
        self._watch = Stopwatch(model.device)
        self.times_ns: list[int] = []

    def measure(self) -> None:
        """Take its time once more: of the second of two, so that what ran before it does not matter."""
        self._model.forward(self._batch, self._caches)
        self._watch.restart()
        self._model.forward(self._batch, self._caches)
        self.times_ns.append(self._watch.lap_ns())

    @property
    def mean_us(self) -> float | None:
        """Mean of all its times but the first; None before there are two."""
        return mean_us([self])


def mean_us(yardsticks: Sequence[Yardstick]) -> float | None:
    """Mean over all times of some of them, without the first of each; None where there are none."""
    times = [time_ns for yardstick in yardsticks for time_ns in yardstick.times_ns[1:]]
    return sum(times) / len(times) / 1e3 if times else None


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
