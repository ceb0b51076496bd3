"""What every number of a summary means: its unit, its formula, and which tools mean the same by the name.

A number is never shown without its definition, because the tools of this field use the same names for
different things. This file knows words only; `summary.py` computes, and `keys.py` finds the
definition that belongs to a key.

In the formulas: a = arrival, f = first token, l = last token, e = end of the request, n = tokens of its
longest sample, T = duration.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class Group(Enum):
    """Where a number stands in a table for people; the value is the heading."""

    REQUESTS = "Requests"
    GOALS = "Goals"
    LATENCY = "Latency"
    THROUGHPUT = "Throughput"
    MEMORY = "KV cache"
    SCHEDULING = "Scheduling"
    SPECULATION = "Speculation"


@dataclass(frozen=True, slots=True)
class Metric:
    """One number, or for latencies one family of numbers (mean, median, percentiles)."""

    name: str
    """The key in `summary.json`; for a latency, the part of the key between statistic and unit."""
    group: Group
    title: str
    unit: str
    formula: str
    alike: str = ""
    """Who defines it the same way, and who does not."""


_VLLM = "vllm bench serve"
_BOTH = f"{_VLLM}, SGLang"

SCALARS: tuple[Metric, ...] = (
    Metric("completed", Group.REQUESTS, "completed", "", "requests that generated all their tokens", _VLLM),
    Metric(
        "failed", Group.REQUESTS, "failed", "", "all other requests: rejected, aborted, unfinished", _VLLM
    ),
    Metric("sim_rejected", Group.REQUESTS, "rejected", "", "requests that can never fit, refused on arrival"),
    Metric("sim_aborted", Group.REQUESTS, "aborted", "", "requests whose client gave up"),
    Metric("sim_unfinished", Group.REQUESTS, "unfinished", "", "requests still under way when the run ended"),
    Metric(
        "sim_length_capped", Group.REQUESTS, "length capped", "", "completed, but cut short by max_model_len"
    ),
    Metric("duration", Group.REQUESTS, "duration T", "s", "time 0 to the end of the last request", _BOTH),
    Metric(
        "total_input_tokens",
        Group.REQUESTS,
        "input tokens",
        "tokens",
        "prompts of completed requests",
        _VLLM,
    ),
    Metric(
        "total_output_tokens",
        Group.REQUESTS,
        "output tokens",
        "tokens",
        "tokens generated for completed requests, all samples",
        _VLLM,
    ),
    Metric("request_throughput", Group.THROUGHPUT, "requests", "req/s", "completed / T", _BOTH),
    Metric(
        "request_goodput",
        Group.THROUGHPUT,
        "goodput",
        "req/s",
        "completed requests that meet every goal / T; one token meets any TPOT goal; failed = not good",
        f"{_VLLM}; inference-perf fails n = 1",
    ),
    Metric("output_throughput", Group.THROUGHPUT, "output tokens", "tokens/s", "output tokens / T", _BOTH),
    Metric(
        "total_token_throughput",
        Group.THROUGHPUT,
        "all tokens",
        "tokens/s",
        "(input tokens + output tokens) / T",
        _BOTH,
    ),
    Metric(
        "max_output_tokens_per_s",
        Group.THROUGHPUT,
        "peak output tokens",
        "tokens/s",
        "most tokens in one of the 1 s bins that start at the first arrival; tokens counted, not chunks",
        f"{_VLLM} (which counts chunks)",
    ),
    Metric(
        "max_concurrent_requests",
        Group.THROUGHPUT,
        "peak requests in system",
        "",
        "most completed requests between arrival and end at one instant",
        _VLLM,
    ),
    Metric(
        "sim_slo_requests", Group.GOALS, "requests judged", "", "all that arrived; failed ones meet no goal"
    ),
    Metric(
        "sim_slo_met",
        Group.GOALS,
        "requests that met all goals",
        "",
        "completed requests that meet all goals at once",
    ),
    Metric(
        "sim_slo_attainment",
        Group.GOALS,
        "all goals met",
        "fraction",
        "requests that met all goals / requests judged",
    ),
    Metric(
        "sim_mean_kv_usage_fraction",
        Group.MEMORY,
        "KV usage, mean",
        "fraction",
        "blocks held / blocks there are, weighted by time over the whole run, shared blocks once, idle = 0",
        "vLLM's kv_cache_usage_perc, averaged over time",
    ),
    Metric(
        "sim_peak_kv_usage_fraction",
        Group.MEMORY,
        "KV usage, peak",
        "fraction",
        "most held on one replica / its blocks",
    ),
    Metric(
        "sim_internal_fragmentation_fraction",
        Group.MEMORY,
        "internal fragmentation",
        "fraction",
        "1 - token states stored / slots of held blocks, both summed over time",
        "the PagedAttention paper",
    ),
    Metric(
        "sim_token_slot_fraction",
        Group.MEMORY,
        "slots: tokens",
        "fraction",
        "slots that hold a token / all slots, weighted by time in steps, shared ones once",
        "the PagedAttention paper, Fig. 2",
    ),
    Metric(
        "sim_reserved_slot_fraction",
        Group.MEMORY,
        "slots: reserved",
        "fraction",
        "slots kept for tokens to come of running sequences / all slots",
        "the PagedAttention paper, Fig. 2",
    ),
    Metric(
        "sim_internal_slot_fraction",
        Group.MEMORY,
        "slots: internal waste",
        "fraction",
        "slots held to which no token will come / all slots",
        "the PagedAttention paper, Fig. 2",
    ),
    Metric(
        "sim_external_slot_fraction",
        Group.MEMORY,
        "slots: free or lost",
        "fraction",
        "slots that nobody holds, external waste among them / all slots",
        "the PagedAttention paper, Fig. 2",
    ),
    Metric(
        "sim_sharing_saved_fraction",
        Group.MEMORY,
        "saved by sharing",
        "fraction",
        "blocks that sharing saves / blocks held without it, both summed over time",
        "the PagedAttention paper, Fig. 15",
    ),
    Metric("sim_num_blocks", Group.MEMORY, "blocks per replica", "blocks", "KV blocks requests can hold"),
    Metric("sim_block_size", Group.MEMORY, "block size", "tokens", "slots in a block"),
    Metric(
        "sim_blocks_allocated",
        Group.MEMORY,
        "blocks allocated",
        "blocks",
        "blocks handed out, each time counted",
    ),
    Metric(
        "sim_blocks_copied",
        Group.MEMORY,
        "blocks copied",
        "blocks",
        "shared blocks copied because one sequence wrote into them (copy-on-write); blocks "
        "that an allocator of your own moved",
    ),
    Metric(
        "sim_blocks_swapped_out",
        Group.MEMORY,
        "blocks swapped out",
        "blocks",
        "moved to the host: of preempted sequences, or evicted by the prefix cache",
    ),
    Metric(
        "sim_blocks_swapped_in",
        Group.MEMORY,
        "blocks swapped in",
        "blocks",
        "blocks moved back from the host",
    ),
    Metric(
        "sim_host_hit_tokens",
        Group.MEMORY,
        "hits in host memory",
        "tokens",
        "prefix hits that the host tier brought back, at any admission",
    ),
    Metric(
        "sim_swap_fallbacks",
        Group.MEMORY,
        "swap fallbacks",
        "",
        "groups recomputed though they should have been swapped: the host pool was full",
    ),
    Metric(
        "sim_prefix_hit_rate",
        Group.MEMORY,
        "prefix hit rate",
        "fraction",
        "tokens found / tokens looked up in the prefix cache, first admissions only",
        "vLLM's prefix_cache_hits / prefix_cache_queries",
    ),
    Metric(
        "sim_prefix_hit_tokens", Group.MEMORY, "prefix hits", "tokens", "tokens found at first admissions"
    ),
    Metric(
        "sim_prefix_query_tokens",
        Group.MEMORY,
        "prefix look-ups",
        "tokens",
        "tokens looked up at first admissions",
    ),
    Metric(
        "sim_preemptions",
        Group.SCHEDULING,
        "preemptions",
        "",
        "sequences put back into the queue, each time counted",
        "vLLM's num_preemptions_total",
    ),
    Metric(
        "sim_requests_preempted",
        Group.SCHEDULING,
        "requests preempted",
        "",
        "with at least one preemption",
    ),
    Metric(
        "sim_recomputed_tokens",
        Group.SCHEDULING,
        "recomputed tokens",
        "tokens",
        "tokens whose KV was stored once and computed again after a preemption",
    ),
    Metric(
        "sim_mean_running",
        Group.SCHEDULING,
        "running, mean",
        "",
        "sequences in the running lists, weighted by time over the whole run, replicas summed, idle = 0",
        "vLLM's num_requests_running, averaged over time",
    ),
    Metric(
        "sim_mean_waiting",
        Group.SCHEDULING,
        "waiting, mean",
        "",
        "sequences left waiting by each step, weighted by its time over the whole run, replicas summed",
        "vLLM's num_requests_waiting, averaged over time",
    ),
    Metric(
        "sim_peak_waiting", Group.SCHEDULING, "waiting, peak", "", "most sequences waiting on one replica"
    ),
    Metric(
        "sim_acceptance_rate",
        Group.SPECULATION,
        "acceptance rate",
        "fraction",
        "draft tokens kept / draft tokens verified, both up to a sample's last token",
        "vLLM's draft acceptance rate, which counts drafts past the last token too",
    ),
    Metric(
        "sim_mean_acceptance_length",
        Group.SPECULATION,
        "acceptance length, mean",
        "tokens",
        "tokens delivered by a verified run: drafts kept, and the recovered or bonus token, up to a sample's "
        "last token",
        "vLLM's mean acceptance length, which counts drafts past the last token too",
    ),
    Metric(
        "sim_mean_num_drafts",
        Group.SPECULATION,
        "drafts per run",
        "tokens",
        "drafts verified / runs verified",
    ),
    Metric(
        "sim_drafted_tokens",
        Group.SPECULATION,
        "drafted",
        "tokens",
        "draft tokens verified, those past a sample's end too",
    ),
    Metric("sim_accepted_tokens", Group.SPECULATION, "accepted", "tokens", "draft tokens kept and delivered"),
    Metric(
        "sim_drafting_fraction",
        Group.SPECULATION,
        "time drafting",
        "fraction",
        "time in steps that went into proposing drafts",
    ),
    Metric(
        "sim_verifying_fraction",
        Group.SPECULATION,
        "time in the target",
        "fraction",
        "the rest of the time in steps: prompts, and tokens verified",
    ),
    Metric("sim_steps", Group.SCHEDULING, "engine steps", "", "steps of all replicas"),
    Metric(
        "sim_mean_batch_size",
        Group.SCHEDULING,
        "batch size, mean",
        "",
        "sequences computed per step, each step once",
    ),
    Metric(
        "sim_mean_step_tokens",
        Group.SCHEDULING,
        "tokens per step, mean",
        "tokens",
        "tokens computed per step, prompts included, each step once",
    ),
    Metric(
        "sim_busy_fraction", Group.SCHEDULING, "busy", "fraction", "time in steps / (replicas x whole run)"
    ),
    Metric("sim_num_replicas", Group.SCHEDULING, "replicas", "", "engines the router spreads requests over"),
)

LATENCIES: tuple[Metric, ...] = (
    Metric(
        "ttft",
        Group.LATENCY,
        "TTFT",
        "ms",
        "f - a: time to first token, queue included",
        f"{_VLLM} measures from sending, the same in open loop",
    ),
    Metric(
        "tpot",
        Group.LATENCY,
        "TPOT",
        "ms",
        "(l - f) / (n - 1): mean time per further token of a request; n = 1 has none and is left out",
        f"{_VLLM}, SGLang; GuideLLM calls it ITL",
    ),
    Metric(
        "itl",
        Group.LATENCY,
        "ITL",
        "ms",
        "gap between consecutive tokens of a stream, pooled over requests; 0 within one step",
        f"{_VLLM}, where a step gives one token",
    ),
    Metric(
        "e2el",
        Group.LATENCY,
        "E2E",
        "ms",
        "e - a: arrival to end of the request",
        f"{_VLLM} measures from sending",
    ),
    Metric(
        "step_gap",
        Group.LATENCY,
        "step gap",
        "ms",
        "gap between a stream's emissions, pooled; equals ITL unless a step gives several tokens",
        f"ITL of {_VLLM}, ICL of AIPerf; bench.json writes it as itl",
    ),
    Metric("queue_time", Group.LATENCY, "queue", "ms", "first scheduled - a", "vLLM, unless preempted"),
    Metric(
        "requeue_time",
        Group.LATENCY,
        "requeue",
        "ms",
        "time back in the queue after preemptions, summed per request",
    ),
    Metric(
        "normalized_latency",
        Group.LATENCY,
        "normalised",
        "ms/token",
        "(e - a) / n",
        "Orca, vLLM's paper; NTPOT of inference-perf",
    ),
)
"""The first four have vLLM's own keys (`mean_ttft_ms`), the others ours (`sim_mean_queue_time_ms`)."""
