"""`MeasuredCost`: step times of one device and model as they were measured, linear between measured points.

Implements `sim.cost.cost_model.CostModel`. A calibration is a full grid of three axes: decoding sequences,
new tokens of chunks, and the context that both have behind them. In a real step these differ, so chunks are
what they add to a step of their own context:

    time(seqs, decode context, new, chunk context)
        = grid(seqs, 0, decode context) + grid(seqs, new, chunk context) - grid(seqs, 0, chunk context)

Beyond the grid the outermost cell is continued, and every such step is counted: `warnings` says so, and is
never to be left out of a report.

A step is an interpolation along the context axis, of lines that are remembered for its batch; single steps
and horizons call the same numpy function, so that they give the same bits.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sim.core.step import StepPlan
from sim.errors import ConfigError, Problem
from workloads.text import parse_number

AXES = ("num_decode_seqs", "num_new_tokens", "context_tokens")
_KEYS = ("model_role", "fusion")
STEP = "step_us"


@dataclass(frozen=True, slots=True)
class Calibration:
    """A grid of step times.

    Attributes:
        axes: Ascending values of each of `AXES`. times_ns: [num_seqs, num_new, num_contexts].
    """

    axes: tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]
    times_ns: NDArray[np.float64]

    def slowed(self, factor: float) -> Calibration:
        """The same steps, each `factor` times as long."""
        return Calibration(self.axes, self.times_ns * factor)


def read_calibration(path: Path, *, model_role: str, fusion: str) -> Calibration:
    """The rows of a CSV file (`model_role,fusion`, the axes, `step_us`) that are of one role and fusion.

    Raises:
        ConfigError: The file is missing, a value is no number, or the rows are no full grid.
    """
    points: dict[tuple[float, ...], float] = {}
    try:
        with path.open(newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file)
            missing = {*_KEYS, *AXES, STEP} - set(reader.fieldnames or ())
            if missing:
                raise ConfigError([Problem(str(path), "", f"lacks columns {', '.join(sorted(missing))}", 1)])
            for row in reader:
                if (row["model_role"], row["fusion"]) == (model_role, fusion):
                    *place, time_us = (_number(path, reader.line_num, row, n) for n in (*AXES, STEP))
                    points[tuple(place)] = time_us
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ConfigError([Problem(str(path), "", f"cannot be read: {error}")]) from error
    found = grid_of(points)
    if found is None:
        what = f"{len(points)} points of {model_role}, {fusion} are no full grid of {', '.join(AXES)}"
        raise ConfigError([Problem(str(path), "", what)])
    return found


def grid_of(times_us: Mapping[tuple[float, ...], float]) -> Calibration | None:
    """Times by their places on the three axes; None if there are none, or not all of a grid."""
    seqs, new, context = (np.array(sorted({place[i] for place in times_us}), dtype=float) for i in range(3))
    if not times_us or len(times_us) != len(seqs) * len(new) * len(context):
        return None
    times = [[[times_us[a, b, c] * 1e3 for c in context] for b in new] for a in seqs]
    return Calibration((seqs, new, context), np.array(times))


def _number(path: Path, line: int, row: dict[str, str], name: str) -> float:
    try:
        value = parse_number(row[name])
    except (TypeError, ValueError):
        value = float("nan")
    least = 0 if name in AXES else 1e-3
    if not least <= value < 1e15:
        problem = f"must be a number from {least:g}, not {row[name]!r}"
        raise ConfigError([Problem(str(path), name, problem, line)])
    return value


class MeasuredCost:
    """Step times by interpolation; remembers which steps lay outside."""

    def __init__(self, calibration: Calibration) -> None:
        self._axes = calibration.axes
        self._times_ns = calibration.times_ns
        self._lines: dict[tuple[float, float], NDArray[np.float64]] = {}
        self._outside: dict[str, tuple[int, float]] = {}

    def time_ns(self, num_seqs: float, num_new: float, context: float) -> float:
        """Time at a place of the grid, which need not be one of whole numbers."""
        per_seq = np.array([context])
        return float(self._times(num_seqs, num_new, per_seq)[0])

    def step_ends_ns(self, plan: StepPlan) -> list[int]:  # [horizon]
        """End of each step of a plan, counted from its start."""
        seqs = plan.num_decode_seqs
        contexts = np.arange(plan.horizon, dtype=np.int64) * seqs + plan.decode_context_tokens
        return self.ends_ns(plan, contexts / max(seqs, 1))

    def ends_ns(self, plan: StepPlan, decode_contexts: NDArray[np.float64]) -> list[int]:  # [horizon]
        """The same, of decoding sequences with such a context in each step.

        Args:
            plan: Batch and chunks.
            decode_contexts: What the grid's context is for them.  # [horizon]
        """
        seqs, new = plan.num_decode_seqs, plan.num_prefill_tokens
        if not new:
            times = self._times(seqs, 0, decode_contexts)
        else:
            behind = sum(chunk.num_tokens * chunk.num_computed_tokens for chunk in plan.chunks) / new
            chunk_context = np.array([behind])
            times = self._times(seqs, new, chunk_context)
            if seqs:
                beside = self._times(seqs, 0, decode_contexts)
                times = beside + times - self._times(seqs, 0, chunk_context)
        steps = np.maximum(times + 0.5, 1).astype(np.int64)
        ends: list[int] = np.broadcast_to(steps, plan.horizon).cumsum().tolist()
        return ends

    @property
    def warnings(self) -> tuple[str, ...]:
        """One sentence for each axis on which steps lay outside what was measured."""
        return tuple(
            f"{count:,} steps lay outside the measured {name} ({self._range(name)}), up to {farthest:g}: "
            "their times continue the outermost measured points"
            for name, (count, farthest) in self._outside.items()
        )

    def _times(self, seqs: float, new: float, contexts: NDArray[np.float64]) -> NDArray[np.float64]:
        """At places of one batch.  # [len(contexts)]."""
        self._note(seqs, new, contexts)
        line = self._lines.get((seqs, new))
        if line is None:
            line = self._lines[seqs, new] = self._line_ns(seqs, new)
        times: NDArray[np.float64] = _along(self._axes[2], line[:, None], contexts)[:, 0]
        return times

    def _range(self, name: str) -> str:
        axis = self._axes[AXES.index(name)]
        return f"{axis[0]:g} to {axis[-1]:g}"

    def _note(self, seqs: float, new: float, per_seq: NDArray[np.float64]) -> None:
        one = np.ones(len(per_seq))
        for name, axis, values in zip(AXES, self._axes, (one * seqs, one * new, per_seq), strict=True):
            outside = values[(values < axis[0]) | (values > axis[-1])]
            if outside.size:
                count, farthest = self._outside.get(name, (0, 0.0))
                self._outside[name] = (count + outside.size, max(farthest, float(outside.max())))

    def _line_ns(self, seqs: float, new: float) -> NDArray[np.float64]:  # [num_contexts]
        table = self._times_ns.reshape(len(self._axes[0]), -1)  # [num_seqs, num_new * num_contexts]
        at_seqs = _along(self._axes[0], table, [seqs])[0].reshape(len(self._axes[1]), -1)
        line: NDArray[np.float64] = _along(self._axes[1], at_seqs, [new])[0]
        return line


def _along(
    axis: NDArray[np.float64], table: NDArray[np.float64], values: Sequence[float] | NDArray[np.float64]
) -> NDArray[np.float64]:
    """Rows of `table` [len(axis), n] at `values`, linear between and beyond: [len(values), n]."""
    if len(axis) == 1:
        return np.repeat(table, len(values), axis=0)
    at = np.asarray(values, dtype=np.float64)
    low = np.clip(np.searchsorted(axis, at, side="right") - 1, 0, len(axis) - 2)
    weight = ((at - axis[low]) / (axis[low + 1] - axis[low]))[:, None]
    between: NDArray[np.float64] = table[low] + weight * (table[low + 1] - table[low])
    return between
