"""The real engine of a cross-check: replays with a calibration beside them, and levels of fusion compared.

    pagecast crosscheck   ->  calibration (a fresh one is taken as it is)  ->  sim.crosscheck.run  ->  verdict

Owns which calibration is taken, and how levels of fusion are compared, with what a step of each launches. How
fast the machine was during each replay is `calibration/scaled_replays.py`'s.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from gpu_backend.calibration.calibrate import (
    OnProgress,
    calibrate,
    find_fresh,
    read_all,
    refuse_misfit,
    refuse_other_levels,
)
from gpu_backend.calibration.scaled_replays import DeviceEngine
from gpu_backend.calibration.warm_up import warm_up
from gpu_backend.devices import Place, find_place, memory_that_suffices
from gpu_backend.kernel_list import kernels_here
from gpu_backend.ops.launches import LaunchLog
from gpu_backend.replay import Replayer, ReplayOptions
from sim.cost.calibration import DeviceCalibration
from sim.cost.kernel import Batch
from sim.cost.kernels import Fusion
from sim.cost.model import BYTES_PER_WEIGHT
from sim.crosscheck.run import compare_decisions, crosscheck
from sim.crosscheck.verdict import Crosscheck, FusionRow
from sim.errors import ConfigError, Problem
from sim.experiment import Experiment
from sim.fleet.cluster import Progress
from sim.record.run_record import RunRecord
from sim.recording import Served
from workloads.generate import build
from workloads.spec import Workload

_NUM_FUSION_REQUESTS = 24


@dataclass(frozen=True, slots=True)
class CrosscheckOptions:
    """What a user chooses beside the experiment.

    Attributes:
        calibration: A folder to use; None: a fresh one that is found, or a new one.
        is_quick: Whether a new one is coarse.
    """

    replay: ReplayOptions
    calibration: Path | None = None
    is_quick: bool = False


@dataclass(frozen=True, slots=True)
class Found:
    """What a cross-check leaves."""

    check: Crosscheck
    replayed: Served
    simulated: RunRecord
    calibration: Path


def run_crosscheck(
    experiment: Experiment, options: CrosscheckOptions, folder: Path, on_replay: Progress | None = None
) -> Found:
    """Replay, simulate by a calibration's folder, compare.

    Raises:
        ConfigError: The experiment cannot run on this device, or the calibration does not fit it.
    """
    replayer = Replayer.of(experiment, options.replay)
    fusion = replayer.place.fusion
    levels = _levels(experiment, replayer.place)
    refuse_misfit(folder, replayer)
    calibrations = read_all(folder, levels)
    workload = build(experiment.workload, seed=experiment.seed)
    engine = DeviceEngine(replayer, calibrations[fusion], on_replay)
    with memory_that_suffices():
        warm_up(replayer)
        check, _, simulated = crosscheck(experiment, workload, engine, replayer.config)
        if len(levels) > 1:
            chosen = [Fusion(name) for name in experiment.crosscheck.fusions]
            compared = {level: calibrations[level] for level in chosen}
            rows = compare_fusions(experiment, options.replay, workload, compared)
            check = replace(check, fusions=tuple(rows))
    return Found(check, replayer.as_served(engine.runs[0]), simulated, folder)


def _levels(experiment: Experiment, place: Place) -> tuple[Fusion, ...]:
    """Levels of fusion that are replayed: the experiment's own, and those to be compared."""
    return tuple(dict.fromkeys((place.fusion, *map(Fusion, experiment.crosscheck.fusions))))


def calibration_for(
    experiment: Experiment, options: CrosscheckOptions, on_progress: OnProgress | None = None
) -> Path:
    """The folder of a calibration: the one that was named, a fresh one, or a new one.

    Raises:
        ConfigError: The experiment cannot run on this device, or a new one cannot be written.
    """
    place = find_place(options.replay.device, experiment.fusion, options.replay.dtype)
    levels = _levels(experiment, place)
    refuse_other_levels(options.replay, levels)
    if experiment.speculation is not None and experiment.crosscheck.fusions:
        message = "compares steps that decode, and with speculation there are none: take either away"
        raise ConfigError([Problem(str(experiment.source), "crosscheck.fusions", message)])
    if options.calibration is not None:
        return options.calibration
    fresh = find_fresh(experiment, options.replay, levels, is_quick=options.is_quick)
    return fresh or calibrate(
        experiment, options.replay, fusions=levels, is_quick=options.is_quick, on_progress=on_progress
    )


# Fusion -------------------------------------------------------------------------------------------


def compare_fusions(
    experiment: Experiment,
    options: ReplayOptions,
    workload: Workload,
    calibrations: Mapping[Fusion, DeviceCalibration],
) -> list[FusionRow]:
    """The same steps at each level: predicted and measured time, listed and counted launches and bytes.

    Requests all arrive at once, so that every level plans the same steps.
    """
    few = workload.first(_NUM_FUSION_REQUESTS)
    few = replace(few, arrival_ns=np.zeros_like(few.arrival_ns), concurrency=None)
    return [
        _fusion_row(Replayer.of(replace(experiment, fusion=fusion), options), few, calibration, fusion)
        for fusion, calibration in calibrations.items()
    ]


def _fusion_row(
    replayer: Replayer, workload: Workload, calibration: DeviceCalibration, fusion: Fusion
) -> FusionRow:
    warm_up(replayer)
    replay = DeviceEngine(replayer, calibration)(workload)
    _, lockstep = compare_decisions(replayer.experiment, workload, replay, replayer.config)
    is_decode = [kind == "decode" for kind in lockstep.kinds]
    predicted, measured = (
        np.array([parts.model_ns for parts in steps], dtype=float)[is_decode].mean() / 1e3
        for steps in (lockstep.predicted, replay.parts)
    )
    batch, log = _counted_decode_step(replayer, workload)
    size = replayer.place.dtype.itemsize
    listed = kernels_here(replayer.experiment.model, fusion, batch, bytes_per_value=size)
    wider = size / BYTES_PER_WEIGHT  # the list is of 16-bit numbers
    return FusionRow(
        fusion.value,
        float(predicted),
        float(measured),
        sum(kernel.num_launches for kernel in listed),
        log.num_launches,
        sum(float(kernel.num_bytes) * kernel.num_launches for kernel in listed) * wider,
        float(log.bytes_moved),
    )


def _counted_decode_step(replayer: Replayer, workload: Workload) -> tuple[Batch, LaunchLog]:
    """The last step in which all sequences decode, and what it launched."""
    done = replayer.run(workload, counts_launches=True)
    plans = [plan for plan in done.body.plans if plan["replica"] == 0]
    steps = zip(plans, done.body.executors[0].launches, strict=True)
    rows, log = next(
        (plan["rows"], log)
        for plan, log in reversed(list(steps))
        if plan["rows"] and all(row[3] == 1 for row in plan["rows"])
    )
    return Batch(len(rows), sum(row[4] + 1 for row in rows), ()), log
