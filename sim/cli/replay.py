"""What `replay` does and prints; the engine itself is `gpu_backend`, which is imported when it is called."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from sim.cli.console import progress, warn
from sim.config import load_experiment
from sim.errors import ConfigError, Problem
from sim.recording import record_experiment
from sim.report.tables import summary_table
from sim.results.run_folder import dump_summary

if TYPE_CHECKING:
    from gpu_backend.replay import Replayer, ReplayOptions
    from sim.experiment import Experiment


@dataclass(frozen=True, slots=True)
class Replay:
    """What a user asked `replay` for."""

    config: Path
    overrides: tuple[str, ...]
    out: Path | None
    device: str = "auto"
    clock: str = "measured"
    dtype: str | None = None
    model_folder: Path | None = None
    draft_folder: Path | None = None
    shows_progress: bool = False
    with_plots: bool = True


def replay_one(request: Replay, *, as_json: bool) -> bool:
    """Replay one experiment and print its numbers; False if the device could not finish it."""
    experiment = load_experiment(request.config, request.overrides)
    replayer = make_replayer(experiment, request)
    from gpu_backend.calibration.warm_up import warm_up

    with progress(experiment.name, shown=request.shows_progress) as report:

        def serve(_: object, workload: object, on_progress: object) -> object:
            warm_up(replayer)
            return replayer.serve(workload, on_progress)  # type: ignore[arg-type]

        recorded = record_experiment(
            experiment,
            folder=request.out,
            with_plots=request.with_plots,
            on_progress=report,
            serve=serve,  # type: ignore[arg-type]
        )
    warn(recorded.notes)
    facts = recorded.run.environment["replay"]
    if as_json:
        sys.stdout.write(dump_summary(recorded.run.summary))
    else:
        Console().print(summary_table(recorded.folder.name, recorded.run.summary))
        sys.stdout.write(f"Device      {facts['device']} ({facts['device_type']}, {facts['dtype']})\n")
        sys.stdout.write(f"Run folder  {recorded.folder}\n")
    return facts["incomplete"] is None


def make_replayer(experiment: Experiment, request: Replay) -> Replayer:
    """An experiment on a device, its models loaded.

    Raises:
        ConfigError: See `gpu_backend.replay.Replayer.of`; also where torch is missing.
    """
    options = replay_options(request)
    from gpu_backend.replay import Replayer

    return Replayer.of(experiment, options)


def replay_options(request: Replay) -> ReplayOptions:
    """What the engine is asked for.

    Raises:
        ConfigError: torch, or another part of the engine, is not installed.
    """
    try:
        from gpu_backend.devices import DeviceKind
        from gpu_backend.engine import Clock
        from gpu_backend.replay import ReplayOptions
    except ModuleNotFoundError as error:
        message = f"{error.name} is not installed, and a real engine needs it: pip install 'pagecast[gpu]'"
        raise ConfigError([Problem("replay", "", message)]) from error
    return ReplayOptions(
        DeviceKind(request.device),
        Clock(request.clock),
        request.dtype,
        request.model_folder,
        request.draft_folder,
    )
