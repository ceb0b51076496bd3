"""Commands that need no engine: simulate, check, compare, conform, and what looks at costs and memory."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from sim.cli.app import (
    BAD_INPUT,
    THE_ANSWER_IS_NO,
    ConfigFile,
    NoPlots,
    Overrides,
    Quiet,
    RunFolder,
    SummaryAsJson,
    app,
)


@app.command()
def simulate(
    config: ConfigFile,
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
    out: RunFolder = None,
    json_: SummaryAsJson = False,
    quiet: Quiet = False,
    no_plots: NoPlots = False,
    confidence: Annotated[
        bool,
        typer.Option(
            "--confidence",
            help="Simulate twice more, with fitted step times as short and as long as measured ones were.",
        ),
    ] = False,
) -> None:
    """Simulate an experiment, print what it found, and write the run folder."""
    from sim.cli.simulate import Request, simulate_one, simulate_variations, simulate_with_baseline

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


@app.command()
def check(
    configs: Annotated[list[Path], typer.Argument(metavar="CONFIG...", help="Experiment files.")],
    set_: Overrides = None,
) -> None:
    """Check experiment files without running them, and print what they come to."""
    from sim.cli.check import check_all

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
    from sim.conform import conform as replay_trace

    outcome = replay_trace(trace, level)
    if outcome.difference is not None:
        typer.echo(f"{outcome.name}: differs at {outcome.difference}")
        raise typer.Exit(THE_ANSWER_IS_NO)
    compared = ", ".join(f"{count} {name}" for name, count in outcome.num_compared.items() if count)
    ahead = ", also where many are planned at once" if outcome.num_steps_ahead else ""
    typer.echo(f"{outcome.name}: {outcome.num_steps} steps agree at level {outcome.level}{ahead}: {compared}")


@app.command("explain-waste")
def explain_waste(
    config: ConfigFile,
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
    from sim.cli.waste import explain

    explain(config, tuple(set_ or ()), at, reservation, out)


@app.command()
def kernels(
    config: ConfigFile,
    set_: Overrides = None,
    tokens: Annotated[int, typer.Option(min=0, max=1_000_000, help="Tokens of a prompt chunk.")] = 0,
    decodes: Annotated[int, typer.Option(min=0, max=100_000, help="Sequences that decode beside it.")] = 1,
    context: Annotated[int, typer.Option(min=0, max=10_000_000, help="Tokens each had before.")] = 1024,
    verify: Annotated[
        int, typer.Option(min=0, max=1024, help="Drafts that each of --decodes verifies in the step.")
    ] = 0,
    fusion: Annotated[
        str | None, typer.Option(help="none, fused or graph. Default: engine.fusion of the file.")
    ] = None,
) -> None:
    """Print the kernels that one step launches: operations, bytes, launches, time, and what bounds each."""
    from sim.cli.kernels import batch_of, fusion_of, print_kernels

    batch = batch_of(tokens, decodes, context, verify)
    plain = batch_of(tokens, decodes, context) if verify else None
    print_kernels(config, tuple(set_ or ()), batch, fusion_of(fusion), plain)


@app.command()
def sensitivity(
    config: ConfigFile,
    set_: Overrides = None,
    out: Annotated[Path, typer.Option(metavar="FILE", help="Markdown table to write.")] = Path(
        "results/sensitivity.md"
    ),
) -> None:
    """Rank the hardware's figures by how far the answer moves with each; simulates twice a figure."""
    from sim.cli.sensitivity import print_sensitivity

    print_sensitivity(config, tuple(set_ or ()), out)


@app.command()
def compare(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN RUN...", help="Run folders, at least two.")],
) -> None:
    """Compare runs: what differs between their settings, and what that did."""
    from sim.cli.simulate import compare_folders

    if len(runs) < 2:
        raise typer.BadParameter("needs at least two run folders", param_hint="RUN")
    compare_folders(runs)


@app.command()
def fit(
    tables: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="TABLE...",
            help="CSV files of measured kernels or steps; with --from, the folder of a profile.",
        ),
    ] = None,
    *,
    out: Annotated[Path, typer.Option(metavar="FILE", help="YAML file to write.")],
    hardware: Annotated[
        str | None, typer.Option(metavar="NAME", help="GPU they were measured on; of TABLE... needed.")
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Of a calibration or a profile: the model that was measured."),
    ] = None,
    role: Annotated[str, typer.Option(help="Of a calibration: whose rows, target or draft.")] = "target",
    fusion: Annotated[
        str | None,
        typer.Option(help="Of a calibration: none, fused or graph. Default: the only one that was measured."),
    ] = None,
    origin: Annotated[
        str | None,
        typer.Option(
            "--from", metavar="PROJECT", help="Whose measurements: aiconfigurator, llmservingsim, vidur."
        ),
    ] = None,
    system: Annotated[
        str | None, typer.Option(metavar="NAME", help="Of aiconfigurator: the GPU, such as h100_sxm.")
    ] = None,
    backend: Annotated[str, typer.Option(help="Of aiconfigurator: vllm, trtllm or sglang.")] = "vllm",
    version: Annotated[
        str | None, typer.Option(help="Of aiconfigurator: of the backend; older tables fill in.")
    ] = None,
    collectives: Annotated[
        str,
        typer.Option(help="Of aiconfigurator: sums over GPUs as the backend does them, or by nccl alone."),
    ] = "custom",
    base: Annotated[
        str | None,
        typer.Option(
            metavar="NAME|FILE", help="With --from: hardware file that everything unmeasured is taken from."
        ),
    ] = None,
    report: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Draw measured against fitted, .svg and .png.")
    ] = None,
) -> None:
    """Fit a GPU to measured kernels, or to a calibration of steps, and say how far these lie from it.

    With --from, make a whole hardware file of what another project measured.
    """
    from sim.cli.fit import StepsOf, fit_tables

    if origin is None:
        if not tables or hardware is None:
            raise typer.BadParameter(
                "say what was measured, and on which GPU", param_hint="TABLE, --hardware"
            )
        fit_tables(tables, hardware, out, StepsOf(model, role, fusion), report)
        return
    from sim.cli.fit_source import Asked, fit_source

    if tables and len(tables) > 1:
        raise typer.BadParameter("takes one folder with --from", param_hint="TABLE")
    folder = tables[0] if tables else None
    asked = Asked(origin, folder, base or hardware, system, backend, version, collectives, model)
    fit_source(asked, out, report)


@app.command()
def tables(
    folder: Annotated[
        Path | None,
        typer.Argument(metavar="FOLDER", help="Unpacked aiconfigurator-core. Default: the installed one."),
    ] = None,
    system: Annotated[str | None, typer.Option(metavar="NAME", help="Only this one.")] = None,
    backend: Annotated[str | None, typer.Option(help="Only this one.")] = None,
) -> None:
    """List the measured tables that `fit --from aiconfigurator` reads: systems, versions, operators, rows."""
    from sim.cli.tables import print_tables

    print_tables(folder, system, backend)
