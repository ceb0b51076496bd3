"""The catalogue, and files of one's own in its form."""

from __future__ import annotations

from pathlib import Path

import pytest

from sim.config.catalog import hardware_names, load_gpu, load_model, model_names
from sim.config.hardware import HardwareFile
from sim.cost.hardware import Source
from sim.errors import ConfigError

CATALOG = Path(__file__).resolve().parents[2] / "sim" / "catalog"


@pytest.mark.parametrize("name", hardware_names())
def test_every_gpu_of_the_catalogue_loads_with_a_source_for_each_figure(name: str) -> None:
    gpu = load_gpu(name)
    assert gpu.name == name
    assert len(gpu.figures) >= 9
    assert all(isinstance(figure.source, Source) for figure in gpu.figures)
    assert 1e9 < gpu.memory_bytes < 1e12
    assert 1e10 < gpu.memory_bandwidth_bytes_per_s < 1e14
    assert 1e10 < gpu.compute_flops_per_s < 1e16


def test_the_catalogue_holds_every_gpu_that_was_promised() -> None:
    a100 = {f"a100-{memory}gb-{form}" for memory in (40, 80) for form in ("sxm", "pcie")}
    hopper_and_later = {"h100-sxm", "h200", "b200", "rtx-pro-6000"}
    assert a100 | hopper_and_later | {"l4", "l40s", "rtx-4090", "mi300x"} <= set(hardware_names())


@pytest.mark.parametrize(
    ("name", "memory_bytes", "bandwidth_gb_per_s", "tflop_per_s", "fp8_tflop_per_s"),
    [
        ("a100-40gb-sxm", 39.39 * 2**30, 1555, 312, None),
        ("a100-40gb-pcie", 39.39 * 2**30, 1555, 312, None),
        ("a100-80gb-sxm", 80 * 2**30, 2039, 312, None),
        ("a100-80gb-pcie", 80 * 2**30, 1935, 312, None),
        ("h100-sxm", 81_559 * 2**20, 3350, 989, 1978),
        ("h200", 143_771 * 2**20, 4800, 989, 1978),
        ("b200", 183_359 * 2**20, 7700, 2250, 4500),
        ("l4", 23_034 * 2**20, 300, 121, 242),
        ("l40s", 46_068 * 2**20, 864, 362, 733),
        ("rtx-4090", 25_250_627_584, 1008, 165, 330),
        ("rtx-pro-6000", 97_887 * 2**20, 1792, 468, 936),
        ("mi300x", 192 * 2**30, 5300, 1307, 2615),
    ],
)
def test_rates_are_those_of_the_datasheets_and_memory_what_the_driver_reports(
    name: str,
    memory_bytes: float,
    bandwidth_gb_per_s: float,
    tflop_per_s: float,
    fp8_tflop_per_s: float | None,
) -> None:
    gpu = load_gpu(name)
    assert gpu.memory_bytes == int(memory_bytes)
    assert gpu.memory_bandwidth_bytes_per_s == bandwidth_gb_per_s * 1e9
    assert gpu.compute_flops_per_s == tflop_per_s * 1e12
    assert gpu.fp8_flops_per_s == (fp8_tflop_per_s and fp8_tflop_per_s * 1e12)


@pytest.mark.parametrize("name", hardware_names())
def test_memory_is_no_sticker_but_what_somebody_read_off_a_card(name: str) -> None:
    (figure,) = [figure for figure in load_gpu(name).figures if figure.name == "memory"]
    assert figure.source is not Source.DATASHEET
    if name != "generic-cpu":
        assert "reports" in figure.note


@pytest.mark.parametrize("name", model_names())
def test_every_model_of_the_catalogue_is_named_as_its_file(name: str) -> None:
    assert load_model(name).name == name


def test_the_catalogue_holds_what_the_gpu_sheet_lists() -> None:
    a100, h200, rtx = (load_gpu(name) for name in ("a100-80gb-sxm", "h200", "rtx-pro-6000"))
    assert (a100.memory_bytes, a100.memory_bandwidth_bytes_per_s) == (80 * 2**30, 2.039e12)
    assert (h200.memory_bytes, h200.fp8_flops_per_s) == (143_771 * 2**20, 1.978e15)
    assert (rtx.memory_bytes, rtx.link_bandwidth_bytes_per_s) == (97_887 * 2**20, None)


def test_an_unknown_name_is_refused_with_the_nearest() -> None:
    with pytest.raises(ValueError, match=r"'h100-smx' is not in the catalogue \(did you mean 'h100-sxm'\?\)"):
        load_gpu("h100-smx")
    with pytest.raises(ValueError, match=r"did you mean 'llama-3-8b'\?"):
        load_model("LLaMA-3-8B")


def test_a_file_of_ones_own_is_found_beside_the_configuration(tmp_path: Path) -> None:
    text = (CATALOG / "hardware" / "l4.yaml").read_text().replace("name: l4", "name: mine")
    (tmp_path / "mine.yaml").write_text(text)
    assert load_gpu("mine.yaml", tmp_path).name == "mine"
    assert load_gpu(str(tmp_path / "mine.yaml")).name == "mine"


def test_all_faults_of_a_hardware_file_are_reported_at_once(tmp_path: Path) -> None:
    text = (CATALOG / "hardware" / "l4.yaml").read_text()
    text = text.replace("value: 23034, unit: MiB", "value: 24, unit: GB/s")
    text = text.replace("value: 300, unit: GB/s", "value: -300, unit: GB/s")
    text = text.replace('source: datasheet, note: "PCIe', 'source: rumour, note: "PCIe')
    text = text.replace("compute_efficiency: {value: 0.8,", "compute_efficiency: {value: 80,")
    path = tmp_path / "bad.yaml"
    path.write_text(text + "colour: green\n")
    with pytest.raises(ConfigError) as caught:
        load_gpu("bad.yaml", tmp_path)
    assert [str(problem).removeprefix(f"{path}:") for problem in caught.value.problems] == [
        "3:9: memory: 'GB/s' is a unit of bandwidth, not of memory: write it like '80 GiB'",
        "4:19: memory_bandwidth: a bandwidth must be positive, not '-300.0 GB/s'",
        "7:49: host_bandwidth.source: the text 'rumour' is not one of datasheet, measured, paper, assumed",
        "9:21: compute_efficiency: must be above 0 and at most 1, with `unit: fraction`, not 80 fraction",
        f"13:1: colour: unknown key; known here: {', '.join(HardwareFile.model_fields)}",
    ]


def test_an_impossible_model_file_is_refused(tmp_path: Path) -> None:
    text = (CATALOG / "models" / "llama-3-8b.yaml").read_text()
    text = text.replace("num_key_value_heads: 8", "num_key_value_heads: 5")
    (tmp_path / "bad.yaml").write_text(text)
    with pytest.raises(ConfigError, match=r"num_attention_heads \(32\) is not a multiple"):
        load_model("./bad.yaml", tmp_path)


def test_a_missing_file_of_ones_own_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        load_model("absent.yaml", tmp_path)
