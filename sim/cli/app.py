"""The command itself: exit codes, bad input without a traceback, options that several commands share."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from sim.cli.streams import OutputError, checked_output
from sim.compiled import running_code
from sim.errors import ConfigError, Problem
from workloads.errors import WorkloadError
from workloads.text import is_utf8

THE_ANSWER_IS_NO = 1
BAD_INPUT = 2
INTERRUPTED = 130
TOLD_INTERRUPTED = "interrupted: no run is left half-written"


class Commands(TyperGroup):
    """Ends every command with the exit code that its outcome has; bad input never with a traceback."""

    def make_context(self, *args: Any, **named: Any) -> Any:
        """Read the arguments."""
        try:
            with checked_output():
                return super().make_context(*args, **named)
        except OutputError as error:
            typer.echo(str(error), err=True)
            raise SystemExit(BAD_INPUT) from None
        except KeyboardInterrupt:
            typer.echo(TOLD_INTERRUPTED, err=True)
            raise SystemExit(INTERRUPTED) from None

    def invoke(self, ctx: Any) -> Any:
        """Run the command that was asked for."""
        try:
            _refuse_other_text([*ctx._protected_args, *ctx.args])
            with checked_output():
                return super().invoke(ctx)
        except (ConfigError, WorkloadError, OutputError) as error:
            typer.echo(str(error), err=True)
            raise typer.Exit(BAD_INPUT) from error
        except MemoryError as error:
            typer.echo("memory: this machine has too little for what the experiment asks for", err=True)
            raise typer.Exit(BAD_INPUT) from error
        except KeyboardInterrupt as error:
            typer.echo(TOLD_INTERRUPTED, err=True)
            raise typer.Exit(INTERRUPTED) from error


def _refuse_other_text(arguments: Sequence[str]) -> None:
    """Names of files are written into runs, which are UTF-8.

    Raises:
        ConfigError: An argument is not.
    """
    wrong = [argument for argument in arguments if not is_utf8(argument)]
    if wrong:
        shown = [argument.encode(errors="backslashreplace").decode() for argument in wrong]
        raise ConfigError([Problem(text, "", "is not UTF-8: give it a name that is") for text in shown])


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

ConfigFile = Annotated[Path, typer.Argument(metavar="CONFIG", help="The experiment's YAML file.")]
RunFolder = Annotated[
    Path | None,
    typer.Option(metavar="DIR", help="Run folder to make. Default: results/<name>/<time>-<hash>."),
]
SummaryAsJson = Annotated[
    bool, typer.Option("--json", help="Print summary.json, one JSON document, instead of a table.")
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress bar.")]
NoPlots = Annotated[bool, typer.Option("--no-plots", help="Draw no pictures.")]


def _print_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(f"pagecast {version('pagecast')}, {running_code()}")
        raise typer.Exit


@app.callback()
def pagecast(
    version: Annotated[
        bool,
        typer.Option(
            "--version",
            callback=_print_version,
            is_eager=True,
            help="Print the version, and whether its core is compiled.",
        ),
    ] = False,
) -> None:
    """Plan LLM serving by simulation, and prove the plan on a real engine."""
