"""A hardware file that cannot be true is refused, and the message says where and why."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from sim.config.catalog import load_gpu
from sim.errors import ConfigError

A100 = Path("sim/catalog/hardware/a100-80gb-sxm.yaml").read_text(encoding="utf-8")


def refused(folder: Path, line: str, replacement: str) -> str:
    """The message for an A100 whose line that starts so is another."""
    text, count = re.subn(rf"(?m)^{line}:.*$", replacement, A100)
    assert count == 1
    (folder / "wrong.yaml").write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        load_gpu("./wrong.yaml", folder)
    return str(caught.value)


@pytest.mark.parametrize(
    ("value", "unit", "reason"),
    [
        ("0", "GB/s", "must be positive"),
        ("-2039", "GB/s", "must be positive"),
        ("1.0e+9", "TB/s", "impossible for one GPU: expected 1 MB/s to 1000 TB/s"),
        ("2039", "B/s", "impossible for one GPU"),
        (".inf", "GB/s", "finite"),
        ("2039", "GB", "bandwidth"),
        ("2039", "TFLOP/s", "bandwidth"),
        ("2039", "Gb/s", "bandwidth"),
    ],
)
def test_an_impossible_bandwidth_is_refused(tmp_path: Path, value: str, unit: str, reason: str) -> None:
    entry = f"memory_bandwidth: {{value: {value}, unit: {unit}, source: datasheet}}"
    message = refused(tmp_path, "memory_bandwidth", entry)
    assert "wrong.yaml:4:" in message
    assert "memory_bandwidth" in message
    assert reason in message


@pytest.mark.parametrize(
    ("value", "unit"), [("0", "TFLOP/s"), ("-1", "TFLOP/s"), ("312", "FLOP/s"), ("1.0e+9", "TFLOP/s")]
)
def test_an_impossible_rate_is_refused(tmp_path: Path, value: str, unit: str) -> None:
    entry = f"compute: {{value: {value}, unit: {unit}, source: datasheet}}"
    assert "compute" in refused(tmp_path, "compute", entry)


@pytest.mark.parametrize("figure", ["eager_operation", "kernel_launch", "graph_launch", "seq_overhead"])
def test_a_time_of_the_host_wants_a_unit_of_time(tmp_path: Path, figure: str) -> None:
    entry = f"step_overhead: {{value: 1.5, unit: ms, source: assumed}}\n{figure}: "
    message = refused(tmp_path, "step_overhead", entry + "{value: 5, unit: GB/s, source: assumed}")
    assert figure in message
    assert "time" in message


def test_a_type_of_numbers_that_there_is_not_is_refused_with_the_nearest(tmp_path: Path) -> None:
    entry = "compute: {value: 312, unit: TFLOP/s, source: datasheet}\n"
    entry += "fp7_compute: {value: 624, unit: TFLOP/s, source: datasheet}"
    message = refused(tmp_path, "compute", entry)
    assert "fp7_compute" in message
    assert "fp8_compute" in message


def test_a_figure_without_a_source_is_refused(tmp_path: Path) -> None:
    assert "source" in refused(tmp_path, "compute", "compute: {value: 312, unit: TFLOP/s}")
