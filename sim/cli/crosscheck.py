"""What `calibrate` and `crosscheck` do and print; the engine is imported when they are called."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from sim.cli.console import progress, warn
from sim.cli.replay import Replay, replay_options
from sim.config import load_experiment
from sim.recording import Served, folder_for, write_served

if TYPE_CHECKING:
    from gpu_backend.calibration.calibrate import OnProgress


@dataclass(frozen=True, slots=True)
class Check:
    """What a user asked `crosscheck` for, beside what a replay takes."""

    replay: Replay
    calibration: Path | None = None
    is_quick: bool = False


def calibrate_one(request: Replay, *, is_quick: bool, fusions: tuple[str, ...]) -> Path:
    """Calibrate an experiment's device and say where the calibration is."""
    experiment = load_experiment(request.config, request.overrides)
    options = replay_options(request)
    from gpu_backend.calibration.calibrate import calibrate
    from sim.cost.kernels import Fusion

    with _calibrating(shown=request.shows_progress) as report:
        folder = calibrate(
            experiment,
            options,
            fusions=[Fusion(name) for name in fusions],
            is_quick=is_quick,
            folder=request.out,
            on_progress=report,
        )
    sys.stdout.write(f"Calibration {folder}\n")
    return folder


def crosscheck_one(check: Check, *, as_json: bool) -> bool:
    """Cross-check one experiment and print what was found; whether it holds."""
    request = check.replay
    experiment = load_experiment(request.config, request.overrides)
    folder = folder_for(request.out, experiment, "crosscheck-")
    replay = replay_options(request)
    from gpu_backend.crosscheck import CrosscheckOptions, calibration_for, run_crosscheck
    from sim.crosscheck.page import write_crosscheck
    from sim.crosscheck.text import crosscheck_text
    from sim.results.run_folder import dump_json

    options = CrosscheckOptions(replay, check.calibration, check.is_quick)
    with _calibrating(shown=request.shows_progress) as on_calibration:
        calibration = calibration_for(experiment, options, on_calibration)
    with progress(experiment.name, shown=request.shows_progress) as on_replay:
        found = run_crosscheck(experiment, options, calibration, on_replay)

    facts = found.check.environment
    simulation = Served(
        found.simulated,
        environment={name: facts[name] for name in ("calibration", "machine_slowdown") if name in facts},
        is_predicted=False,  # not by what the experiment's file says of the hardware
        notes=(f"step times: {found.calibration}, for a machine as fast as it was", *found.check.warnings),
    )

    def write_runs(inside: Path) -> None:
        write_served(inside / "replay", experiment, found.replayed, with_plots=False)
        write_served(inside / "simulation", experiment, simulation, with_plots=False)

    page = write_crosscheck(folder, found.check, write_runs, with_pictures=request.with_plots)
    warn((*experiment.warnings, *found.check.warnings))
    if as_json:
        sys.stdout.write(dump_json(found.check.to_json()))
    else:
        Console().print(crosscheck_text(found.check))
        sys.stdout.write(f"Calibration {found.calibration}\nPage        {page}\n")
    return found.check.holds


@contextmanager
def _calibrating(*, shown: bool) -> Iterator[OnProgress | None]:
    """A bar with the points that are measured and how long is left; None where none is wanted."""
    if not shown:
        yield None
        return
    columns = (
        TextColumn("calibrating, {task.description}"),
        BarColumn(bar_width=None),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True, expand=True) as bar:
        task = bar.add_task("", total=None)

        def report(what: str, num_done: int, num_all: int) -> None:
            bar.update(task, description=what, completed=num_done, total=num_all)

        yield report
