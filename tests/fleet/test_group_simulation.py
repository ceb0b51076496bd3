"""Whole simulations under the PagedAttention paper's scheduler: sharing, swap over a link, beams."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn

from sim.core.engine import EngineConfig
from sim.core.group import GroupSchedulerConfig, PreemptionMode
from sim.core.kv_cache import CacheConfig
from sim.cost.block_moves import BlockMoves
from sim.cost.host_traffic import HostTraffic
from sim.fleet.beam_search import BeamLaw
from sim.fleet.cluster import ClusterConfig, Physics
from sim.metrics.waste import slot_shares
from sim.record.run_record import RunRecord
from sim.simulation import run
from tests.strategies import CoarseCost, examples
from workloads.spec import Workload

MAX_MODEL_LEN = 44
COST = CoarseCost(3, 40)
MOVES = BlockMoves(100, 2, 5, 1e9, 1e10)


def engine(
    num_blocks: int, num_host_blocks: int, mode: PreemptionMode = PreemptionMode.SWAP, block_size: int = 4
) -> EngineConfig:
    cache = CacheConfig(num_blocks, block_size, enable_prefix_caching=False, has_null_block=False)
    scheduler = GroupSchedulerConfig(
        MAX_MODEL_LEN, max_num_seqs=12, num_host_blocks=num_host_blocks, preemption=mode
    )
    return EngineConfig(cache, scheduler)


def workload(num_requests: int, prompt: int, output: int, **kinds: int) -> Workload:
    return Workload(
        name="test",
        arrival_ns=np.zeros(num_requests, dtype=np.int64),
        prompt_tokens=np.full(num_requests, prompt),
        output_tokens=np.full(num_requests, output),
        **kinds,  # type: ignore[arg-type]
    )


def simulate(
    asked: Workload, settings: EngineConfig, *, overlaps: bool = False, fleet: ClusterConfig | None = None
) -> RunRecord:
    traffic = HostTraffic(MOVES, overlaps=overlaps, replicas_per_link=2)
    beams = BeamLaw(0.3) if asked.beam_width else None
    return run(asked, settings, Physics(COST, traffic, beams), fleet)


@st.composite
def group_cases(draw: DrawFn) -> tuple[Workload, EngineConfig, ClusterConfig]:
    count = draw(st.integers(1, 9))

    def column(most: int) -> np.ndarray:
        return np.array(draw(st.lists(st.integers(1, most), min_size=count, max_size=count)))

    beams = draw(st.booleans())
    width = draw(st.integers(1, 4))
    asked = Workload(
        name="random",
        arrival_ns=np.sort(column(400)),
        prompt_tokens=column(20),
        output_tokens=column(24),
        num_samples=1 if beams else width,
        beam_width=width if beams else 0,
        cancel_after_ns=draw(st.none() | st.integers(1, 900)),
    )
    block_size = draw(st.sampled_from([1, 2, 4, 8]))
    settings = engine(
        draw(st.integers(60 // block_size, 200 // block_size)),
        draw(st.integers(0, 60)),
        draw(st.sampled_from(PreemptionMode)),
        block_size,
    )
    return asked, settings, ClusterConfig(draw(st.sampled_from([1, 1, 2, 3])))


@examples(150)
@given(group_cases(), st.booleans())
def test_every_request_gets_what_it_asked_for_and_nothing_is_kept(
    case: tuple[Workload, EngineConfig, ClusterConfig], overlaps: bool
) -> None:
    asked, settings, fleet = case
    record = simulate(asked, settings, overlaps=overlaps, fleet=fleet)
    width = asked.beam_width or asked.num_samples
    reasons = record.requests["finish_reason"]
    lengths = np.minimum(asked.output_tokens, MAX_MODEL_LEN - asked.prompt_tokens)
    full = np.isin(reasons, ["length", "length_capped"])
    assert (record.requests["output_tokens"][full] == (lengths * width)[full]).all()
    assert np.isin(reasons, ["length", "length_capped", "abort", "rejected"]).all()
    if asked.cancel_after_ns is None:
        assert not (reasons == "abort").any()
    slot_shares(record)
    counters = record.counters
    if asked.cancel_after_ns is None:
        assert counters["blocks_swapped_in"] == counters["blocks_swapped_out"]


@examples(60)
@given(group_cases())
def test_the_same_case_gives_the_same_run(case: tuple[Workload, EngineConfig, ClusterConfig]) -> None:
    one, other = (simulate(case[0], case[1], fleet=case[2]) for _ in range(2))
    for name in one.steps:
        np.testing.assert_array_equal(one.steps[name], other.steps[name])
    np.testing.assert_array_equal(one.token_times, other.token_times)


def test_a_swap_blocks_the_step_or_overlaps_with_it() -> None:
    asked = workload(6, 12, 20, num_samples=2)
    blocking = simulate(asked, engine(24, 60))
    overlapping = simulate(asked, engine(24, 60), overlaps=True)
    free = run(asked, engine(24, 60), Physics(COST))
    assert blocking.counters["blocks_swapped_out"] > 0
    spans = [int(record.steps["end"].max().astype(int)) for record in (free, overlapping, blocking)]
    assert spans[0] <= spans[1] < spans[2]
    moved = blocking.steps["num_swapped_out_blocks"] + blocking.steps["num_swapped_in_blocks"]
    expected = sum(MOVES.host_ns(int(count)) for count in moved if count)
    assert spans[2] - spans[0] == expected, "decisions are the same, each transfer takes its time"


def test_replicas_that_share_a_link_wait_for_each_other() -> None:
    asked = workload(12, 12, 20, num_samples=2)
    traffic = [HostTraffic(MOVES, replicas_per_link=count) for count in (1, 2)]
    apart, together = (run(asked, engine(24, 60), Physics(COST, how), ClusterConfig(2)) for how in traffic)
    assert apart.counters["blocks_swapped_out"] == together.counters["blocks_swapped_out"] > 0
    assert together.steps["end"].max() > apart.steps["end"].max()


@pytest.mark.parametrize(("latency_ns", "swaps"), [(0, True), (10**6, False)])
def test_auto_takes_what_is_cheaper(latency_ns: int, swaps: bool) -> None:
    moves = replace(MOVES, copy_latency_ns=latency_ns, host_bandwidth_bytes_per_s=1e12)
    asked = workload(6, 12, 20, num_samples=2)
    record = run(asked, engine(24, 60, PreemptionMode.AUTO), Physics(COST, HostTraffic(moves)))
    assert record.counters["preemptions"] > 0
    assert (record.counters["blocks_swapped_out"] > 0) is swaps
    assert (record.counters["recomputed_tokens"] > 0) is not swaps


def test_beams_share_more_than_samples_do() -> None:
    sampled = simulate(workload(1, 12, 20, num_samples=4), engine(60, 0))
    searched = simulate(workload(1, 12, 20, beam_width=4), engine(60, 0))
    assert int(searched.requests["output_tokens"][0]) == 80
    assert searched.steps["used_blocks"].sum() < sampled.steps["used_blocks"].sum()
    assert searched.counters["blocks_copied"] > sampled.counters["blocks_copied"]
