"""What to know before trusting a summary: percentiles of too few requests, a queue that grows.

Rules of thumb, each named and tested; they add sentences and marks, they never change a number.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from sim.metrics.keys import PERCENTILES, percentile_word, statistic_key
from sim.metrics.latencies import Latencies
from sim.record.run_record import RunRecord

MIN_BEYOND = 10
"""Observations that must lie beyond a percentile before it is an estimate and not an anecdote."""
MIN_BACKLOG = 20
MIN_BACKLOG_FRACTION = 0.02
"""A queue shorter than this many requests, or this share of all, is not called growing."""


def weak_percentiles(num_samples: Mapping[str, int]) -> tuple[str, ...]:
    """Keys of the percentiles with fewer than `MIN_BEYOND` observations on their thin side."""
    return tuple(
        statistic_key(percentile_word(percentile), name)
        for name, count in num_samples.items()
        for percentile in PERCENTILES
        if 0 < count < num_samples_needed(percentile)
    )


def num_samples_needed(percentile: float) -> int:
    """Observations it takes to have `MIN_BEYOND` of them beyond this percentile."""
    return round(MIN_BEYOND * 100 / min(percentile, 100 - percentile))


def notes(record: RunRecord, latencies: Latencies, weak: tuple[str, ...]) -> tuple[str, ...]:
    """Every caveat that applies to this run, as sentences."""
    found = (
        _nothing_completed(latencies),
        _too_few_requests(latencies, weak),
        _queue_growth(record),
        _failures(record),
        _left_unfinished(record),
    )
    return tuple(note for note in found if note)


def _nothing_completed(latencies: Latencies) -> str:
    return "" if latencies.completed.any() else "No request completed, so there are no latencies."


def _too_few_requests(latencies: Latencies, weak: tuple[str, ...]) -> str:
    count = len(latencies.ttft_ns)
    per_request = [percentile for percentile in PERCENTILES if percentile > 50]
    words = [percentile_word(p) for p in per_request if statistic_key(percentile_word(p), "ttft") in weak]
    if not words:
        return ""
    needed = max(num_samples_needed(p) for p in per_request)
    return (
        f"{', '.join(words)}: {count:,} completed requests leave fewer than {MIN_BEYOND} beyond "
        f"{'it' if len(words) == 1 else 'each'}; read as anecdotes, not estimates "
        f"({words[-1]} needs {needed:,})."
    )


def _queue_growth(record: RunRecord) -> str:
    """A note if the number waiting rose through every quarter of the arrivals' time."""
    waiting = _mean_waiting_by_quarter(record)
    if waiting is None:
        return ""
    enough = max(MIN_BACKLOG, MIN_BACKLOG_FRACTION * record.num_requests)
    if not ((np.diff(waiting) > 0).all() and waiting[3] >= enough and waiting[3] >= 2 * waiting[1]):
        return ""
    quarters = ", ".join(f"{count:,.0f}" for count in waiting)
    return (
        f"The queue grew all through the run (on average {quarters} requests waiting in each quarter of the "
        "arrivals): more was asked than could be served, so latencies depend on how long the run lasts."
    )


def _mean_waiting_by_quarter(record: RunRecord) -> NDArray[np.float64] | None:  # [4]
    """Requests that had arrived and not been scheduled, seen by each arrival; None without four quarters."""
    arrivals = record.requests["arrival"].astype(np.int64)
    rejected = record.requests["finish_reason"] == "rejected"
    arrivals = np.sort(arrivals[~rejected])
    if len(arrivals) < MIN_BACKLOG:
        return None
    first_scheduled = record.requests["first_scheduled"]
    left_queue = np.where(np.isnat(first_scheduled), record.requests["finished"], first_scheduled)[~rejected]
    left_ns = np.sort(left_queue[~np.isnat(left_queue)].astype(np.int64))
    waiting = np.arange(len(arrivals)) - np.searchsorted(left_ns, arrivals, side="right")
    edges = np.linspace(arrivals[0], arrivals[-1], 5)
    quarter = np.clip(np.searchsorted(edges, arrivals, side="right") - 1, 0, 3)
    count = np.bincount(quarter, minlength=4)
    if not count.all():
        return None
    return np.bincount(quarter, weights=np.maximum(waiting, 0), minlength=4) / count


def _failures(record: RunRecord) -> str:
    reasons = record.requests["finish_reason"]
    rejected, aborted = int((reasons == "rejected").sum()), int((reasons == "abort").sum())
    parts = []
    if rejected:
        parts.append(f"{rejected:,} rejected because they can never fit")
    if aborted:
        parts.append(f"{aborted:,} given up by their client")
    if not parts:
        return ""
    return (
        f"Of {record.num_requests:,} requests {' and '.join(parts)}; latencies leave these out, goals "
        "count them as missed."
    )


def _left_unfinished(record: RunRecord) -> str:
    count = int((record.requests["finish_reason"] == "").sum())
    return f"{count:,} requests had not ended when the run stopped." if count else ""
