"""What is compared of two runs, whoever made them: latencies of requests, throughput, and state over time.

A simulation, a replay and a benchmark of somebody's server all come down to this. Refuses to know where a
time came from.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from sim.metrics.latencies import measure_latencies
from sim.metrics.occupancy import measure_occupancy, run_span_ns
from sim.record.run_record import RunRecord

NS_PER_MS, NS_PER_S = 1e6, 1e9
Times = NDArray[np.float64]
LATENCIES = {"ttft": "TTFT", "tpot": "TPOT", "e2el": "E2E"}
STATISTICS = {"mean": "mean", "p50": "median", "p90": "p90", "p99": "p99"}
NUM_POINTS = 400


@dataclass(frozen=True, slots=True)
class Timeline:
    """State over time, at evenly spaced instants."""

    at_s: Times  # [num_points]
    curves: Mapping[str, Times]  # each [num_points]


@dataclass(frozen=True, slots=True)
class Observed:
    """One run.

    Attributes:
        name: For people.
        latencies_ms: By `ttft`, `tpot`, `e2el`, of completed requests; NaN where a request has none.
        output_tokens_per_s: Of completed requests, over the run.
        kv_usage: Mean fraction of the KV blocks that were held; None where nobody knows.
    """

    name: str
    latencies_ms: Mapping[str, Times]  # each [num_completed]
    output_tokens_per_s: float
    kv_usage: float | None = None
    timeline: Timeline | None = None
    notes: tuple[str, ...] = field(default=())

    def metric(self, name: str) -> float | None:
        """A figure by its name: `tpot_p50`, `e2el_mean`, `throughput`, `kv_usage`."""
        if name == "throughput":
            return self.output_tokens_per_s
        if name == "kv_usage":
            return self.kv_usage
        latency, _, statistic = name.partition("_")
        times = self.latencies_ms[latency]
        times = times[~np.isnan(times)]
        if not len(times):
            return None
        if statistic == "mean":
            return float(times.mean())
        return float(np.percentile(times, float(statistic[1:])))


METRICS = (
    *(f"{latency}_{statistic}" for latency in LATENCIES for statistic in STATISTICS),
    "throughput",
    "kv_usage",
)


def title_of(metric: str) -> str:
    """A metric's name for people."""
    if metric == "throughput":
        return "output tokens/s"
    if metric == "kv_usage":
        return "KV usage, mean"
    latency, _, statistic = metric.partition("_")
    return f"{LATENCIES[latency]} {STATISTICS[statistic]}"


def observe(record: RunRecord, name: str) -> Observed:
    """A run that was recorded."""
    latencies = measure_latencies(record)
    span_s = run_span_ns(record) / NS_PER_S
    completed = latencies.completed
    num_tokens = int(record.requests["output_tokens"][completed].sum())
    usage = measure_occupancy(record).mean_kv_usage_fraction if record.num_steps else None
    return Observed(
        name,
        {
            "ttft": latencies.ttft_ns / NS_PER_MS,
            "tpot": latencies.tpot_ns / NS_PER_MS,
            "e2el": latencies.e2el_ns / NS_PER_MS,
        },
        num_tokens / span_s if span_s else 0.0,
        usage,
        _timeline(record) if record.num_steps else None,
    )


def _timeline(record: RunRecord) -> Timeline:
    """Running, waiting and KV usage, summed over replicas; a step's state holds from its start to its end."""
    steps = record.steps
    at_ns = np.linspace(0, run_span_ns(record), NUM_POINTS)
    curves = {}
    for name, column in (("running", "num_running"), ("waiting", "num_waiting"), ("KV usage", "used_blocks")):
        total = np.zeros(NUM_POINTS)
        for replica in range(record.num_replicas):
            mine = steps["replica"] == replica
            starts, ends = (steps[edge][mine].astype(np.int64) for edge in ("start", "end"))
            if not len(starts):
                continue
            place = np.clip(np.searchsorted(starts, at_ns, side="right") - 1, 0, len(starts) - 1)
            inside = (starts[place] <= at_ns) & (at_ns < ends[place])
            total += np.where(inside, steps[column][mine][place], 0)
        curves[name] = total
    curves["KV usage"] = 100 * curves["KV usage"] / max(record.num_blocks * record.num_replicas, 1)
    return Timeline(at_ns / NS_PER_S, curves)
