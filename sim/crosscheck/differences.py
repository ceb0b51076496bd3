"""A simulation beside its replay request by request, and a cost model beside the replay's steps one by one.

Errors of a mean hide what cancels out; here nothing does. Two tables, written as CSV files:

    requests.csv   latencies of every request that both completed, in milliseconds
    steps.csv      the parts of every step that the replay took, predicted and measured, in microseconds

Refuses to judge.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sim.cost.calibration import dump_table
from sim.crosscheck.observed import LATENCIES, NS_PER_MS, Observed, Timeline
from sim.crosscheck.parts import StepParts
from sim.metrics.latencies import Latencies, measure_latencies
from sim.record.plan_log import PlanFacts
from sim.record.run_record import RunRecord

NS_PER_US = 1e3
Table = Mapping[str, NDArray[Any]]
"""Columns of one length."""


@dataclass(frozen=True, slots=True)
class Closeness:
    """How far single values are off, either way, as a fraction of the replay's; KV usage in points.

    Attributes:
        half_within, most_within: Half of them, and nine of ten, are at most that far off.
    """

    of_what: str
    count: int
    half_within: float
    most_within: float

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return {name: getattr(self, name) for name in self.__slots__}


@dataclass(frozen=True, slots=True)
class Differences:
    """Every request and every step.

    Attributes:
        requests: `request`, and for each latency `..._simulated_ms` and `..._replayed_ms`.
        steps: `replica`, `step`, `kind`, `num_seqs`, `num_tokens`, and for each part of `StepParts`
            `..._predicted_us` and `..._measured_us`.
    """

    requests: Table
    steps: Table
    kv_usage: NDArray[np.float64]  # [2, num_instants]
    """Simulated and replayed, % of the blocks, at the same instants."""

    @classmethod
    def of(
        cls,
        simulation: RunRecord,
        replay: RunRecord,
        simulated: Observed,
        replayed: Observed,
        plans: Sequence[PlanFacts],
        kinds: Sequence[str],
        predicted: Sequence[StepParts],
        measured: Sequence[StepParts],
    ) -> Differences:
        """Of one replay, as recorded and as observed; plans, kinds and parts are those of its steps."""
        return cls(
            _requests(simulation, replay),
            _steps(plans, kinds, predicted, measured),
            _kv_usage(simulated.timeline, replayed.timeline),
        )

    def closeness(self) -> tuple[Closeness, ...]:
        """One row for each latency of requests, and for each kind of step."""
        rows = [
            _closeness(
                f"{title} of a request",
                self.requests[f"{name}_simulated_ms"],
                self.requests[f"{name}_replayed_ms"],
            )
            for name, title in LATENCIES.items()
        ]
        ours, theirs = (
            np.sum([self.steps[f"{part}_{side}_us"] for part in _PARTS], axis=0)
            for side in ("predicted", "measured")
        )
        for kind, title in _ONE_STEP.items():
            of_kind = self.steps["kind"] == kind
            rows.append(_closeness(f"time of {title}", ours[of_kind], theirs[of_kind]))
        if self.kv_usage.size:
            points = np.abs(self.kv_usage[0] - self.kv_usage[1]) / 100
            rows.append(_within("KV usage at an instant (points)", points))
        return tuple(row for row in rows if row.count)

    def files(self) -> dict[str, str]:
        """Texts of both tables by file name."""
        return {"requests.csv": _as_csv(self.requests), "steps.csv": _as_csv(self.steps)}


_ONE_STEP = {"decode": "a decode step", "prefill": "a step with prompts", "verify": "a verify step"}
_PARTS = tuple(name.removesuffix("_ns") for name in StepParts._fields)


def _requests(simulation: RunRecord, replay: RunRecord) -> dict[str, NDArray[Any]]:
    ours, theirs = measure_latencies(simulation), measure_latencies(replay)
    ids, at_ours, at_theirs = np.intersect1d(
        simulation.requests["request_id"][ours.completed],
        replay.requests["request_id"][theirs.completed],
        return_indices=True,
    )
    columns: dict[str, NDArray[Any]] = {"request": ids}
    for name in LATENCIES:
        columns[f"{name}_simulated_ms"] = _latency_ms(ours, name)[at_ours]
        columns[f"{name}_replayed_ms"] = _latency_ms(theirs, name)[at_theirs]
    return columns


def _latency_ms(latencies: Latencies, name: str) -> NDArray[np.float64]:
    of_request: NDArray[np.float64] = getattr(latencies, f"{name}_ns") / NS_PER_MS
    return of_request


def _steps(
    plans: Sequence[PlanFacts],
    kinds: Sequence[str],
    predicted: Sequence[StepParts],
    measured: Sequence[StepParts],
) -> dict[str, NDArray[Any]]:
    columns: dict[str, NDArray[Any]] = {
        "replica": np.array([plan["replica"] for plan in plans], dtype=np.int64),
        "step": np.array([plan["step"] for plan in plans], dtype=np.int64),
        "kind": np.array(kinds, dtype=np.str_),
        "num_seqs": np.array([len(plan["rows"]) for plan in plans], dtype=np.int64),
        "num_tokens": np.array([sum(row[3] for row in plan["rows"]) for plan in plans], dtype=np.int64),
    }
    ours, theirs = (
        np.array(parts, dtype=float).reshape(-1, len(_PARTS)) / NS_PER_US for parts in (predicted, measured)
    )
    for place, part in enumerate(_PARTS):
        columns[f"{part}_predicted_us"] = ours[:, place]
        columns[f"{part}_measured_us"] = theirs[:, place]
    return columns


def _kv_usage(ours: Timeline | None, theirs: Timeline | None) -> NDArray[np.float64]:
    if ours is None or theirs is None:
        return np.zeros((2, 0))
    at_ours = np.interp(theirs.at_s, ours.at_s, ours.curves["KV usage"])
    return np.array([at_ours, theirs.curves["KV usage"]])


def _closeness(of_what: str, ours: NDArray[np.float64], theirs: NDArray[np.float64]) -> Closeness:
    known = ~np.isnan(ours) & (theirs > 0)  # a request of one token has no TPOT
    if not known.any():
        return Closeness(of_what, 0, 0.0, 0.0)
    return _within(of_what, np.abs(ours[known] / theirs[known] - 1))


def _within(of_what: str, off: NDArray[np.float64]) -> Closeness:
    half, most = np.percentile(off, (50, 90))
    return Closeness(of_what, len(off), float(half), float(most))


def _as_csv(table: Table) -> str:
    rounded = (np.round(column, 6) if column.dtype.kind == "f" else column for column in table.values())
    return dump_table(tuple(table), list(zip(*(column.tolist() for column in rounded), strict=True)))
