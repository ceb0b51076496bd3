"""Clients in front of a fleet: when requests are sent, and to which replica."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from sim.core.block_pool import BlockPool
from sim.core.engine import EngineConfig
from sim.core.kv_cache import CacheConfig
from sim.core.policy import PolicyKind
from sim.core.scheduler_config import SchedulerConfig
from sim.fleet.cluster import Cluster, ClusterConfig, Physics
from sim.fleet.driver import SimulationError
from sim.fleet.router import RouterKind
from sim.record.run_record import RunRecord
from sim.simulation import run
from tests.strategies import CoarseCost
from workloads.spec import Turn, Workload

ENGINE = EngineConfig(
    CacheConfig(num_blocks=100, block_size=4), SchedulerConfig(max_model_len=200, max_num_batched_tokens=100)
)
COST = CoarseCost(tokens_per_tick=1000, context_per_tick=100_000)
"""Every step takes 10 ns."""


def workload(arrivals_ns: list[int], outputs: list[int] | None = None, **changes: Any) -> Workload:
    count = len(arrivals_ns)
    outputs = outputs if outputs is not None else [1] * count
    return Workload(
        "made by hand",
        np.array(arrivals_ns, dtype=np.int64),
        np.full(count, 8, dtype=np.int64),
        np.array(outputs, dtype=np.int64),
        **changes,
    )


def simulated(
    asked: Workload, config: ClusterConfig | None = None, engine: EngineConfig = ENGINE
) -> RunRecord:
    return run(asked, engine, COST, config)


def ns(record: RunRecord, column: str) -> list[int]:
    return [int(value) for value in record.requests[column].astype(np.int64)]


def test_open_loop_requests_arrive_when_the_workload_says() -> None:
    record = simulated(workload([0, 0, 25, 31]))
    assert ns(record, "arrival") == [0, 0, 25, 31]
    assert ns(record, "first_scheduled") == [0, 0, 25, 35]


def test_an_arrival_at_the_very_end_of_a_step_is_in_time_for_the_next() -> None:
    record = simulated(workload([0, 30, 31], [100, 1, 1]))
    assert ns(record, "first_scheduled") == [0, 30, 40]


def test_requests_of_one_instant_join_the_same_step() -> None:
    record = simulated(workload([5, 5, 5]))
    assert ns(record, "first_scheduled") == [5, 5, 5]
    assert record.num_steps == 1


def test_closed_loop_users_send_the_next_row_some_time_after_their_last_ended() -> None:
    asked = workload([0] * 5, [1, 3, 1, 1, 1], concurrency=2, think_time_ns=5)
    record = simulated(asked)
    assert ns(record, "arrival") == [0, 0, 15, 35, 35]
    assert ns(record, "finished") == [10, 30, 30, 45, 45]


def test_a_closed_loop_without_think_time_sends_at_the_instant_of_the_end() -> None:
    record = simulated(workload([0] * 3, [2, 2, 2], concurrency=1))
    assert ns(record, "arrival") == [0, 20, 40]
    assert ns(record, "first_scheduled") == [0, 20, 40]


def test_more_users_than_requests_send_all_at_once() -> None:
    assert ns(simulated(workload([0] * 3, concurrency=9)), "arrival") == [0, 0, 0]


def test_a_turn_waits_for_all_it_follows_and_then_its_delay() -> None:
    turns = {2: Turn((0, 1), 7), 3: Turn((2,), 0)}
    record = simulated(workload([0, 4, 0, 0], [5, 1, 1, 1], waits_for=turns))
    assert ns(record, "finished")[:2] == [50, 20]
    assert ns(record, "arrival")[2:] == [57, 67]


def test_a_turn_follows_a_request_that_was_refused_or_given_up() -> None:
    asked = workload([0, 0, 0], [1000, 1, 1], waits_for={1: Turn((0,), 3), 2: Turn((1,), 3)})
    record = simulated(replace(asked, prompt_tokens=np.array([500, 8, 8])))
    assert record.requests["finish_reason"].tolist() == ["rejected", "length", "length"]
    assert ns(record, "arrival") == [0, 3, 16]


def test_a_turn_without_delay_misses_the_step_that_began_at_that_instant() -> None:
    asked = workload([0, 0, 0], [10, 2, 1], waits_for={2: Turn((1,), 0)})
    record = simulated(asked)
    assert ns(record, "arrival")[2] == 20
    assert ns(record, "first_scheduled")[2] == 30


def test_turns_due_at_one_instant_go_in_the_order_of_the_workload() -> None:
    # Row 1 ends first and asks row 4 after 30; row 0 ends later and asks row 3 after 20: both at 40.
    asked = workload([0] * 5, [2, 1, 50, 1, 1], waits_for={3: Turn((0,), 20), 4: Turn((1,), 30)})
    record = simulated(asked, ClusterConfig(2, RouterKind.ROUND_ROBIN))
    assert ns(record, "arrival")[3:] == [40, 40]
    assert record.requests["replica"].tolist() == [0, 1, 0, 1, 0]


def test_a_client_that_gives_up_ends_its_request_at_the_end_of_the_step() -> None:
    record = simulated(workload([0, 3], [100, 100], cancel_after_ns=42))
    assert record.requests["finish_reason"].tolist() == ["abort", "abort"]
    assert ns(record, "finished") == [50, 50]
    assert record.requests["output_tokens"].tolist() == [5, 4]
    assert record.counters["aborted"] == 2


def test_a_client_that_gives_up_at_the_instant_of_the_end_has_its_answer() -> None:
    record = simulated(workload([0], [5], cancel_after_ns=50))
    assert record.requests["finish_reason"].tolist() == ["length"]


def test_a_client_may_give_up_in_the_queue_or_on_arrival() -> None:
    engine = replace(ENGINE, scheduler=replace(ENGINE.scheduler, max_num_seqs=1))
    record = simulated(workload([0, 0], [9, 9], cancel_after_ns=25), engine=engine)
    assert ns(record, "finished") == [30, 30]
    assert np.isnat(record.requests["first_scheduled"][1])
    at_once = simulated(workload([7], [9], cancel_after_ns=0))
    assert ns(at_once, "finished") == [7]
    assert at_once.num_steps == 0


def test_samples_that_end_in_one_step_are_one_request_to_the_router() -> None:
    asked = workload([0, 20, 20, 20], [1, 9, 9, 9], num_samples=3)
    record = simulated(asked, ClusterConfig(3, RouterKind.LEAST_OUTSTANDING))
    assert record.requests["replica"].tolist() == [0, 0, 1, 2]


def test_least_outstanding_counts_what_has_not_ended() -> None:
    record = simulated(
        workload([0, 1, 15, 16], [50, 1, 1, 1]), ClusterConfig(2, RouterKind.LEAST_OUTSTANDING)
    )
    assert record.requests["replica"].tolist() == [0, 1, 1, 0]


def test_sessions_stay_with_their_replica_under_prefix_affinity() -> None:
    turns = {2: Turn((0,), 5), 3: Turn((1,), 5)}
    asked = workload([0, 0, 0, 0], [3, 1, 1, 1], waits_for=turns, sessions=("a", "b", "a", "b"))
    record = simulated(asked, ClusterConfig(2, RouterKind.PREFIX_AFFINE))
    assert record.requests["replica"].tolist() == [0, 1, 0, 1]


def test_progress_is_told_at_the_end_and_not_for_every_request() -> None:
    calls: list[tuple[int, int, int]] = []
    run(workload(list(range(300))), ENGINE, COST, on_progress=lambda *call: calls.append(call))
    assert calls[-1][1:] == (300, 300)
    assert len(calls) < 30


def test_requests_that_wait_for_each_other_are_named_as_standing_still() -> None:
    asked = workload([0, 0, 0], waits_for={1: Turn((2,), 0), 2: Turn((1,), 0)})
    with pytest.raises(
        SimulationError, match=r"1 of 3 requests have ended, 0 stand still .*, 2 never arrived"
    ):
        simulated(asked)


EQUALS = SchedulerConfig(
    max_model_len=6, long_prefill_token_threshold=2, policy=PolicyKind.PRIORITY, full_sequence_gate=False
)
TIGHT = CacheConfig(num_blocks=3, block_size=2, enable_prefix_caching=False)
"""Three samples of a prompt of two tokens and four to come never end here: each preempts another."""


@pytest.mark.parametrize("is_async", [False, True])
def test_a_scheduler_that_goes_in_circles_ends_the_simulation_with_a_message(is_async: bool) -> None:
    engine = EngineConfig(TIGHT, replace(EQUALS, async_scheduling=is_async))
    asked = replace(workload([0], [4], num_samples=3), prompt_tokens=np.array([2], dtype=np.int64))
    with pytest.raises(SimulationError, match=r"replica 0 goes in circles: requests of equal priority"):
        simulated(asked, engine=engine)


def test_a_client_that_gives_up_opens_a_circle() -> None:
    asked = workload([0], [4], num_samples=3, cancel_after_ns=9000)
    asked = replace(asked, prompt_tokens=np.array([2], dtype=np.int64))
    record = simulated(asked, engine=EngineConfig(TIGHT, EQUALS))
    assert record.requests["finish_reason"].tolist() == ["abort"]


def test_blocks_that_are_held_at_the_end_are_an_error() -> None:
    cluster = Cluster(workload([0]), ENGINE, Physics(COST), ClusterConfig())
    cluster.run()
    pool = cluster.cores[0]._kv.pool
    assert isinstance(pool, BlockPool)
    pool.take(3)
    with pytest.raises((SimulationError, AssertionError)):
        cluster.check_ended()


def test_a_fleet_of_impossible_size_is_refused() -> None:
    with pytest.raises(ValueError, match="must be at least 1"):
        ClusterConfig(num_replicas=0)
    with pytest.raises(ValueError, match="not negative"):
        ClusterConfig(max_affinity_excess=-1)
