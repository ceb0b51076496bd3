"""Run records as curves of a few hundred points: what a picture can show and a small file can hold."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sim.metrics.latencies import completed_requests
from sim.metrics.occupancy import run_span_ns
from sim.record.run_record import RunRecord

NS_PER_S = 1_000_000_000

Curve = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Bins:
    """Equal stretches of simulated time that cover a run."""

    width_ns: int
    count: int

    @property
    def edges_ns(self) -> NDArray[np.int64]:  # [count + 1]
        """Where the bins begin and end."""
        return np.arange(self.count + 1) * self.width_ns

    @property
    def edges_s(self) -> Curve:  # [count + 1]
        """The same in seconds."""
        return self.edges_ns / NS_PER_S

    @property
    def middles_s(self) -> Curve:  # [count]
        """The middle of each bin."""
        return (self.edges_ns[:-1] + self.width_ns / 2) / NS_PER_S


def round_bins(record: RunRecord, at_most: int) -> Bins:
    """Bins of a round width (1, 2 or 5 times a power of ten), no more than `at_most` of them."""
    span_ns = max(run_span_ns(record), 1)
    width_ns = 1
    while -(-span_ns // width_ns) > at_most:
        width_ns = _next_round(width_ns)
    return Bins(width_ns, -(-span_ns // width_ns))


def _next_round(width: int) -> int:
    leading, zeros = str(width)[0], len(str(width)) - 1
    return int({"1": "2", "2": "5", "5": "10"}[leading] + "0" * zeros)


def mean_over_time(record: RunRecord, column: str, bins: Bins) -> Curve:  # [count]
    """Mean of a column of `steps` in each bin, weighted by time, replicas summed; idle time counts as 0."""
    area = np.zeros(bins.count + 1)
    for replica in range(record.num_replicas):
        area += _area_until(record, column, replica, bins.edges_ns)
    return np.diff(area) / bins.width_ns


def _area_until(record: RunRecord, column: str, replica: int, times_ns: NDArray[np.int64]) -> Curve:
    """Integral of one replica's value from 0 to each time: linear within a step, flat while idle."""
    mine = record.steps["replica"] == replica
    if not mine.any():
        return np.zeros(len(times_ns))
    starts, ends = (record.steps[name][mine].astype(np.int64) for name in ("start", "end"))
    after = np.cumsum(record.steps[column][mine].astype(np.float64) * (ends - starts))
    knots = np.column_stack((starts, ends)).ravel()  # [num_steps, 2] -> [2 * num_steps]
    areas = np.column_stack((np.concatenate(([0.0], after[:-1])), after)).ravel()
    until: Curve = np.interp(times_ns, knots, areas)
    return until


def rate_of_events(times_ns: NDArray[np.int64], bins: Bins) -> Curve:  # [count]
    """Events per second in each bin."""
    return weighted_rate(times_ns, None, bins)


def weighted_rate(times_ns: NDArray[np.int64], weights: NDArray[np.int64] | None, bins: Bins) -> Curve:
    """Sum of the weights per second in each bin; an event at the very end belongs to the last."""
    places = np.minimum(times_ns // bins.width_ns, bins.count - 1)
    totals = np.bincount(places, weights=weights, minlength=bins.count)
    rates: Curve = totals.astype(np.float64) * (NS_PER_S / bins.width_ns)
    return rates


def prefill_rate(record: RunRecord, bins: Bins) -> Curve:
    """Prompt tokens computed per second, counted at the end of their step."""
    return weighted_rate(
        record.steps["end"].astype(np.int64), record.steps["num_prefill_tokens"].astype(np.int64), bins
    )


def arrival_and_completion_rates(record: RunRecord, bins: Bins) -> tuple[Curve, Curve]:
    """Requests that came and requests that completed, per second."""
    completed = completed_requests(record)
    arrivals = record.requests["arrival"].astype(np.int64)
    ends = record.requests["finished"][completed].astype(np.int64)
    return rate_of_events(arrivals, bins), rate_of_events(ends, bins)


def cdf(sample: NDArray[np.float64], at_most: int = 400) -> tuple[Curve, Curve]:
    """Values and the fraction of the sample at or below each; long samples keep their tails."""
    ordered = np.sort(sample)
    count = len(ordered)
    if count > at_most:
        ahead = np.linspace(0, 1, at_most)
        places = np.unique(np.round((np.sin((ahead - 0.5) * np.pi) + 1) / 2 * (count - 1)).astype(np.int64))
    else:
        places = np.arange(count)
    return ordered[places], (places + 1) / count
