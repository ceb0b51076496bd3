"""How our pictures look: paper, colours, axes of time, names beside curves; and how they are saved.

The only file that touches matplotlib's settings, within a context that it leaves as it found them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sim.report.series import Bins, Curve

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BLUE, ORANGE, GREEN, RED, GREY = "#0072B2", "#D98200", "#009E73", "#C23B00", "#6B6B6B"
WIDTH_INCHES = 9.6
PNG_DPI = 120
_STYLE: dict[Any, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": 9.5,
    "axes.labelsize": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#9A9A9A",
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#E6E6E6",
    "grid.linewidth": 0.7,
    "xtick.color": "#404040",
    "ytick.color": "#404040",
    "svg.hashsalt": "pagecast",
    "svg.fonttype": "path",
    "path.simplify": True,
}


class Canvas:
    """A figure with a title and a grid of panels that are read from left to right, top to bottom."""

    def __init__(self, num_rows: int, num_columns: int, *, height: float, title: str) -> None:
        from matplotlib.figure import Figure

        self.figure: Figure = Figure(figsize=(WIDTH_INCHES, height), layout="constrained")
        panels = self.figure.subplots(num_rows, num_columns, sharex=num_rows > 1, squeeze=False)
        self.axes: list[Axes] = list(panels.flat)
        self.figure.suptitle(title, fontsize=12, fontweight="bold", x=0.012, ha="left")


def save(draw: Callable[[], Figure], path: Path) -> list[Path]:
    """Draw in our style and save as `path`.svg and, for a quick look, `path`.png.

    The files carry no date and no version, so that the same picture has the same bytes.
    """
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    svg, png = path.with_suffix(".svg"), path.with_suffix(".png")
    with matplotlib.rc_context(_STYLE):
        figure = draw()
        FigureCanvasAgg(figure)
        figure.savefig(svg, metadata={"Date": None, "Creator": "pagecast"})
        figure.savefig(png, metadata={"Software": None}, dpi=PNG_DPI)
    return [svg, png]


def empty(axes: Axes, why: str) -> None:
    """Say in an empty panel why it is empty."""
    axes.text(0.5, 0.5, why, transform=axes.transAxes, ha="center", va="center", color=GREY)


def time_axis(panels: Sequence[Axes], bins: Bins) -> None:
    """Name the shared axis of time under the lowest panel."""
    for axes in panels:
        axes.yaxis.set_label_coords(-0.075, 0.5)
    panels[-1].set_xlim(0, float(bins.edges_s[-1]))
    panels[-1].xaxis.set_major_formatter(lambda second, _: f"{second:,g}")
    panels[-1].set_xlabel("Simulated time (s)")


def end_label(axes: Axes, curves: Sequence[tuple[Curve, str, str]]) -> None:
    """Name curves of (values, colour, name) to the right of the panel, at the height of their second half.

    Names that would touch are pushed apart, the higher curve keeping the higher name.
    """
    low, high = axes.get_ylim()
    heights = [(float(curve[len(curve) // 2 :].mean()) - low) / (high - low) for curve, _, _ in curves]
    order = sorted(range(len(curves)), key=heights.__getitem__)
    floor = 0.03
    for place in order:
        height = max(heights[place], floor)
        floor = height + 0.085
        _, colour, name = curves[place]
        axes.annotate(
            name,
            (1.01, min(height, 0.97)),
            xycoords="axes fraction",
            color=colour,
            fontweight="bold",
            va="center",
            annotation_clip=False,
        )
