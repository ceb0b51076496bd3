"""The last part of a calibration: steps where they belong, in a replay of the calibrator's own requests.

Steps of a grid follow steps like them; in a replay there is scheduling and bookkeeping in between, which
takes the processor's caches. So some requests of no particular workload are served, and what their steps
took is held against the grid: one ratio for each kind of step, and a line for deciding, whose code has been
out of the caches too. The yardstick is taken here as well, in the surroundings in which replays will take it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from gpu_backend.bench_steps import Grid, Measured
from gpu_backend.calibration import Point, calibration_of
from gpu_backend.device_engine import DeviceEngine
from gpu_backend.replay import Replayer
from gpu_backend.yardstick import mean_us
from sim.cost.calibration import SCHEDULE
from sim.crosscheck.run import compare_decisions
from workloads.spec import Workload

DECODE, PROMPTS, VERIFY, DRAFT = "decode", "prefill", "verify", "draft"
SEED = 0x1A5170
Other = tuple[str, int]
"""A place of `others.csv`: what, amount."""
_CONCURRENCIES = (1, 3, 8)
_FEWEST_STEPS = 5


@dataclass(frozen=True, slots=True)
class InSitu:
    """What a replay of the calibrator's own requests said.

    Attributes:
        ratios: Measured over the grid's, by kind of step; 1 where there were too few.
        deciding: Measured is so many times the curve's, and so many microseconds.
        yardstick_us: Mean of the yardstick meanwhile; None where there is none.
    """

    ratios: Mapping[str, float]
    deciding: tuple[float, float]
    yardstick_us: float | None

    def corrected(self, steps: Mapping[Point, Measured]) -> dict[Point, Measured]:
        """The grid's steps as they are in a replay."""
        return {point: _times(measured, self.ratios[_kind(point)]) for point, measured in steps.items()}

    def corrected_others(self, others: Mapping[Other, Measured]) -> dict[Other, Measured]:
        """Deciding as it is in a replay; all else as it was."""
        factor, extra_us = self.deciding
        return {
            place: replace(found, time_us=found.time_us * factor + extra_us)
            if place[0] == SCHEDULE
            else found
            for place, found in others.items()
        }


def in_situ(
    replayer: Replayer,
    about: Mapping[str, Any],
    steps: Mapping[Point, Measured],
    others: Mapping[Other, Measured],
    grid: Grid,
) -> InSitu:
    """Serve some requests at each concurrency, and hold their steps against a grid's."""
    calibration = calibration_of(about, steps, others, pads=grid.pads)
    engine = DeviceEngine(replayer, calibration)
    taken: dict[str, list[tuple[float, float]]] = {}
    decided: list[tuple[float, float]] = []
    for number, concurrency in enumerate(_CONCURRENCIES):
        workload = _requests(replayer, grid.num_requests, concurrency, SEED + number)
        replay = engine(workload)
        _, lockstep = compare_decisions(replayer.experiment, workload, replay, replayer.config)
        steps_of = zip(lockstep.kinds, lockstep.predicted, replay.parts, strict=True)
        for kind, predicted, measured in steps_of:
            taken.setdefault(kind, []).append((predicted.model_ns, measured.model_ns))
            taken.setdefault(DRAFT, []).append((predicted.draft_ns, measured.draft_ns))
            decided.append((predicted.schedule_ns, measured.schedule_ns))
    kinds = (DECODE, PROMPTS, VERIFY, DRAFT)
    ratios = {kind: round(_ratio(taken.get(kind, [])), 4) for kind in kinds}
    yardsticks = [run.body.yardstick for run in engine.runs if run.body.yardstick is not None]
    return InSitu(ratios, line_through(decided), mean_us(yardsticks))


def _ratio(pairs: list[tuple[float, float]]) -> float:
    predicted, measured = np.array(pairs).T.reshape(2, -1) if pairs else np.zeros((2, 0))
    if len(predicted) < _FEWEST_STEPS or not predicted.sum():
        return 1.0
    return float(measured.sum() / predicted.sum())


def line_through(pairs: list[tuple[float, float]]) -> tuple[float, float]:
    """The line through (predicted, measured) nanoseconds: its slope, and where it begins in microseconds."""
    predicted, measured = np.array(pairs).T.reshape(2, -1) / 1e3
    if len(predicted) < _FEWEST_STEPS or not predicted.sum():
        return 1.0, 0.0
    slope, begin = np.polyfit(predicted, measured, 1) if np.ptp(predicted) else (0.0, -1.0)
    if slope < 0 or begin < 0:  # no line that a cost could have: its size alone is known
        return round(float(measured.sum() / predicted.sum()), 4), 0.0
    return round(float(slope), 4), round(float(begin), 3)


def _kind(point: Point) -> str:
    role, _, num_new, _ = point
    if role in (VERIFY, DRAFT):
        return role
    return PROMPTS if num_new else DECODE


def _times(measured: Measured, ratio: float) -> Measured:
    return replace(measured, time_us=measured.time_us * ratio, spread_us=measured.spread_us * ratio)


def _requests(replayer: Replayer, num_requests: int, concurrency: int, seed: int) -> Workload:
    """Users in a closed loop, with prompts and outputs of all lengths that fit."""
    random, scheduler = np.random.default_rng(seed), replayer.config.scheduler
    longest = scheduler.max_model_len
    count = num_requests + 2 * concurrency
    return Workload(
        "in situ",
        np.zeros(count, dtype=np.int64),
        random.integers(1, max(longest // 2, 2), size=count),
        random.integers(2, max(longest // 8, 3), size=count),
        concurrency=min(concurrency, scheduler.max_num_seqs),
    )
