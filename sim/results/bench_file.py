"""`bench.json`: a run in the schema of `vllm bench serve --save-result --save-detailed`.

So that whatever reads vLLM's result files (plotters, `llmd-benchmark-report`, a user's script) reads ours.
Keys, order and units are vLLM's: milliseconds in the statistics, seconds in the arrays, and 0 where nothing
was measured. Where meanings meet:

- `itl` is the gap between emissions (our `step_gap`), because a vLLM client sees one chunk per step;
- the clock starts at the arrival, as no client of ours holds requests back: `queue_times` are 0;
- a request with several samples lists the gaps of its streams one after the other;
- `generated_texts` are empty: the simulator counts tokens, it never sees text;
- beyond `MAX_GAPS` gaps the per-token list `itls` is left out, as vLLM leaves all lists out without
  `--save-detailed`: the readers parse the file as YAML, about 30 microseconds a number. `tokens.npz` has
  every token, and `sim_itls` says so.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sim.metrics.keys import PERCENTILES, percentile_word, statistic_key
from sim.metrics.latencies import completed_requests
from sim.metrics.summary import NS_PER_S, Summary
from sim.record.run_record import RunRecord
from workloads.arrivals import AllAtOnce, ClosedLoop, Constant, Gamma, Poisson, VllmGamma
from workloads.generate import WorkloadConfig
from workloads.servegen import ServeGenWorkload

MAX_GAPS = 1_000_000
DATE_FORMAT = "%Y%m%d-%H%M%S"


@dataclass(frozen=True, slots=True)
class Traffic:
    """How requests were sent, in vLLM's terms."""

    request_rate_per_s: float | None
    """None: as fast as possible, written "inf"."""
    burstiness: float | None = 1.0
    """1 is Poisson; None is evenly spaced, written "inf"."""
    max_concurrency: int | None = None


def traffic_of(workload: WorkloadConfig, record: RunRecord) -> Traffic:
    """The traffic of a workload; arrivals that were recorded count by their mean rate."""
    arrivals = None if isinstance(workload, ServeGenWorkload) else workload.arrivals
    match arrivals:
        case Poisson(rate_per_s):
            return Traffic(rate_per_s)
        case Gamma(rate_per_s, burstiness) | VllmGamma(rate_per_s, burstiness):
            return Traffic(rate_per_s, burstiness)
        case Constant(rate_per_s):
            return Traffic(rate_per_s, None)
        case AllAtOnce():
            return Traffic(None)
        case ClosedLoop(concurrency):
            return Traffic(None, max_concurrency=concurrency)
        case None:
            return Traffic(_mean_rate_per_s(record))


def _mean_rate_per_s(record: RunRecord) -> float | None:
    arrivals_ns = record.requests["arrival"].astype(np.int64)
    spread_ns = int(np.ptp(arrivals_ns)) if len(arrivals_ns) else 0
    return (len(arrivals_ns) - 1) * NS_PER_S / spread_ns if spread_ns else None


def bench_document(
    record: RunRecord, summary: Summary, traffic: Traffic, date: datetime, max_gaps: int = MAX_GAPS
) -> dict[str, Any]:
    """The whole document, in vLLM's order."""
    values = summary.values
    totals = ("duration", "completed", "failed", "total_input_tokens", "total_output_tokens")
    rates = ("request_throughput", "output_throughput", "total_token_throughput")
    return {
        **_setup(record, summary, traffic, date),
        **{key: values[key] or 0 for key in (*totals, "request_throughput")},
        "request_goodput": values["request_goodput"],
        **{key: values[key] or 0.0 for key in rates[1:]},
        **_per_request(record, max_gaps),
        "max_output_tokens_per_s": float(values["max_output_tokens_per_s"] or 0),
        "max_concurrent_requests": values["max_concurrent_requests"],
        "rtfx": 0.0,
        **_statistics(summary),
    }


def dump_bench(document: dict[str, Any]) -> str:
    """The text of the file."""
    return json.dumps(document, allow_nan=False) + "\n"


def _setup(record: RunRecord, summary: Summary, traffic: Traffic, date: datetime) -> dict[str, Any]:
    model_id = summary.identity.model_id
    rate, burstiness = traffic.request_rate_per_s, traffic.burstiness
    return {
        "date": date.astimezone(UTC).strftime(DATE_FORMAT),
        "endpoint_type": "pagecast",
        "backend": "pagecast",
        "label": summary.identity.experiment,
        "model_id": model_id,
        "tokenizer_id": model_id,
        "num_prompts": record.num_requests,
        "sim_seed": summary.identity.seed,
        "request_rate": "inf" if rate is None else rate,
        "burstiness": "inf" if burstiness is None else burstiness,
        "max_concurrency": traffic.max_concurrency,
    }


def _per_request(record: RunRecord, max_gaps: int) -> dict[str, Any]:
    """Arrays in seconds; a failed request keeps its slot, with zeros."""
    completed = completed_requests(record)
    requests = record.requests
    detail: dict[str, Any] = {
        "input_lens": requests["prompt_tokens"].tolist(),
        "output_lens": np.where(completed, requests["output_tokens"], 0).tolist(),
        "ttfts": _seconds(requests["first_token"] - requests["arrival"], completed),
    }
    if len(record.token_times) - len(record.stream_request) <= max_gaps:
        detail["itls"] = _gaps_s(record, completed)
    else:
        detail["sim_itls"] = f"left out, more than {max_gaps:,}; tokens.npz has the time of every token"
    reasons = requests["finish_reason"]
    return {
        **detail,
        "latencies": _seconds(requests["finished"] - requests["arrival"], completed),
        "start_times": _seconds(requests["arrival"], np.ones_like(completed)),
        "queue_times": [0.0] * record.num_requests,
        "generated_texts": [""] * record.num_requests,
        "errors": np.where(completed, "", reasons).tolist(),
    }


def _seconds(times: NDArray[np.timedelta64], kept: NDArray[np.bool_]) -> list[float]:
    nanoseconds = np.where(kept, times, np.timedelta64(0, "ns")).astype(np.int64)
    return [nanosecond / NS_PER_S for nanosecond in nanoseconds.tolist()]


def _gaps_s(record: RunRecord, completed: NDArray[np.bool_]) -> list[list[float]]:
    """The gaps between emissions of each request's streams."""
    gaps_ns = np.diff(record.token_times, prepend=0)
    kept = gaps_ns > 0
    kept[record.token_offsets[:-1][np.diff(record.token_offsets) > 0]] = False  # a first token ends no gap
    kept &= np.repeat(completed[record.stream_request], np.diff(record.token_offsets))
    owners = np.repeat(record.stream_request, np.diff(record.token_offsets))[kept]
    ends = np.searchsorted(owners, np.arange(record.num_requests), side="right").tolist()
    gaps_s = (gaps_ns[kept] / NS_PER_S).tolist()
    return [gaps_s[start:end] for start, end in zip([0, *ends], ends, strict=False)]


def _statistics(summary: Summary) -> dict[str, float]:
    """A statistic of nothing is 0, as vLLM writes it: its readers cannot take null."""
    words = ["mean", "median", "std", *(percentile_word(p) for p in PERCENTILES if p != 50)]
    source = {"ttft": "ttft", "tpot": "tpot", "itl": "step_gap", "e2el": "e2el"}
    return {
        f"{word}_{name}_ms": summary.values[statistic_key(word, ours)] or 0.0
        for name, ours in source.items()
        for word in words
    }
