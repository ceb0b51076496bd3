"""`pagecast fit --from` and `pagecast tables`: other projects' measurements make a hardware file."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from sim.config.catalog import load_gpu, load_model
from sim.cost.fitting import predict_ns
from sim.cost.kernel_clock import KernelClock
from sim.cost.kernels import KernelList
from sim.cost.measured_tables import KernelTable, TableKind
from sim.cost.quantization import quantized
from sim.tables import aiconfigurator
from sim.tables import wheel as wheel_files
from tests.command_line import EXPERIMENT, pagecast, refused
from tests.tables import wheel
from tests.tables.wheel import TRUTH, StandIn, write_wheel

FIT = ("fit", "--from", "aiconfigurator", "wheel", "--system", "l40s", "--version", "0.24.0")
OUT = ("--out", "my.yaml")


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder to work in, with a small wheel unpacked in it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(aiconfigurator, "parquet_reader", lambda: StandIn)
    monkeypatch.setattr(wheel_files, "parquet_reader", lambda: StandIn)
    write_wheel(Path("wheel"))


def test_the_file_is_a_whole_gpu_with_the_curves_that_made_the_tables() -> None:
    pagecast(*FIT, *OUT)
    gpu, base = load_gpu("my.yaml"), load_gpu("l40s")
    curves = gpu.curves
    assert curves.gemm is not None
    assert curves.fp8_gemm is not None
    assert curves.decode_attention is not None
    assert curves.prefill_attention is not None
    assert curves.all_reduce is not None
    assert curves.gemm.compute_fraction == pytest.approx(TRUTH.gemm.compute_fraction, rel=0.02)
    assert curves.fp8_gemm.compute_fraction == pytest.approx(0.4, rel=0.02)
    assert curves.decode_attention.bandwidth_fraction == pytest.approx(0.7, rel=0.02)
    assert curves.prefill_attention.compute_fraction == pytest.approx(0.5, rel=0.02)
    assert dict(curves.all_reduce.link_fractions)[8] == pytest.approx(0.063, rel=0.05)
    assert curves.gemm.spread is not None
    assert curves.gemm.spread.domain.startswith("aiconfigurator l40s gemm bfloat16, vllm 0.24.0: n, k from")
    assert gpu.memory_bytes == base.memory_bytes
    assert gpu.name == "l40s-vllm-0.24.0"


def test_what_was_not_measured_keeps_its_own_source() -> None:
    pagecast(*FIT, *OUT)
    figures = {figure.name: figure for figure in load_gpu("my.yaml").figures}
    for figure in load_gpu("l40s").figures:
        if not figure.name.startswith("curves."):
            assert figures[figure.name] == figure


def test_what_was_measured_and_has_no_curve_is_told() -> None:
    told = pagecast(*FIT, *OUT).stderr
    assert "gemm, " in told
    assert "MAPE 0.0 %" in told
    assert "left out: moe: the cost model has no curve for it" in told
    assert "left out: products: no curve for nvfp4 36 rows" in told


def test_a_simulation_runs_on_it() -> None:
    pagecast(*FIT, *OUT)
    Path("e.yaml").write_text(EXPERIMENT.replace("a100-80gb-sxm", "./my.yaml"))
    printed = pagecast("simulate", "e.yaml", "--no-plots", "--quiet", "--out", "run").stdout
    assert "aiconfigurator" in printed
    assert "fp8_gemm" not in printed, "a model in 16 bits does not rest on it"
    printed = pagecast(
        "simulate", "e.yaml", "--no-plots", "--quiet", "--set", "engine.quantization=fp8"
    ).stdout
    assert "fp8_gemm" in printed


def test_quantised_weights_are_priced_by_their_own_curve() -> None:
    pagecast(*FIT, *OUT)
    gpu, model = load_gpu("my.yaml"), load_model("llama-3-8b")
    fp8 = quantized(model, "fp8")
    assert gpu.curves.fp8_gemm is not None
    slower = replace(gpu.curves.fp8_gemm, floor_ns=1e6)
    moved = replace(gpu, curves=replace(gpu.curves, fp8_gemm=slower))
    for shape, is_slower in ((model, False), (fp8, True)):
        kernels = KernelList(shape)
        times = [float(KernelClock.of(kernels, one).total_ns(kernels.per_token(64))) for one in (gpu, moved)]
        assert (times[1] > 10 * times[0]) == is_slower


def test_a_refused_form_is_left_to_the_base_and_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = wheel.sums()
    slower = np.where(np.arange(len(rows["latency"])) % 2 == 0, 5.0, 0.2)
    rows["latency"] = (np.array(rows["latency"]) * slower).tolist()
    monkeypatch.setattr(wheel, "sums", lambda: rows)
    write_wheel(Path("wheel"))
    told = pagecast(*FIT, *OUT).stderr
    assert "refused all_reduce: the form of all_reduce does not fit" in told
    assert "an H100's is taken over" in told
    assert Path("my-all_reduce-residuals.png").stat().st_size > 5_000
    assert load_gpu("my.yaml").curves.all_reduce is None
    assert "# Refused, so not from these measurements: all_reduce." in Path("my.yaml").read_text()


def test_the_report_draws_every_curve() -> None:
    pagecast(*FIT, *OUT, "--report", "fits.png")
    assert {path.name for path in Path().glob("fits.*")} == {"fits.png", "fits.svg"}
    assert Path("fits.png").stat().st_size > 50_000


def test_a_gpu_without_a_file_takes_its_rates_from_the_wheel(monkeypatch: pytest.MonkeyPatch) -> None:
    Path("wheel/systems/data/l40s").rename("wheel/systems/data/gb200")
    Path("wheel/systems/gb200.yaml").write_text(
        "gpu: {mem_bw: 8000000000000, mem_capacity: 198674743296, bfloat16_tc_flops: 2500000000000000}\n"
        "node: {pcie_bw: 64000000000, intra_node_bw: 900000000000}\n"
    )
    result = pagecast(*(part.replace("l40s", "gb200") for part in FIT), *OUT)
    gpu = load_gpu("my.yaml")
    assert (gpu.memory_bytes, gpu.memory_bandwidth_bytes_per_s) == (198674743296, 8e12)
    assert "gb200" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (FIT[:-2], "--version: say which; `pagecast tables` lists what is there"),
        (("fit", "--from", "nobody"), "'nobody' is not aiconfigurator, llmservingsim or vidur"),
        (("fit", "--from", "vidur"), "FOLDER: say where the profiles of vidur lie"),
        (("fit", "--from", "vidur", "wheel"), "--base: say which GPU was measured"),
        (("fit", "--from", "vidur", "wheel", "--base", "l40"), "'l40' is not in the catalogue"),
        ((*FIT, "--collectives", "mpi"), "--collectives: 'mpi' is not custom or nccl"),
        (("fit", "--from", "vidur", "nowhere", "--base", "l40s"), "nowhere: is no folder"),
    ],
)
def test_what_is_missing_is_told_and_nothing_is_written(arguments: tuple[str, ...], message: str) -> None:
    assert message in refused(*arguments, *OUT)


def test_a_table_without_a_gpu_is_refused() -> None:
    assert "say what was measured" in pagecast("fit", "some.csv", *OUT, code=2).stderr


def test_the_list_names_systems_versions_operators_and_rows() -> None:
    printed = pagecast("tables", "wheel").stdout
    assert "--system l40s --backend vllm --version 0.24.0" in printed
    assert "gemm/gemm" in printed
    assert "108 rows" in printed
    assert "there are none of h100_sxm" in refused("tables", "wheel", "--system", "h100_sxm")
    assert "has no folder systems/data" in refused("tables", ".")


def write_profile(folder: Path) -> None:
    """Of an RTX 4090 by LLMServingSim's form: products of a known curve, and too little attention to fit."""
    gpu, truth = load_gpu("rtx-4090"), replace(TRUTH.gemm, bandwidth_fraction=0.9, compute_fraction=0.95)
    sizes = {"qkv_proj": (6144, 4096), "o_proj": (4096, 4096), "down_proj": (4096, 14336)}
    rows = ["layer,tokens,time_us"]
    for layer, (n, k) in sizes.items():
        m = 2.0 ** np.arange(12)
        columns = {"m": m, "n": np.full(12, float(n)), "k": np.full(12, float(k))}
        table = KernelTable(TableKind.GEMM, "made", columns, np.ones(12))
        times_us = predict_ns(table, gpu, truth) / 1e3
        rows += [f"{layer},{tokens:.0f},{time}" for tokens, time in zip(m, times_us, strict=True)]
    (folder / "tp1").mkdir(parents=True)
    (folder / "tp1" / "dense.csv").write_text("\n".join(rows))
    (folder / "tp1" / "per_sequence.csv").write_text("layer,sequences,time_us\n")
    (folder / "tp1" / "attention.csv").write_text(
        "prefill_chunk,kv_prefill,n_decode,kv_decode,time_us\n0,0,4,512,31.1\n"
    )
    (folder / "meta.yaml").write_text(
        "{gpu: RTX 4090, model: meta-llama/Llama-3.1-8B, vllm_version: 0.19.0, engine_effective: {}}"
    )


def test_a_layer_profile_makes_a_file_of_the_gpu_that_is_named() -> None:
    write_profile(Path("profile"))
    told = pagecast("fit", "--from", "llmservingsim", "profile", "--base", "rtx-4090", *OUT).stderr
    gpu = load_gpu("my.yaml")
    assert gpu.curves.gemm is not None
    assert gpu.curves.gemm.bandwidth_fraction == pytest.approx(0.9, rel=0.02)
    assert gpu.curves.gemm.compute_fraction == pytest.approx(0.95, rel=0.02)
    assert "refused decode_attention: 1 points of all sizes; a fit takes 20" in told
    assert gpu.name == "rtx-4090-llmservingsim"
