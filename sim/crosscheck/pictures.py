"""Pictures of a cross-check: distributions, both runs over time, and where the error comes from."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from sim.crosscheck.attribution import Attribution
from sim.crosscheck.observed import LATENCIES, Observed
from sim.report.canvas import BLUE, GREY, ORANGE, Canvas, save

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_LONG = {"ttft": "Time to first token", "tpot": "Time per output token", "e2el": "End-to-end latency"}
_LOG_SPREAD = 8.0
"""A latency whose p99 is this many times its median is drawn on a logarithmic axis."""


def write_pictures(
    folder: Path, simulated: Observed, replayed: Observed, found: Attribution | None, title: str
) -> list[Path]:
    """Draw all that there is as SVG and PNG; returns the SVG files, in the order to look at them."""
    folder.mkdir(parents=True, exist_ok=True)
    pictures: dict[str, Callable[[], Figure]] = {
        "distributions": lambda: draw_distributions(simulated, replayed, title)
    }
    if simulated.timeline is not None and replayed.timeline is not None:
        pictures["timeline"] = lambda: draw_timelines(simulated, replayed, title)
    if found is not None:
        pictures["attribution"] = lambda: draw_attribution(found, title)
    for name, draw in pictures.items():
        save(draw, folder / name)
    return [folder / f"{name}.svg" for name in pictures]


def draw_distributions(simulated: Observed, replayed: Observed, title: str) -> Figure:
    """Share of requests that were at least as fast as each latency, one panel a latency."""
    canvas = Canvas(1, len(LATENCIES), height=3.7, title=f"{title}: {simulated.name} and {replayed.name}")
    for axes, name in zip(canvas.axes, LATENCIES, strict=True):
        samples = [run.latencies_ms[name] for run in (replayed, simulated)]
        samples = [np.sort(sample[~np.isnan(sample)]) for sample in samples]
        in_seconds = all(len(sample) and np.median(sample) >= 1000 for sample in samples)
        unit = 1000 if in_seconds else 1
        for run, sample, colour, style in zip(
            (replayed, simulated), samples, (BLUE, ORANGE), ("-", (0, (4, 2))), strict=True
        ):
            share = np.arange(1, len(sample) + 1) / max(len(sample), 1)
            axes.step(
                sample / unit,
                share,
                where="post",
                color=colour,
                label=run.name,
                linewidth=1.8,
                linestyle=style,
            )
        axes.set_xlabel(f"{_LONG[name]} ({'s' if in_seconds else 'ms'})")
        axes.set_ylim(0, 1.04)
        axes.yaxis.set_major_formatter(lambda part, _: f"{part * 100:.0f} %")
        if any(
            len(sample) and np.percentile(sample, 99) > _LOG_SPREAD * np.median(sample) for sample in samples
        ):
            axes.set_xscale("log")
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:,g}")
    canvas.axes[0].set_ylabel("Share of completed requests")
    canvas.axes[-1].legend(frameon=False, loc="lower right")
    return canvas.figure


def draw_timelines(simulated: Observed, replayed: Observed, title: str) -> Figure:
    """Running, waiting and KV usage of both, over time; what is nothing all the time in both is left out."""
    ours, theirs = simulated.timeline, replayed.timeline
    assert ours is not None, "checked by the caller"
    assert theirs is not None, "checked by the caller"
    names = [name for name in theirs.curves if any(line.curves[name].any() for line in (ours, theirs))]
    canvas = Canvas(len(names), 1, height=1.2 + 1.7 * len(names), title=f"{title}: over time")
    for axes, name in zip(canvas.axes, names, strict=True):
        axes.plot(theirs.at_s, theirs.curves[name], color=BLUE, label=replayed.name, linewidth=1.6)
        axes.plot(
            ours.at_s,
            ours.curves[name],
            color=ORANGE,
            label=simulated.name,
            linewidth=1.4,
            linestyle=(0, (4, 2)),
        )
        axes.set_ylabel("KV usage (%)" if name == "KV usage" else f"Requests {name}")
        axes.set_ylim(0, max(1.0, 1.08 * float(max(line.curves[name].max() for line in (ours, theirs)))))
    canvas.axes[-1].set_xlabel("Time (s)")
    canvas.axes[0].legend(frameon=False, loc="upper right", ncols=2, bbox_to_anchor=(1, 1.2))
    return canvas.figure


def draw_attribution(found: Attribution, title: str) -> Figure:
    """The parts of the error of busy time, as bars to both sides of none."""
    names = [share.name for share in found.shares] + ["all together"]
    errors = [100 * share.error for share in found.shares] + [100 * found.total]
    canvas = Canvas(1, 1, height=1.5 + 0.38 * len(names), title=f"{title}: where the error comes from")
    axes = canvas.axes[0]
    colours = [ORANGE if error < 0 else BLUE for error in errors[:-1]] + [GREY]
    places = np.arange(len(names))[::-1]
    axes.barh(places, errors, color=colours, height=0.62)
    axes.set_yticks(places, names)
    axes.grid(visible=False, axis="y")
    axes.axvline(0, color="black", linewidth=0.8)
    axes.set_xlabel(
        "Error of the time in steps, % of the replay's   (left: the simulator takes it for too cheap)"
    )
    reach = max(1.0, 1.3 * max(map(abs, errors)))
    axes.set_xlim(-reach, reach)
    for place, error in zip(places, errors, strict=True):
        beside = 0.012 * reach * (1 if error >= 0 else -1)
        axes.text(error + beside, place, f"{error:+.1f} %", va="center", ha="left" if error >= 0 else "right")
    return canvas.figure
