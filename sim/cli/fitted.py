"""Fits one table after another for `pagecast fit`: says how good each curve is, and draws it.

Owns what is told of a fit. A curve whose form does not describe its table is refused, and the picture of its
residuals says why.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sim.cost.curve_parameters import Spread
from sim.cost.fit_rows import rows_to_fit, sizes_of
from sim.cost.fitting import PoorFitError, at_bounds, errors, fit, predict_ns, with_curve
from sim.cost.hardware import Gpu
from sim.cost.measured_tables import KernelTable


@dataclass(frozen=True, slots=True)
class Fitted:
    """A table and its curve."""

    table: KernelTable
    curve: Any

    @property
    def name(self) -> str:
        """As a hardware file calls the curve."""
        return self.table.kind.value

    def on(self, gpu: Gpu) -> Gpu:
        """The GPU with this curve."""
        return with_curve(gpu, self.table.kind, self.curve)


@dataclass(frozen=True, slots=True)
class Refused:
    """A table that no curve was taken from, and why."""

    table: KernelTable
    why: str

    def on(self, gpu: Gpu) -> Gpu:
        """The GPU as it was."""
        return gpu


def fit_one(table: KernelTable, gpu: Gpu, out: Path) -> Fitted | Refused:
    """Fit a table and say how good the curve is; where it is refused, draw its residuals beside `out`."""
    try:
        fitted = Fitted(table, fit(table, gpu))
    except PoorFitError as error:
        picture = out.with_name(f"{out.stem}-{table.kind.value}-residuals")
        draw([Fitted(table, error.curve)], gpu, picture)
        return Refused(table, f"{error}; {picture}.png draws how far")
    except ValueError as error:
        return Refused(table, str(error))
    _say_how_good(fitted, gpu)
    return fitted


def _say_how_good(fitted: Fitted, gpu: Gpu) -> None:
    counted = fitted.table.rows(rows_to_fit(fitted.table, gpu).rows)
    mean = errors(counted, gpu, fitted.curve).mean
    say(f"{fitted.table.name}: {fitted.name}", fitted.curve.spread, f", MAPE {100 * mean:.1f} %")
    if stopped := at_bounds(fitted.curve):
        sys.stderr.write(f"  {', '.join(stopped)}: at the end of its range, which the table would leave\n")


def say(what: str, spread: Spread, more: str = "") -> None:
    """One line of how far points lie from what was fitted to them."""
    sys.stderr.write(
        f"{what}, {spread.num_points:,} points, median error {100 * spread.median_fraction:.1f} %, "
        f"nine of ten within {100 * spread.p90_fraction:.1f} %{more}\n"
    )


def draw(fits: Sequence[Fitted], gpu: Gpu, path: Path) -> None:
    """Measured against fitted, as `path`.svg and `path`.png."""
    from sim.report.fit_picture import FitPanel, draw_fits

    panels = []
    for fitted in fits:
        sizes, name = sizes_of(fitted.table)
        panels.append(
            FitPanel(
                title=f"{fitted.name}: {fitted.table.name}",
                measured_ns=fitted.table.times_ns,
                fitted_ns=predict_ns(fitted.table, gpu, fitted.curve),
                sizes=sizes,
                counted=rows_to_fit(fitted.table, gpu).rows,
                size=name,
            )
        )
    draw_fits(panels, path)
