"""Weights of 8 and 4 bits: the memory they take, and what a step gains."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from sim.config import load_experiment
from sim.config.catalog import load_gpu, load_model
from sim.core.step import StepPlan
from sim.cost.curve_parameters import GemmCurve, Spread
from sim.cost.fitting import fit
from sim.cost.kernels import Batch, Fusion, KernelKind
from sim.cost.measured_tables import TableKind, read_table
from sim.cost.model import BYTES_PER_WEIGHT
from sim.cost.quantization import SPELLINGS, bytes_per_weight, quantized
from sim.cost.roofline import RooflineCost
from sim.cost.spread import moved_curves, range_of
from sim.cost.step_time import KernelCost
from sim.errors import ConfigError
from sim.metrics.basis import Part
from sim.recording import basis_of_run
from tests.command_line import EXPERIMENT

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


def test_on_an_h100_a_spread_belongs_to_the_number_type_that_was_measured(tmp_path: Path) -> None:
    def parts(*overrides: str) -> dict[str, Part]:
        config = tmp_path / "tiny.yaml"
        config.write_text(EXPERIMENT.replace("a100-80gb-sxm", "h100-sxm"))
        return {part.name: part for part in basis_of_run(load_experiment(config, overrides)).parts}

    known = {name for name, part in parts().items() if part.longer_fraction is not None}
    assert known == {"gemm", "decode_attention", "prefill_attention"}
    fp8 = parts("engine.quantization=fp8")
    assert fp8["fp8_gemm"].longer_fraction is None
    assert "not measured in 8 bits: scaled" in fp8["fp8_gemm"].rests_on
    assert fp8["gemm"].longer_fraction is not None, "the output projection stays in 16 bits"
    assert "scaled" in parts("engine.quantization=int4")["narrow_gemm"].rests_on
    for name in ("decode_attention", "prefill_attention"):
        assert "KV cache in 16 bits: scaled" in parts("engine.kv_cache_dtype=fp8")[name].rests_on
    for overrides in ((), ("engine.quantization=fp8",), ("engine.quantization=int4",)):
        assert not [part for part in parts(*overrides).values() if "H100" in part.rests_on]


@pytest.mark.parametrize("slower", [False, True])
def test_a_spread_of_16_bits_moves_no_product_of_another_type(slower: bool) -> None:
    moved = replace(H100, curves=moved_curves(H100.curves, slower=slower))
    for name, ratio in (("none", None), ("fp8", 1.0), ("int4", 1.0)):
        model = quantized(LLAMA, name)
        times = [products_ns(KernelCost(model, gpu)) for gpu in (H100, moved)]
        gemm = H100.curves.gemm
        assert gemm is not None
        assert gemm.spread is not None
        expected = range_of(gemm.spread)[slower] if ratio is None else ratio
        assert times[1] / times[0] == pytest.approx(expected)


def products_ns(cost: KernelCost) -> float:
    """Of the layers' products."""
    timed = cost.timed_kernels(Batch(64, 64_000))
    return sum(ns for kernel, ns in timed if kernel.kind is KernelKind.PRODUCT and kernel.quantised)


def test_products_measured_in_8_bits_have_a_curve_of_their_own() -> None:
    curve = GemmCurve(5_000, 0.6, 0.7, 1.0, 3.0, spread=Spread(0.05, 0.1, 100, "mine"))
    gpu = replace(H100, curves=replace(H100.curves, fp8_gemm=curve))
    fp8, plain = quantized(LLAMA, "fp8"), LLAMA
    assert products_ns(KernelCost(fp8, gpu)) > 1.1 * products_ns(KernelCost(fp8, H100))
    assert products_ns(KernelCost(plain, gpu)) == products_ns(KernelCost(plain, H100))


def test_a_table_in_8_bits_is_fitted_as_such_and_one_of_two_types_is_refused(tmp_path: Path) -> None:
    rows = [
        f"{m},{n},{k},fp8,{1e3 * (2 * m * n * k / 1.2e15 + n * k / 2.5e12 + 4e-6)}"
        for m in (1, 16, 256, 4096) for n in (1024, 4096, 8192) for k in (1024, 4096, 8192)
    ]  # fmt: skip
    path = tmp_path / "fp8.csv"
    path.write_text("\n".join(["m,n,k,dtype,latency_ms", *rows]) + "\n")
    table = read_table(path)
    assert table.kind is TableKind.FP8_GEMM
    assert fit(table, H100).compute_fraction == pytest.approx(1.2e15 / 1.978e15, rel=0.1)
    with pytest.raises(ValueError, match="no fp8_compute"):
        fit(table, A100)
    path.write_text("\n".join(["m,n,k,dtype,latency_ms", rows[0], rows[1].replace("fp8", "bf16")]) + "\n")
    with pytest.raises(ConfigError, match=r"fp8\.csv:3.*another number type"):
        read_table(path)
