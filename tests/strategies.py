"""Hypothesis strategies: small workloads, engines and fleets in which everything happens and ties abound."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn, SearchStrategy

from sim.cluster import ClusterConfig
from sim.core.block_pool import FreeOrder
from sim.core.engine import EngineConfig
from sim.core.kv_cache import CacheConfig
from sim.core.kv_memory import MemoryConfig
from sim.core.policy import Batching, Continuous, Dynamic, PolicyKind, Static
from sim.core.reservation import ContiguousConfig, Reservation
from sim.core.scheduler_config import SchedulerConfig
from sim.core.step import StepPlan
from sim.router import RouterKind
from workloads.spec import Turn, Workload

MAX_PROMPT_TOKENS = 20
MAX_OUTPUT_TOKENS = 24
MAX_MODEL_LEN = 38
"""Less than the longest request, so that some are capped."""
TICK_NS = 10
"""Arrivals, delays and step times are multiples of this, so that many things happen at one instant."""


def examples(count: int) -> settings:
    """That many examples, or as many as the profile asks for if that is more."""
    return settings(max_examples=max(count, settings().max_examples))


@dataclass(frozen=True)
class CoarseCost:
    """Step times in whole ticks, different for different plans."""

    tokens_per_tick: int
    context_per_tick: int

    def step_ends_ns(self, plan: StepPlan) -> list[int]:
        ends_ns = []
        now_ns = 0
        for ahead in range(plan.horizon):
            context = plan.decode_context_tokens + ahead * plan.num_decode_seqs
            ticks = 1 + plan.num_tokens // self.tokens_per_tick + context // self.context_per_tick
            now_ns += ticks * TICK_NS
            ends_ns.append(now_ns)
        return ends_ns


@dataclass(frozen=True)
class Case:
    """One random experiment."""

    workload: Workload
    engine: EngineConfig
    cost: CoarseCost
    cluster: ClusterConfig

    def with_max_horizon(self, max_horizon: int) -> Case:
        return replace(self, engine=replace(self.engine, max_horizon=max_horizon))


def batchings() -> SearchStrategy[Batching]:
    sizes = st.integers(1, 5)
    waits = st.integers(0, 20).map(lambda ticks: ticks * TICK_NS)
    return st.one_of(st.just(Continuous()), st.builds(Static, sizes), st.builds(Dynamic, sizes, waits))


@st.composite
def engines(draw: DrawFn) -> EngineConfig:
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


def cases() -> SearchStrategy[Case]:
    costs = st.builds(CoarseCost, st.integers(1, 20), st.integers(5, 100))
    return st.builds(Case, workloads(), engines(), costs, clusters())
