"""Kernel lists and the step times that follow: physical, monotone, exact over a horizon."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sim.config.catalog import load_gpu, load_model
from sim.cost.kernel_clock import block_copies_ns
from sim.cost.kernels import Batch, Fusion, KernelKind, KernelList, expected_experts
from sim.cost.model import ModelShape
from sim.cost.step_time import KernelCost
from tests.cost.test_roofline import CHUNKS, Chunk, plan

LLAMA = load_model("llama-3-8b")
EXPERTS = replace(LLAMA, num_experts=8, num_experts_per_tok=2, moe_intermediate_size=14336)
LATENT = replace(
    LLAMA, kv_lora_rank=512, q_lora_rank=1536, qk_nope_head_dim=128, qk_rope_head_dim=64, v_head_dim=128
)
A100 = load_gpu("a100-80gb-sxm")
COSTS = {fusion: KernelCost(LLAMA, A100, fusion=fusion) for fusion in Fusion}
FUSIONS = st.sampled_from(Fusion)


def step_ns(
    num_decodes: int, context: int, chunks: tuple[Chunk, ...] = (), fusion: Fusion = Fusion.GRAPH
) -> int:
    """Duration of one step."""
    return COSTS[fusion].step_ends_ns(plan(num_decodes, context, 1, chunks))[0]


@given(st.integers(1, 1024), st.integers(1, 4096), st.integers(1, 80), FUSIONS)
def test_a_horizon_is_to_the_bit_its_steps_one_by_one(
    num_decodes: int, mean_context: int, horizon: int, fusion: Fusion
) -> None:
    context = num_decodes * mean_context
    ends = COSTS[fusion].step_ends_ns(plan(num_decodes, context, horizon))
    singly = [step_ns(num_decodes, context + i * num_decodes, (), fusion) for i in range(horizon)]
    assert all(type(end) is int for end in ends)
    assert np.diff(ends, prepend=0).tolist() == singly


@given(st.integers(0, 512), st.integers(0, 10**6), CHUNKS, st.integers(1, 1000), FUSIONS)
def test_more_of_anything_never_takes_less_time(
    num_decodes: int, context: int, chunks: list[Chunk], more: int, fusion: Fusion
) -> None:
    context += num_decodes
    before = step_ns(num_decodes, context, tuple(chunks), fusion)
    later = tuple((count, computed + more, yields) for count, computed, yields in chunks)
    larger = tuple((count + more, computed, yields) for count, computed, yields in chunks)
    assert step_ns(num_decodes, context, later, fusion) >= before
    assert step_ns(num_decodes, context, larger, fusion) >= before
    assert step_ns(num_decodes, context, (*chunks, (more, 0, False)), fusion) >= before
    if num_decodes:
        assert step_ns(num_decodes, context + more, tuple(chunks), fusion) >= before


@given(st.integers(0, 512), st.integers(0, 10**6), CHUNKS)
def test_fusing_never_takes_longer(num_decodes: int, context: int, chunks: list[Chunk]) -> None:
    context += num_decodes
    none, fused, graph = (step_ns(num_decodes, context, tuple(chunks), fusion) for fusion in Fusion)
    assert none >= fused >= graph


@settings(max_examples=30)
@given(
    st.sampled_from([LLAMA, EXPERTS, LATENT]), st.integers(0, 64), st.integers(0, 10**5), CHUNKS, FUSIONS,
    st.sampled_from([1, 2, 8]), st.sampled_from([1, 3]), st.booleans(),
)  # fmt: skip
def test_the_fast_way_is_the_sum_of_the_printed_kernels(
    model: ModelShape,
    num_decodes: int,
    context: int,
    chunks: list[Chunk],
    fusion: Fusion,
    size: int,
    stages: int,
    packs: bool,
) -> None:
    if not num_decodes and not chunks:
        return
    cost = KernelCost(
        model, A100, tensor_parallel_size=size, pipeline_parallel_size=stages, fusion=fusion,
        packs_query_heads=packs,
    )  # fmt: skip
    step = plan(num_decodes, context + num_decodes if num_decodes else 0, 1, tuple(chunks))
    batch = Batch.of(step)
    overhead = cost.overhead_ns(num_decodes + len(chunks))
    expected = max(cost.device_ns(batch), cost.host_ns(batch)) + overhead
    assert cost.step_ends_ns(step)[0] == pytest.approx(expected, rel=1e-9, abs=0.51)  # whole nanoseconds


def test_time_per_kernel_of_the_host_is_a_figure_of_the_hardware_file() -> None:
    slow = replace(A100, eager_operation_ns=200_000, kernel_launch_ns=200_000, graph_node_ns=200_000)
    for fusion, usual in COSTS.items():
        assert KernelCost(LLAMA, slow, fusion=fusion).host_ns(Batch(1, 1)) > 9 * usual.host_ns(Batch(1, 1))
    a_sequence = replace(A100, seq_overhead_ns=0)
    saved = COSTS[Fusion.GRAPH].overhead_ns(64) - KernelCost(LLAMA, a_sequence).overhead_ns(64)
    assert saved == 64 * A100.seq_overhead_ns


def test_a_step_through_pipeline_stages_takes_their_sum_and_the_sends() -> None:
    batch = Batch(64, 64_000)
    whole, two, four = (KernelCost(LLAMA, A100, pipeline_parallel_size=p) for p in (1, 2, 4))
    send_ns = two.device_ns(batch) - whole.device_ns(batch)
    assert send_ns == pytest.approx(float(two._clock.curves.send_ns(2 * 64 * LLAMA.hidden_size * 2)))
    assert four.device_ns(batch) - whole.device_ns(batch) == pytest.approx(3 * send_ns)
    assert four.host_ns(Batch(1, 1)) < whole.host_ns(Batch(1, 1))


def test_the_slowest_stage_has_the_most_layers_or_the_output_projection() -> None:
    batch = Batch(64, 64_000)
    whole = KernelCost(LLAMA, A100)
    assert whole.slowest_stage_ns(batch) == pytest.approx(whole.device_ns(batch))
    times = [KernelCost(LLAMA, A100, pipeline_parallel_size=p).slowest_stage_ns(batch) for p in (1, 2, 4, 8)]
    assert times == sorted(times, reverse=True)
    assert times[3] > times[0] / 8


def test_a_kernel_that_packs_no_heads_reads_kv_once_for_each_query_head() -> None:
    batch, length = Batch(64, 64_000), 64_000
    packs, apart = (KernelList(LLAMA, Fusion.FUSED, packs_query_heads=packs) for packs in (True, False))
    read = [sum(k.bytes_read * k.num_launches for k in kernels.of(batch)) for kernels in (packs, apart)]
    assert read[1] - read[0] == pytest.approx(3 * length * LLAMA.kv_bytes_per_token)
    assert packs.kv_bytes_per_token == apart.kv_bytes_per_token


@given(st.integers(1, 256), st.integers(0, 10**5), FUSIONS)
def test_a_step_reads_at_least_the_weights_and_the_context(
    num_decodes: int, context: int, fusion: Fusion
) -> None:
    kernels = KernelList(LLAMA, fusion).of(Batch(num_decodes, context))
    read = sum(float(kernel.bytes_read) * kernel.num_launches for kernel in kernels)
    layers = LLAMA.num_hidden_layers * (LLAMA.num_parameters_per_layer - 2 * LLAMA.hidden_size)
    weights = 2 * (layers + LLAMA.num_head_parameters)
    assert read >= weights + context * LLAMA.kv_bytes_per_token


def test_fusing_replaces_many_launches_and_round_trips_by_one() -> None:
    names = {fusion: KernelList(LLAMA, fusion).per_token(1) for fusion in (Fusion.NONE, Fusion.FUSED)}
    rotary = [kernel for kernel in names[Fusion.NONE] if kernel.name.startswith(("rotary", "cache"))]
    fused = [kernel for kernel in names[Fusion.FUSED] if kernel.name.startswith(("rotary", "cache"))]
    assert (len(rotary), len(fused)) == (20, 1)
    assert sum(float(kernel.num_bytes) for kernel in rotary) > 4 * float(fused[0].num_bytes)


def test_a_plan_with_drafts_is_a_pass_over_all_its_tokens_that_samples_each() -> None:
    undrafted = plan(0, 0, 1, ((5, 100, True),))
    (row,) = undrafted.chunks
    drafted = undrafted._replace(chunks=(row._replace(num_draft_tokens=4),))
    assert Batch.of(drafted) == Batch(0, 0, ((5, 100, 5),))


def test_tokens_touch_more_experts_the_more_there_are_but_never_all() -> None:
    assert expected_experts(1, 8, 2) == pytest.approx(2)
    assert expected_experts(2, 8, 2) == pytest.approx(3.5)
    assert 7.99 < expected_experts(64, 8, 2) < 8


def test_experts_cost_little_more_memory_than_they_are_visited() -> None:
    dense, experts = (KernelCost(model, A100).step_ends_ns(plan(1, 100))[0] for model in (LLAMA, EXPERTS))
    assert 1.5 * dense < experts < 2 * dense


def test_splitting_over_gpus_pays_for_the_sums_between_them() -> None:
    single = KernelCost(LLAMA, A100).step_ends_ns(plan(0, 0, 1, ((8192, 0, True),)))[0]
    for size in (2, 4, 8):
        cost = KernelCost(LLAMA, A100, tensor_parallel_size=size)
        assert single / size < cost.step_ends_ns(plan(0, 0, 1, ((8192, 0, True),)))[0] < single
        kinds = [kernel.kind for kernel in cost.kernels.of(Batch(1, 1))]
        assert kinds.count(KernelKind.ALL_REDUCE) == 3


def test_smaller_weights_are_read_faster() -> None:
    times = [
        KernelCost(replace(LLAMA, bytes_per_weight=size), A100).step_ends_ns(plan(1, 1))[0]
        for size in (2, 1, 0.53125)
    ]
    assert times == sorted(times, reverse=True)
    assert times[0] > 1.5 * times[1]


def test_copies_within_the_device_read_and_write_each_byte() -> None:
    curves = KernelCost(LLAMA, A100)._clock.curves
    assert block_copies_ns(curves, 0, 1e6) == 0
    assert block_copies_ns(curves, 10, 1e8) > 2e9 / A100.memory_bandwidth_bytes_per_s * 1e9


def test_overheads_of_the_host_hide_behind_the_device_where_scheduling_overlaps() -> None:
    after, beside = (
        KernelCost(LLAMA, A100, overlaps_host=overlaps).step_ends_ns(plan(64, 64_000))[0]
        for overlaps in (False, True)
    )
    assert after - beside == pytest.approx(COSTS[Fusion.GRAPH].overhead_ns(64), abs=2)
