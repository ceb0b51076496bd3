"""The command line: `pagecast simulate`, `check`, `schema`, `conform`, `compare`, `kernels`.

Each command is a thin wrapper over a Python function, imported when it is called, so that `--help` is quick.
Results go to standard output, everything else to standard error. Exit codes: 0 fine, 1 the answer is no,
2 bad input, 130 interrupted. A fault of pagecast's own keeps its traceback.
"""

from __future__ import annotations

import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from sim.errors import ConfigError
from workloads.errors import WorkloadError

THE_ANSWER_IS_NO = 1
BAD_INPUT = 2
INTERRUPTED = 130


class Commands(TyperGroup):
    """Ends every command with the exit code that its outcome has; bad input never with a traceback."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command that was asked for."""
        try:
            return super().invoke(ctx)
        except (ConfigError, WorkloadError) as error:
            typer.echo(str(error), err=True)
            raise typer.Exit(BAD_INPUT) from error
        except KeyboardInterrupt as error:
            typer.echo("interrupted: no run is left half-written", err=True)
            raise typer.Exit(INTERRUPTED) from error


app = typer.Typer(
    cls=Commands,
    name="pagecast",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

Overrides = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Change one value, such as engine.block_size=32; may be given several times.",
    ),
]

_Config = Annotated[Path, typer.Argument(metavar="CONFIG", help="The experiment's YAML file.")]
_RunFolder = Annotated[
    Path | None,
    typer.Option(metavar="DIR", help="Run folder to make. Default: results/<name>/<time>-<hash>."),
]
_SummaryAsJson = Annotated[
    bool, typer.Option("--json", help="Print summary.json, one JSON document, instead of a table.")
]
_Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress bar.")]
_NoPlots = Annotated[bool, typer.Option("--no-plots", help="Draw no pictures.")]


def _print_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(f"pagecast {version('pagecast')}")
        raise typer.Exit


@app.callback()
def pagecast(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Plan LLM serving by simulation, and prove the plan on a real engine."""


@app.command()
def simulate(
    config: _Config,
    set_: Overrides = None,
    vary: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KEY=VALUE",
            help="Run once for each --vary, with that change, and compare the runs.",
        ),
    ] = None,
    baseline: Annotated[
        str | None,
        typer.Option(metavar="WITHOUT", help="Run again without something, and compare: no-speculation."),
    ] = None,
    out: _RunFolder = None,
    json_: _SummaryAsJson = False,
    quiet: _Quiet = False,
    no_plots: _NoPlots = False,
    confidence: Annotated[
        bool,
        typer.Option(
            "--confidence",
            help="Simulate twice more, with fitted step times as short and as long as measured ones were.",
        ),
    ] = False,
) -> None:
    """Simulate an experiment, print what it found, and write the run folder."""
    from sim.cli_simulate import Request, simulate_one, simulate_variations, simulate_with_baseline

    for option, is_given in (("--vary", bool(vary)), ("--baseline", baseline is not None)):
        if is_given and (json_ or out is not None):
            raise typer.BadParameter(
                "goes with neither --json nor --out: it makes several runs", param_hint=option
            )
    if vary and baseline is not None:
        raise typer.BadParameter("goes not together with --vary", param_hint="--baseline")
    shows_progress = not quiet and sys.stderr.isatty()
    request = Request(
        config,
        tuple(set_ or ()),
        out,
        shows_progress=shows_progress,
        with_plots=not no_plots,
        with_confidence=confidence,
    )
    if vary:
        simulate_variations(request, vary)
    elif baseline is not None:
        simulate_with_baseline(request, baseline)
    else:
        simulate_one(request, as_json=json_)


class _Device(StrEnum):
    AUTO = "auto"
    CPU = "cpu"
    CUDA = "cuda"
    INTERPRET = "interpret"


class _Clock(StrEnum):
    MEASURED = "measured"
    WALL = "wall"


_Where = Annotated[_Device, typer.Option(help="Where; auto: a CUDA card if there is one.")]
_ModelFolder = Annotated[
    Path | None, typer.Option(metavar="DIR", help="Weights of the model, in the Hugging Face layout.")
]
_DraftFolder = Annotated[
    Path | None, typer.Option(metavar="DIR", help="Weights of the draft model, likewise.")
]


@app.command()
def replay(
    config: _Config,
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
    out: _RunFolder = None,
    json_: _SummaryAsJson = False,
    quiet: _Quiet = False,
    no_plots: _NoPlots = False,
) -> None:
    """Serve an experiment's workload on a real engine, and write the run folder."""
    from sim.cli_replay import Replay, replay_one

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


_Quick = Annotated[bool, typer.Option("--quick", help="A coarser calibration: under a minute on two cores.")]


@app.command()
def calibrate(
    config: _Config,
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
        typer.Option(metavar="DIR", help="Folder to write. Default: results/calibrations/<name>-<device>."),
    ] = None,
    quiet: _Quiet = False,
) -> None:
    """Measure this device: steps over a grid, deciding, copies and swaps; for crosscheck and step_time."""
    from sim.cli_crosscheck import calibrate_one
    from sim.cli_replay import Replay

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
    config: _Config,
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
    quiet: _Quiet = False,
    no_plots: _NoPlots = False,
) -> None:
    """Simulate an experiment, replay it on a real engine, and say how far apart they are, and why.

    Ends with 1 if decisions differ or an error is beyond its tolerance (crosscheck: in the file).
    """
    from sim.cli_crosscheck import Check, crosscheck_one
    from sim.cli_replay import Replay

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
    no_plots: _NoPlots = False,
) -> None:
    """Read a benchmark of a real server, and put a simulation of the same requests beside it.

    Ends with 1 if an error is beyond its tolerance (crosscheck: in the experiment's file).
    """
    from sim.cli_import import Import, import_one

    if not import_one(Import(file, config, tuple(set_ or ()), out, with_plots=not no_plots)):
        raise typer.Exit(THE_ANSWER_IS_NO)


