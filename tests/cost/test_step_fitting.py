"""A GPU fitted to whole steps: what made them is found again, and what they do not tell is left alone."""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import yaml

from sim.config.catalog import load_gpu, load_model
from sim.cost.curve_parameters import REFERENCE, FittedCurves
from sim.cost.hardware import Gpu
from sim.cost.kernels import Fusion
from sim.cost.measured import Calibration, read_calibration
from sim.cost.step_fitting import MeasuredSteps, fit_steps
from tests.command_line import EXPERIMENT, pagecast, refused

MODEL = load_model("llama-3-8b")
GUESS = load_gpu("h200")
TRUTH = replace(
    GUESS,
    step_overhead_ns=700_000,
    seq_overhead_ns=20_000,
    compute_efficiency_fraction=0.6,
    bandwidth_efficiency_fraction=0.62,
)
SEQS, NEW, CONTEXTS = (0, 1, 8, 64), (0, 512, 4096), (0, 1000, 8000)


def steps_on(
    gpu: Gpu, *, noise: float = 0.0, new: tuple[int, ...] = NEW, seqs: tuple[int, ...] = SEQS
) -> MeasuredSteps:
    axes = tuple(np.array(axis, dtype=np.float64) for axis in (seqs, new, CONTEXTS))
    shape = tuple(len(axis) for axis in axes)
    steps = MeasuredSteps.of(Calibration((axes[0], axes[1], axes[2]), np.ones(shape)), MODEL, Fusion.GRAPH)
    factors = np.exp(noise * np.random.default_rng(1).normal(size=len(steps.plans)))
    return replace(steps, times_ns=steps.predict_ns(gpu) * factors)


def test_steps_are_the_points_at_which_something_is_computed() -> None:
    steps = steps_on(TRUTH)
    assert len(steps.plans) == len(SEQS) * len(NEW) * len(CONTEXTS) - len(CONTEXTS)
    (plan,) = [p for p in steps.plans if (p.num_decode_seqs, p.num_prefill_tokens) == (8, 512)][1:2]
    assert plan.decode_context_tokens == 8 * 1000
    assert plan.chunks[0].num_computed_tokens == 1000


def test_a_fit_finds_the_figures_that_made_the_times() -> None:
    found = fit_steps(steps_on(TRUTH), GUESS, "t.csv")
    assert found.undetermined == ()
    assert found.gpu.step_overhead_ns == pytest.approx(700_000, rel=0.02)
    assert found.gpu.seq_overhead_ns == pytest.approx(20_000, rel=0.02)
    assert found.gpu.compute_efficiency_fraction == pytest.approx(0.6, rel=0.01)
    assert found.gpu.bandwidth_efficiency_fraction == pytest.approx(0.62, rel=0.01)
    assert found.spread.p90_fraction < 0.005


def test_the_spread_is_that_of_the_noise() -> None:
    found = fit_steps(steps_on(TRUTH, noise=0.1), GUESS, "t.csv")
    assert 0.04 < found.spread.median_fraction < 0.1
    assert found.spread.p90_fraction == pytest.approx(0.1645, rel=0.35)
    assert found.spread.num_points == 33


def test_what_no_step_depends_on_stays_as_it_was() -> None:
    found = fit_steps(steps_on(TRUTH, new=(0,), seqs=(1, 2, 4)), GUESS, "t.csv")
    assert found.undetermined == ("seq_overhead_ns", "compute_efficiency_fraction")
    assert found.gpu.seq_overhead_ns == GUESS.seq_overhead_ns
    assert found.gpu.compute_efficiency_fraction == GUESS.compute_efficiency_fraction
    assert found.gpu.bandwidth_efficiency_fraction == pytest.approx(0.62, rel=0.02)


def test_a_figure_that_is_found_to_be_next_to_nothing_is_determined() -> None:
    found = fit_steps(steps_on(replace(TRUTH, step_overhead_ns=2_000)), GUESS, "t.csv")
    assert "step_overhead_ns" in found.fitted
    assert found.gpu.step_overhead_ns < 20_000 < GUESS.step_overhead_ns


def test_curves_that_were_fitted_to_kernels_stay_and_leave_the_overheads_open() -> None:
    h100 = load_gpu("h100-sxm")
    found = fit_steps(steps_on(replace(h100, step_overhead_ns=400_000)), h100, "t.csv")
    assert found.undetermined == ("compute_efficiency_fraction",)
    assert found.gpu.step_overhead_ns == pytest.approx(400_000, rel=0.01)
    assert found.gpu.curves == h100.curves


