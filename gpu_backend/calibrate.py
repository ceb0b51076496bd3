"""Making a calibration folder for an experiment on this device, or finding one that still holds.

A calibration holds for a device, for the versions of what computes, and for an engine's settings (`key_of`).
It is fresh for a day: machines change. Owns the folder's name and what `calibration.json` says; what is
measured, and how, is `gpu_backend.calibration`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import torch

from gpu_backend.bench_steps import Measured
from gpu_backend.calibration import Calibrator, grid_for, swaps, table_of_steps
from gpu_backend.devices import pads
from gpu_backend.in_situ import in_situ
from gpu_backend.replay import Replayer, ReplayOptions
from gpu_backend.warm_up import warm_up
from sim.cost.calibration import (
    ABOUT,
    OTHER_COLUMNS,
    OTHERS,
    STEP_COLUMNS,
    STEPS,
    DeviceCalibration,
    dump_table,
    read_device_calibration,
)
from sim.cost.kernels import Fusion
from sim.environment import package_version
from sim.errors import ConfigError, Problem
from sim.experiment import Experiment
from sim.simulation import no_garbage_collection
from sim.whole_folder import whole_folder

FRESH_FOR = timedelta(days=1)
METHOD = 5
"""How it is measured; a calibration by another method does not hold."""
OnProgress = Callable[[str, int, int], None]
"""Told what is being measured, how many points are done, and of how many."""


def key_of(replayer: Replayer, fusions: Sequence[Fusion], *, is_quick: bool) -> dict[str, Any]:
    """What a calibration holds for."""
    experiment, place = replayer.experiment, replayer.place
    settings, scheduler = experiment.settings, replayer.config.scheduler
    speculation = experiment.speculation
    return {
        "method": METHOD,
        "device": place.name,
        "device_kind": place.kind.value,
        "dtype": str(place.dtype).removeprefix("torch."),
        "torch": torch.__version__,
        "triton": package_version("triton"),
        "pagecast": package_version("pagecast"),
        "model": settings["model"],
        "draft": settings["speculation"]["draft_model"] if speculation is not None else None,
        "num_speculative_tokens": speculation.how_many.most if speculation is not None else 0,
        "block_size": experiment.paged_block_size,
        "max_model_len": scheduler.max_model_len,
        "max_num_seqs": scheduler.max_num_seqs,
        "max_num_batched_tokens": scheduler.max_num_batched_tokens,
        "schedules_groups": type(scheduler).__name__,
        "swaps": swaps(replayer.config),
        "pads": {level.value: pads(place.kind, level) for level in fusions},
        "fusions": [fusion.value for fusion in fusions],
        "quick": is_quick,
    }


def calibrate(
    experiment: Experiment,
    options: ReplayOptions,
    *,
    fusions: Sequence[Fusion] = (),
    is_quick: bool = False,
    folder: Path | None = None,
    on_progress: OnProgress | None = None,
) -> Path:
    """Measure and write a calibration; returns its folder.

    Args:
        experiment: Whose models and settings are measured.
        options: The device.
        fusions: Levels to measure; none: the experiment's own.
        is_quick: A coarser grid, less than a minute on two cores for small models.
        folder: Where to; None: the one that `folder_of` names. One that is there is replaced.
        on_progress: Told how far it is.

    Raises:
        ConfigError: The experiment cannot run on this device, or the folder cannot be written.
    """
    levels = list(fusions) or [Replayer.of(experiment, options).place.fusion]
    rows: list[tuple[Any, ...]] = []
    bare: dict[tuple[str, int], Measured] = {}
    others: dict[tuple[str, int], Measured] = {}
    key: dict[str, Any] = {}
    yardsticks: dict[str, float] = {}
    in_situ_ratios: dict[str, Mapping[str, float]] = {}
    began = datetime.now(UTC)
    for fusion in levels:
        replayer = Replayer.of(replace(experiment, fusion=fusion), options)
        key = key_of(replayer, levels, is_quick=is_quick)
        calibrator = Calibrator(
            replayer,
            grid_for(
                replayer.config,
                is_quick=is_quick,
                pads=pads(replayer.place.kind, fusion),
                uses_graphs=replayer.place.uses_graphs,
            ),
            num_drafts=key["num_speculative_tokens"],
        )
        with replayer.conditions(), no_garbage_collection():
            warm_up(replayer)
            steps = calibrator.steps(_told(on_progress, fusion))
            bare = bare or calibrator.others()
            calibrator.release()
            found = in_situ(replayer, key, steps, bare, calibrator.grid)
        others = others or found.corrected_others(bare)
        in_situ_ratios[fusion.value] = found.ratios
        if found.yardstick_us is not None:
            yardsticks[fusion.value] = round(found.yardstick_us, 3)
        rows += table_of_steps(fusion.value, found.corrected(steps))
    about = key | {
        "date": began.isoformat(timespec="seconds"),
        "spread_fraction": _spread_fraction(rows),
        "in_situ": in_situ_ratios,
        "yardstick_us": yardsticks,
    }
    target = folder or folder_of(experiment, key)
    _write(target, _files(about, rows, others))
    return target


def find_fresh(
    experiment: Experiment, options: ReplayOptions, fusions: Sequence[Fusion], *, is_quick: bool
) -> Path | None:
    """A calibration that still holds for an experiment on this device; None where there is none."""
    replayer = Replayer.of(replace(experiment, fusion=fusions[0]), options)
    key = key_of(replayer, fusions, is_quick=is_quick)
    folder = folder_of(experiment, key)
    try:
        about = json.loads((folder / ABOUT).read_text(encoding="utf-8"))
        age = datetime.now(UTC) - datetime.fromisoformat(about["date"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
    holds = all(about.get(name) == value for name, value in key.items())
    return folder if holds and timedelta() <= age < FRESH_FOR else None


def folder_of(experiment: Experiment, key: Mapping[str, Any]) -> Path:
    """`<results>/calibrations/<experiment>-<device>`."""
    device = re.sub(r"[^a-z0-9]+", "-", str(key["device"]).lower()).strip("-")
    quick = "-quick" if key["quick"] else ""
    return experiment.results_dir / "calibrations" / f"{experiment.name}-{device}{quick}"


def read_all(folder: Path, fusions: Sequence[Fusion]) -> dict[Fusion, DeviceCalibration]:
    """A calibration at each of some levels of fusion."""
    return {fusion: read_device_calibration(folder, fusion.value) for fusion in fusions}


def _told(on_progress: OnProgress | None, fusion: Fusion) -> Callable[[int, int], None] | None:
    if on_progress is None:
        return None
    return lambda num_done, num_all: on_progress(f"fusion {fusion.value}", num_done, num_all)


def _spread_fraction(rows: list[tuple[Any, ...]]) -> float:
    """Median over all steps of half the distance between quartiles, as a fraction of the time."""
    fractions = sorted(row[-1] / row[-2] for row in rows if row[-2] > 0)
    return round(fractions[len(fractions) // 2], 4) if fractions else 0.0


def _files(
    about: Mapping[str, Any], rows: list[tuple[Any, ...]], others: Mapping[tuple[str, int], Measured]
) -> dict[str, str]:
    other_rows: list[tuple[Any, ...]] = [
        (what, amount, round(measured.time_us, 3)) for (what, amount), measured in sorted(others.items())
    ]
    return {
        STEPS: dump_table(STEP_COLUMNS, rows),
        OTHERS: dump_table(OTHER_COLUMNS, other_rows),
        ABOUT: json.dumps(about, indent=2) + "\n",
    }


def _write(folder: Path, files: Mapping[str, str]) -> None:
    """All files or none; a calibration that was there is replaced, and nothing else."""
    if folder.exists() and not (folder / ABOUT).exists():
        raise ConfigError([Problem(str(folder), "", "is there already, and is no calibration")])
    with whole_folder(folder, replaces=True) as partial:
        for name, text in files.items():
            (partial / name).write_text(text, encoding="utf-8")