@app.command()
def check(
    configs: Annotated[list[Path], typer.Argument(metavar="CONFIG...", help="Experiment files.")],
    set_: Overrides = None,
) -> None:
    """Check experiment files without running them, and print what they come to."""
    from sim.cli_check import check_all

    if not check_all(configs, tuple(set_ or ())):
        raise typer.Exit(BAD_INPUT)


@app.command()
def schema() -> None:
    """Print the JSON Schema of experiment files, for editors."""
    import json

    from sim.config import json_schema

    typer.echo(json.dumps(json_schema(), indent=2))


@app.command()
def conform(
    trace: Annotated[
        Path, typer.Argument(metavar="TRACE.json", help="Recorded trace, its .jsonl beside it.")
    ],
    level: Annotated[
        int, typer.Option(min=1, max=3, help="1: decisions, 2: also block counts, 3: also block ids.")
    ] = 3,
) -> None:
    """Check the scheduler against a recorded engine, decision by decision. Exit code 1 if they differ."""
    from sim.conform import conform as replay

    outcome = replay(trace, level)
    if outcome.difference is not None:
        typer.echo(f"{outcome.name}: differs at {outcome.difference}")
        raise typer.Exit(THE_ANSWER_IS_NO)
    compared = ", ".join(f"{count} {name}" for name, count in outcome.num_compared.items() if count)
    typer.echo(f"{outcome.name}: {outcome.num_steps} steps agree at level {outcome.level}: {compared}")


@app.command("explain-waste")
def explain_waste(
    config: _Config,
    set_: Overrides = None,
    at: Annotated[
        str | None,
        typer.Option(metavar="TIME", help="Instant to look at, such as 30 s. Default: half the arrivals."),
    ] = None,
    reservation: Annotated[
        str, typer.Option(metavar="RULE", help="Drawn beside paging: max, pow2 or oracle.")
    ] = "max",
    out: Annotated[
        Path, typer.Option(metavar="FILE", help="Picture to make; .svg and .png are written.")
    ] = Path("results/waste"),
) -> None:
    """Draw what each slot of KV memory holds, reserved contiguously and paged, and print the four shares."""
    from sim.cli_waste import explain

    explain(config, tuple(set_ or ()), at, reservation, out)


@app.command()
def kernels(
    config: _Config,
    set_: Overrides = None,
    tokens: Annotated[int, typer.Option(min=0, max=1_000_000, help="Tokens of a prompt chunk.")] = 0,
    decodes: Annotated[int, typer.Option(min=0, max=100_000, help="Sequences that decode beside it.")] = 1,
    context: Annotated[int, typer.Option(min=0, max=10_000_000, help="Tokens each had before.")] = 1024,
    fusion: Annotated[str, typer.Option(help="none, fused or graph.")] = "graph",
) -> None:
    """Print the kernels that one step launches: operations, bytes, launches, time, and what bounds each."""
    from sim.cli_kernels import batch_of, fusion_of, print_kernels

    print_kernels(config, tuple(set_ or ()), batch_of(tokens, decodes, context), fusion_of(fusion))


@app.command()
def sensitivity(
    config: _Config,
    set_: Overrides = None,
    out: Annotated[Path, typer.Option(metavar="FILE", help="Markdown table to write.")] = Path(
        "results/sensitivity.md"
    ),
) -> None:
    """Rank the hardware's figures by how far the answer moves with each; simulates twice a figure."""
    from sim.cli_sensitivity import print_sensitivity

    print_sensitivity(config, tuple(set_ or ()), out)


@app.command()
def compare(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN RUN...", help="Run folders, at least two.")],
) -> None:
    """Compare runs: what differs between their settings, and what that did."""
    from sim.cli_simulate import compare_folders

    if len(runs) < 2:
        raise typer.BadParameter("needs at least two run folders", param_hint="RUN")
    compare_folders(runs)


@app.command()
def fit(
    tables: Annotated[
        list[Path], typer.Argument(metavar="TABLE...", help="CSV files of measured kernels or steps.")
    ],
    hardware: Annotated[str, typer.Option(metavar="NAME", help="GPU they were measured on.")],
    out: Annotated[Path, typer.Option(metavar="FILE", help="YAML file for what a hardware file gains.")],
    model: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Of a calibration: the model whose steps were measured."),
    ] = None,
    role: Annotated[str, typer.Option(help="Of a calibration: whose rows, target or draft.")] = "target",
    fusion: Annotated[str, typer.Option(help="Of a calibration: none, fused or graph.")] = "graph",
) -> None:
    """Fit a GPU to measured kernels, or to a calibration of steps, and say how far these lie from it."""
    from sim.cli_fit import StepsOf, fit_tables

    fit_tables(tables, hardware, out, StepsOf(model, role, fusion))


def main() -> None:
    """Entry point of the command `pagecast`."""
    app()
