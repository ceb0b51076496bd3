"""What `pagecast fit` does: measured tables in, what a hardware file says of them out.

Tables of kernels become its `curves:` section, a calibration of whole steps some of its figures and its
`step_spread`.
"""

from __future__ import annotations

import csv
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, TypeVar

from sim.cli.fitted import Fitted, Refused, draw, fit_one, say
from sim.config.catalog import load_gpu, load_model
from sim.config.curves import PARAMETERS
from sim.config.yaml_dump import dump_yaml
from sim.cost.curve_parameters import Spread
from sim.cost.fit_rows import in_order
from sim.cost.hardware import Gpu
from sim.cost.kernels import Fusion
from sim.cost.measured import read_calibration
from sim.cost.measured_tables import KernelTable, is_calibration, read_table
from sim.cost.step_fitting import MeasuredSteps, StepFit, assumed_curves, fit_steps
from sim.errors import ConfigError, Problem
from sim.units import Dimension, format_quantity

_KEYS = {parameter: key for key, parameter in PARAMETERS.items()}
ROLES = ("target", "draft")
STEPS_FILE = "steps.csv"
"""Of a calibration that is a folder."""
_FIGURES = {
    "step_overhead_ns": "step_overhead",
    "seq_overhead_ns": "seq_overhead",
    "compute_efficiency_fraction": "compute_efficiency",
    "bandwidth_efficiency_fraction": "bandwidth_efficiency",
}
"""Fields of a GPU that steps are fitted by, and the keys of a hardware file."""


@dataclass(frozen=True, slots=True)
class StepsOf:
    """Which rows of a calibration to fit to, and what they were measured on; None: not said."""

    model: str | None = None
    role: str = "target"
    fusion: str | None = None


def fit_tables(
    tables: Sequence[Path],
    hardware: str,
    out: Path,
    steps_of: StepsOf | None = None,
    report: Path | None = None,
) -> None:
    """Fit every table and write what a hardware file says of them: curves, figures, spreads.

    Tables of kernels come first: steps are fitted with the curves they gave.

    Raises:
        ConfigError: A table, the hardware, the model or the file to write is wrong; nothing is written.
    """
    gpu = named(load_gpu, hardware, "--hardware")
    tables = [path / STEPS_FILE if path.is_dir() else path for path in tables]
    calibrations = [path for path in tables if is_calibration(path)]
    if len(calibrations) > 1:
        raise ConfigError([Problem(str(calibrations[1]), "", "is a second calibration: fit one at a time")])
    fits = fit_each([path for path in tables if path not in calibrations], gpu, out)
    curves = {fitted.name: fitted.curve for fitted in fits}
    document: dict[str, Any] = {}
    for path in calibrations:
        gpu = replace(gpu, curves=replace(gpu.curves, **curves))
        found = _fit_calibration(path, gpu, steps_of or StepsOf())
        document = _figures_of(found)
        if {"compute_efficiency_fraction", "bandwidth_efficiency_fraction"} & set(found.fitted):
            curves |= {name: getattr(found.gpu.curves, name) for name in assumed_curves(found.gpu)}
    if curves:
        document["curves"] = {name: curve_section(curve) for name, curve in curves.items()}
    if report is not None and fits:
        draw(fits, gpu, report)
    write(out, dump_yaml(document))


def write(out: Path, text: str) -> None:
    """The file that a fit makes.

    Raises:
        ConfigError: It cannot be written.
    """
    try:
        out.write_text(text, encoding="utf-8")
    except OSError as error:
        raise ConfigError([Problem(str(out), "", f"cannot be written: {error.strerror}")]) from error


def fit_each(tables: Sequence[Path], gpu: Gpu, out: Path) -> list[Fitted]:
    """Each table of kernels and its curve.

    Raises:
        ConfigError: A table is wrong, there are two of one kind, or a form does not fit.
    """
    read: dict[str, tuple[Path, KernelTable]] = {}
    for path in tables:
        table = read_table(path)
        if table.kind.value in read:
            raise ConfigError([Problem(str(path), "", f"is a second table of {table.kind.value}")])
        read[table.kind.value] = (path, table)
    fits: list[Fitted] = []
    for table in in_order(table for _, table in read.values()):
        found = fit_one(table, gpu, out)
        if isinstance(found, Refused):
            raise ConfigError([Problem(str(read[table.kind.value][0]), "", found.why)])
        fits.append(found)
        gpu = found.on(gpu)
    return fits


