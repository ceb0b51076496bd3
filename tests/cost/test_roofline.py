"""The first step cost: physical, monotone, and exact over a horizon."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sim.config.catalog import load_gpu, load_model
from sim.core.request import Request, Sequence
from sim.core.step import ScheduledSequence, ScheduleKind, StepPlan
from sim.cost.roofline import RooflineCost

LLAMA = load_model("llama-3-8b")
A100 = load_gpu("a100-80gb-sxm")
COST = RooflineCost(LLAMA, A100)
SEQUENCE = Sequence(0, Request(0, 0, 1, 1), 0, max_known=2)
"""Costs look at what of a sequence is scheduled, not at the sequence."""

Chunk = tuple[int, int, bool]
"""Tokens computed now, tokens computed before, whether a token comes out."""


def plan(num_decodes: int, context: int, horizon: int = 1, chunks: tuple[Chunk, ...] = ()) -> StepPlan:
    """A plan as the cost model sees it."""
    rows = tuple(
        ScheduledSequence(SEQUENCE, count, computed, [], 0, ScheduleKind.RUNNING, yields)
        for count, computed, yields in chunks
    )
    return StepPlan(
        step=0,
        horizon=horizon,
        num_decode_seqs=num_decodes,
        decode_context_tokens=context,
        chunks=rows,
        preempted=(),
        num_running=num_decodes + len(chunks),
        rows=(),
        num_steady_seqs=num_decodes,
    )


def step_ns(num_decodes: int, context: int, chunks: tuple[Chunk, ...] = (), cost: RooflineCost = COST) -> int:
    """Duration of one step."""
    return cost.step_ends_ns(plan(num_decodes, context, 1, chunks))[0]


CHUNKS = st.lists(st.tuples(st.integers(1, 8192), st.integers(0, 100_000), st.booleans()), max_size=4)


@given(st.integers(1, 1024), st.integers(1, 4096), st.integers(1, 80), st.sampled_from([1, 2, 4, 8]))
def test_a_horizon_is_to_the_bit_its_steps_one_by_one(
    num_decodes: int, mean_context: int, horizon: int, tensor_parallel_size: int
) -> None:
    cost = RooflineCost(LLAMA, A100, tensor_parallel_size=tensor_parallel_size)
    context = num_decodes * mean_context
    ends = cost.step_ends_ns(plan(num_decodes, context, horizon))
    singly = [step_ns(num_decodes, context + i * num_decodes, cost=cost) for i in range(horizon)]
    assert all(type(end) is int for end in ends)
    assert np.diff(ends, prepend=0).tolist() == singly


def test_a_long_horizon_is_to_the_bit_its_steps_one_by_one() -> None:
    ends = COST.step_ends_ns(plan(7, 12_345, 5_000))
    singly = [step_ns(7, 12_345 + 7 * i) for i in range(5_000)]
    assert np.diff(ends, prepend=0).tolist() == singly


@given(st.integers(0, 512), st.integers(0, 10**6), CHUNKS, st.integers(1, 1000))
def test_more_context_never_takes_less_time(
    num_decodes: int, context: int, chunks: list[Chunk], more: int
) -> None:
    context += num_decodes
    before = step_ns(num_decodes, context, tuple(chunks))
    assert step_ns(num_decodes, context + more, tuple(chunks)) >= before
    longer = tuple((count, computed + more, yields) for count, computed, yields in chunks)
    assert step_ns(num_decodes, context, longer) >= before


@given(st.integers(0, 512), st.integers(0, 10**6), CHUNKS, st.integers(1, 1000))
def test_more_tokens_or_sequences_never_take_less_time(
    num_decodes: int, context: int, chunks: list[Chunk], more: int
) -> None:
    context += num_decodes
    before = step_ns(num_decodes, context, tuple(chunks))
    larger = tuple((count + more, computed, yields) for count, computed, yields in chunks)
    assert step_ns(num_decodes, context, larger) >= before
    assert step_ns(num_decodes, context, (*chunks, (more, 0, False))) >= before
    assert step_ns(num_decodes + more, context + more, tuple(chunks)) >= before


@given(st.integers(1, 100_000))
def test_a_chunk_of_one_token_costs_what_a_decode_costs(computed: int) -> None:
    chunk = step_ns(0, 0, ((1, computed, True),))
    assert chunk == pytest.approx(step_ns(1, computed + 1), abs=1)


def test_a_single_decode_is_bound_by_reading_the_weights() -> None:
    weights_bytes = LLAMA.weight_bytes - 2 * LLAMA.num_head_parameters  # the input embedding is not read
    floor_ns = weights_bytes / A100.achieved_bandwidth_bytes_per_s * 1e9
    assert step_ns(1, 1) == pytest.approx(floor_ns + A100.step_overhead_ns, rel=1e-3)


def test_a_long_prompt_is_bound_by_computing() -> None:
    flops = 2 * 8192 * LLAMA.num_hidden_layers * LLAMA.num_parameters_per_layer
    flops += 8192 * 8193 // 2 * LLAMA.attention_flops_per_token_pair
    floor_ns = flops / A100.achieved_flops_per_s * 1e9
    assert step_ns(0, 0, ((8192, 0, False),)) == pytest.approx(floor_ns + A100.step_overhead_ns, rel=1e-3)


def test_only_sampled_tokens_pay_for_the_output_projection() -> None:
    head_ns = 2 * LLAMA.num_head_parameters / A100.achieved_flops_per_s * 1e9
    samples, does_not = (step_ns(0, 0, ((4096, 0, yields),)) for yields in (True, False))
    assert samples - does_not == pytest.approx(head_ns, abs=1)


def test_each_token_of_context_costs_its_kv_bytes() -> None:
    kv_ns = LLAMA.kv_bytes_per_token / A100.achieved_bandwidth_bytes_per_s * 1e9
    assert step_ns(64, 164_000) - step_ns(64, 64_000) == pytest.approx(100_000 * kv_ns, abs=2)


def test_two_chunks_of_a_prompt_cost_about_what_the_whole_costs_plus_the_fixed_part() -> None:
    whole = step_ns(0, 0, ((8192, 0, True),))
    halves = step_ns(0, 0, ((4096, 0, False),)) + step_ns(0, 0, ((4096, 4096, True),))
    assert halves == pytest.approx(whole + A100.step_overhead_ns, rel=0.01)


def test_splitting_over_more_gpus_speeds_up_by_less_than_their_number() -> None:
    single = step_ns(0, 0, ((8192, 0, True),))
    for size in (2, 4, 8):
        split = step_ns(0, 0, ((8192, 0, True),), RooflineCost(LLAMA, A100, tensor_parallel_size=size))
        assert single / size < split < single


def test_gpus_without_a_link_pay_for_the_bus() -> None:
    pcie = load_gpu("a100-80gb-pcie")
    prompt = ((8192, 0, True),)
    on_bus, on_link = (RooflineCost(LLAMA, gpu, tensor_parallel_size=2) for gpu in (pcie, A100))
    assert step_ns(0, 0, prompt, on_bus) > step_ns(0, 0, prompt, on_link)
