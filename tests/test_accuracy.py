"""Goals against measured steps and runs that are met stay met; needs the public measurements."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from sim.simulation import simulate
from tests.bench.accuracy_host import step_ms
from tests.bench.accuracy_run import Run, latencies_of
from tests.bench.accuracy_steps import Point, distserve_points, gpt_fast, sarathi_points, splitwise_points
from tests.bench.measured_engines import Host, fit_early_vllm_host


@pytest.fixture(scope="module")
def measured(traces_dir: Path) -> Path:
    """Folder of measured timings."""
    return traces_dir / "measured"


@pytest.fixture(scope="module")
def host(measured: Path) -> Host:
    """Of early vLLM, fitted to other models than those below."""
    return fit_early_vllm_host(measured)[0]


def median_error(points: list[Point]) -> float:
    """Absolute, relative."""
    return float(np.median([abs(point.error_fraction) for point in points]))


def test_whole_steps_are_within_twelve_percent_at_the_median(measured: Path, host: Host) -> None:
    assert median_error(sarathi_points(measured, host)) < 0.12
    assert median_error(distserve_points(measured, "opt-13b", (1, 2, 4))) < 0.12
    assert median_error(splitwise_points(measured, host)) < 0.12


def test_a_graph_speeds_up_eager_code_by_what_was_measured_within_a_fifth() -> None:
    eager, graph = gpt_fast()
    predicted, real = (
        eager.predicted_ms / graph.predicted_ms,
        eager.measured_ms / graph.measured_ms,
    )
    assert predicted == pytest.approx(real, rel=0.2)


def test_the_host_takes_most_of_a_step_of_a_small_model_and_less_of_a_large_one() -> None:
    shares = {}
    for model, num_gpus in (("llama-3-8b", 1), ("llama-3-70b", 4)):
        step, device = step_ms(model, num_gpus, 8.06)
        shares[model] = (step - device) / step
    assert shares["llama-3-8b"] == pytest.approx(0.62, abs=0.06)
    assert shares["llama-3-70b"] < 0.4


def test_a_real_run_is_simulated_within_its_goals(measured: Path, tmp_path: Path) -> None:
    run = Run.read(measured / "vllm0.19_rtx4090_llama3.1-8b")
    run.write_requests(tmp_path)
    found = latencies_of(simulate(run.experiment(tmp_path, "graph")))
    goals = {"mean TPOT": 0.08, "mean end to end": 0.08, "median TTFT": 0.2}
    for name, within in goals.items():
        assert found[name] == pytest.approx(run.latencies[name], rel=within), name
