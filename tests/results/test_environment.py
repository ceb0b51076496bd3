"""What `environment.json` says about code, machine and inputs."""

from __future__ import annotations

import hashlib
import json
import subprocess
from datetime import UTC, datetime
from pathlib import Path

from sim.config import load_experiment
from sim.recording import inputs_of
from sim.results.environment import Facts, collect_environment, git_state, peak_memory_bytes
from tests.command_line import EXPERIMENT, pagecast
from tests.cost.test_calibration import write as write_calibration

REPO = Path(__file__).resolve().parents[2]
CATALOG = REPO / "sim" / "catalog"
NAMES_FILES = """
speculation:
  draft_model: ./draft.yaml
  acceptance: {kind: recorded, path: accepted.json}
step_time: {calibration: calibration}
"""


def git(folder: Path, *arguments: str) -> None:
    identity = ["-c", "user.name=n", "-c", "user.email=e@example.org"]
    subprocess.run(["git", "-C", str(folder), *identity, *arguments], check=True, capture_output=True)


def test_everything_a_stranger_needs_to_repeat_the_run_is_there(tmp_path: Path) -> None:
    config = tmp_path / "config.yaml"
    config.write_text("name: x\n")
    started = datetime(2026, 1, 2, tzinfo=UTC)
    facts = Facts(7, ["pagecast", "simulate", "x.yaml"], [config, tmp_path / "gone.csv"], started, 1.5)
    environment = collect_environment(facts)
    assert environment["seed"] == 7
    assert environment["command_line"] == ["pagecast", "simulate", "x.yaml"]
    assert environment["inputs"][str(config)] == hashlib.sha256(b"name: x\n").hexdigest()
    assert environment["inputs"][str(tmp_path / "gone.csv")] is None
    assert environment["packages"]["numpy"]
    assert environment["simulation_cpu_s"] == 1.5
    assert environment["started"] == "2026-01-02T00:00:00.000+00:00"
    assert environment["wall_s"] > 0
    assert json.loads(json.dumps(environment)) == environment


def _copies(folder: Path) -> None:
    """Files of the user's own, as an experiment may name them."""
    for copy, original in (
        ("gpu.yaml", CATALOG / "hardware" / "a100-80gb-sxm.yaml"),
        ("model.yaml", CATALOG / "models" / "shakespeare-4.7m.yaml"),
        ("draft.yaml", CATALOG / "models" / "shakespeare-0.5m.yaml"),
        ("hub/config.json", REPO / "gpu_backend" / "checkpoints" / "target" / "config.json"),
    ):
        (folder / copy).parent.mkdir(exist_ok=True)
        (folder / copy).write_bytes(original.read_bytes())
    (folder / "accepted.json").write_text('{"num_speculative_tokens": 4, "accepted": {}}')
    write_calibration(folder, model=str(folder / "model.yaml"), draft=str(folder / "draft.yaml"))


def _named(text: str, folder: Path) -> list[str]:
    path = folder / "own.yaml"
    path.write_text(text.replace("a100-80gb-sxm", "./gpu.yaml"))
    return [str(file.relative_to(folder)) for file in inputs_of(load_experiment(path))]


def test_every_file_that_an_experiment_names_is_an_input(tmp_path: Path) -> None:
    _copies(tmp_path)
    own_model = EXPERIMENT.replace("llama-3-8b", "./model.yaml")
    assert _named(own_model, tmp_path) == ["own.yaml", "model.yaml", "gpu.yaml"]
    of_a_folder = EXPERIMENT.replace("llama-3-8b", "{hf_config: hub}")
    assert _named(of_a_folder, tmp_path) == ["own.yaml", "hub/config.json", "gpu.yaml"]
    drafts = ["draft.yaml", "accepted.json"]
    calibration = [f"calibration/{name}" for name in ("calibration.json", "steps.csv", "others.csv")]
    expected = ["own.yaml", "model.yaml", "gpu.yaml", *drafts, *calibration]
    assert _named(own_model + NAMES_FILES, tmp_path) == expected


def test_names_in_the_catalogue_are_no_files_of_the_user(tmp_path: Path) -> None:
    (tmp_path / "own.yaml").write_text(EXPERIMENT)
    assert inputs_of(load_experiment(tmp_path / "own.yaml")) == [tmp_path / "own.yaml"]


def test_inputs_are_written_with_what_their_bytes_come_to(tmp_path: Path) -> None:
    _copies(tmp_path)
    (tmp_path / "own.yaml").write_text(EXPERIMENT.replace("llama-3-8b", "./model.yaml"))
    out = tmp_path / "run"
    pagecast("simulate", str(tmp_path / "own.yaml"), "--no-plots", "--quiet", "--out", str(out))
    inputs = json.loads((out / "environment.json").read_text())["inputs"]
    content = (tmp_path / "model.yaml").read_bytes()
    assert inputs[str(tmp_path / "model.yaml")] == hashlib.sha256(content).hexdigest()


def test_memory_is_told_in_bytes() -> None:
    assert 10_000_000 < peak_memory_bytes() < 1 << 40


def test_the_commit_is_told_and_whether_the_code_was_changed_since(tmp_path: Path) -> None:
    (tmp_path / "sim").mkdir()
    code = tmp_path / "sim" / "__init__.py"
    code.write_text("")
    assert git_state(tmp_path / "sim") is None
    git(tmp_path, "init")
    assert git_state(tmp_path / "sim") is None
    git(tmp_path, "add", "sim")
    git(tmp_path, "commit", "-m", "first")
    state = git_state(tmp_path / "sim")
    assert state is not None
    assert (len(state["commit"]), state["dirty"]) == (40, False)
    (tmp_path / "sim" / "notes.txt").write_text("not tracked, so not part of the code")
    assert git_state(tmp_path / "sim") == state
    code.write_text("changed = True\n")
    assert git_state(tmp_path / "sim") == state | {"dirty": True}


def test_a_package_installed_inside_somebody_elses_checkout_has_no_commit(tmp_path: Path) -> None:
    git(tmp_path, "init")
    (tmp_path / ".gitignore").write_text("venv/\n")
    git(tmp_path, "add", ".gitignore")
    git(tmp_path, "commit", "-m", "first")
    (tmp_path / "venv").mkdir()
    (tmp_path / "venv" / "__init__.py").write_text("")
    assert git_state(tmp_path / "venv") is None
