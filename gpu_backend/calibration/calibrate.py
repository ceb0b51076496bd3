"""Making a calibration folder for an experiment on this device, or finding one that still holds.

A calibration holds for a device, for the versions of what computes, and for an engine's settings (`key_of`).
It is fresh for a day: machines change. Owns the folder's name and what `calibration.json` says; what is
measured, and how, is `gpu_backend.calibration.grid`.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import torch

from gpu_backend.calibration.bench_steps import Measured
from gpu_backend.calibration.grid import Calibrator, OnPoint, Point, table_of_steps
from gpu_backend.calibration.in_situ import InSitu, Other, in_situ
from gpu_backend.calibration.warm_up import warm_up
from gpu_backend.devices import find_place, memory_that_suffices, pads
from gpu_backend.replay import Replayer, ReplayOptions
from sim.cost.calibration import (
    ABOUT,
    OTHER_COLUMNS,
    OTHERS,
    STEP_COLUMNS,
    STEPS,
    DeviceCalibration,
    dump_table,
    read_about,
    read_device_calibration,
)
from sim.cost.kernels import Fusion
from sim.errors import ConfigError, Problem
from sim.experiment import Experiment
from sim.results.environment import package_version
from sim.results.whole_folder import WholeFolder, is_taken
from sim.simulation import no_garbage_collection
from workloads.text import parse_json

FRESH_FOR = timedelta(days=1)
METHOD = 7
"""How it is measured; a calibration by another method does not hold."""
OnProgress = Callable[[str, int, int], None]
"""Told what is being measured, how much of it is done, and how much there is."""


def key_of(replayer: Replayer, fusions: Sequence[Fusion], *, is_quick: bool) -> dict[str, Any]:
    """What a calibration holds for."""
    experiment, place = replayer.experiment, replayer.place
    settings, speculation = experiment.settings, experiment.speculation
    engine = {name: value for name, value in settings["engine"].items() if name != "fusion"}
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
        "engine": engine | {name: settings[name] for name in ("swap", "offload") if name in settings},
        "pads": {level.value: pads(place.kind, level) for level in fusions},
        "fusions": [fusion.value for fusion in fusions],
        "quick": is_quick,
    }


@dataclass(frozen=True, slots=True)
class _Level:
    """What was measured at one level of fusion; `others` are bare of what replays say of them."""

    fusion: Fusion
    steps: Mapping[Point, Measured]
    others: Mapping[Other, Measured]
    in_situ: InSitu

    def rows(self) -> list[tuple[Any, ...]]:
        """Of `steps.csv`."""
        return table_of_steps(self.fusion.value, self.in_situ.corrected(self.steps))


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
        is_quick: A coarser grid, less than a minute on two cores for a small model at one level.
        folder: Where to; None: the one that `folder_of` names. One that is there is replaced.
        on_progress: Told how far it is.

    Raises:
        ConfigError: The experiment cannot run on this device, its memory ran out, or the folder cannot be
            written.
    """
    asked = list(fusions) or [find_place(options.device, experiment.fusion, options.dtype).fusion]
    refuse_other_levels(options, asked)
    replayers = {fusion: Replayer.of(replace(experiment, fusion=fusion), options) for fusion in asked}
    key = key_of(replayers[asked[0]], asked, is_quick=is_quick)
    began, began_s = datetime.now(UTC), time.monotonic()
    with memory_that_suffices():
        levels = [
            _measured(replayer, fusion, key, _told(on_progress, fusion))
            for fusion, replayer in replayers.items()
        ]
    rows = [row for level in levels for row in level.rows()]
    first, *_ = levels
    about = key | {
        "date": began.isoformat(timespec="seconds"),
        "took_s": round(time.monotonic() - began_s, 1),
        "spread_fraction": _spread_fraction(rows),
        "in_situ": {level.fusion.value: level.in_situ.to_json() for level in levels},
        "yardstick_us": {
            level.fusion.value: round(level.in_situ.yardstick_us, 3)
            for level in levels
            if level.in_situ.yardstick_us is not None
        },
    }
    target = folder or folder_of(experiment, key)
    _write(target, _files(about, rows, first.in_situ.corrected_others(first.others)))
    return target


