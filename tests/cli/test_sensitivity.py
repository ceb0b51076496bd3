"""`pagecast sensitivity`: the ranking is right where the answer is known."""

from __future__ import annotations

from pathlib import Path

import pytest

from sim.cli.sensitivity import sensitivities
from sim.config import load_experiment
from tests.command_line import EXPERIMENT, pagecast, refused


def test_decoding_hangs_on_memory_bandwidth_and_not_on_the_link(tmp_path: Path) -> None:
    (tmp_path / "tiny.yaml").write_text(EXPERIMENT)
    rows = {row.figure: row for row in sensitivities(load_experiment(tmp_path / "tiny.yaml"))}
    assert -1 < rows["memory_bandwidth_bytes_per_s"].mean_tpot < -0.5
    assert rows["link_bandwidth_bytes_per_s"].largest == 0
    assert rows["step_overhead_ns"].mean_tpot > 0.05
    assert rows["step_overhead_ns"].source == "assumed"


def test_by_kernels_the_curves_and_the_launches_of_the_host_are_ranked_too(tmp_path: Path) -> None:
    (tmp_path / "tiny.yaml").write_text(EXPERIMENT)
    eager = load_experiment(tmp_path / "tiny.yaml", ["engine.fusion=none"])
    rows = {row.figure: row for row in sensitivities(eager)}
    assert rows["eager_operation_ns"].mean_tpot > 0.5
    assert rows["eager_operation_ns"].source == "paper"
    graph = load_experiment(tmp_path / "tiny.yaml", ["engine.fusion=graph"])
    rows = {row.figure: row for row in sensitivities(graph)}
    assert rows["eager_operation_ns"].largest == 0
    assert rows["curves.gemm.bandwidth_fraction"].mean_tpot < -0.5
    assert rows["curves.gemm.floor_ns"].mean_tpot > 0


def test_the_ranking_is_printed_and_saved(tmp_path: Path) -> None:
    (tmp_path / "tiny.yaml").write_text(EXPERIMENT)
    out = tmp_path / "ranking.md"
    printed = pagecast("sensitivity", str(tmp_path / "tiny.yaml"), "--out", str(out)).stdout
    assert "memory_bandwidth" in printed
    assert out.read_text().startswith("| figure | source | mean TPOT")


def test_given_step_times_which_no_figure_moves_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("tiny.yaml").write_text(EXPERIMENT)
    message = refused("sensitivity", "tiny.yaml", "--set", "step_time={target: 14.1 ms}")
    assert "tiny.yaml: step_time: gives the step times" in message
    assert "no figure of the hardware" in message
