"""`pagecast calibrate` and `crosscheck` on the real engine, with grids that take a second.

How far times are off is judged where a machine is quiet (`make crosscheck`); here decisions have to be equal.
"""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch", reason="the engine needs torch")

import torch
from typer.testing import CliRunner

from gpu_backend.calibration import calibrate as calibrate_module
from gpu_backend.calibration.bench_steps import Grid
from gpu_backend.calibration.grid import Calibrator
from gpu_backend.devices import DeviceKind
from gpu_backend.model.llama import LlamaModel
from gpu_backend.replay import ReplayOptions
from sim.cli import app
from sim.config import load_experiment
from sim.cost.calibration import SCHEDULE, SPLIT, SWAP, read_device_calibration
from sim.cost.kernels import Fusion
from sim.results.run_folder import load_run
from sim.simulation import simulate

CONFIGS = Path(__file__).parents[2] / "configs" / "crosscheck"
FEW = ("workload.num_requests=8", "workload.output_tokens={kind: uniform, low: 3, high: 14}")


@pytest.fixture(autouse=True)
def tiny_grid(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def grid_for(config: Any, *, is_quick: bool, pads: bool, uses_graphs: bool) -> Grid:
        most = config.scheduler.max_num_seqs
        return Grid((0, 1, most), (0, 8, 64), (16, 200), (1, 4), 1, 2, pads)

    monkeypatch.setattr("gpu_backend.calibration.grid.grid_for", grid_for)
    monkeypatch.setattr("gpu_backend.calibration.in_situ._CONCURRENCIES", (2,))
    monkeypatch.chdir(tmp_path)


def command(name: str, *arguments: str, overrides: tuple[str, ...] = FEW) -> Any:
    verb, *rest = arguments
    sets = [word for override in overrides for word in ("--set", override)]
    return CliRunner().invoke(
        app, [verb, str(CONFIGS / f"{name}.yaml"), *sets, "-q", "--device", "cpu", *rest]
    )


@pytest.mark.parametrize(
    "name", ["continuous", "recompute", "swap", "sampling", "prefixes", "chunked", "speculation"]
)
def test_both_bodies_decide_alike(name: str, tmp_path: Path) -> None:
    done = command(name, "crosscheck", "--repeats", "1", "--no-plots", "--out", str(tmp_path / "check"))
    assert done.exit_code in (0, 1), done.output
    check = json.loads((tmp_path / "check" / "crosscheck.json").read_text())
    assert check["decisions"]["equal"], check["decisions"]
    assert check["decisions"]["steps"] > 5
    assert (done.exit_code == 0) == check["holds"]
    assert (
        abs(
            sum(part["error"] for part in check["attribution"]["parts"])
            - check["attribution"]["busy_time_error"]
        )
        < 1e-9
    )
    for run in ("replay", "simulation"):
        assert (tmp_path / "check" / run / "summary.json").exists()
    page = (tmp_path / "check" / "crosscheck.html").read_text()
    assert "Decisions" in page
    assert check["environment"]["replay"]["device"] in page


def test_levels_of_fusion_are_compared_launch_for_launch(tmp_path: Path) -> None:
    done = command("fusion", "crosscheck", "--repeats", "2", "--out", str(tmp_path / "check"))
    assert done.exit_code in (0, 1), done.output
    rows = json.loads((tmp_path / "check" / "crosscheck.json").read_text())["fusions"]
    assert [row["fusion"] for row in rows] == ["none", "fused"]
    for row in rows:
        assert row["listed_launches"] == row["counted_launches"]
        assert row["listed_bytes"] == pytest.approx(row["counted_bytes"], rel=0.1)
    assert rows[0]["counted_launches"] > 3 * rows[1]["counted_launches"]
    assert (tmp_path / "check" / "pictures" / "distributions.svg").exists()


def test_a_calibration_is_found_again_and_drives_a_simulation(tmp_path: Path) -> None:
    done = command("swap", "calibrate", "--out", str(tmp_path / "calibration"), "--quick")
    assert done.exit_code == 0, done.output
    calibration = read_device_calibration(tmp_path / "calibration", "fused")
    assert calibration.about["device"]
    assert calibration.about["torch"]
    assert set(calibration.others) >= {SCHEDULE, SPLIT, SWAP}
    rows = list(csv.DictReader((tmp_path / "calibration" / "steps.csv").read_text().splitlines()))
    assert len(rows) == 3 * 3 * 2
    assert all(float(row["step_us"]) > 0 for row in rows)
    calibrated = f"step_time={{calibration: {tmp_path / 'calibration'}}}"
    assert simulate(load_experiment(CONFIGS / "swap.yaml", [*FEW, calibrated])).num_steps > 5


def test_a_fresh_calibration_is_not_made_again(monkeypatch: pytest.MonkeyPatch) -> None:
    made = []
    original = Calibrator.steps

    def counted(self: Any, on_point: Any = None) -> Any:
        made.append(1)
        return original(self, on_point)

    monkeypatch.setattr(Calibrator, "steps", counted)
    for _ in range(2):
        done = command("continuous", "crosscheck", "--repeats", "1", "--no-plots")
        assert done.exit_code in (0, 1), done.output
    assert len(made) == 1
    other = (*FEW, "engine.max_num_seqs=4")
    done = command("continuous", "crosscheck", "--repeats", "1", "--no-plots", overrides=other)
    assert done.exit_code in (0, 1), done.output
    assert len(made) == 2, "another engine is another calibration"


def test_a_calibration_of_several_levels_knows_each_of_them_and_is_found_again(tmp_path: Path) -> None:
    folder = tmp_path / "results" / "calibrations"
    overrides = (*FEW, f"results.dir={tmp_path / 'results'}")
    done = command("fusion", "crosscheck", "--repeats", "1", "--no-plots", overrides=overrides)
    assert done.exit_code in (0, 1), done.output
    (made,) = folder.iterdir()
    about = json.loads((made / "calibration.json").read_text())
    assert about["pads"] == {"none": True, "fused": True}, "on a CPU both do"
    experiment = load_experiment(CONFIGS / "fusion.yaml", list(overrides))
    levels = [Fusion(level) for level in about["fusions"]]
    found = calibrate_module.find_fresh(experiment, ReplayOptions(DeviceKind.CPU), levels, is_quick=False)
    assert found == made


def test_a_calibration_of_another_model_is_refused(tmp_path: Path) -> None:
    made = tmp_path / "calibration"
    assert command("continuous", "calibrate", "--out", str(made)).exit_code == 0
    other = (*FEW, "model=shakespeare-0.5m")
    done = command("continuous", "crosscheck", "--calibration", str(made), overrides=other)
    assert done.exit_code == 2
    assert "model: is 'shakespeare-4.7m', and 'shakespeare-0.5m' is replayed" in done.output


def test_a_level_that_a_processor_does_not_have_is_refused(tmp_path: Path) -> None:
    asked = (("calibrate", "--fusion", "graph"), ("crosscheck", "--set", "crosscheck.fusions=[graph]"))
    for verb, *rest in asked:
        done = command("continuous", verb, *rest)
        assert done.exit_code == 2, done.output
        assert "has no such level, only none and fused" in done.output


def test_memory_that_runs_out_while_measuring_is_bad_input(monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(*_: Any) -> torch.Tensor:
        raise torch.OutOfMemoryError("out of memory: tried to allocate 2 GiB")

    monkeypatch.setattr(LlamaModel, "forward", failing)
    done = command("continuous", "calibrate")
    assert done.exit_code == 2
    assert "tried to allocate 2 GiB: set fewer blocks" in done.output


def test_what_simulation_and_replay_stand_on_is_told_where_they_are_written(tmp_path: Path) -> None:
    out = ("--out", str(tmp_path / "check"))
    done = command("continuous", "crosscheck", "--repeats", "2", "--no-plots", *out)
    assert done.exit_code in (0, 1), done.output
    simulation = load_run(tmp_path / "check" / "simulation")
    assert simulation.summary.basis is None, "the file's hardware has nothing to do with it"
    assert simulation.environment["calibration"]["model"] == "shakespeare-4.7m"
    assert any("step times: " in note for note in simulation.summary.notes)
    steps = list(csv.DictReader((tmp_path / "check" / "steps.csv").read_text().splitlines()))
    check = json.loads((tmp_path / "check" / "crosscheck.json").read_text())
    assert len(steps) == check["decisions"]["steps"]
    assert check["environment"]["repeats"] == 2


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--calibration", "nowhere"], "pagecast calibrate makes a calibration"),
        (["--set", "model=llama-3-8b", "--set", "hardware=h100-sxm"], "no weights are known"),
        (["--set", "crosscheck.tpot_p50=5"], "must be a percentage such as 5 %"),
        (["--repeats", "0"], "--repeats"),
    ],
)
def test_bad_input_is_refused_before_anything_is_measured(
    arguments: list[str], words: str, tmp_path: Path
) -> None:
    done = command("continuous", "crosscheck", *arguments, "--out", str(tmp_path / "check"))
    assert done.exit_code == 2
    assert words in done.output
    assert not (tmp_path / "check").exists()
