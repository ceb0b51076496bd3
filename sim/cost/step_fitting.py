"""Fits the figures of a hardware file to whole steps that were measured: a calibration (`sim.cost.measured`).

A calibration has steps of one model at one level of fusion. Fitted are the figures that `KernelCost` rests on
and that tables of kernels leave open:

    step_overhead, seq_overhead    what the host takes
    compute_efficiency             of every curve that was not fitted to kernels: large products and attention
    bandwidth_efficiency           the same for reading weights and KV

A curve that has a spread was fitted to kernels and stays as it is. One that the file only assumes keeps its
form: its fractions move with the efficiencies. A curve that is not in the file is an H100's, scaled by them.

Method: least squares on the logarithm of predicted over measured, with a soft-L1 loss that turns linear
beyond 10 %, from the file's own values; nothing is drawn at random. A figure that moves no predicted time by
`LEAST_EFFECT` when it is moved by a tenth is not determined by the table, and is left as it was.

    point (seqs, new, context)    `seqs` decoding sequences of `context` tokens each, and where `new` is not 0
                                  one chunk of `new` tokens after `context` computed ones
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sim.core.request import Request
from sim.core.request import Sequence as RunningSequence
from sim.core.step import ScheduledSequence, ScheduleKind, StepPlan
from sim.cost.curve_parameters import Spread
from sim.cost.hardware import Gpu
from sim.cost.kernels import Fusion
from sim.cost.measured import Calibration
from sim.cost.model import ModelShape
from sim.cost.step_time import KernelCost

LEAST_EFFECT = 0.002
_LINEAR_BEYOND = 0.1
_LEAST_POINTS = 8
_OVERHEAD, _SEQ_OVERHEAD, _COMPUTE, _BANDWIDTH = (
    "step_overhead_ns",
    "seq_overhead_ns",
    "compute_efficiency_fraction",
    "bandwidth_efficiency_fraction",
)
_BOUNDS = {
    _OVERHEAD: (1_000.0, 1e9),
    _SEQ_OVERHEAD: (10.0, 1e9),
    _COMPUTE: (0.01, 1.0),
    _BANDWIDTH: (0.01, 1.0),
}


@dataclass(frozen=True, slots=True)
class MeasuredSteps:
    """Steps of a model and how long they took.

    Attributes:
        plans: One step each. times_ns: [num_steps].
    """

    model: ModelShape
    fusion: Fusion
    plans: tuple[StepPlan, ...]
    times_ns: NDArray[np.float64]

    @classmethod
    def of(cls, calibration: Calibration, model: ModelShape, fusion: Fusion) -> MeasuredSteps:
        """The points of a calibration at which anything is computed."""
        grid = list(product(*calibration.axes))
        points = [(int(seqs), int(new), float(context)) for seqs, new, context in grid]
        computes = np.array([seqs > 0 or new > 0 for seqs, new, _ in points])
        plans = tuple(_plan(*point) for point, does in zip(points, computes, strict=True) if does)
        return cls(model, fusion, plans, calibration.times_ns.ravel()[computes])

    def predict_ns(self, gpu: Gpu) -> NDArray[np.float64]:  # [num_steps]
        """What the kernel list says of them on a GPU."""
        cost = KernelCost(self.model, gpu, fusion=self.fusion)
        return np.array([cost.step_ends_ns(plan)[0] for plan in self.plans], dtype=np.float64)


@dataclass(frozen=True, slots=True)
class StepFit:
    """A GPU fitted to steps.

    Attributes:
        gpu: With the fitted figures. fitted: Names of its fields that the steps determined.
        undetermined: Names of those that were free and that no step depends on enough.
        bias: Median of predicted over measured, less one.
    """

    gpu: Gpu
    fitted: tuple[str, ...]
    undetermined: tuple[str, ...]
    spread: Spread
    bias: float


def fit_steps(steps: MeasuredSteps, gpu: Gpu, table: str) -> StepFit:
    """Fit a GPU's open figures to measured steps.

    Raises:
        ValueError: There are too few steps.
    """
    if len(steps.plans) < _LEAST_POINTS:
        raise ValueError(f"{len(steps.plans)} steps that compute anything; a fit takes {_LEAST_POINTS}")
    free = tuple(_BOUNDS)
    fitted = _fit(steps, gpu, free)
    determined = tuple(name for name in free if _effect(steps, gpu, fitted, name) >= LEAST_EFFECT)
    if determined != free:
        fitted = _fit(steps, gpu, determined)
    relative = steps.predict_ns(fitted) / steps.times_ns - 1
    size = np.abs(relative)
    domain = f"{table}: whole steps of {steps.model.name}, fusion {steps.fusion.value}"
    spread = Spread(float(np.median(size)), float(np.percentile(size, 90)), len(size), domain)
    undetermined = tuple(name for name in free if name not in determined)
    return StepFit(fitted, determined, undetermined, spread, float(np.median(relative)))


def _fit(steps: MeasuredSteps, gpu: Gpu, names: tuple[str, ...]) -> Gpu:
    if not names:
        return gpu
    from scipy.optimize import least_squares

    def residuals(logs: NDArray[np.float64]) -> NDArray[np.float64]:  # [num_steps]
        return np.log(steps.predict_ns(_with(gpu, names, np.exp(logs))) / steps.times_ns)

    low, high = (np.log([_BOUNDS[name][end] for name in names]) for end in (0, 1))
    start = np.clip(np.log([getattr(gpu, name) or 1.0 for name in names]), low + 1e-6, high - 1e-6)
    found = least_squares(
        residuals, start, bounds=(low, high), loss="soft_l1", f_scale=_LINEAR_BEYOND, diff_step=1e-3
    )
    return _with(gpu, names, np.exp(found.x))


def _effect(steps: MeasuredSteps, gpu: Gpu, fitted: Gpu, name: str) -> float:
    """The largest relative change of a predicted time when a figure shrinks by a tenth.

    From its fitted value, or from the file's: a figure that was found to be next to nothing is determined.
    """
    effects = []
    for value in (getattr(fitted, name), getattr(gpu, name)):
        whole, less = (
            steps.predict_ns(_with(fitted, (name,), np.array([share * value]))) for share in (1, 0.9)
        )
        effects.append(float(np.abs(less / whole - 1).max()))
    return max(effects)


def _with(gpu: Gpu, names: tuple[str, ...], values: NDArray[np.float64]) -> Gpu:
    """The GPU with other figures, and its assumed curves moved by how the efficiencies change."""
    changes: dict[str, Any] = dict(zip(names, map(float, values), strict=True))
    if _OVERHEAD in changes:
        changes[_OVERHEAD] = round(changes[_OVERHEAD])
    curves: dict[str, Any] = {name: getattr(gpu.curves, name) for name in assumed_curves(gpu)}
    for figure, parameter in ((_COMPUTE, "compute_fraction"), (_BANDWIDTH, "bandwidth_fraction")):
        ratio = changes.get(figure, getattr(gpu, figure)) / getattr(gpu, figure)
        for name in (name for name in curves if hasattr(curves[name], parameter)):
            moved = min(1.0, getattr(curves[name], parameter) * ratio)
            curves[name] = replace(curves[name], **{parameter: moved})
    return replace(gpu, **changes, curves=replace(gpu.curves, **curves))


def assumed_curves(gpu: Gpu) -> tuple[str, ...]:
    """Names of the curves a GPU has that were not fitted to kernels."""
    own = {field.name: getattr(gpu.curves, field.name) for field in fields(gpu.curves)}
    return tuple(name for name, curve in own.items() if curve is not None and curve.spread is None)


def _plan(num_seqs: int, num_new: int, context: float) -> StepPlan:
    """One step of equal sequences; see the module."""
    chunks: tuple[ScheduledSequence, ...] = ()
    if num_new:
        seq = RunningSequence(0, Request(0, 0, num_new + int(context), 1), 0, num_new + int(context) + 1)
        chunks = (ScheduledSequence(seq, num_new, int(context), [], 0, ScheduleKind.RUNNING, True),)
    attended = round(num_seqs * max(context, 1))
    return StepPlan(0, 1, num_seqs, attended, chunks, (), num_seqs + len(chunks), chunks, num_seqs)
