"""Queueing theory as an oracle: one seat, one token a request, so the engine is a single server.

With Poisson arrivals at load rho and mean service s the mean wait is rho s / (2 (1 - rho)) for constant
service (M/D/1, Pollaczek-Khinchine) and rho s / (1 - rho) for exponential service (M/M/1).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats

from sim.core.engine import EngineConfig
from sim.core.kv_cache import CacheConfig
from sim.core.scheduler_config import SchedulerConfig
from sim.core.step import StepPlan
from sim.simulation import run
from workloads.spec import Workload

NUM_REQUESTS = 40_000
NUM_BATCHES = 40
MEAN_SERVICE_NS = 1_000_000
CONFIDENCE = 0.99


@dataclass(frozen=True)
class ServiceTimes:
    """Each request's step takes as long as its service."""

    service_ns: list[int]

    def step_ends_ns(self, plan: StepPlan) -> list[int]:
        (row,) = plan.rows
        return [self.service_ns[row.seq.request.request_id]]


def one_seat() -> EngineConfig:
    scheduler = SchedulerConfig(max_model_len=16, max_num_seqs=1, max_num_batched_tokens=16)
    return EngineConfig(CacheConfig(num_blocks=4, block_size=4, enable_prefix_caching=False), scheduler)


def simulated_waits_ns(
    load: float, service_ns: NDArray[np.int64], generator: np.random.Generator
) -> NDArray[np.int64]:
    gaps_ns = generator.exponential(MEAN_SERVICE_NS / load, len(service_ns))
    ones = np.ones(len(service_ns), dtype=np.int64)
    workload = Workload("queue", np.cumsum(gaps_ns).astype(np.int64), 4 * ones, ones)
    requests = run(workload, one_seat(), ServiceTimes(service_ns.tolist())).requests
    waits: NDArray[np.int64] = (requests["first_scheduled"] - requests["arrival"]).astype(np.int64)
    return waits


def confidence_interval(samples: NDArray[np.int64]) -> tuple[float, float]:
    """Of the mean of correlated samples: means of long batches are nearly independent."""
    means = samples.reshape(NUM_BATCHES, -1).mean(axis=1)
    half = stats.t.ppf((1 + CONFIDENCE) / 2, NUM_BATCHES - 1) * means.std(ddof=1) / np.sqrt(NUM_BATCHES)
    return float(means.mean() - half), float(means.mean() + half)


@pytest.mark.parametrize("load", [0.3, 0.6, 0.8])
def test_waiting_time_with_constant_service_is_that_of_m_d_1(load: float) -> None:
    generator = np.random.default_rng(1)
    service_ns = np.full(NUM_REQUESTS, MEAN_SERVICE_NS, dtype=np.int64)
    waits_ns = simulated_waits_ns(load, service_ns, generator)
    theory_ns = load * MEAN_SERVICE_NS / (2 * (1 - load))
    low_ns, high_ns = confidence_interval(waits_ns)
    assert low_ns <= theory_ns <= high_ns
    assert high_ns - low_ns < 0.4 * theory_ns, "too wide to say anything"


@pytest.mark.parametrize("load", [0.3, 0.6, 0.8])
def test_waiting_time_with_exponential_service_is_that_of_m_m_1(load: float) -> None:
    generator = np.random.default_rng(2)
    service_ns = np.ceil(generator.exponential(MEAN_SERVICE_NS, NUM_REQUESTS)).astype(np.int64)
    waits_ns = simulated_waits_ns(load, service_ns, generator)
    theory_ns = load * MEAN_SERVICE_NS / (1 - load)
    low_ns, high_ns = confidence_interval(waits_ns)
    assert low_ns <= theory_ns <= high_ns
    assert high_ns - low_ns < 0.4 * theory_ns, "too wide to say anything"


def test_waits_are_those_of_lindleys_recursion_to_the_nanosecond() -> None:
    generator = np.random.default_rng(3)
    service_ns = np.ceil(generator.exponential(MEAN_SERVICE_NS, 2_000)).astype(np.int64)
    arrivals_ns = np.cumsum(generator.exponential(MEAN_SERVICE_NS / 0.9, 2_000)).astype(np.int64)
    ones = np.ones(2_000, dtype=np.int64)
    record = run(
        Workload("queue", arrivals_ns, 4 * ones, ones), one_seat(), ServiceTimes(service_ns.tolist())
    )
    free_ns = 0
    for row, (arrival_ns, service) in enumerate(zip(arrivals_ns.tolist(), service_ns.tolist(), strict=True)):
        start_ns = max(arrival_ns, free_ns)
        free_ns = start_ns + service
        assert record.requests["first_scheduled"][row].astype(np.int64) == start_ns
        assert record.requests["first_token"][row].astype(np.int64) == free_ns
