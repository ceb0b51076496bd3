"""`pagecast sensitivity`: which figure of the hardware the answer hangs on.

Each figure is moved by 10 % down and up, one at a time, and the experiment simulated again. The elasticity
is what the answer moves by for each percent: -1 means that a figure 1 % higher gives an answer 1 % lower.
Where step times are added up from kernels, so are the parameters of their curves moved, fitted or taken over.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from math import log
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from sim.config import load_experiment
from sim.cost.curve_parameters import CurveParameters, FittedCurves
from sim.cost.curves import curve_parameters
from sim.cost.hardware import Gpu
from sim.cost.kernel_clock import product_curve_name
from sim.cost.step_time import KernelCost
from sim.errors import ConfigError, Problem
from sim.experiment import Experiment
from sim.record.run_record import RunRecord
from sim.results.writable import refuse_unwritable_files, telling_unwritable
from sim.simulation import experiment_cost, simulate

STEP_FRACTION = 0.1
_LEFT_OUT = {"memory_bytes", "reserved_memory_bytes", "gpus_per_host_link"}
"""They decide how many blocks there are, which an experiment has fixed once it is loaded."""


@dataclass(frozen=True, slots=True)
class Elasticity:
    """How far each answer moves, percent for percent."""

    figure: str
    source: str
    mean_tpot: float
    mean_ttft: float
    throughput: float

    @property
    def largest(self) -> float:
        """Of the three, whatever its sign."""
        return max(abs(self.mean_tpot), abs(self.mean_ttft), abs(self.throughput))


def sensitivities(experiment: Experiment) -> list[Elasticity]:
    """Of every figure of the experiment's GPU, the weightiest first."""
    sources = {figure.name: figure.source.value for figure in experiment.gpu.figures}
    found = []
    names = _perturbed(experiment.gpu)
    if isinstance(experiment_cost(experiment), KernelCost):
        names += list(_curve_parameters(experiment.gpu, product_curve_name(experiment.model, experiment.gpu)))
    for name in names:
        low, high = (_answers(_moved(experiment, name, 1 + step)) for step in (-STEP_FRACTION, STEP_FRACTION))
        width = log((1 + STEP_FRACTION) / (1 - STEP_FRACTION))
        moves = [log(b / a) / width if a > 0 and b > 0 else 0.0 for a, b in zip(low, high, strict=True)]
        found.append(Elasticity(name, _source_of(name, sources), *moves))
    return sorted(found, key=lambda row: -row.largest)


def print_sensitivity(config: Path, overrides: tuple[str, ...], out: Path) -> None:
    """Print the ranking, and write it as Markdown.

    Raises:
        ConfigError: The experiment is wrong, or gives its step times.
    """
    refuse_unwritable_files(out)
    experiment = load_experiment(config, overrides)
    if experiment.step_times is not None:
        message = "gives the step times, which no figure of the hardware moves: leave it out to rank them"
        raise ConfigError([Problem(str(config), "step_time", message)])
    rows = sensitivities(experiment)
    table = Table(title=f"{experiment.name} on {experiment.gpu.name}: percent for each percent")
    for heading in ("figure", "source", "mean TPOT", "mean TTFT", "tokens/s"):
        table.add_column(heading)
    lines = ["| figure | source | mean TPOT | mean TTFT | tokens/s |", "| --- | --- | ---: | ---: | ---: |"]
    for row in rows:
        cells = [row.figure, row.source]
        cells += [f"{value:+.2f}" for value in (row.mean_tpot, row.mean_ttft, row.throughput)]
        table.add_row(*cells)
        lines.append(f"| {' | '.join(cells)} |")
    Console(width=100).print(table)
    with telling_unwritable(out):
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _perturbed(gpu: Gpu) -> list[str]:
    return [
        field.name
        for field in fields(gpu)
        if field.name not in _LEFT_OUT and isinstance(getattr(gpu, field.name), int | float)
    ]


def _curve_parameters(gpu: Gpu, products: str) -> Iterator[str]:
    """As `curves.gemm.floor_ns`, of all curves; of products beside those in 16 bits, only of `products`."""
    parameters = curve_parameters(gpu)
    for curve in fields(CurveParameters):
        if curve.name in ("fp8_gemm", "narrow_gemm") and curve.name != products:
            continue
        values = getattr(parameters, curve.name)
        for field in fields(values):
            if isinstance(getattr(values, field.name), int | float):
                yield f"curves.{curve.name}.{field.name}"


def _moved_curve(gpu: Gpu, name: str, factor: float) -> Gpu:
    _, curve, parameter = name.split(".")
    values = getattr(curve_parameters(gpu), curve)
    changed: dict[str, Any] = {parameter: getattr(values, parameter) * factor}
    curves: dict[str, Any] = {curve: replace(values, **changed)}
    own: FittedCurves = replace(gpu.curves, **curves)
    return replace(gpu, curves=own)


def _moved(experiment: Experiment, name: str, factor: float) -> Experiment:
    if "." in name:
        return replace(experiment, gpu=_moved_curve(experiment.gpu, name, factor))
    value = getattr(experiment.gpu, name)
    moved = round(value * factor) if isinstance(value, int) else value * factor
    changes: dict[str, Any] = {name: moved}
    return replace(experiment, gpu=replace(experiment.gpu, **changes))


def _answers(experiment: Experiment) -> tuple[float, float, float]:
    record = simulate(experiment)
    arrival, first, last = (_seconds(record, name) for name in ("arrival", "first_token", "last_token"))
    tokens = record.requests["output_tokens"]
    tpot = (last - first) / np.maximum(1, tokens - 1)
    duration = float(np.nanmax(last) - np.nanmin(arrival))
    return float(np.nanmean(tpot)), float(np.nanmean(first - arrival)), float(tokens.sum()) / duration


def _seconds(record: RunRecord, name: str) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    column = record.requests[name]
    return np.where(np.isnat(column), np.nan, column.astype("int64") / 1e9)


def _source_of(name: str, sources: dict[str, str]) -> str:
    """A field's name is its figure's with a unit, and sometimes a rate, behind."""
    if name.startswith("curves."):
        return sources.get(name.rpartition(".")[0], "assumed")  # else taken over from another GPU
    matching = [figure for figure in sources if name.startswith(figure) or name == f"{figure}_flops_per_s"]
    if name == "fp8_flops_per_s":
        matching = [figure for figure in sources if figure == "fp8_compute"]
    return sources[max(matching, key=len)] if matching else ""
