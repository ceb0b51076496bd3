"""What `pagecast tables` does: lists the measured tables that an installed wheel has."""

from __future__ import annotations

from pathlib import Path

import typer

from sim.errors import ConfigError, Problem
from sim.tables.wheel import Listed, listing, systems_folder

_WITHOUT_ENGINE = ("nccl", "oneccl")
"""Libraries of collectives, which stand where an engine does."""


def print_tables(folder: Path | None, system: str | None, backend: str | None) -> None:
    """One line for each operator of an engine's version, its tables and their rows.

    Raises:
        ConfigError: The wheel is not there, or has nothing of what was asked for.
    """
    rows = [
        row
        for row in listing(systems_folder(folder))
        if system in (None, row.system) and backend in (None, row.backend)
    ]
    if not rows:
        raise ConfigError([Problem("tables", "", f"there are none of {system or 'any'}, {backend or 'any'}")])
    by_version: dict[tuple[str, str, str], list[Listed]] = {}
    for row in rows:
        by_version.setdefault((row.system, row.backend, row.version), []).append(row)
    for (name, engine, version), found in sorted(by_version.items()):
        what = engine if engine in _WITHOUT_ENGINE else f"--backend {engine}"
        typer.echo(f"--system {name} {what} --version {version}")
        for row in found:
            typer.echo(f"    {row.operator + '/' + row.table:44}{row.num_rows:>10,} rows")
