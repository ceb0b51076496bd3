"""What `simulate` and `compare` print, and in which order; the work itself is elsewhere."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from sim.cli.console import progress, warn
from sim.config import Experiment, load_experiment
from sim.errors import ConfigError, Problem
from sim.recording import Recorded, record_experiment
from sim.report.tables import comparison_table, summary_table
from sim.results.compare import compare_runs
from sim.results.run_folder import dump_summary, load_run


@dataclass(frozen=True, slots=True)
class Request:
    """What a user asked `simulate` for."""

    config: Path
    overrides: tuple[str, ...]
    out: Path | None
    shows_progress: bool
    with_plots: bool
    with_confidence: bool = False


NO_SPECULATION = "no-speculation"


def simulate_one(request: Request, *, as_json: bool) -> None:
    """Simulate one experiment and print its numbers."""
    recorded = _record(load_experiment(request.config, request.overrides), request)
    if as_json:
        sys.stdout.write(dump_summary(recorded.run.summary))
    else:
        Console().print(summary_table(recorded.folder.name, recorded.run.summary))
        _say_where(recorded.folder, *sorted((recorded.folder / "plots").glob("*.png")))


def simulate_variations(request: Request, variations: Sequence[str]) -> None:
    """Simulate an experiment once for each variation and print the runs side by side."""
    runs = []
    for name, experiment in zip(_names(variations), _load_all(request, variations), strict=True):
        recorded = _record(experiment, request)
        runs.append((name, recorded.run))
        _say_where(recorded.folder)
    if len(runs) > 1:
        Console().print(comparison_table(compare_runs(runs)))


def simulate_with_baseline(request: Request, baseline: str) -> None:
    """Simulate an experiment with and without speculation, and print both and how many times as fast it is.

    Raises:
        ConfigError: There is nothing to leave out.
    """
    if baseline != NO_SPECULATION:
        raise ConfigError([Problem("--baseline", "", f"must be {NO_SPECULATION}, not {baseline!r}")])
    experiment = load_experiment(request.config, request.overrides)
    if experiment.speculation is None:
        raise ConfigError([Problem("--baseline", "", f"{request.config} has no speculation to leave out")])
    plain = load_experiment(request.config, (*request.overrides, "speculation=null"))
    runs = []
    for name, chosen in ((NO_SPECULATION, plain), ("speculation", experiment)):
        recorded = _record(chosen, request)
        runs.append((name, recorded.run))
        _say_where(recorded.folder)
    Console().print(comparison_table(compare_runs(runs)))
    without, with_it = (run.summary.values for _, run in runs)
    for title, key in (("TPOT", "mean_tpot_ms"), ("E2E", "mean_e2el_ms")):
        before, after = without[key], with_it[key]
        if before is not None and after:
            sys.stdout.write(f"Speed-up    {before / after:.2f} x  mean {title} without / with speculation\n")


def compare_folders(folders: Sequence[Path]) -> None:
    """Print the runs in these folders side by side."""
    Console().print(comparison_table(compare_runs([(folder.name, load_run(folder)) for folder in folders])))


def _names(variations: Sequence[str]) -> list[str]:
    """What tells the variations apart: their values, or all of them where they change different keys."""
    parts = [variation.partition("=") for variation in variations]
    if len({key.strip() for key, _, _ in parts}) > 1:
        return list(variations)
    return [value.strip().removeprefix("{kind: ").removesuffix("}") for _, _, value in parts]


def _load_all(request: Request, variations: Sequence[str]) -> list[Experiment]:
    """Every variation, before the first is run.

    Raises:
        ConfigError: With what is wrong with any of them, each thing once.
    """
    experiments: list[Experiment] = []
    problems: dict[Problem, None] = {}
    for variation in variations:
        try:
            experiments.append(load_experiment(request.config, (*request.overrides, variation)))
        except ConfigError as error:
            problems |= dict.fromkeys(error.problems)
    if problems:
        raise ConfigError(list(problems))
    return experiments


def _record(experiment: Experiment, request: Request) -> Recorded:
    with progress(experiment.name, shown=request.shows_progress) as report:
        recorded = record_experiment(
            experiment,
            folder=request.out,
            with_plots=request.with_plots,
            with_confidence=request.with_confidence,
            on_progress=report,
        )
    warn(recorded.notes)
    return recorded


def _say_where(folder: Path, *pictures: Path) -> None:
    sys.stdout.write(f"Run folder  {folder}\n")
    for picture in pictures:
        sys.stdout.write(f"Picture     {picture}\n")
