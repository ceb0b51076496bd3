"""What the residual spread of a fit means for step times: curves, or steps, that much faster or slower.

A spread says that nine of ten measured times lie within a fraction p of what was predicted:
|predicted / measured - 1| <= p, so they lie from 1 / (1 + p) to 1 / (1 - p) times the prediction. Owns how
that range becomes a faster and a slower GPU, or cost model. Refuses to guess where nothing was fitted.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import fields, replace
from itertools import accumulate
from typing import Any

from sim.core.step import StepPlan
from sim.cost.cost_model import CostModel
from sim.cost.curve_parameters import FittedCurves, Spread

_DURATIONS = ("_ns", "ns_per_")
_EFFICIENCIES = ("compute_fraction", "bandwidth_fraction")


def range_of(spread: Spread) -> tuple[float, float]:
    """Factors on a predicted time within which nine of ten measured ones lie; infinite from p = 1 on."""
    p = spread.p90_fraction
    return 1 / (1 + p), 1 / (1 - p) if p < 1 else float("inf")


def moved_curves(curves: FittedCurves, *, slower: bool, names: Collection[str] | None = None) -> FittedCurves:
    """Each curve that has a spread with all its times at that end of their range; others as they are.

    Products of other number types than 16 bits were not measured with it: they stay where they were scaled.

    Args:
        curves: Of one device.
        slower: Which end.
        names: Of the curves to move; None: all.
    """
    moved: dict[str, Any] = {}
    for field in fields(curves):
        curve = getattr(curves, field.name)
        if curve is not None and curve.spread is not None and (names is None or field.name in names):
            moved[field.name] = _times(curve, range_of(curve.spread)[slower])
    if "gemm" in moved:
        scaled = [name for name in ("fp8_gemm", "narrow_gemm") if getattr(curves, name) is None]
        moved |= {name: replace(curves.gemm, spread=None) for name in scaled}  # type: ignore[type-var]
    return replace(curves, **moved)


def _times(curve: Any, factor: float) -> Any:
    """The curve with every time `factor` times as long: durations grow, fractions of rates shrink."""
    changes: dict[str, Any] = {}
    for field in fields(curve):
        name, value = field.name, getattr(curve, field.name)
        if name.endswith(_DURATIONS[0]) or _DURATIONS[1] in name or name == "kv_passes":
            changes[name] = value * factor
        elif name in _EFFICIENCIES:
            changes[name] = value / factor
        elif name == "link_fractions":
            changes[name] = tuple((num_gpus, fraction / factor) for num_gpus, fraction in value)
    return replace(curve, **changes)


class ScaledCost:
    """Another cost model's steps, each so many times as long."""

    __slots__ = ("_cost", "_factor")

    def __init__(self, cost: CostModel, factor: float) -> None:
        self._cost = cost
        self._factor = factor

    def step_ends_ns(self, plan: StepPlan) -> list[int]:  # [horizon]
        """End of each step of a plan; each step is scaled by itself, so a horizon is its single steps."""
        ends = self._cost.step_ends_ns(plan)
        factor = self._factor
        steps = (end - start for start, end in zip([0, *ends], ends, strict=False))
        return list(accumulate(max(1, int(step * factor + 0.5)) for step in steps))
