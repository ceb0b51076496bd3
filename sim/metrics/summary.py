"""From a `RunRecord` to a `Summary`: a flat mapping of named numbers, and what to know before trusting them.

The keys are those of `vllm bench serve` where it has one for the thing, else ours with the prefix `sim_`.
`definitions.py` says what each means. Latencies are in milliseconds, as the keys say; everything
is computed in integer nanoseconds before. A number that does not exist (a mean of nothing, a goodput
without goals) is None, never NaN and never 0. This file reads no clock and knows no file.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sim.metrics import caveats
from sim.metrics.basis import Basis
from sim.metrics.keys import GOALS, PERCENTILES, definition_of, percentile_word, statistic_key
from sim.metrics.latencies import Latencies, measure_latencies, tokens_of
from sim.metrics.occupancy import last_end_ns, measure_occupancy
from sim.metrics.waste import slot_shares
from sim.record.run_record import RunRecord

SUMMARY_SCHEMA_VERSION = 1
NS_PER_S = 1_000_000_000
_FEW_SECONDS_PER_TOKEN = 8
"""Up to here a place for every second is no waste, and faster than sorting."""
NS_PER_MS = 1_000_000

Number = int | float | None


@dataclass(frozen=True, slots=True)
class Slo:
    """Latency goals; a request is good if it meets all that are set."""

    ttft_ns: int | None = None
    tpot_ns: int | None = None
    e2el_ns: int | None = None

    def goals(self) -> Iterator[tuple[str, int]]:
        """(name, limit) of each goal that is set."""
        for name, limit_ns in zip(GOALS, (self.ttft_ns, self.tpot_ns, self.e2el_ns), strict=True):
            if limit_ns is not None:
                yield name, limit_ns


@dataclass(frozen=True, slots=True)
class Identity:
    """Whose numbers these are."""

    experiment: str
    model_id: str
    seed: int


@dataclass(frozen=True, slots=True)
class Summary:
    """The numbers of one run, in the order they are shown and written."""

    identity: Identity
    values: Mapping[str, Number]
    weak: tuple[str, ...]
    """Keys of percentiles that rest on too few requests to be an estimate."""
    notes: tuple[str, ...]
    """What a reader should know before trusting the numbers, as sentences."""
    basis: Basis | None = None
    """What the numbers rest on; None where that was not kept."""

    @property
    def slo(self) -> Slo:
        """The goals the run was judged by."""
        limits_ms = [self.values.get(f"sim_slo_{name}_ms") for name in GOALS]
        return Slo(*(None if limit is None else round(limit * NS_PER_MS) for limit in limits_ms))

    def to_json(self) -> dict[str, Any]:
        """The document `summary.json`: flat numbers first, words after."""
        return {
            **self.values,
            "model_id": self.identity.model_id,
            "sim_experiment": self.identity.experiment,
            "sim_seed": self.identity.seed,
            "sim_schema_version": SUMMARY_SCHEMA_VERSION,
            "sim_notes": list(self.notes),
            "sim_weak_percentiles": list(self.weak),
            "sim_definitions": _definitions(self.values),
            **({} if self.basis is None else {"sim_basis": self.basis.to_json()}),
        }

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Summary:
        """The summary that `to_json` wrote; raises KeyError or ValueError for anything else."""
        if document["sim_schema_version"] != SUMMARY_SCHEMA_VERSION:
            raise ValueError(f"schema version {document['sim_schema_version']}, not {SUMMARY_SCHEMA_VERSION}")
        values = {key: value for key, value in document.items() if definition_of(key) is not None}
        for key, value in values.items():
            if type(value) not in (int, float, type(None)):
                raise ValueError(f"{key} is no number")
        return cls(
            Identity(document["sim_experiment"], document["model_id"], document["sim_seed"]),
            values,
            _texts(document, "sim_weak_percentiles"),
            _texts(document, "sim_notes"),
            Basis.from_json(document["sim_basis"]) if "sim_basis" in document else None,
        )


def _texts(document: Mapping[str, Any], key: str) -> tuple[str, ...]:
    texts = document[key]
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise ValueError(f"{key} is no list of texts")
    return tuple(texts)


def summarize(record: RunRecord, slo: Slo, identity: Identity) -> Summary:
    """Every number of a run, with its caveats."""
    latencies = measure_latencies(record)
    duration_s = last_end_ns(record) / NS_PER_S
    samples = _samples_ns(latencies)
    values: dict[str, Number] = {
        **_request_counts(record, latencies, duration_s),
        **_throughputs(record, latencies, duration_s),
    }
    good = _good_requests(latencies, slo)
    values["request_goodput"] = _ratio(int(good.sum()), duration_s) if any(slo.goals()) else None
    for name, sample_ns in samples.items():
        values.update(_distribution(name, sample_ns))
    values.update(_attainment(latencies, slo, good))
    values.update(_memory_and_scheduling(record))
    weak = caveats.weak_percentiles({name: len(sample) for name, sample in samples.items()})
    return Summary(identity, values, weak, caveats.notes(record, latencies, weak))


def _samples_ns(latencies: Latencies) -> dict[str, NDArray[Any]]:
    """What each latency's statistics are taken over, by name."""
    tpot_ns = latencies.tpot_ns
    return {
        "ttft": latencies.ttft_ns,
        "tpot": tpot_ns[~np.isnan(tpot_ns)],
        "itl": latencies.itl_ns,
        "e2el": latencies.e2el_ns,
        "step_gap": latencies.step_gap_ns,
        "queue_time": latencies.queue_ns,
        "requeue_time": latencies.requeue_ns,
        "normalized_latency": latencies.normalized_ns,
    }


