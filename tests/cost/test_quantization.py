"""Weights of 8 and 4 bits: the memory they take, and what a step gains."""

from __future__ import annotations

import pytest

from sim.config.catalog import load_gpu, load_model
from sim.core.step import StepPlan
from sim.cost.kernels import Fusion
from sim.cost.model import BYTES_PER_WEIGHT
from sim.cost.quantization import SPELLINGS, bytes_per_weight, quantized
from sim.cost.roofline import RooflineCost
from sim.cost.step_time import KernelCost

GIB = 2**30
H100, A100 = load_gpu("h100-sxm"), load_gpu("a100-80gb-sxm")
LLAMA = load_model("llama-3-8b")


@pytest.mark.parametrize(
    ("model", "name", "loaded_gib"),
    [
        # "Loading model weights took" of vLLM 0.6, Llama-3.1-70B-Instruct, --quantization fp8, one MI300X
        ("llama-3.1-70b", "fp8", 67.6979),
        # "Model loading took", Meta-Llama-3.1-70B-Instruct-AWQ-INT4 by awq_marlin
        ("llama-3.1-70b", "awq", 37.09),
        # "Loading model weights took", Meta-Llama-3.1-8B-Instruct-AWQ-INT4
        ("llama-3.1-8b", "awq", 5.3440),
        # the same, unquantised
        ("llama-3.1-8b", "none", 14.9595),
    ],
)
def test_weights_take_the_memory_that_vllm_reported(model: str, name: str, loaded_gib: float) -> None:
    held_gib = quantized(load_model(model), name).weight_bytes / GIB
    assert held_gib == pytest.approx(loaded_gib, rel=0.003)


def test_llama_3_70b_has_the_size_of_its_3_1_version() -> None:
    old, new = (quantized(load_model(name), "int4") for name in ("llama-3-70b", "llama-3.1-70b"))
    assert old.weight_bytes == new.weight_bytes


def test_int4_carries_a_scale_and_a_zero_point_for_each_group() -> None:
    assert bytes_per_weight("int4") == 0.5 + 2.5 / 128
    assert bytes_per_weight("int4", 32) == 0.5 + 2.5 / 32
    assert bytes_per_weight("awq") == bytes_per_weight("gptq") == bytes_per_weight("int4")


@pytest.mark.parametrize("name", SPELLINGS)
def test_embeddings_and_the_kv_cache_are_not_quantised(name: str) -> None:
    model = quantized(LLAMA, name)
    in_layers = round(LLAMA.num_layers_parameters * bytes_per_weight(name))
    outside = LLAMA.num_parameters - LLAMA.num_layers_parameters
    assert model.weight_bytes == in_layers + outside * BYTES_PER_WEIGHT
    assert model.kv_bytes_per_token == LLAMA.kv_bytes_per_token


def _step_ns(cost: RooflineCost | KernelCost, num_seqs: int = 8) -> int:
    plan = StepPlan(0, 1, num_seqs, num_seqs * 1000, (), (), num_seqs, (), num_seqs)
    return cost.step_ends_ns(plan)[0]


@pytest.mark.parametrize("kind", ["roofline", "kernels"])
def test_a_decode_step_shrinks_with_its_weights(kind: str) -> None:
    def step_ns(name: str) -> int:
        model = quantized(LLAMA, name)
        if kind == "roofline":
            return _step_ns(RooflineCost(model, A100))
        return _step_ns(KernelCost(model, A100, fusion=Fusion.GRAPH))

    none, fp8, int8, int4 = (step_ns(name) for name in ("none", "fp8", "int8", "int4"))
    assert none > fp8 == int8 > int4
    saved_bytes = LLAMA.weight_bytes - quantized(LLAMA, "int8").weight_bytes
    assert none - int8 == pytest.approx(saved_bytes / A100.achieved_bandwidth_bytes_per_s * 1e9, rel=0.1)


@pytest.mark.parametrize("kind", [RooflineCost, KernelCost])
def test_fp8_computes_at_the_8_bit_rate_where_there_is_one(kind: type[RooflineCost | KernelCost]) -> None:
    def gain(gpu_name: str, name: str) -> float:
        gpu = load_gpu(gpu_name)
        return _step_ns(kind(LLAMA, gpu), 4096) / _step_ns(kind(quantized(LLAMA, name), gpu), 4096)

    assert gain("h100-sxm", "fp8") > 1.1 * gain("h100-sxm", "int8")
    assert gain("a100-80gb-sxm", "fp8") == gain("a100-80gb-sxm", "int8")
