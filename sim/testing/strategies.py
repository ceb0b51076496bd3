"""Hypothesis strategies, public: workloads, engines and fleets in which everything happens and ties abound.

All are tiny, so that failures shrink to a story: pools that cannot always hold the longest request, arrivals
and delays on a coarse clock, shared prefixes, samples, sessions, clients that give up. `experiments` go
through the YAML layer, `step_plans` are what cost models and executors are given, `block_operations` are for
harnesses other than `AllocatorMachine`.
"""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn, SearchStrategy

from sim.config import load_experiment
from sim.config.yaml_dump import dump_yaml
from sim.core.block_pool import FreeOrder
from sim.core.engine import EngineConfig
from sim.core.kv_cache import CacheConfig
from sim.core.kv_memory import MemoryConfig
from sim.core.policy import Batching, Continuous, Dynamic, PolicyKind, Static
from sim.core.request import Request, Sequence
from sim.core.reservation import ContiguousConfig, Reservation
from sim.core.scheduler_config import SchedulerConfig
from sim.core.step import ScheduledSequence, ScheduleKind, StepPlan
from sim.experiment import Experiment
from sim.fleet.cluster import ClusterConfig
from sim.fleet.router import RouterKind
from workloads.spec import Turn, Workload

MAX_PROMPT_TOKENS = 20
MAX_OUTPUT_TOKENS = 24
MAX_MODEL_LEN = 38
"""Less than the longest request, so that some are capped."""
TICK_NS = 10
"""Arrivals, delays and step times are multiples of this, so that many things happen at one instant."""


def batchings() -> SearchStrategy[Batching]:
    """Continuous, static and dynamic batching."""
    sizes = st.integers(1, 5)
    waits = st.integers(0, 20).map(lambda ticks: ticks * TICK_NS)
    return st.one_of(st.just(Continuous()), st.builds(Static, sizes), st.builds(Dynamic, sizes, waits))


