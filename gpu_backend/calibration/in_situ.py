"""The last part of a calibration: steps where they belong, in a replay of the calibrator's own requests.

Steps of a grid follow steps like them; in a replay there is scheduling and bookkeeping in between, which
takes the processor's caches. So some requests of no particular workload are served, one after the other, two
at once, and so on, and what their steps took is held against the grid: a ratio for each kind of step and
number of sequences, and a line for deciding, whose code has been out of the caches too. The yardstick is
taken here as well, in the surroundings in which replays will take it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from gpu_backend.calibration.bench_steps import Grid, Measured
from gpu_backend.calibration.grid import Point, calibration_of
from gpu_backend.calibration.scaled_replays import DeviceEngine
from gpu_backend.replay import Replayer
from gpu_backend.yardstick import mean_us
from sim.cost.calibration import SCHEDULE
from sim.crosscheck.run import compare_decisions
from workloads.spec import Workload

DECODE, PROMPTS, VERIFY, DRAFT = "decode", "prefill", "verify", "draft"
KINDS = (DECODE, PROMPTS, VERIFY, DRAFT)
SEED = 0x1A5170
Other = tuple[str, int]
"""A place of `others.csv`: what, amount."""
Ratios = Mapping[int, float]
"""Measured over the grid's by number of sequences, those between by a line, those beyond as the outermost."""
OnRequest = Callable[[int, int], None]
"""Told how many requests are served, of how many."""
_CONCURRENCIES = (1, 2, 4, 8)
_FEWEST_STEPS = 16


@dataclass(frozen=True, slots=True)
class InSitu:
    """What a replay of the calibrator's own requests said.

    Attributes:
        ratios: By kind of step; none where there were too few.
        deciding: Measured is so many times the curve's, and so many microseconds.
        yardstick_us: Mean of the yardstick meanwhile; None where there is none.
    """

    ratios: Mapping[str, Ratios]
    deciding: tuple[float, float]
    yardstick_us: float | None

    def corrected(self, steps: Mapping[Point, Measured]) -> dict[Point, Measured]:
        """The grid's steps as they are in a replay."""
        return {
            point: _times(measured, _ratio_at(self.ratios[_kind(point)], point[1]))
            for point, measured in steps.items()
        }

    def corrected_others(self, others: Mapping[Other, Measured]) -> dict[Other, Measured]:
        """Deciding as it is in a replay; all else as it was."""
        factor, extra_us = self.deciding
        return {
            place: replace(found, time_us=found.time_us * factor + extra_us)
            if place[0] == SCHEDULE
            else found
            for place, found in others.items()
        }

    def to_json(self) -> dict[str, Any]:
        """Plain data, for `calibration.json`."""
        return {
            **{kind: {str(seqs): ratio for seqs, ratio in of.items()} for kind, of in self.ratios.items()},
            "deciding": list(self.deciding),
        }


def in_situ(
    replayer: Replayer,
    about: Mapping[str, Any],
    steps: Mapping[Point, Measured],
    others: Mapping[Other, Measured],
    grid: Grid,
    on_request: OnRequest | None = None,
) -> InSitu:
    """Serve some requests at each concurrency, and hold their steps against a grid's."""
    engine = DeviceEngine(replayer, calibration_of(about, steps, others, pads=grid.pads))
    taken: dict[str, list[tuple[int, float, float]]] = {kind: [] for kind in KINDS}
    decided: list[tuple[float, float]] = []
    workloads = [_requests(replayer, grid.num_requests, each, SEED + each) for each in _CONCURRENCIES]
    num_done, num_all = 0, sum(len(workload.arrival_ns) for workload in workloads)
    replays = []
    for workload in workloads:
        replays.append(engine(workload))
        num_done += len(workload.arrival_ns)
        if on_request is not None:
            on_request(num_done, num_all)
    yardsticks = [run.body.yardstick for run in engine.runs if run.body.yardstick is not None]
    typical_us = mean_us(yardsticks)
    for workload, replay in zip(workloads, replays, strict=True):
        _, lockstep = compare_decisions(replayer.experiment, workload, replay, replayer.config)
        now_us = replay.facts["replay"]["yardstick_us"]
        evened = typical_us / now_us if typical_us and now_us else 1.0  # machines change between runs too
        steps_of = zip(lockstep.kinds, replay.plans, lockstep.predicted, replay.parts, strict=True)
        for kind, plan, predicted, measured in steps_of:
            num_seqs = len(plan["rows"])
            taken[kind].append((num_seqs, predicted.model_ns, measured.model_ns * evened))
            taken[DRAFT].append((num_seqs, predicted.draft_ns, measured.draft_ns * evened))
            decided.append((predicted.schedule_ns, measured.schedule_ns * evened))
    ratios = {kind: ratios_by_seqs(found, tells_apart=kind != PROMPTS) for kind, found in taken.items()}
    return InSitu(ratios, line_through(decided), typical_us)


def ratios_by_seqs(steps: Sequence[tuple[int, float, float]], *, tells_apart: bool = True) -> Ratios:
    """Measured over predicted, where there are steps enough of a number of sequences.

    Args:
        steps: Sequences, predicted and measured time of each.
        tells_apart: Whether numbers of sequences are; else there is one ratio, of all steps.
    """
    by_seqs: dict[int, list[tuple[float, float]]] = {}
    for num_seqs, predicted, measured in steps:
        if predicted:
            by_seqs.setdefault(num_seqs if tells_apart else 1, []).append((predicted, measured))
    return {
        num_seqs: round(sum(measured for _, measured in found) / sum(each for each, _ in found), 4)
        for num_seqs, found in sorted(by_seqs.items())
        if len(found) >= _FEWEST_STEPS
    }


def _ratio_at(ratios: Ratios, num_seqs: int) -> float:
    return float(np.interp(num_seqs, list(ratios), list(ratios.values()))) if ratios else 1.0


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
    count = num_requests * concurrency.bit_length()  # about as much time for each concurrency
    return Workload(
        "in situ",
        np.zeros(count, dtype=np.int64),
        random.integers(1, max(longest // 2, 2), size=count),
        random.integers(2, max(longest // 8, 3), size=count),
        concurrency=min(concurrency, scheduler.max_num_seqs),
    )
