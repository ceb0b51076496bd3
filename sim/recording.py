"""One experiment from start to finish: simulate it (or replay it), sum up, write the run folder."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from types import MappingProxyType
from typing import Any

from sim.config.catalog import is_path
from sim.cost.calibration import ABOUT, OTHERS, STEPS, guesses_of
from sim.experiment import Experiment
from sim.fleet.cluster import Progress
from sim.metrics.basis import Basis, Number
from sim.metrics.confidence import basis_of, with_band
from sim.metrics.summary import Identity, summarize
from sim.record.run_record import RunRecord
from sim.results.bench_file import traffic_of
from sim.results.environment import Facts, collect_environment
from sim.results.run_folder import Run, unique_run_name, write_run
from sim.results.whole_folder import free_name
from sim.results.writable import refuse_unwritable
from sim.simulation import (
    experiment_cost,
    experiment_draft_cost,
    grounds_of,
    simulate,
    simulate_at_the_end,
)
from workloads.generate import WorkloadConfig, build
from workloads.servegen import ServeGenWorkload
from workloads.spec import Workload
from workloads.synthetic import SyntheticWorkload


@dataclass(frozen=True, slots=True)
class Served:
    """What came of serving a workload, however it was done."""

    record: RunRecord
    attachments: Mapping[str, bytes] = field(default_factory=dict)
    """Further files of the run folder, by name."""
    environment: Mapping[str, Any] = field(default_factory=dict)
    """Further facts of `environment.json`."""
    is_predicted: bool = True
    """Whether times are predictions, whose grounds belong into the summary."""
    notes: tuple[str, ...] = ()
    """What whoever served it wants known."""


Serve = Callable[[Experiment, Workload, Progress | None], Served]


def simulated(experiment: Experiment, workload: Workload, on_progress: Progress | None) -> Served:
    """Serve a workload by simulation; what step times had to be guessed is noted."""
    cost, draft_cost = experiment_cost(experiment), experiment_draft_cost(experiment)
    record = simulate(
        experiment, workload=workload, cost=cost, draft_cost=draft_cost, on_progress=on_progress
    )
    moves = experiment.traffic.moves if experiment.traffic is not None else None
    return Served(record, notes=guesses_of(cost, draft_cost, moves))


@dataclass(frozen=True, slots=True)
class Recorded:
    """A run and where it was written."""

    run: Run
    folder: Path
    notes: tuple[str, ...]
    """What the experiment file and the workload reader want known."""


def record_experiment(
    experiment: Experiment,
    *,
    folder: Path | None = None,
    with_plots: bool = True,
    with_confidence: bool = False,
    on_progress: Progress | None = None,
    serve: Serve = simulated,
) -> Recorded:
    """Serve an experiment's workload and write the run folder.

    Args:
        experiment: What to simulate.
        folder: Where to write; None: `<results>/<experiment>/<time>-<hash of the configuration>`. A name
            that somebody takes meanwhile gets a number behind it.
        with_plots: Whether to draw pictures.
        with_confidence: Whether to simulate twice more, for what the spread of the step times does.
        on_progress: Called now and then with simulated nanoseconds, requests ended, requests in all.
        serve: How: by simulation, or on a real engine.

    Raises:
        ConfigError: The folder exists or cannot be written; found before anything starts.
        WorkloadError: The workload cannot be read or made.
    """
    started = datetime.now(UTC)
    wanted, folder = folder, folder_for(folder, experiment)
    workload = build(experiment.workload, seed=experiment.seed)
    served = serve(experiment, workload, on_progress)
    run, written = write_served(
        folder,
        experiment,
        served,
        with_plots=with_plots,
        band_over=workload if with_confidence else None,
        started=started,
    )
    notes = (*experiment.warnings, *workload.notes, *served.notes)
    if wanted is not None and written != wanted:
        notes = (*notes, f"{wanted} was taken meanwhile: the run is in {written}")
    return Recorded(run, written, notes)


def write_served(
    folder: Path,
    experiment: Experiment,
    served: Served,
    *,
    with_plots: bool = True,
    band_over: Workload | None = None,
    started: datetime | None = None,
) -> tuple[Run, Path]:
    """Sum up what came of serving a workload, and write its run folder; the run, and the folder's name.

    Args:
        folder: Must not be there, unless empty.
        experiment: What was served.
        served: What came of it.
        with_plots: Whether to draw pictures.
        band_over: The workload, if it is to be simulated twice more for what the spread of step times does.
        started: When serving began; None: now.
    """
    run = sum_up(experiment, served, band_over=band_over, started=started)
    return run, write_summed_up(folder, experiment, served, run, with_plots=with_plots)


def sum_up(
    experiment: Experiment,
    served: Served,
    *,
    band_over: Workload | None = None,
    started: datetime | None = None,
) -> Run:
    """What came of serving a workload, as a run; nothing is written. Arguments as in `write_served`."""
    config, record = experiment.resolved(), served.record
    identity = Identity(experiment.name, str(config["model"]), experiment.seed)
    facts = Facts(
        experiment.seed, sys.argv, inputs_of(experiment), started or datetime.now(UTC), record.cpu_s
    )
    summary = summarize(record, experiment.slo, identity)
    summary = replace(summary, notes=(*summary.notes, *served.notes))
    if served.is_predicted:
        summary = replace(summary, basis=basis_of_run(experiment, band_over, summary.values))
    environment = collect_environment(facts) | dict(served.environment)
    return Run(config, record, summary, environment)


def write_summed_up(
    folder: Path, experiment: Experiment, served: Served, run: Run, *, with_plots: bool = True
) -> Path:
    """Write the folder of a run that was summed up; another name, if this is taken meanwhile, is returned."""
    traffic = traffic_of(experiment.workload, run.record)
    draw = _draw if with_plots else None
    return write_run(folder, run, traffic, draw=draw, attachments=served.attachments, renames=True)


def _draw(folder: Path, run: Run) -> None:
    from sim.report.page import draw_run  # only a run with pictures pays for loading what draws them

    draw_run(folder, run)


def basis_of_run(
    experiment: Experiment,
    band_over: Workload | None = None,
    values: Mapping[str, Number] = MappingProxyType({}),
) -> Basis:
    """What the step times of an experiment rest on.

    Args:
        experiment: Whose.
        band_over: The workload, if it is to be simulated twice more for what the spread of step times does.
        values: The run's own numbers, which then stand between those.
    """
    basis = basis_of(grounds_of(experiment))
    if band_over is None:
        return basis

    def answer(slower: bool) -> Mapping[str, Number]:
        record = simulate_at_the_end(experiment, band_over, slower=slower)
        return summarize(record, experiment.slo, Identity("", "", experiment.seed)).values

    return with_band(basis, values, answer)


def folder_for(wanted: Path | None, experiment: Experiment, prefix: str = "") -> Path:
    """Where a run of an experiment will be written; a name that nobody asked for is one that is free.

    Args:
        wanted: What a user asked for; None: `<results>/<experiment>/<prefix><time>-<hash>`.
        experiment: Whose.
        prefix: Tells other runs from simulations.

    Raises:
        ConfigError: See `refuse_unwritable`.
    """
    folder = wanted
    if folder is None:
        name = unique_run_name(experiment.resolved(), datetime.now(UTC))
        folder = free_name(experiment.results_dir / experiment.name / f"{prefix}{name}")
    refuse_unwritable(folder)
    return folder


def inputs_of(experiment: Experiment) -> list[Path]:
    """Files the result depends on: the experiment's own, and all that it names."""
    named = _named_files(experiment.settings)
    return [experiment.source, *_workload_files(experiment.workload), *named, *experiment.own_files]


def _workload_files(workload: WorkloadConfig) -> list[Path]:
    match workload:
        case SyntheticWorkload():
            return []
        case ServeGenWorkload():
            return sorted(workload.folder.glob("chunk-*"))
        case _:
            return [workload.path]


def _named_files(settings: Mapping[str, Any]) -> list[Path]:
    """Of the user's: models, hardware, recorded acceptance, calibration; paths are absolute once read."""
    speculation, step_time = (settings.get(section) or {} for section in ("speculation", "step_time"))
    references = [settings["model"], settings["hardware"], speculation.get("draft_model")]
    files = [Path(name) for name in references if name is not None and is_path(name)]
    recorded = speculation.get("acceptance", {}).get("path")
    if recorded is not None:
        files.append(Path(recorded))
    if "calibration" in step_time:
        files += [Path(step_time["calibration"]) / name for name in (ABOUT, STEPS, OTHERS)]
    return files
