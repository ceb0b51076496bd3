"""One point of a sweep, simulated: a row of plain data under a key of its content.

The key is made of the resolved experiment, the bytes of every file that it names, and the version of the
code: a row that has it is this run's, whoever made it and when. Runs in any process; everything that a row
needs is in its `Task`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from sim.config import load_experiment
from sim.cost.calibration import DeviceCalibration
from sim.errors import ConfigError
from sim.experiment import Experiment
from sim.fleet.driver import SimulationError
from sim.metrics.summary import Number
from sim.planning.row_store import find_row, write_row
from sim.recording import inputs_of, simulated, sum_up, write_summed_up
from sim.results.environment import file_sha256
from workloads.errors import WorkloadError
from workloads.generate import build

PACKAGES = ("sim", "workloads")
"""Whose code a number depends on."""


@dataclass(frozen=True, slots=True)
class Task:
    """One run of one point.

    Attributes:
        number: Of the run, from 0, in the order of the table.
        point: Of its point, likewise.
        config: The experiment file.
        overrides: Its changes to it, the seed included.
        store: Folder of rows.
        runs: Folder that whole runs are kept in; None: numbers only.
        code: Version of the code.
    """

    number: int
    point: int
    replication: int
    config: Path
    overrides: tuple[str, ...]
    store: Path
    runs: Path | None
    code: str


@dataclass(frozen=True, slots=True)
class Row:
    """What came of a run.

    Attributes:
        key: Of its content; empty where the experiment could not be read.
        error: Why there are no numbers; empty: there are.
        source: What its step times are: measured, calibrated or modelled.
        num_gpus: GPUs of the fleet.
    """

    key: str
    error: str
    source: str
    num_gpus: int
    values: Mapping[str, Number]


def run_task(task: Task) -> Row:
    """The row of a run: found, or else simulated and kept before it is returned."""
    try:
        experiment = load_experiment(task.config, task.overrides)
        key = content_key(experiment, task.code)
        found = find_row(task.store, key)
        if found is not None and (task.runs is None or (task.runs / key).is_dir()):
            return Row(**found)
        row = _simulated(experiment, key, task)
    except (ConfigError, WorkloadError, SimulationError) as error:
        return Row("", str(error), "", 0, {})
    write_row(task.store, key, {name: getattr(row, name) for name in Row.__slots__})
    return row


def _simulated(experiment: Experiment, key: str, task: Task) -> Row:
    workload = build(experiment.workload, seed=experiment.seed)
    served = simulated(experiment, workload, None)
    run = sum_up(experiment, served)
    if task.runs is not None and not (task.runs / key).is_dir():
        write_summed_up(task.runs / key, experiment, served, run, with_plots=False)
    return Row(key, "", source_of(experiment), experiment.num_gpus, dict(run.summary.values))


def source_of(experiment: Experiment) -> str:
    """What the step times of an experiment are, in one word."""
    if experiment.step_times is None:
        return "modelled"
    return "calibrated" if isinstance(experiment.step_times.target, DeviceCalibration) else "given"


def content_key(experiment: Experiment, code: str) -> str:
    """Of everything that a run's numbers depend on."""
    inputs = [path for path in inputs_of(experiment) if path != experiment.source]
    digests = [_digest(path, path.stat().st_mtime_ns) for path in inputs]
    whole = {"settings": experiment.resolved(), "inputs": digests, "code": code}
    return hashlib.sha256(json.dumps(whole, sort_keys=True, default=str).encode()).hexdigest()[:32]


@cache
def _digest(path: Path, changed_ns: int) -> str | None:
    """Of a file's bytes; read again only if it has changed."""
    return file_sha256(path)


def code_version() -> str:
    """A digest of the code that numbers depend on."""
    root = Path(__file__).resolve().parents[2]
    digest = hashlib.sha256()
    for package in PACKAGES:
        for path in sorted((root / package).rglob("*")):
            if path.suffix in (".py", ".yaml"):
                digest.update(path.relative_to(root).as_posix().encode())
                digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def overrides_with_seed(overrides: tuple[str, ...], seed: int) -> tuple[str, ...]:
    """The same, for a run with a seed of its own."""
    return (*overrides, f"seed={seed}")


def as_plain(row: Row) -> dict[str, Any]:
    """A row as plain data."""
    return {"key": row.key, "error": row.error, "source": row.source, "num_gpus": row.num_gpus, **row.values}