@st.composite
def engines(draw: DrawFn) -> EngineConfig:
    """Engines with pools from too small for the longest request to ones that hold a few."""
    block_size = draw(st.sampled_from([1, 2, 4, 8]))
    most_blocks = -(-(MAX_PROMPT_TOKENS + MAX_OUTPUT_TOKENS) // block_size)
    # From pools that cannot hold the longest request to ones that hold a few.
    num_blocks = draw(st.integers(max(most_blocks * 2 // 3, 1), most_blocks * 3 // 2))
    caches_prefixes = draw(st.booleans())
    cache: MemoryConfig = CacheConfig(
        num_blocks,
        block_size,
        enable_prefix_caching=caches_prefixes,
        free_order=draw(st.sampled_from(FreeOrder)),
        num_offload_blocks=draw(st.sampled_from([0, 0, 3, 20])) if caches_prefixes else 0,
    )
    if draw(st.integers(0, 7)) == 7:
        cache = ContiguousConfig(draw(st.integers(30, 160)), draw(st.sampled_from(Reservation)))
    enable_chunked_prefill = draw(st.integers(0, 3)) > 0
    least_tokens = 1 if enable_chunked_prefill else MAX_MODEL_LEN
    scheduler = SchedulerConfig(
        max_model_len=MAX_MODEL_LEN,
        max_num_seqs=draw(st.sampled_from([8, 6, 4, 3, 2, 1])),
        max_num_batched_tokens=draw(st.integers(least_tokens, 80)),
        enable_chunked_prefill=enable_chunked_prefill,
        long_prefill_token_threshold=draw(st.sampled_from([0, 0, 5])),
        exempt_lone_prompt=draw(st.booleans()),
        policy=draw(st.sampled_from(PolicyKind)),
        watermark_fraction=draw(st.sampled_from([0.0, 0.0, 0.2])),
        full_sequence_gate=draw(st.booleans()),
        async_scheduling=draw(st.integers(0, 7)) == 7,
        batching=draw(batchings()),
    )
    return EngineConfig(cache, scheduler)


def clusters() -> SearchStrategy[ClusterConfig]:
    """One to three replicas behind any router."""
    return st.builds(
        ClusterConfig, st.sampled_from([1, 1, 2, 3]), st.sampled_from(RouterKind), st.integers(0, 3)
    )


@st.composite
def workloads(draw: DrawFn, *, max_requests: int = 16) -> Workload:
    """Open loop, closed loop or sessions, with and without shared prefixes, samples and cancellation."""
    count = draw(st.integers(1, max_requests))

    def column(values: SearchStrategy[int]) -> np.ndarray:
        return np.array(draw(st.lists(values, min_size=count, max_size=count)), dtype=np.int64)

    prompts = column(st.integers(1, MAX_PROMPT_TOKENS))
    workload = Workload(
        name="random",
        arrival_ns=np.sort(column(st.integers(0, 25))) * TICK_NS,
        prompt_tokens=prompts,
        output_tokens=column(st.integers(1, MAX_OUTPUT_TOKENS)),
        num_samples=draw(st.sampled_from([1, 1, 2, 3])),
        priority=column(st.integers(0, 2)),
        hash_ids=None,
        hash_block_tokens=0,
        sessions=None,
        waits_for={},
        concurrency=None,
        think_time_ns=0,
        cancel_after_ns=draw(st.none() | st.integers(0, 60).map(lambda ticks: ticks * TICK_NS)),
    )
    workload = replace(workload, **draw(_prefixes(prompts)))
    match draw(st.sampled_from(["open", "closed", "sessions"])):
        case "closed":
            return replace(
                workload,
                arrival_ns=np.zeros(count, dtype=np.int64),
                concurrency=draw(st.integers(1, 6)),
                think_time_ns=draw(delays()),
            )
        case "sessions":
            return replace(workload, **draw(_sessions(count)))
        case _:
            return workload


def delays() -> SearchStrategy[int]:
    """Nanoseconds, in whole ticks; often none."""
    return st.integers(0, 8).map(lambda ticks: ticks * TICK_NS)


@st.composite
def _prefixes(draw: DrawFn, prompts: np.ndarray) -> dict[str, Any]:
    """Prompts that begin like one of a few texts, as chained ids; or none."""
    if draw(st.booleans()):
        return {}
    hash_block_tokens = draw(st.sampled_from([1, 3, 4, 8]))
    rows: list[tuple[int, ...]] = []
    for prompt_tokens in prompts.tolist():
        text, num_ids = draw(st.integers(0, 2)), -(-prompt_tokens // hash_block_tokens)
        num_common = draw(st.integers(0, num_ids))
        own = 1000 * (len(rows) + 1)
        rows.append(tuple(100 * text + i if i < num_common else own + i for i in range(num_ids)))
    return {"hash_ids": tuple(rows), "hash_block_tokens": hash_block_tokens}


@st.composite
def _sessions(draw: DrawFn, count: int) -> dict[str, Any]:
    """Each request belongs to a session; some wait for earlier ones of it."""
    names = draw(st.lists(st.sampled_from(["a", "b", "c"]), min_size=count, max_size=count))
    waits_for = {}
    for index, name in enumerate(names):
        earlier = [other for other in range(index) if names[other] == name]
        if earlier and draw(st.integers(0, 2)) > 0:
            after: list[int] = draw(st.lists(st.sampled_from(earlier), min_size=1, max_size=2, unique=True))
            waits_for[index] = Turn(tuple(after), draw(delays()))
    return {"sessions": tuple(names), "waits_for": waits_for}


@st.composite
def step_plans(draw: DrawFn, *, max_seqs: int = 64, max_context: int = 4096) -> StepPlan:
    """Plans as cost models see them: decodes for a horizon, or one step with chunks and drafts to verify."""
    num_decodes = draw(st.integers(0, max_seqs))
    chunks = tuple(draw(st.lists(_chunks(max_context), min_size=int(num_decodes == 0), max_size=4)))
    return StepPlan(
        step=0,
        horizon=1 if chunks else draw(st.integers(1, 100)),
        num_decode_seqs=num_decodes,
        decode_context_tokens=num_decodes * draw(st.integers(1, max_context)),
        chunks=chunks,
        preempted=(),
        num_running=num_decodes + len(chunks),
        rows=chunks,
        num_steady_seqs=num_decodes,
    )


@st.composite
def _chunks(draw: DrawFn, max_context: int) -> ScheduledSequence:
    computed, count = draw(st.integers(0, max_context)), draw(st.integers(1, 512))
    num_drafts = draw(st.integers(0, min(count - 1, 8)))
    seq = Sequence(0, Request(0, 0, computed + count, 1), 0, computed + count + 1)
    return ScheduledSequence(seq, count, computed, [], num_drafts, ScheduleKind.RUNNING, draw(st.booleans()))


class BlockOperation(NamedTuple):
    """One thing an engine does to an allocator; `pick` chooses among the sequences that are there."""

    name: str
    pick: int
    num_tokens: int


def block_operations(*, max_size: int = 40) -> SearchStrategy[list[BlockOperation]]:
    """Stories of operations: admit, append, fork, end, preempt, resume, swap_out, swap_in."""
    names = ("admit", "append", "append", "fork", "end", "preempt", "resume", "swap_out", "swap_in")
    operation = st.builds(BlockOperation, st.sampled_from(names), st.integers(0, 2**16), st.integers(1, 12))
    return st.lists(operation, max_size=max_size)


@st.composite
def experiment_settings(draw: DrawFn) -> dict[str, Any]:
    """Settings of small, valid experiments, as they stand in a YAML file."""
    scheduler = draw(st.sampled_from(["vllm-0.33", "vllm-0.32", "vllm-0.16", "vllm-0.10", "vllm-v0"]))
    engine: dict[str, Any] = {
        "scheduler": scheduler,
        "max_model_len": 512,
        "num_gpu_blocks_override": draw(st.integers(80, 400)),
        "block_size": draw(st.sampled_from([8, 16, 32])),
        "max_num_seqs": draw(st.sampled_from([8, 64])),
    }
    workload: dict[str, Any] = {
        "kind": "synthetic",
        "num_requests": draw(st.integers(1, 20)),
        "arrivals": {"kind": "poisson", "rate": f"{draw(st.integers(1, 50))} /s"},
        "prompt_tokens": {"kind": "fixed", "tokens": draw(st.integers(1, 200))},
        "output_tokens": {"kind": "fixed", "tokens": draw(st.integers(1, 100))},
        "num_samples": draw(st.integers(1, 3)),
    }
    if scheduler == "vllm-v0":
        engine["preemption_mode"] = draw(st.sampled_from(["by_width", "recompute", "swap", "auto"]))
    else:
        allocation = draw(st.sampled_from(["paged", "paged", "max", "pow2", "oracle"]))
        engine["kv_allocation"] = allocation
        if allocation == "paged":
            engine["enable_prefix_caching"] = draw(st.booleans())
    seed = draw(st.integers(0, 1000))
    return {
        "model": "llama-3-8b",
        "hardware": "h100-sxm",
        "seed": seed,
        "engine": engine,
        "workload": workload,
    }


def experiments() -> SearchStrategy[Experiment]:
    """Small, valid experiments, read as files are."""
    return experiment_settings().map(_load)


def _load(settings: dict[str, Any]) -> Experiment:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "experiment.yaml"
        path.write_text(dump_yaml(settings), encoding="utf-8")
        return load_experiment(path)