def _fit_calibration(path: Path, gpu: Gpu, steps_of: StepsOf) -> StepFit:
    if steps_of.model is None:
        problem = Problem("--model", "", f"say which model the steps of {path} were measured with")
        raise ConfigError([problem])
    model = named(load_model, steps_of.model, "--model")
    if steps_of.role not in ROLES:
        message = f"{steps_of.role!r} is not {' or '.join(ROLES)}: only their rows are steps of one model"
        raise ConfigError([Problem("--role", "", message)])
    fusion = _fusion_of(path, steps_of.fusion)
    calibration = read_calibration(path, model_role=steps_of.role, fusion=fusion.value)
    steps = MeasuredSteps.of(calibration, model, fusion)
    try:
        found = fit_steps(steps, gpu, path.name)
    except ValueError as error:
        raise ConfigError([Problem(str(path), "", str(error))]) from error
    say(f"{path.name}: steps of {model.name}", found.spread, f", bias {100 * found.bias:+.1f} %")
    for name in found.undetermined:
        sys.stderr.write(f"{path.name}: does not determine {_FIGURES[name]}: it stays as it was\n")
    return found


def _fusion_of(path: Path, asked: str | None) -> Fusion:
    """The level that was asked for, or the only one that a calibration has.

    Raises:
        ConfigError: It has not that one, or several.
    """
    if asked is not None and asked not in {fusion.value for fusion in Fusion}:
        raise ConfigError([Problem("--fusion", "", f"{asked!r} is not none, fused or graph")])
    measured = _levels_of(path)
    if not measured:
        return Fusion(asked or "graph")  # whoever reads the rows says what is wrong with them
    if asked is None and len(measured) > 1:
        message = f"say which: {path} was measured at {' and '.join(measured)}"
        raise ConfigError([Problem("--fusion", "", message)])
    if asked is not None and asked not in measured:
        message = f"{path} was measured at {' and '.join(measured)}, not at {asked}"
        raise ConfigError([Problem("--fusion", "", message)])
    return Fusion(asked or measured[0])


def _levels_of(path: Path) -> list[str]:
    """Levels of fusion that rows of a calibration name; none where it cannot be read."""
    try:
        with path.open(newline="", encoding="utf-8") as file:
            named = {row.get("fusion") for row in csv.DictReader(file)}
    except (OSError, UnicodeDecodeError, csv.Error):
        return []
    return [fusion.value for fusion in Fusion if fusion.value in named]


def _figures_of(found: StepFit) -> dict[str, Any]:
    """The figures that the steps determined, as a hardware file says them, and their spread."""
    table, _, what = found.spread.domain.partition(": ")
    note = f"fitted to {found.spread.num_points:,} {what} ({table})"
    figures: dict[str, Any] = {}
    for name in found.fitted:
        value = _rounded(getattr(found.gpu, name))
        is_time = name.endswith("_ns")
        figures[_FIGURES[name]] = {
            "value": _rounded(value / 1e3) if is_time else value,
            "unit": "us" if is_time else "fraction",
            "source": "measured",
            "note": note,
        }
    return {**figures, "step_spread": _spread_section(found.spread)}


_Named = TypeVar("_Named")


def named(load: Callable[[str], _Named], name: str, option: str) -> _Named:
    """What a name in an option stands for.

    Raises:
        ConfigError: There is none of that name, or its file is wrong.
    """
    try:
        return load(name)
    except ConfigError:
        raise
    except ValueError as error:
        raise ConfigError([Problem(option, "", str(error))]) from error


def curve_section(curve: Any) -> dict[str, Any]:
    """A fitted curve as its file says it: four digits, units, spread."""
    section: dict[str, Any] = {"source": "measured"}
    if curve.spread is None:
        section = {"source": "assumed", "note": "its fractions moved with the efficiencies, fitted to steps"}
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
    if curve.spread is not None:
        section["spread"] = _spread_section(curve.spread)
    return section


def _spread_section(spread: Spread) -> dict[str, Any]:
    return {
        "median": _rounded(spread.median_fraction),
        "p90": _rounded(spread.p90_fraction),
        "num_points": spread.num_points,
        "domain": spread.domain,
    }


def _rounded(value: float) -> float:
    return float(f"{value:.4g}")