def _measured(
    replayer: Replayer, fusion: Fusion, key: Mapping[str, Any], told: Callable[[str], Any]
) -> _Level:
    with replayer.conditions(), no_garbage_collection():
        warm_up(replayer)
        calibrator = Calibrator.of(replayer, is_quick=key["quick"])
        steps = calibrator.steps(told("steps"))
        others = calibrator.others(told("deciding and moves"))
        calibrator.release()
        found = in_situ(replayer, key, steps, others, calibrator.grid, told("requests"))
    return _Level(fusion, steps, others, found)


def refuse_other_levels(options: ReplayOptions, levels: Sequence[Fusion]) -> None:
    """Raises ConfigError for a level of fusion that the device does not have."""
    for level in levels:
        place = find_place(options.device, level, options.dtype)
        if place.fusion is not level:
            message = f"{level.value}: {place.name} has no such level, only none and {place.fusion.value}"
            raise ConfigError([Problem("fusion", "", message)])


def refuse_misfit(folder: Path, replayer: Replayer) -> None:
    """Refuse a calibration of something else than what is replayed.

    Raises:
        ConfigError: It is of another model, draft model, kind of device or dtype.
    """
    about, key = read_about(folder / ABOUT), key_of(replayer, (), is_quick=False)
    names = ("model", "device_kind", "dtype", *(("draft",) if key["draft"] is not None else ()))
    problems = [
        Problem(str(folder / ABOUT), name, f"is {about.get(name)!r}, and {key[name]!r} is replayed")
        for name in names
        if about.get(name) != key[name]
    ]
    if problems:
        raise ConfigError(problems)


def find_fresh(
    experiment: Experiment, options: ReplayOptions, fusions: Sequence[Fusion], *, is_quick: bool
) -> Path | None:
    """A calibration that still holds for an experiment on this device; None where there is none."""
    replayer = Replayer.of(replace(experiment, fusion=fusions[0]), options)
    key = key_of(replayer, fusions, is_quick=is_quick)
    folder = folder_of(experiment, key)
    try:
        about = parse_json((folder / ABOUT).read_text(encoding="utf-8"))
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


def _told(on_progress: OnProgress | None, fusion: Fusion) -> Callable[[str], OnPoint | None]:
    """Makes for each stage of a level what is told how far that is."""
    if on_progress is None:
        return lambda stage: None
    return lambda stage: (
        lambda num_done, num_all: on_progress(f"fusion {fusion.value}: {stage}", num_done, num_all)
    )


def _spread_fraction(rows: list[tuple[Any, ...]]) -> float:
    """Median over all steps of half the distance between quartiles, as a fraction of the time."""
    fractions = sorted(row[-1] / row[-2] for row in rows if row[-2] > 0)
    return round(fractions[len(fractions) // 2], 4) if fractions else 0.0


def _files(
    about: Mapping[str, Any], rows: list[tuple[Any, ...]], others: Mapping[tuple[str, int], Measured]
) -> dict[str, str]:
    other_rows: list[tuple[Any, ...]] = [
        (what, amount, round(measured.time_us, 3), round(measured.spread_us, 3))
        for (what, amount), measured in sorted(others.items())
    ]
    return {
        STEPS: dump_table(STEP_COLUMNS, rows),
        OTHERS: dump_table(OTHER_COLUMNS, other_rows),
        ABOUT: json.dumps(about, indent=2) + "\n",
    }


def _write(folder: Path, files: Mapping[str, str]) -> None:
    """All files or none; a calibration that was there is replaced, and nothing else."""
    if is_taken(folder) and not (folder / ABOUT).exists():
        raise ConfigError([Problem(str(folder), "", "is there already, and is no calibration")])
    with WholeFolder(folder, replaces=True) as partial:
        for name, text in files.items():
            (partial / name).write_text(text, encoding="utf-8")
