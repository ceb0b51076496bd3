"""Commands that answer with many simulations."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from sim.cli.app import THE_ANSWER_IS_NO, ConfigFile, Overrides, Quiet, app


@app.command()
def sweep(
    config: ConfigFile,
    set_: Overrides = None,
    grid: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KEY=VALUES",
            help="Vary a key: engine.block_size=16,32 or a range, 'KEY=1..64 log 7'; several are combined.",
        ),
    ] = None,
    zip_: Annotated[
        list[str] | None,
        typer.Option("--zip", metavar="KEY=A,B;KEY=C,D", help="Keys that change together."),
    ] = None,
    replications: Annotated[
        int | None, typer.Option(min=1, help="Runs of each point, each with a seed of its own.")
    ] = None,
    workers: Annotated[int | None, typer.Option(min=1, help="Processes. Default: one for each core.")] = None,
    on: Annotated[str, typer.Option(metavar="PLACE", help="processes, or ray: a Ray cluster.")] = "processes",
    address: Annotated[str | None, typer.Option(help="Of the Ray cluster. Default: a local one.")] = None,
    shard: Annotated[
        str | None, typer.Option(metavar="I/N", help="Only the I-th of N parts of the runs.")
    ] = None,
    keep: Annotated[
        str | None, typer.Option(metavar="runs", help="Keep the whole run folders, not just the numbers.")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Folder, new or of a sweep to go on with. Default: by its content."),
    ] = None,
    quiet: Quiet = False,
) -> None:
    """Simulate an experiment at many points; a sweep that was stopped goes on where it was."""
    from sim.cli.sweep import Request, sweep_one
    from sim.planning.sweep import Where

    if on not in ("processes", "ray"):
        raise typer.BadParameter(f"must be processes or ray, not '{on}'", param_hint="--on")
    request = Request(
        config,
        tuple(set_ or ()),
        tuple(grid or ()),
        tuple(zip_ or ()),
        replications,
        shard,
        keep,
        Where(workers or os.cpu_count() or 1, on == "ray", address),
        out,
        shows_progress=not quiet and sys.stderr.isatty(),
    )
    if not sweep_one(request):
        raise typer.Exit(THE_ANSWER_IS_NO)
