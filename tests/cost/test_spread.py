"""Curves and steps at the ends of their spread."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from sim.config.catalog import load_gpu, load_model
from sim.core.step import StepPlan
from sim.cost.curve_parameters import REFERENCE, FittedCurves, Spread
from sim.cost.curves import AttentionShape, DeviceCurves, Times
from sim.cost.roofline import RooflineCost
from sim.cost.spread import ScaledCost, moved_curves, range_of

H100 = load_gpu("h100-sxm")
SHAPE = AttentionShape.of_heads(32, 8, 128)


def test_the_range_holds_what_a_relative_error_of_the_prediction_allows() -> None:
    low, high = range_of(Spread(0.1, 0.25, 100, "all"))
    assert 1 / low - 1 == pytest.approx(0.25)  # predicted a quarter too long
    assert 1 / high - 1 == pytest.approx(-0.25)  # a quarter too short
    assert range_of(Spread(0.5, 1.0, 100, "all"))[1] == float("inf")


@pytest.mark.parametrize("slower", [False, True])
def test_every_time_of_a_fitted_curve_moves_to_its_end(slower: bool) -> None:
    # Far from the datasheet's bandwidth, which no kernel exceeds, however fast the end.
    attention = replace(H100.curves.decode_attention, bandwidth_fraction=0.6)  # type: ignore[type-var]
    gpu = replace(H100, curves=replace(H100.curves, decode_attention=attention))
    moved = DeviceCurves.of(replace(gpu, curves=moved_curves(gpu.curves, slower=slower)))
    here = DeviceCurves.of(gpu)
    sizes = np.array([1.0, 64.0, 4096.0])
    times: dict[str, Callable[[DeviceCurves], Times]] = {
        "gemm": lambda curves: curves.gemm_ns(sizes, 4096, 4096),
        "decode_attention": lambda curves: curves.decode_attention_ns(sizes, sizes * 1000, SHAPE),
        "all_reduce": lambda curves: curves.all_reduce_ns(sizes * 8192, 4),
    }
    for name, of in times.items():
        factor = range_of(getattr(H100.curves, name).spread)[slower]
        assert of(moved) == pytest.approx(factor * of(here)), name
    assert moved.elementwise_ns(1e6) == here.elementwise_ns(1e6), "nobody measured it"
    prompts = [curves.prefill_attention_ns(4096, 2048, SHAPE) for curves in (here, moved)]
    spread = H100.curves.prefill_attention.spread  # type: ignore[union-attr]
    assert spread is not None
    assert prompts[1] / prompts[0] == pytest.approx(
        range_of(spread)[slower], rel=1e-3
    )  # one pass is decode's


def test_no_end_of_a_range_is_faster_than_the_datasheet() -> None:
    fast = DeviceCurves.of(replace(H100, curves=moved_curves(H100.curves, slower=False)))
    (ns,) = fast.decode_attention_ns(np.array([4096.0]), np.array([4_096_000.0]), SHAPE)
    read_bytes = 4_096_000 * 2 * 8 * 128 * 2
    assert ns >= read_bytes / H100.memory_bandwidth_bytes_per_s * 1e9


def test_a_curve_without_a_spread_stays_where_it_is() -> None:
    curves = FittedCurves(gemm=REFERENCE.gemm)
    assert moved_curves(curves, slower=True) == curves


def test_a_scaled_horizon_is_its_scaled_steps() -> None:
    cost = ScaledCost(RooflineCost(load_model("llama-3-8b"), H100), 1.137)

    def plan(context: int, horizon: int) -> StepPlan:
        return StepPlan(0, horizon, 7, context, (), (), 7, (), 7)

    ends = cost.step_ends_ns(plan(5_000, 100))
    steps = [cost.step_ends_ns(plan(5_000 + 7 * step, 1))[0] for step in range(100)]
    assert [end - start for start, end in zip([0, *ends], ends, strict=False)] == steps


def test_a_scaled_step_takes_a_nanosecond_at_least() -> None:
    cost = ScaledCost(RooflineCost(load_model("llama-3-8b"), H100), 1e-12)
    assert cost.step_ends_ns(StepPlan(0, 3, 1, 10, (), (), 1, (), 1)) == [1, 2, 3]
