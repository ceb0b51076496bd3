"""Commands about a real engine: replay, calibrate, crosscheck, import-bench."""

from __future__ import annotations

import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from sim.cli.app import THE_ANSWER_IS_NO, ConfigFile, NoPlots, Overrides, Quiet, RunFolder, SummaryAsJson, app


class _Device(StrEnum):
    AUTO = "auto"
    CPU = "cpu"
    CUDA = "cuda"
    INTERPRET = "interpret"


class _Clock(StrEnum):
    MEASURED = "measured"
    WALL = "wall"


_Where = Annotated[
    _Device,
    typer.Option(
        help="Where; auto: a CUDA card if there is one; interpret: the Triton kernels on a CPU, which needs "
        "TRITON_INTERPRET=1 in the environment."
    ),
]
_ModelFolder = Annotated[
    Path | None, typer.Option(metavar="DIR", help="Weights of the model, in the Hugging Face layout.")
]
_DraftFolder = Annotated[
    Path | None, typer.Option(metavar="DIR", help="Weights of the draft model, likewise.")
]
_Quick = Annotated[
    bool, typer.Option("--quick", help="A coarser calibration: under a minute for a small model.")
]


@app.command()
def replay(
    config: ConfigFile,
    device: _Where = _Device.AUTO,
    clock: Annotated[
        _Clock,
        typer.Option(help="measured: time is what the steps took; wall: requests arrive in real time."),
    ] = _Clock.MEASURED,
    set_: Overrides = None,
    dtype: Annotated[
        str | None, typer.Option(help="float32, float16 or bfloat16. Default: what suits the device.")
    ] = None,
    model_folder: _ModelFolder = None,
    draft_folder: _DraftFolder = None,
    out: RunFolder = None,
    json_: SummaryAsJson = False,
    quiet: Quiet = False,
    no_plots: NoPlots = False,
) -> None:
    """Serve an experiment's workload on a real engine, and write the run folder."""
    from sim.cli.replay import Replay, replay_one

    request = Replay(
        config,
        tuple(set_ or ()),
        out,
        device.value,
        clock.value,
        dtype,
        model_folder,
        draft_folder,
        shows_progress=not quiet and sys.stderr.isatty(),
        with_plots=not no_plots,
    )
    if not replay_one(request, as_json=json_):
        raise typer.Exit(THE_ANSWER_IS_NO)


@app.command()
def calibrate(
    config: ConfigFile,
    device: _Where = _Device.AUTO,
    set_: Overrides = None,
    quick: _Quick = False,
    fusion: Annotated[
        list[str] | None,
        typer.Option(metavar="LEVEL", help="none, fused or graph; may be given several times."),
    ] = None,
    model_folder: _ModelFolder = None,
    draft_folder: _DraftFolder = None,
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Folder to write. Default: results/calibrations/<name>-<device>, with -quick behind it "
            "for --quick.",
        ),
    ] = None,
    quiet: Quiet = False,
) -> None:
    """Measure this device: steps over a grid, deciding, copies and swaps; for crosscheck and step_time."""
    from sim.cli.crosscheck import calibrate_one
    from sim.cli.replay import Replay

    for level in fusion or ():
        if level not in ("none", "fused", "graph"):
            raise typer.BadParameter(f"must be none, fused or graph, not {level!r}", param_hint="--fusion")
    request = Replay(
        config,
        tuple(set_ or ()),
        out,
        device.value,
        model_folder=model_folder,
        draft_folder=draft_folder,
        shows_progress=not quiet and sys.stderr.isatty(),
    )
    calibrate_one(request, is_quick=quick, fusions=tuple(fusion or ()))


@app.command()
def crosscheck(
    config: ConfigFile,
    device: _Where = _Device.AUTO,
    set_: Overrides = None,
    repeats: Annotated[
        int | None, typer.Option(min=1, help="Replays. Default: crosscheck.repeats of the file, or 3.")
    ] = None,
    calibration: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Calibration to use. Default: a fresh one, or a new one."),
    ] = None,
    quick: _Quick = False,
    model_folder: _ModelFolder = None,
    draft_folder: _DraftFolder = None,
    out: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Folder to make. Default: results/<name>/crosscheck-..."),
    ] = None,
    json_: Annotated[
        bool, typer.Option("--json", help="Print crosscheck.json, one JSON document, instead of tables.")
    ] = False,
    quiet: Quiet = False,
    no_plots: NoPlots = False,
) -> None:
    """Simulate an experiment, replay it on a real engine, and say how far apart they are, and why.

    Ends with 1 if decisions differ or an error is beyond its tolerance (crosscheck: in the file).
    """
    from sim.cli.crosscheck import Check, crosscheck_one
    from sim.cli.replay import Replay

    overrides = [*(set_ or ()), *([f"crosscheck.repeats={repeats}"] if repeats is not None else [])]
    replay = Replay(
        config,
        tuple(overrides),
        out,
        device.value,
        model_folder=model_folder,
        draft_folder=draft_folder,
        shows_progress=not quiet and sys.stderr.isatty(),
        with_plots=not no_plots,
    )
    if not crosscheck_one(Check(replay, calibration, quick), as_json=json_):
        raise typer.Exit(THE_ANSWER_IS_NO)


@app.command(name="import-bench")
def import_bench(
    file: Annotated[
        Path,
        typer.Argument(
            metavar="FILE", help="A vllm bench serve --save-detailed JSON, or AIPerf's profile_export.jsonl."
        ),
    ],
    config: Annotated[
        Path | None,
        typer.Option(metavar="CONFIG", help="Experiment to simulate the same requests with, and compare."),
    ] = None,
    set_: Overrides = None,
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Folder to make. Default: results/<name>/measured-...")
    ] = None,
    no_plots: NoPlots = False,
) -> None:
    """Read a benchmark of a real server, and put a simulation of the same requests beside it.

    Ends with 1 if an error is beyond its tolerance (crosscheck: in the experiment's file).
    """
    from sim.cli.import_bench import Import, import_one

    if not import_one(Import(file, config, tuple(set_ or ()), out, with_plots=not no_plots)):
        raise typer.Exit(THE_ANSWER_IS_NO)
