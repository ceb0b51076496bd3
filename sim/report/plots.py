"""Pictures of one run: latency curves, what happened over time, and throughput.

Every picture is drawn from a `RunRecord` and the goals alone, with the same bytes each time. matplotlib is
imported when a picture is drawn, never with this module, and used without its global state of figures.
Curves are named where they run, not in a legend; colours are Okabe and Ito's, which colour-blind readers
can tell apart. What a curve shows is computed in `series.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sim.metrics.latencies import completed_requests, measure_latencies
from sim.metrics.summary import NS_PER_MS, NS_PER_S, Slo
from sim.record.run_record import RunRecord
from sim.report.canvas import BLUE, GREEN, GREY, ORANGE, RED, Canvas, empty, end_label, save, time_axis
from sim.report.numbers import number_text, share_text
from sim.report.series import (
    Bins,
    Curve,
    arrival_and_completion_rates,
    cdf,
    mean_over_time,
    prefill_rate,
    rate_of_events,
    round_bins,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MAX_STATE_BINS = 500
MAX_RATE_BINS = 120
LOG_SPREAD = 8.0
"""A latency whose p99 is this many times its median is drawn on a logarithmic axis."""


@dataclass(frozen=True, slots=True)
class _Latency:
    """One latency as it is drawn."""

    title: str
    unit: str
    sample: Curve
    goal: float | None
    num_requests: int
    """All that arrived, completed or not: goals are judged over these."""
    num_without: int
    """Completed requests that have no such latency (TPOT of one token) and so meet any goal."""


def write_plots(folder: Path, record: RunRecord, slo: Slo, title: str) -> list[Path]:
    """Draw every picture of a run as SVG and PNG; returns the files, in the order to look at them."""
    folder.mkdir(parents=True, exist_ok=True)
    pictures: dict[str, Callable[[], Figure]] = {
        "latency": lambda: draw_latency(record, slo, title),
        "timeline": lambda: draw_timeline(record, title),
        "throughput": lambda: draw_throughput(record, title),
    }
    return [file for name, draw in pictures.items() for file in save(draw, folder / name)]


def draw_latency(record: RunRecord, slo: Slo, title: str) -> Figure:
    """Share of completed requests that were at least as fast as each latency, with the goals."""
    canvas = Canvas(
        1, 3, height=3.7, title=f"{title}: latency of {int(completed_requests(record).sum()):,} requests"
    )
    for axes, latency in zip(canvas.axes, _drawn_latencies(record, slo), strict=True):
        _draw_distribution(axes, latency)
    canvas.axes[0].set_ylabel("Share of completed requests")
    return canvas.figure


def _drawn_latencies(record: RunRecord, slo: Slo) -> Sequence[_Latency]:
    latencies = measure_latencies(record)
    samples: dict[str, tuple[str, Any]] = {
        "ttft": ("Time to first token", latencies.ttft_ns),
        "tpot": ("Time per output token", latencies.tpot_ns[~np.isnan(latencies.tpot_ns)]),
        "e2el": ("End-to-end latency", latencies.e2el_ns),
    }
    goals = dict(slo.goals())
    drawn = []
    for name, (title, sample_ns) in samples.items():
        in_seconds = len(sample_ns) > 0 and np.median(sample_ns) >= NS_PER_S
        unit_ns = NS_PER_S if in_seconds else NS_PER_MS
        goal = goals[name] / unit_ns if name in goals else None
        unit = "s" if in_seconds else "ms"
        num_without = len(latencies.ttft_ns) - len(sample_ns)
        drawn.append(_Latency(title, unit, sample_ns / unit_ns, goal, record.num_requests, num_without))
    return drawn


def _draw_distribution(axes: Axes, latency: _Latency) -> None:
    axes.set_xlabel(f"{latency.title} ({latency.unit})")
    axes.set_ylim(0, 1.09)
    axes.set_yticks(np.linspace(0, 1, 6))
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:,g}")
    axes.yaxis.set_major_formatter(lambda share, _: f"{share * 100:.0f} %")
    if not len(latency.sample):
        empty(axes, "no request to show")
        return
    values, shares = cdf(latency.sample)
    axes.plot(values, shares, color=BLUE, linewidth=2, drawstyle="steps-post")
    _scale(axes, latency)
    _mark_percentile(axes, latency, 0.5, "median")
    _mark_percentile(axes, latency, 0.99, "p99")
    if latency.goal is not None:
        _draw_goal(axes, latency, latency.goal)


def _mark_percentile(axes: Axes, latency: _Latency, share: float, word: str) -> None:
    """A dot on the curve and its value: beside it on the roomier side, above it at the top."""
    at = float(np.quantile(latency.sample, share))
    axes.plot([at], [share], "o", color=BLUE, markersize=5)
    is_left = axes.transAxes.inverted().transform(axes.transData.transform((at, share)))[0] < 0.5
    axes.annotate(
        f"{word} {number_text(at)} {latency.unit}",
        (at, share),
        (8 if is_left else -8, 9 if share > 0.9 else 0),
        textcoords="offset points",
        color=BLUE,
        ha="left" if is_left else "right",
        va="center",
        bbox={"boxstyle": "square,pad=0.1", "facecolor": "white", "edgecolor": "none", "alpha": 0.85},
    )


def _scale(axes: Axes, latency: _Latency) -> None:
    """From 0, or logarithmic where the tail is long; wide enough for the goal and all but the last 0.1 %."""
    median, p99, far = np.quantile(latency.sample, (0.5, 0.99, 0.999))
    furthest = max(far, latency.goal or 0.0)
    smallest = float(latency.sample[latency.sample > 0].min()) if (latency.sample > 0).any() else 0.0
    if smallest > 0 and p99 > LOG_SPREAD * median:
        axes.set_xscale("log")
        axes.set_xlim(smallest * 0.8, furthest * 1.6)
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:,g}")
        axes.xaxis.set_minor_formatter(lambda value, _: "")
    else:
        axes.set_xlim(0, furthest * 1.12 or 1)


def _draw_goal(axes: Axes, latency: _Latency, goal: float) -> None:
    """A line at the goal; in words above the panel, where no curve can cross them."""
    num_met = int((latency.sample <= goal).sum()) + latency.num_without
    share = share_text(num_met, latency.num_requests)
    axes.axvline(goal, color=RED, linewidth=1.4, linestyle=(0, (4, 2)))
    axes.set_title(f"goal {goal:,.4g} {latency.unit}: met by {share}", color=RED, fontsize=9.5, loc="right")


def draw_timeline(record: RunRecord, title: str) -> Figure:
    """Sequences running and waiting, and KV blocks held and filled, on one time axis."""
    canvas = Canvas(2, 1, height=5.4, title=f"{title}: requests and memory over time")
    bins = round_bins(record, MAX_STATE_BINS)
    upper, lower = canvas.axes
    _draw_sequences(upper, record, bins)
    _draw_blocks(lower, record, bins)
    time_axis(canvas.axes, bins)
    return canvas.figure


def _draw_sequences(axes: Axes, record: RunRecord, bins: Bins) -> None:
    running, waiting = (mean_over_time(record, name, bins) for name in ("num_running", "num_waiting"))
    axes.fill_between(bins.middles_s, running, color=BLUE, alpha=0.15, linewidth=0)
    curves = ((running, BLUE, "running"), (waiting, ORANGE, "waiting"))
    for curve, colour, _ in curves:
        axes.plot(bins.middles_s, curve, color=colour, linewidth=1.6)
    axes.set_ylim(0, max(float(running.max()), float(waiting.max()), 1) * 1.12)
    axes.set_ylabel("Sequences" + _of_replicas(record))
    end_label(axes, curves)


def _draw_blocks(axes: Axes, record: RunRecord, bins: Bins) -> None:
    held = mean_over_time(record, "used_blocks", bins)
    filled = mean_over_time(record, "filled_slots", bins) / record.block_size
    axes.fill_between(bins.middles_s, held, color=GREEN, alpha=0.15, linewidth=0)
    axes.plot(bins.middles_s, held, color=GREEN, linewidth=1.8)
    axes.plot(bins.middles_s, filled, color=GREY, linewidth=1, linestyle=(0, (3, 2)))
    _draw_capacity(axes, record.num_blocks * record.num_replicas, float(held.max()))
    axes.yaxis.set_major_formatter(lambda count, _: f"{count:,.0f}")
    axes.set_ylabel(f"KV blocks of {record.block_size} tokens" + _of_replicas(record))
    end_label(axes, ((held, GREEN, "held"), (filled, GREY, "filled")))
    _mark_preemptions(axes, record, bins)


def _draw_capacity(axes: Axes, capacity: int, most_held: float) -> None:
    """A line at all the blocks there are; only words where it is so far away that the curve would vanish."""
    if most_held * 4 < capacity:
        axes.set_ylim(0, max(most_held, 1) * 1.2)
        words = f"there are {capacity:,} blocks: at most {share_text(round(most_held), capacity)} held"
        axes.set_title(words, color=RED, fontsize=9.5, loc="right")
        return
    axes.set_ylim(0, capacity * 1.14)
    axes.axhline(capacity, color=RED, linewidth=1.4, linestyle=(0, (4, 2)))
    axes.annotate(f"all {capacity:,} blocks", (0, capacity), (4, 3), textcoords="offset points", color=RED)


def _mark_preemptions(axes: Axes, record: RunRecord, bins: Bins) -> None:
    """A stroke at the foot of the picture for each bin in which somebody was preempted."""
    when_ns = record.steps["start"][record.steps["num_preempted"] > 0].astype(np.int64)
    if not len(when_ns):
        return
    at = np.unique(when_ns // bins.width_ns)
    axes.plot(bins.middles_s[at], np.zeros(len(at)), "|", color=RED, markersize=10, clip_on=False)
    total = int(record.steps["num_preempted"].sum())
    axes.annotate(f"| {total:,} preemptions", (0.01, 0.06), xycoords="axes fraction", color=RED)


def _of_replicas(record: RunRecord) -> str:
    return f"\n(sum of {record.num_replicas} replicas)" if record.num_replicas > 1 else ""


def draw_throughput(record: RunRecord, title: str) -> Figure:
    """Tokens computed and requests served per second, over time."""
    bins = round_bins(record, MAX_RATE_BINS)
    canvas = Canvas(2, 1, height=5.4, title=f"{title}: throughput, in bins of {_width(bins)}")
    arrived, completed = arrival_and_completion_rates(record, bins)
    panels = (
        (
            "Tokens per second",
            (
                (prefill_rate(record, bins), ORANGE, "prompt"),
                (rate_of_events(record.token_times, bins), BLUE, "output"),
            ),
        ),
        ("Requests per second", ((arrived, GREY, "arrived"), (completed, GREEN, "completed"))),
    )
    for axes, (label, curves) in zip(canvas.axes, panels, strict=True):
        for curve, colour, _ in curves:
            axes.stairs(curve, bins.edges_s, color=colour, linewidth=1.6)
        axes.set_ylim(0, max(float(curve.max()) for curve, _, _ in curves) * 1.12 or 1)
        axes.yaxis.set_major_formatter(lambda rate, _: f"{rate:,g}")
        axes.set_ylabel(label)
        end_label(axes, curves)
    time_axis(canvas.axes, bins)
    return canvas.figure


def _width(bins: Bins) -> str:
    seconds = bins.width_ns / NS_PER_S
    return f"{seconds:,g} s" if seconds >= 1 else f"{seconds * 1000:,g} ms"
