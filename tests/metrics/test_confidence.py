"""What a run rests on, and its band."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from sim.config import load_experiment
from sim.cost.curve_parameters import Spread
from sim.experiment import Experiment
from sim.metrics.basis import Basis
from sim.metrics.summary import Identity, summarize
from sim.recording import basis_of_run
from sim.results.run_folder import load_run
from sim.simulation import simulate
from tests.command_line import EXPERIMENT, pagecast
from workloads.generate import build


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "fitted.yaml").write_text(
        EXPERIMENT.replace("a100-80gb-sxm", "h100-sxm").replace("engine:\n", "engine:\n  fusion: graph\n")
    )
    return tmp_path


def _fitted(*overrides: str) -> Experiment:
    return load_experiment("fitted.yaml", overrides)


def _banded(experiment: Experiment) -> Basis:
    workload = build(experiment.workload, seed=experiment.seed)
    values = summarize(simulate(experiment), experiment.slo, Identity("", "", 0)).values
    return basis_of_run(experiment, workload, values)


def test_fitted_curves_have_a_range_and_the_rest_is_unknown(here: Path) -> None:
    parts = {part.name: part for part in basis_of_run(_fitted()).parts}
    assert set(parts) == {"gemm", "decode_attention", "prefill_attention", "elementwise", "host"}
    assert parts["gemm"].shorter_fraction == pytest.approx(0.1406 / 1.1406)
    assert parts["gemm"].longer_fraction == pytest.approx(0.1406 / (1 - 0.1406))
    assert "4,704 measured times; aic_h100_sxm_gemm" in parts["gemm"].rests_on
    for name in ("elementwise", "host"):
        assert (parts[name].shorter_fraction, parts[name].longer_fraction) == (None, None)


def test_verifying_was_never_measured_and_is_said_to_be_unknown(here: Path) -> None:
    drafts = (
        "speculation={proposer: ngram, num_speculative_tokens: 3, acceptance: {kind: constant, rate: 0.6}}"
    )
    parts = {part.name: part for part in basis_of_run(_fitted(drafts)).parts}
    assert parts["verifying"].longer_fraction is None
    assert "verifying" not in {part.name for part in basis_of_run(_fitted()).parts}


def test_sums_over_gpus_count_where_there_are_several(here: Path) -> None:
    parts = basis_of_run(_fitted("parallelism.tensor_parallel_size=2")).parts
    assert "all_reduce" in [part.name for part in parts]


@pytest.mark.parametrize("override", ["hardware=l4", "step_time={target: 10 ms}", "engine.fusion=roofline"])
def test_where_nothing_was_fitted_the_uncertainty_is_unknown_and_nothing_is_simulated(
    here: Path, monkeypatch: pytest.MonkeyPatch, override: str
) -> None:
    experiment = _fitted(override)
    workload = build(experiment.workload, seed=experiment.seed)
    monkeypatch.delattr("sim.recording.simulate_at_the_end")
    basis = basis_of_run(experiment, workload)
    assert not basis.is_known
    assert basis.band is None


def test_the_band_lies_around_the_prediction(here: Path) -> None:
    band = _banded(_fitted()).band
    assert band is not None
    for key in ("median_ttft_ms", "p99_tpot_ms", "median_e2el_ms"):
        short, predicted, long = band[key]
        assert short is not None
        assert predicted is not None
        assert long is not None
        assert short < predicted < long, key
    short, predicted, long = band["median_tpot_ms"]
    assert short is not None
    assert predicted is not None
    assert predicted / 1.235 < short, "no part is off further than the widest"


def test_a_spread_of_whole_steps_scales_all_of_them(here: Path) -> None:
    experiment = _fitted()
    spread = Spread(0.05, 0.2, 40, "steps.csv: all points")
    experiment = replace(experiment, gpu=replace(experiment.gpu, step_spread=spread))
    basis = _banded(experiment)
    assert [part.name for part in basis.parts] == ["steps"]
    assert basis.band is not None
    short, predicted, long = basis.band["p99_tpot_ms"]
    assert short is not None
    assert predicted is not None
    assert long is not None
    assert short < 0.9 * predicted
    assert long > 1.15 * predicted


def test_a_basis_is_read_back_equal(here: Path) -> None:
    for basis in (basis_of_run(_fitted()), _banded(_fitted())):
        assert Basis.from_json(json.loads(json.dumps(basis.to_json()))) == basis


def test_every_figure_is_repeated_with_its_source_in_file_and_table(here: Path) -> None:
    text = pagecast("simulate", "fitted.yaml", "--out", "run", "--no-plots").stdout
    assert "step_overhead 1.5 ms" in text
    assert "datasheet" in text
    document = json.loads(Path("run", "summary.json").read_text())
    figures = {entry["name"]: entry for entry in document["sim_basis"]["hardware_figures"]}
    assert figures["compute"]["source"] == figures["model"]["source"] == "datasheet"
    assert figures["memory"]["source"] == "measured", "read off a card"
    assert figures["step_overhead"]["source"] == "assumed"
    assert document["sim_basis"]["band"] is None
    assert load_run(Path("run")).summary.basis == basis_of_run(_fitted())


def test_the_command_says_what_is_known_and_shows_the_band_when_asked(here: Path) -> None:
    plain = pagecast("simulate", "fitted.yaml", "--out", "a", "--no-plots").stdout
    assert "-12.3 %" in plain
    assert "With --confidence" in plain
    asked = pagecast("simulate", "fitted.yaml", "--out", "b", "--no-plots", "--confidence").stdout
    assert "If they are, the answer is" in asked
    unknown = pagecast("simulate", "fitted.yaml", "--set", "hardware=l4", "--out", "c", "--no-plots").stdout
    assert "is unknown, not zero" in " ".join(unknown.split())
