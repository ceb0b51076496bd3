"""The wheel, built from a copy of the source and tried outside the checkout."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parent.parent
PACKAGES = ("sim", "gpu_backend", "workloads")
EXPERIMENT = """\
name: from-the-wheel
model: llama-3-8b
hardware: a100-80gb-sxm
engine: {max_model_len: 4096}
workload:
  kind: synthetic
  num_requests: 20
  arrivals: {kind: constant, rate: 5 /s}
  prompt_tokens: {kind: fixed, tokens: 100}
  output_tokens: {kind: fixed, tokens: 10}
"""

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy, so that nothing a former build left behind gets into it."""
    source, dist = tmp_path_factory.mktemp("source") / "pagecast", tmp_path_factory.mktemp("dist")
    left_out = shutil.ignore_patterns(".*", "__pycache__", "build", "dist", "results", "*.egg-info")
    shutil.copytree(REPO, source, ignore=left_out)
    _run(sys.executable, "-m", "build", "--wheel", "--outdir", str(dist), str(source))
    (built,) = dist.glob("pagecast-*.whl")
    return built


@pytest.fixture
def pagecast(wheel: Path, tmp_path: Path) -> Path:
    """The command in a virtual environment that has pagecast from the wheel and borrows its dependencies."""
    venv = tmp_path / "venv"
    _run(sys.executable, "-m", "venv", str(venv))
    _run(str(venv / "bin" / "python"), "-m", "pip", "install", "--quiet", "--no-deps", str(wheel))
    borrowed = tmp_path / "borrowed"
    borrowed.mkdir()
    for entry in Path(sysconfig.get_path("purelib")).iterdir():
        if not entry.name.startswith(("__editable__", "pagecast-")):
            (borrowed / entry.name).symlink_to(entry)
    (own,) = (venv / "lib").glob("python*/site-packages")
    (own / "borrowed.pth").write_text(f"{borrowed}\n")
    return venv / "bin" / "pagecast"


def _run(*command: str, cwd: Path | None = None) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=cwd)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_wheel_holds_the_three_packages_whole_and_nothing_else(wheel: Path) -> None:
    names = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    wanted = {
        path.relative_to(REPO).as_posix()
        for package in PACKAGES
        for path in (REPO / package).rglob("*")
        if path.suffix in (".py", ".yaml", ".json", ".safetensors") or path.name == "py.typed"
    } | {"gpu_backend/checkpoints/README.md"}
    assert names == wanted
    assert {f"{package}/py.typed" for package in PACKAGES} <= names
    shelves = {"attention/flash_attn", "hardware/a100-80gb-sxm", "models/llama-3-8b"}
    assert {f"sim/catalog/{name}.yaml" for name in shelves} <= names


def test_the_command_works_outside_the_checkout(pagecast: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "experiment.yaml").write_text(EXPERIMENT)
    where = _run(str(pagecast.parent / "python"), "-c", "import sim; print(sim.__file__)", cwd=elsewhere)
    assert Path(where.strip()).is_relative_to(tmp_path)
    assert _run(str(pagecast), "--version", cwd=elsewhere).startswith("pagecast ")
    summary = _run(str(pagecast), "simulate", "experiment.yaml", "--json", cwd=elsewhere)
    assert json.loads(summary)["completed"] == 20
    (picture,) = elsewhere.glob("results/from-the-wheel/*/plots/latency.png")
    assert picture.stat().st_size > 1000
