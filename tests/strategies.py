"""Random experiments with a coarse cost, from the public strategies of `sim.testing`."""

from __future__ import annotations

from dataclasses import dataclass, replace

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from sim.core.engine import EngineConfig
from sim.core.step import StepPlan
from sim.fleet.cluster import ClusterConfig
from sim.testing.strategies import (
    MAX_MODEL_LEN,
    MAX_OUTPUT_TOKENS,
    MAX_PROMPT_TOKENS,
    TICK_NS,
    clusters,
    delays,
    engines,
    workloads,
)
from workloads.spec import Workload

__all__ = [
    "MAX_MODEL_LEN",
    "MAX_OUTPUT_TOKENS",
    "MAX_PROMPT_TOKENS",
    "TICK_NS",
    "Case",
    "CoarseCost",
    "cases",
    "clusters",
    "delays",
    "engines",
    "examples",
    "workloads",
]


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


def cases() -> SearchStrategy[Case]:
    costs = st.builds(CoarseCost, st.integers(1, 20), st.integers(5, 100))
    return st.builds(Case, workloads(), engines(), costs, clusters())
