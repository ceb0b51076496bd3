"""Per-request and per-token latencies of a run, in nanoseconds, from a `RunRecord`; no percentiles yet.

    arrival ── queue ── first scheduled ── prefill ── first token ── decode ── last token = finished
    |<------------------- ttft ------------------------->|
    |                                                    |<--- tpot x (n - 1) --->|
    |<------------------------------ e2el ---------------------------------------->|

Only completed requests have latencies: one that was rejected or whose client gave up has none, though it
counts against every goal. The clock starts at the arrival the workload asked for, so a queue is never
hidden (`vllm bench serve` starts it at sending, which is the same unless its client limits concurrency).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sim.record.run_record import COMPLETED_REASONS, RunRecord


@dataclass(frozen=True, slots=True)
class Latencies:
    """Latencies of the completed requests, in the order of the record; gaps are pooled over all streams."""

    completed: NDArray[np.bool_]  # [num_requests]
    ttft_ns: NDArray[np.int64]  # [num_completed]
    tpot_ns: NDArray[np.float64]  # [num_completed]
    """NaN for a request of one token, which has no time per further token."""
    e2el_ns: NDArray[np.int64]  # [num_completed]
    queue_ns: NDArray[np.int64]  # [num_completed]
    requeue_ns: NDArray[np.int64]  # [num_completed]
    normalized_ns: NDArray[np.float64]  # [num_completed]
    itl_ns: NDArray[np.int64]  # [num_gaps]
    step_gap_ns: NDArray[np.int64]  # [num_step_gaps]


def measure_latencies(record: RunRecord) -> Latencies:
    """The latencies of every completed request."""
    completed = completed_requests(record)

    def nanoseconds(column: str) -> NDArray[np.int64]:
        return record.requests[column][completed].astype(np.int64)

    arrival, first, finished = nanoseconds("arrival"), nanoseconds("first_token"), nanoseconds("finished")
    num_tokens = record.requests["longest_sample_tokens"][completed]
    further_tokens = np.where(num_tokens > 1, num_tokens - 1, np.nan)
    gaps = token_gaps_ns(record, completed)
    return Latencies(
        completed=completed,
        ttft_ns=first - arrival,
        tpot_ns=(nanoseconds("last_token") - first) / further_tokens,
        e2el_ns=finished - arrival,
        queue_ns=nanoseconds("first_scheduled") - arrival,
        requeue_ns=nanoseconds("requeue"),
        normalized_ns=(finished - arrival) / num_tokens,
        itl_ns=gaps,
        step_gap_ns=gaps if gaps.all() else gaps[gaps > 0],
    )


def completed_requests(record: RunRecord) -> NDArray[np.bool_]:  # [num_requests]
    """Which requests ran to their end."""
    return np.isin(record.requests["finish_reason"], COMPLETED_REASONS)


def tokens_of(record: RunRecord, requests: NDArray[np.bool_]) -> NDArray[np.bool_]:  # [num_tokens]
    """Which tokens belong to the requests marked."""
    if requests.all():
        return np.ones(len(record.token_times), dtype=np.bool_)
    return np.repeat(requests[record.stream_request], np.diff(record.token_offsets))


def token_gaps_ns(record: RunRecord, requests: NDArray[np.bool_]) -> NDArray[np.int64]:  # [num_gaps]
    """Gaps between consecutive tokens of one stream, for the requests marked, streams one after the other."""
    if len(record.token_times) < 2:
        return np.zeros(0, dtype=np.int64)
    kept = tokens_of(record, requests)[1:]
    first_tokens = record.token_offsets[1:-1]
    kept[first_tokens[(first_tokens > 0) & (first_tokens < len(record.token_times))] - 1] = False
    gaps = np.diff(record.token_times)
    return gaps if kept.all() else gaps[kept]
