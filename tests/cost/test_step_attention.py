"""Prices against physics: chunks of few tokens read each context once, and no length is a step."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sim.config.catalog import hardware_names, load_attention, load_gpu, load_model
from sim.cost.curves import AttentionShape, DeviceCurves
from sim.cost.hardware import Gpu
from sim.cost.kernels import Fusion, KernelList
from sim.cost.model import ModelShape
from sim.cost.roofline import RooflineCost
from sim.cost.step_attention import FEW_ROWS, MANY_ROWS
from sim.cost.step_time import KernelCost
from tests.cost.test_roofline import CHUNKS, Chunk, plan

H100, A100 = load_gpu("h100-sxm"), load_gpu("a100-80gb-sxm")
LLAMA = load_model("llama-3-8b")
CURVES = DeviceCurves.of(H100)
SHAPE = AttentionShape.of_heads(32, 8, 128)
SHAPES = st.builds(
    AttentionShape.of_heads,
    st.sampled_from([8, 32, 64]),
    st.sampled_from([1, 2, 8]),
    st.sampled_from([64, 128]),
)
LATENT = KernelList(load_model("deepseek-v3"), Fusion.GRAPH).attention
NEW, COMPUTED = st.integers(1, 20_000), st.integers(0, 200_000)
PARTS = st.lists(st.tuples(NEW, COMPUTED), min_size=1, max_size=5)


def step_ns(cost: KernelCost | RooflineCost, num_decodes: int, context: int, *chunks: Chunk) -> int:
    """Duration of one step."""
    return cost.step_ends_ns(plan(num_decodes, context, 1, chunks))[0]


def verify_ns(cost: KernelCost | RooflineCost, num_seqs: int, context: int, num_drafts: int) -> int:
    """A step in which each of these sequences verifies drafts, after a context of its own."""
    step = plan(0, 0, 1, ((1 + num_drafts, context, True),) * num_seqs)
    chunks = tuple(row._replace(num_draft_tokens=num_drafts) for row in step.chunks)
    return cost.step_ends_ns(step._replace(chunks=chunks, rows=chunks))[0]


@pytest.mark.parametrize("gpu", [H100, A100, load_gpu("rtx-4090")], ids=lambda gpu: gpu.name)
@pytest.mark.parametrize("fusion", [Fusion.FUSED, Fusion.GRAPH])
@pytest.mark.parametrize(("num_seqs", "context"), [(1, 8_000), (8, 32_000), (16, 2_000), (24, 8_000)])
def test_verifying_four_drafts_of_a_batch_bound_by_memory_is_hardly_more_than_a_decode(
    gpu: Gpu, fusion: Fusion, num_seqs: int, context: int
) -> None:
    cost = KernelCost(LLAMA, gpu, fusion=fusion)
    decode = step_ns(cost, num_seqs, num_seqs * (context + 1))
    times = [decode, *(verify_ns(cost, num_seqs, context, drafts) for drafts in range(1, 9))]
    assert times[4] <= 1.25 * decode
    assert all(later > before for before, later in pairwise(times)), "more drafts take longer"


@pytest.mark.parametrize(("model", "size"), [("llama-3-8b", 1), ("llama-3-70b", 4), ("llama-3-70b", 8)])
def test_two_tokens_of_each_of_32_sequences_are_no_second_decode(model: str, size: int) -> None:
    cost = KernelCost(load_model(model), H100, tensor_parallel_size=size)
    for context in (100, 1_000, 10_000):
        decode = step_ns(cost, 32, 32 * (context + 1))
        assert decode < verify_ns(cost, 32, context, 1) < 1.1 * decode
        if size < 8:  # sums of 160 tokens over eight GPUs are bound by their links
            assert verify_ns(cost, 32, context, 4) < 1.25 * decode


def test_attention_of_150_sequences_is_read_once_however_few_rows_look_at_it() -> None:
    step = CURVES.step_attention(SHAPE)
    decode = step.ns(150, 150 * 1_001, ())
    assert step.ns(0, 0, [(2, 1_000)] * 150) < 1.02 * decode
    assert step.ns(0, 0, [(5, 1_000)] * 150) < 1.05 * decode


def test_a_chunk_of_sixteen_tokens_behind_eight_thousand_is_one_pass_over_them() -> None:
    step = CURVES.step_attention(SHAPE)
    for computed in (8_000, 32_000, 128_000):
        assert step.ns(0, 0, [(16, computed)]) < 1.2 * step.ns(1, computed + 1, ())


@given(st.sampled_from([SHAPE, LATENT]), st.integers(1, 400), st.integers(0, 100_000))
def test_chunks_of_one_token_are_decodes(shape: AttentionShape, num_seqs: int, computed: int) -> None:
    step, context = CURVES.step_attention(shape), num_seqs * (computed + 1)
    base, slope = CURVES.decode_attention_line(num_seqs, shape)
    assert step.ns(0, 0, [(1, computed)] * num_seqs) == pytest.approx(base + slope * context)
    decodes = num_seqs // 2
    mixed = step.ns(decodes, decodes * (computed + 1), [(1, computed)] * (num_seqs - decodes))
    assert mixed == pytest.approx(base + slope * context)


@pytest.mark.parametrize("model", [LLAMA, load_model("qwen3-30b-a3b"), load_model("deepseek-v3")])
@pytest.mark.parametrize("fusion", [Fusion.FUSED, Fusion.GRAPH])
@given(num_seqs=st.integers(1, 256), computed=st.integers(0, 30_000))
def test_a_step_of_one_token_chunks_is_a_decode_step(
    model: ModelShape, fusion: Fusion, num_seqs: int, computed: int
) -> None:
    cost = KernelCost(model, H100, fusion=fusion)
    chunks: tuple[Chunk, ...] = ((1, computed, True),) * num_seqs
    decode = step_ns(cost, num_seqs, num_seqs * (computed + 1))
    assert step_ns(cost, 0, 0, *chunks) == pytest.approx(decode, abs=1)
    if num_seqs > 1:
        mixed = step_ns(cost, num_seqs - 1, (num_seqs - 1) * (computed + 1), *chunks[:1])
        second_kernel = H100.graph_node_ns if fusion is Fusion.GRAPH else H100.kernel_launch_ns
        assert decode - 1 <= mixed <= decode + model.num_hidden_layers * second_kernel + 1


@given(SHAPES, st.integers(1, 2_000), st.integers(0, 100_000), st.integers(0, 200))
def test_no_length_of_a_chunk_is_a_step(
    shape: AttentionShape, new: int, computed: int, num_decodes: int
) -> None:
    """One token more takes its share of the work more, and of becoming a prompt."""
    step, context = CURVES.step_attention(shape), num_decodes * 1_000
    before, after = (step.ns(num_decodes, context, [(count, computed)]) for count in (new, new + 1))
    whole = step.ns(0, 0, [(MANY_ROWS, computed)])
    assert before <= after <= before * (1 + 1.5 / new) + whole / (MANY_ROWS - FEW_ROWS)


@given(
    st.sampled_from([SHAPE, LATENT]), st.integers(0, 300), st.integers(0, 10**6), PARTS, st.integers(1, 500)
)
def test_more_of_anything_never_takes_less_time(
    shape: AttentionShape, num_decodes: int, context: int, parts: list[tuple[int, int]], more: int
) -> None:
    step, context = CURVES.step_attention(shape), (context + 1) * bool(num_decodes)
    before = step.ns(num_decodes, context, parts) * (1 - 1e-12)
    (new, computed), *rest = parts
    assert step.ns(num_decodes, context, [(new + more, computed), *rest]) >= before
    assert step.ns(num_decodes, context, [(new, computed + more), *rest]) >= before
    assert step.ns(num_decodes, context, [*parts, (more, 0)]) >= before
    if num_decodes:
        assert step.ns(num_decodes, context + more, parts) >= before


@given(
    st.floats(0, 20_000), st.floats(0.05, 1), st.floats(0, 500), st.floats(0, 50), st.floats(0, 20), PARTS,
    st.integers(1, 300),
)  # fmt: skip
def test_whatever_curves_somebody_fitted_more_never_takes_less_time(
    floor: float, fraction: float, edge: float, serial: float, passes: float,
    parts: list[tuple[int, int]], more: int,
) -> None:  # fmt: skip
    prompt = replace(
        CURVES.parameters.prefill_attention, floor_ns=floor, compute_fraction=fraction, edge_tokens=edge,
        serial_ns_per_token=serial, kv_passes=passes,
    )  # fmt: skip
    curves = replace(CURVES, parameters=replace(CURVES.parameters, prefill_attention=prompt))
    step = curves.step_attention(SHAPE)
    before = step.ns(20, 20_000, parts) * (1 - 1e-12)
    (new, computed), *rest = parts
    assert step.ns(20, 20_000, [(new + more, computed), *rest]) >= before
    assert step.ns(20, 20_000, [(new, computed + more), *rest]) >= before


@pytest.mark.parametrize("name", hardware_names())
@given(shape=SHAPES, num_decodes=st.integers(0, 64), parts=PARTS)
def test_attention_takes_at_least_its_bytes_and_its_flops(
    name: str, shape: AttentionShape, num_decodes: int, parts: list[tuple[int, int]]
) -> None:
    gpu, context = load_gpu(name), 700 * num_decodes
    time = DeviceCurves.of(gpu).step_attention(shape).ns(num_decodes, context, parts)
    pairs = context + sum(new * computed + new * (new + 1) / 2 for new, computed in parts)
    num_bytes = (context + sum(new + computed for new, computed in parts)) * shape.kv_bytes_per_token
    assert time >= num_bytes / gpu.memory_bandwidth_bytes_per_s * 1e9
    assert time >= pairs * shape.flops_per_pair / gpu.compute_flops_per_s * 1e9


@given(SHAPES, NEW, COMPUTED, st.integers(1, 64))
def test_the_curve_of_equal_chunks_is_the_price_of_a_step(
    shape: AttentionShape, new: int, computed: int, count: int
) -> None:
    curve = float(CURVES.prefill_attention_ns(new, computed, shape, num_chunks=count))
    assert CURVES.step_attention(shape).ns(0, 0, [(new, computed)] * count) == pytest.approx(curve)
    sizes = np.array([new, new + 1])
    assert CURVES.prefill_attention_ns(sizes, computed, shape, num_chunks=count)[0] == pytest.approx(curve)


@given(st.integers(0, 256), st.integers(0, 10**6), CHUNKS)
def test_by_one_roofline_too_a_chunk_of_one_token_is_a_decode(
    num_decodes: int, context: int, chunks: list[Chunk]
) -> None:
    cost, context = (
        RooflineCost(LLAMA, H100, block_size=1, attention=load_attention("paged_attention")),
        context + num_decodes,
    )
    chunk = step_ns(cost, num_decodes, context, *chunks, (1, 999, True))
    assert chunk == pytest.approx(step_ns(cost, num_decodes + 1, context + 1_000, *chunks), abs=1)
