"""Draws measured against fitted: how far each kernel's time lies from its curve, by time and by size.

Owns the picture; whoever calls says which rows counted. Imports matplotlib when it draws.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from sim.report.canvas import BLUE, GREY, ORANGE, WIDTH_INCHES, save

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_MOST_POINTS = 4_000
"""Drawn of one table, evenly taken: more are a blot."""
_PANEL_INCHES = 2.6
_NEAR, _FAR = 0.9, 1.1


@dataclass(frozen=True, slots=True)
class FitPanel:
    """One curve and what it was fitted to.

    Attributes:
        measured_ns, fitted_ns, sizes: [num_rows]. counted: [num_rows], which rows the fit looked at.
        size: What `sizes` are.
    """

    title: str
    measured_ns: NDArray[np.float64]
    fitted_ns: NDArray[np.float64]
    sizes: NDArray[np.float64]
    counted: NDArray[np.bool_]
    size: str


def draw_fits(panels: Sequence[FitPanel], path: Path) -> list[Path]:
    """Save a row of two panels for each curve as `path`.svg and `path`.png."""
    return save(lambda: _figure(panels), path)


def _figure(panels: Sequence[FitPanel]) -> Figure:
    from matplotlib.figure import Figure

    height = 0.5 + _PANEL_INCHES * len(panels)
    figure = Figure(figsize=(WIDTH_INCHES, height), layout="constrained")
    grid = figure.subplots(len(panels), 2, sharey="row", squeeze=False)
    figure.suptitle("Fitted over measured", fontsize=12, fontweight="bold", x=0.012, ha="left")
    for row, panel in zip(grid, panels, strict=True):
        _scatter(row[0], panel, panel.measured_ns / 1e3, "Measured time (µs)")
        _scatter(row[1], panel, panel.sizes, panel.size)
        row[0].set_title(panel.title, fontsize=9, loc="left")
        row[0].set_ylabel("fitted / measured")
    return figure


def _scatter(axes: Axes, panel: FitPanel, across: NDArray[np.float64], name: str) -> None:
    """Rows that counted in blue, the others in grey behind them, and the median of each octave."""
    ratio = panel.fitted_ns / panel.measured_ns
    for chosen, colour, order in ((~panel.counted, GREY, 1), (panel.counted, BLUE, 2)):
        rows = np.flatnonzero(chosen)
        rows = rows[:: max(1, -(-len(rows) // _MOST_POINTS))]
        axes.scatter(
            across[rows], ratio[rows], s=3, alpha=0.35, c=colour, linewidths=0, zorder=order, rasterized=True
        )
    axes.axhspan(_NEAR, _FAR, color="#EDEDED", zorder=0)
    axes.axhline(1, color=GREY, linewidth=0.8, zorder=1)
    axes.plot(*_medians(across[panel.counted], ratio[panel.counted]), color=ORANGE, linewidth=1.4, zorder=3)
    axes.set_xscale("log")
    axes.set_yscale("log", base=2)
    axes.set_ylim(0.25, 4)
    axes.set_yticks([0.25, 0.5, 1, 2, 4], labels=["1/4", "1/2", "1", "2", "4"])
    axes.set_xlabel(name)


def _medians(across: NDArray[np.float64], ratio: NDArray[np.float64]) -> tuple[list[float], list[float]]:
    """Of each octave: where it lies, and the median of what is drawn over it."""
    octaves = np.floor(np.log2(across))
    parts = [octaves == octave for octave in np.unique(octaves)]
    return [float(np.median(across[part])) for part in parts], [
        float(np.median(ratio[part])) for part in parts
    ]