def _request_counts(record: RunRecord, latencies: Latencies, duration_s: float) -> dict[str, Number]:
    reasons = record.requests["finish_reason"]
    completed = latencies.completed
    num_completed = int(completed.sum())
    rejected, aborted, capped = (
        int((reasons == reason).sum()) for reason in ("rejected", "abort", "length_capped")
    )
    return {
        "completed": num_completed,
        "failed": record.num_requests - num_completed,
        "duration": duration_s,
        "total_input_tokens": int(record.requests["prompt_tokens"][completed].sum()),
        "total_output_tokens": int(record.requests["output_tokens"][completed].sum()),
        "sim_rejected": rejected,
        "sim_aborted": aborted,
        "sim_unfinished": record.num_requests - num_completed - rejected - aborted,
        "sim_length_capped": capped,
    }


def _throughputs(record: RunRecord, latencies: Latencies, duration_s: float) -> dict[str, Number]:
    completed = latencies.completed
    num_output = int(record.requests["output_tokens"][completed].sum())
    num_input = int(record.requests["prompt_tokens"][completed].sum())
    return {
        "request_throughput": _ratio(int(completed.sum()), duration_s),
        "request_goodput": None,
        "output_throughput": _ratio(num_output, duration_s),
        "total_token_throughput": _ratio(num_input + num_output, duration_s),
        "max_output_tokens_per_s": _peak_tokens_per_s(record, completed),
        "max_concurrent_requests": _peak_concurrency(record, completed),
    }


def _peak_tokens_per_s(record: RunRecord, completed: NDArray[np.bool_]) -> int:
    times_ns = record.token_times[tokens_of(record, completed)]
    if len(times_ns) == 0:
        return 0
    start_ns = int(record.requests["arrival"][completed].min().astype(np.int64))
    seconds = (times_ns - start_ns) // NS_PER_S
    if seconds.max() <= _FEW_SECONDS_PER_TOKEN * len(seconds):
        return int(np.bincount(seconds).max())
    return int(np.unique(seconds, return_counts=True)[1].max())  # no place for each second of a century


def _peak_concurrency(record: RunRecord, completed: NDArray[np.bool_]) -> int:
    """Most half-open intervals [arrival, end) that overlap: at a tie the one that ends goes first."""
    arrivals = record.requests["arrival"][completed]
    if len(arrivals) == 0:
        return 0
    times = np.concatenate((record.requests["finished"][completed], arrivals)).astype(np.int64)
    changes = np.repeat((-1, 1), len(arrivals))
    order = np.argsort(times, kind="stable")
    return int(np.cumsum(changes[order]).max())


def _distribution(latency: str, sample_ns: NDArray[Any]) -> dict[str, Number]:
    """Mean, median, population standard deviation and percentiles (linear), as vLLM takes them."""
    words = [percentile_word(percentile) for percentile in PERCENTILES]
    names = ["mean", "median", "std", *(word for word in words if word != "median")]
    if len(sample_ns) == 0:
        return {statistic_key(name, latency): None for name in names}
    found = dict(zip(words, np.percentile(sample_ns, PERCENTILES), strict=True))
    found |= {"mean": sample_ns.mean(), "std": sample_ns.std()}
    return {statistic_key(name, latency): float(found[name]) / NS_PER_MS for name in names}


def _goals_met(latencies: Latencies, slo: Slo) -> dict[str, NDArray[np.bool_]]:  # each [num_completed]
    measured = {"ttft": latencies.ttft_ns, "tpot": latencies.tpot_ns, "e2el": latencies.e2el_ns}
    return {name: ~(measured[name] > limit_ns) for name, limit_ns in slo.goals()}  # NaN: one token, met


def _good_requests(latencies: Latencies, slo: Slo) -> NDArray[np.bool_]:  # [num_completed]
    good = np.ones(len(latencies.ttft_ns), dtype=np.bool_)
    for met in _goals_met(latencies, slo).values():
        good &= met
    return good