def test_curves_that_are_only_assumed_move_with_the_efficiencies() -> None:
    assumed = replace(REFERENCE.gemm, compute_fraction=0.8, bandwidth_fraction=0.8)
    guess = replace(GUESS, curves=FittedCurves(gemm=assumed))
    truth = replace(
        guess,
        compute_efficiency_fraction=GUESS.compute_efficiency_fraction / 2,
        bandwidth_efficiency_fraction=GUESS.bandwidth_efficiency_fraction / 2,
        curves=FittedCurves(gemm=replace(assumed, compute_fraction=0.4, bandwidth_fraction=0.4)),
    )
    found = fit_steps(steps_on(truth), guess, "t.csv")
    assert found.gpu.curves.gemm is not None
    assert found.gpu.curves.gemm.compute_fraction == pytest.approx(0.4, rel=0.02)
    assert found.gpu.curves.gemm.bandwidth_fraction == pytest.approx(0.4, rel=0.02)


def test_too_few_steps_are_refused() -> None:
    with pytest.raises(ValueError, match="6 steps that compute anything; a fit takes 8"):
        fit_steps(steps_on(TRUTH, new=(0,), seqs=(1, 2)), GUESS, "t.csv")


@pytest.fixture
def table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A calibration of the truth with some noise."""
    monkeypatch.chdir(tmp_path)
    times = iter(steps_on(TRUTH, noise=0.01).times_ns / 1e3)
    rows = ["model_role,fusion,num_decode_seqs,num_new_tokens,context_tokens,step_us"]
    for seqs, new, context in product(SEQS, NEW, CONTEXTS):
        rows.append(f"target,graph,{seqs},{new},{context},{next(times) if seqs or new else 1}")
    path = tmp_path / "steps.csv"
    path.write_text("\n".join(rows))
    return path


FIT = ("fit", "steps.csv", "--hardware", "h200", "--out", "out.yaml")


def test_the_command_writes_figures_that_a_hardware_file_takes(table: Path) -> None:
    said = pagecast(*FIT, "--model", "llama-3-8b").stderr
    assert "steps.csv: steps of llama-3-8b, 33 points, median error" in said
    fitted = yaml.safe_load(Path("out.yaml").read_text())
    figures = {"step_overhead", "seq_overhead", "compute_efficiency", "bandwidth_efficiency"}
    assert set(fitted) == {*figures, "step_spread"}
    assert fitted["compute_efficiency"]["source"] == "measured"
    catalog = Path(__file__).resolve().parents[2] / "sim" / "catalog" / "hardware" / "h200.yaml"
    Path("gpu.yaml").write_text(yaml.safe_dump(yaml.safe_load(catalog.read_text()) | fitted))
    gpu = load_gpu("gpu.yaml", Path())
    assert gpu.step_overhead_ns == pytest.approx(700_000, rel=0.2)
    assert gpu.step_spread is not None
    text = EXPERIMENT.replace("a100-80gb-sxm", "./gpu.yaml").replace(
        "engine:\n", "engine:\n  fusion: graph\n"
    )
    Path("fitted.yaml").write_text(text)
    report = pagecast("simulate", "fitted.yaml", "--out", "run", "--no-plots", "--confidence").stdout
    assert "nine of ten of 33 measured times" in " ".join(report.split())
    assert "If they are, the answer is" in report


def test_the_folder_of_a_calibration_stands_for_its_steps(table: Path) -> None:
    pagecast(*FIT, "--model", "llama-3-8b")
    of_file = Path("out.yaml").read_text()
    pagecast("fit", ".", "--hardware", "h200", "--out", "out.yaml", "--model", "llama-3-8b")
    assert Path("out.yaml").read_text() == of_file


def test_the_command_writes_assumed_curves_as_they_moved(table: Path) -> None:
    catalog = Path(__file__).resolve().parents[2] / "sim" / "catalog" / "hardware" / "h200.yaml"
    curve: dict[str, object] = {"source": "assumed", "floor": "3 us", "serial_per_depth": "1 ns"}
    curve |= {"compute_fraction": 0.8, "bandwidth_fraction": 0.8, "sharpness": 3}
    Path("own.yaml").write_text(
        yaml.safe_dump(yaml.safe_load(catalog.read_text()) | {"curves": {"gemm": curve}})
    )
    command = ("fit", "steps.csv", "--hardware", "./own.yaml", "--out", "out.yaml", "--model", "llama-3-8b")
    pagecast(*command)
    moved = yaml.safe_load(Path("out.yaml").read_text())["curves"]["gemm"]
    assert moved["source"] == "assumed"
    assert moved["bandwidth_fraction"] < 0.8


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ((), "--model: say which model"),
        (("--model", "llama-3-9b"), "--model: 'llama-3-9b' is not in the catalogue (did you mean"),
        (("--model", "llama-3-8b", "--fusion", "all"), "--fusion: 'all' is not none, fused or graph"),
        (("--model", "llama-3-8b", "--role", "verify"), "--role: 'verify' is not target or draft"),
        (("--model", "llama-3-8b", "--role", "draft"), "0 points of draft, graph are no full grid"),
    ],
)
def test_wrong_use_of_a_calibration_is_told(table: Path, options: tuple[str, ...], why: str) -> None:
    assert why in refused(*FIT, *options)


def test_a_calibration_can_be_read_as_it_is_too(table: Path) -> None:
    assert read_calibration(table, model_role="target", fusion="graph").times_ns.shape == (4, 3, 3)
