"""What `pagecast fit` does: measured tables in, the `curves:` section of a hardware file out."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from sim.config_catalog import load_gpu
from sim.config_curves import PARAMETERS
from sim.cost.fitting import fit
from sim.cost.measured_tables import read_table
from sim.errors import ConfigError, Problem
from sim.units import Dimension, format_quantity
from sim.yaml_dump import dump_yaml

_KEYS = {parameter: key for key, parameter in PARAMETERS.items()}


def fit_tables(tables: Sequence[Path], hardware: str, out: Path) -> None:
    """Fit every table and write the section.

    Raises:
        ConfigError: A table, the hardware, or the file to write is wrong; nothing is written.
    """
    try:
        gpu = load_gpu(hardware)
    except ConfigError:
        raise
    except ValueError as error:
        raise ConfigError([Problem("--hardware", "", str(error))]) from error
    section: dict[str, Any] = {}
    for path in tables:
        table = read_table(path)
        name = table.kind.value
        if name in section:
            raise ConfigError([Problem(str(path), "", f"is a second table of {name}")])
        try:
            curve = fit(table, gpu)
        except ValueError as error:
            raise ConfigError([Problem(str(path), "", str(error))]) from error
        section[name] = curve_section(curve)
        spread = curve.spread
        sys.stderr.write(
            f"{path.name}: {name}, {spread.num_points:,} points, median error "
            f"{100 * spread.median_fraction:.1f} %, nine of ten within {100 * spread.p90_fraction:.1f} %\n"
        )
    try:
        out.write_text(dump_yaml({"curves": section}), encoding="utf-8")
    except OSError as error:
        raise ConfigError([Problem(str(out), "", f"cannot be written: {error.strerror}")]) from error


def curve_section(curve: Any) -> dict[str, Any]:
    """A fitted curve as its file says it: four digits, units, spread."""
    section: dict[str, Any] = {"source": "measured"}
    for parameter in fields(curve):
        value = getattr(curve, parameter.name)
        key = _KEYS.get(parameter.name, parameter.name)
        match parameter.name:
            case "spread":
                continue
            case "link_fractions":
                section[key] = {count: _rounded(fraction) for count, fraction in value}
            case "large_bytes":
                section[key] = format_quantity(_rounded(value), Dimension.MEMORY)
            case name if name in _KEYS:
                section[key] = format_quantity(_rounded(value), Dimension.TIME)
            case _:
                section[key] = _rounded(value)
    spread = curve.spread
    section["spread"] = {
        "median": _rounded(spread.median_fraction),
        "p90": _rounded(spread.p90_fraction),
        "num_points": spread.num_points,
        "domain": spread.domain,
    }
    return section


def _rounded(value: float) -> float:
    return float(f"{value:.4g}")