def _attainment(latencies: Latencies, slo: Slo, good: NDArray[np.bool_]) -> dict[str, Number]:
    if not any(slo.goals()):
        return {}
    num_requests = len(latencies.completed)
    values: dict[str, Number] = {"sim_slo_requests": num_requests}
    limits_ns = dict(slo.goals())
    for name, met in _goals_met(latencies, slo).items():
        values[f"sim_slo_{name}_ms"] = limits_ns[name] / NS_PER_MS
        values[f"sim_slo_{name}_met"] = int(met.sum())
        values[f"sim_slo_{name}_attainment"] = _ratio(int(met.sum()), num_requests)
    values["sim_slo_met"] = int(good.sum())
    values["sim_slo_attainment"] = _ratio(int(good.sum()), num_requests)
    return values


def _memory_and_scheduling(record: RunRecord) -> dict[str, Number]:
    state = measure_occupancy(record)
    counters = record.counters
    filled = state.filled_slot_fraction
    shares = slot_shares(record)
    return {
        "sim_mean_kv_usage_fraction": state.mean_kv_usage_fraction,
        "sim_peak_kv_usage_fraction": state.peak_kv_usage_fraction,
        "sim_internal_fragmentation_fraction": None if filled is None else 1 - filled,
        "sim_token_slot_fraction": shares.tokens if shares else None,
        "sim_reserved_slot_fraction": shares.reserved if shares else None,
        "sim_internal_slot_fraction": shares.internal if shares else None,
        "sim_external_slot_fraction": shares.external if shares else None,
        "sim_sharing_saved_fraction": state.shared_fraction,
        "sim_num_blocks": record.num_blocks,
        "sim_block_size": record.block_size,
        "sim_blocks_allocated": counters["blocks_allocated"],
        "sim_blocks_copied": counters["blocks_copied"],
        "sim_blocks_swapped_out": counters["blocks_swapped_out"],
        "sim_blocks_swapped_in": counters["blocks_swapped_in"],
        "sim_host_hit_tokens": counters["host_hits_tokens"],
        "sim_swap_fallbacks": counters["swap_fallbacks"],
        "sim_prefix_hit_rate": _ratio(counters["prefix_hits_tokens"], counters["prefix_queries_tokens"]),
        "sim_prefix_hit_tokens": counters["prefix_hits_tokens"],
        "sim_prefix_query_tokens": counters["prefix_queries_tokens"],
        "sim_preemptions": counters["preemptions"],
        "sim_requests_preempted": int((record.requests["num_preemptions"] > 0).sum()),
        "sim_recomputed_tokens": counters["recomputed_tokens"],
        "sim_mean_running": state.mean_running,
        "sim_mean_waiting": state.mean_waiting,
        "sim_peak_waiting": state.peak_waiting,
        **_speculation(record),
        "sim_steps": record.num_steps,
        "sim_mean_batch_size": state.mean_batch_size,
        "sim_mean_step_tokens": state.mean_step_tokens,
        "sim_busy_fraction": state.busy_fraction,
        "sim_num_replicas": record.num_replicas,
    }


def _speculation(record: RunRecord) -> dict[str, Number]:
    """What drafting gave, where anything was drafted; what lies past a sample's end was not given."""
    counters = record.counters
    runs, drafted, accepted = (counters[key] for key in ("draft_runs", "drafted_tokens", "accepted_tokens"))
    if not drafted:
        return {}
    delivered = accepted + runs - counters["runs_ended_by_draft"]
    steps = record.steps
    drafting_ns = int(steps["drafting"].astype(np.int64).sum())
    busy_ns = int((steps["end"] - steps["start"]).astype(np.int64).sum())
    at = {
        f"sim_acceptance_rate_at_{place}": _ratio(
            counters[f"accepted_at_{place}"], counters[f"drafted_at_{place}"]
        )
        for place in range(1, sum(key.startswith("drafted_at_") for key in counters) + 1)
    }
    return {
        "sim_acceptance_rate": accepted / (drafted - counters["drafted_past_end_tokens"]),
        "sim_mean_acceptance_length": delivered / runs,
        **at,
        "sim_mean_num_drafts": drafted / runs,
        "sim_drafted_tokens": drafted,
        "sim_accepted_tokens": accepted,
        "sim_drafting_fraction": drafting_ns / busy_ns,
        "sim_verifying_fraction": 1 - drafting_ns / busy_ns,
    }


def _ratio(numerator: float, denominator: float) -> float | None:
    return numerator / denominator if denominator else None


def _definitions(values: Mapping[str, Number]) -> dict[str, dict[str, str]]:
    """Unit and formula of every key's metric, once for each latency, by the metric's name."""
    metrics = {metric.name: metric for key in values if (metric := definition_of(key)) is not None}
    return {
        name: {"unit": metric.unit, "definition": metric.formula, "alike": metric.alike}
        for name, metric in metrics.items()
    }
