"""What the replicas held and did over time: averages weighted by how long each state lasted.

A step's row holds from its start to its end. Between steps a replica is idle: nothing runs, no block is
held, and the state counts as zero. The window is the whole run, from time 0 to the end of the last request
or step, so that idle time is part of every mean unless its name says "busy".
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sim.record.run_record import RunRecord


@dataclass(frozen=True, slots=True)
class Occupancy:
    """Time-weighted state of the replicas; counts are summed over them, fractions are of all their blocks."""

    mean_running: float
    mean_waiting: float
    peak_waiting: int
    """On one replica, as are the other peaks."""
    mean_kv_usage_fraction: float
    peak_kv_usage_fraction: float
    filled_slot_fraction: float | None
    """Of the slots in held blocks; None if no block was ever held."""
    shared_fraction: float | None
    """Blocks saved by sharing, of those that would be held without; None if no block was ever held."""
    busy_fraction: float
    mean_batch_size: float | None
    """Sequences computed per step, each step counting once."""
    mean_step_tokens: float | None
    """Tokens computed per step."""


def run_span_ns(record: RunRecord) -> int:
    """Length of the window: from time 0 to the end of the last request or step."""
    return max(last_end_ns(record), _latest(record.steps["end"]))


def last_end_ns(record: RunRecord) -> int:
    """When the last request ended; 0 if none did."""
    return _latest(record.requests["finished"])


def _latest(times: NDArray[np.timedelta64]) -> int:
    happened = times[~np.isnat(times)]
    return int(happened.max().astype(np.int64)) if len(happened) else 0


def measure_occupancy(record: RunRecord) -> Occupancy:
    """The time-weighted state over the whole run."""
    steps = record.steps
    if record.num_steps == 0:
        return Occupancy(0.0, 0.0, 0, 0.0, 0.0, None, None, 0.0, None, None)
    lasted_ns = (steps["end"] - steps["start"]).astype(np.int64)  # [num_steps]
    span_ns = run_span_ns(record)

    def integral(column: str) -> float:
        return float((steps[column].astype(np.float64) * lasted_ns).sum())

    held_block_ns, saved_block_ns = integral("used_blocks"), integral("saved_blocks")
    held_slot_ns = held_block_ns * record.block_size
    unshared_block_ns = held_block_ns + saved_block_ns
    sequences = steps["num_decode_seqs"].astype(np.int64) + steps["num_prefill_seqs"]
    tokens = steps["num_decode_seqs"].astype(np.int64) + steps["num_prefill_tokens"]
    return Occupancy(
        mean_running=integral("num_running") / span_ns,
        mean_waiting=integral("num_waiting") / span_ns,
        peak_waiting=int(steps["num_waiting"].max()),
        mean_kv_usage_fraction=integral("used_blocks") / (span_ns * record.num_blocks * record.num_replicas),
        peak_kv_usage_fraction=int(steps["used_blocks"].max()) / record.num_blocks,
        filled_slot_fraction=integral("filled_slots") / held_slot_ns if held_slot_ns else None,
        shared_fraction=saved_block_ns / unshared_block_ns if unshared_block_ns else None,
        busy_fraction=int(lasted_ns.sum()) / (span_ns * record.num_replicas),
        mean_batch_size=float(sequences.mean()),
        mean_step_tokens=float(tokens.mean()),
    )
