"""What must hold of step times on any GPU, for any model, however it is split: more is never faster."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sim.config.catalog import load_gpu, load_model
from sim.cost.hardware import Gpu
from sim.cost.kernels import Batch, Fusion, KernelList, expected_experts
from sim.cost.model import BYTES_PER_WEIGHT, ModelShape
from sim.cost.step_time import KernelCost
from tests.cost.test_roofline import CHUNKS, Chunk, plan

LLAMA = load_model("llama-3-8b")
MODELS = {
    "dense": LLAMA,
    "experts": load_model("qwen3-30b-a3b"),
    "latent": load_model("deepseek-v3"),
    "learned positions": load_model("opt-13b"),
    "int4": replace(LLAMA, bytes_per_weight=0.53125),
}
GPUS = {name: load_gpu(name) for name in ("a100-80gb-sxm", "h100-sxm", "rtx-4090", "mi300x")}


def _cost(
    model: ModelShape, gpu: Gpu, fusion: Fusion, size: int, stages: int, *, overlaps: bool
) -> KernelCost:
    return KernelCost(
        model,
        gpu,
        tensor_parallel_size=size,
        pipeline_parallel_size=stages,
        fusion=fusion,
        overlaps_host=overlaps,
    )


COSTS = st.builds(
    _cost,
    st.sampled_from([*MODELS.values()]),
    st.sampled_from([*GPUS.values()]),
    st.sampled_from(Fusion),
    st.sampled_from([1, 4]),
    st.sampled_from([1, 4]),
    overlaps=st.booleans(),
)
SEQS, LENGTHS = st.integers(1, 512), st.integers(1, 32_768)


def step_ns(cost: KernelCost, num_decodes: int, context: int, chunks: tuple[Chunk, ...] = ()) -> int:
    """Duration of one step."""
    return cost.step_ends_ns(plan(num_decodes, context, 1, chunks))[0]


@given(COSTS, SEQS, LENGTHS, st.integers(1, 512))
def test_a_larger_batch_of_such_sequences_never_takes_less_time(
    cost: KernelCost, num_seqs: int, length: int, more: int
) -> None:
    larger = num_seqs + more
    assert step_ns(cost, larger, larger * length) >= step_ns(cost, num_seqs, num_seqs * length)


@given(COSTS, SEQS, LENGTHS, st.integers(1, 1_000_000))
def test_more_context_never_takes_less_time(cost: KernelCost, num_seqs: int, length: int, more: int) -> None:
    assert step_ns(cost, num_seqs, num_seqs * length + more) >= step_ns(cost, num_seqs, num_seqs * length)


@given(COSTS, st.integers(0, 256), CHUNKS.filter(len), st.integers(1, 4096))
def test_more_tokens_never_take_less_time(
    cost: KernelCost, num_seqs: int, chunks: list[Chunk], more: int
) -> None:
    before = step_ns(cost, num_seqs, num_seqs * 500, tuple(chunks))
    (count, computed, yields), *rest = chunks
    assert step_ns(cost, num_seqs, num_seqs * 500, ((count + more, computed, yields), *rest)) >= before
    assert step_ns(cost, num_seqs, num_seqs * 500, ((count, computed + more, yields), *rest)) >= before
    assert step_ns(cost, num_seqs, num_seqs * 500, (*chunks, (more, 0, False))) >= before


@given(
    st.sampled_from([*MODELS.values()]), st.sampled_from([*GPUS.values()]), st.sampled_from([1, 4]),
    st.integers(0, 256), CHUNKS,
)  # fmt: skip
def test_fused_kernels_never_take_longer_than_unfused_ones(
    model: ModelShape, gpu: Gpu, size: int, num_seqs: int, chunks: list[Chunk]
) -> None:
    if not num_seqs and not chunks:
        return
    none, fused, graph = (
        step_ns(_cost(model, gpu, fusion, size, 1, overlaps=False), num_seqs, num_seqs * 500, tuple(chunks))
        for fusion in Fusion
    )
    assert none >= fused >= graph


@given(COSTS, SEQS, LENGTHS, st.integers(2, 70))
def test_a_horizon_is_to_the_bit_its_steps_one_by_one(
    cost: KernelCost, num_seqs: int, length: int, horizon: int
) -> None:
    context = num_seqs * length
    ends = cost.step_ends_ns(plan(num_seqs, context, horizon))
    singly = [step_ns(cost, num_seqs, context + step * num_seqs) for step in range(horizon)]
    assert np.diff(ends, prepend=0).tolist() == singly


@pytest.mark.parametrize("name", MODELS)
@given(
    num_seqs=st.integers(1, 256),
    context=st.integers(0, 10**6),
    fusion=st.sampled_from(Fusion),
    size=st.sampled_from([1, 2, 8]),
)
def test_a_step_moves_at_least_the_weights_and_the_kv_that_it_touches(
    name: str, num_seqs: int, context: int, fusion: Fusion, size: int
) -> None:
    model, context = MODELS[name], context + num_seqs
    kernels = KernelList(model, fusion, size).of(Batch(num_seqs, context))
    moved = sum(float(kernel.num_bytes) * kernel.num_launches for kernel in kernels)
    assert moved >= weights_touched(model, num_seqs) / size + context * kv_bytes(model, size)


def weights_touched(model: ModelShape, num_tokens: int) -> float:
    """Matrices of the layers and the output projection; of experts, those that so many tokens visit."""
    small = 2 * model.hidden_size * model.num_hidden_layers * (1 + model.qkv_bias + model.qk_norm)
    layers = model.num_layers_parameters - small
    if model.num_experts:
        visited = float(expected_experts(num_tokens, model.num_experts, model.num_experts_per_tok))
        one = model.mlp_parameters(model.moe_intermediate_size) * model.num_expert_layers
        layers -= round((model.num_experts - visited) * one)
    return layers * model.bytes_per_weight + model.num_head_parameters * BYTES_PER_WEIGHT


def kv_bytes(model: ModelShape, size: int) -> float:
    """Of one token on one GPU."""
    return model.kv_bytes_per_token * model.kv_share(size)
