"""The wheel, built and tried outside the checkout."""

from __future__ import annotations

import json
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parent.parent
EXPERIMENT = """\
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


@pytest.mark.slow
def test_the_wheel_holds_the_three_packages_and_its_command_works_elsewhere(tmp_path: Path) -> None:
    build = [sys.executable, "-m", "build", "--wheel", "--outdir", str(tmp_path / "dist"), str(REPO)]
    subprocess.run(build, check=True, capture_output=True)
    (wheel,) = (tmp_path / "dist").glob("pagecast-*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    tops = {name.split("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"sim", "gpu_backend", "workloads"}
    for needed in ("sim/py.typed", "workloads/py.typed", "gpu_backend/py.typed"):
        assert needed in names
    assert "sim/catalog/hardware/a100-80gb-sxm.yaml" in names
    assert "sim/catalog/models/llama-3-8b.yaml" in names

    # The packages it depends on are borrowed from this environment; pagecast comes from the wheel alone.
    packages = Path(next(path for path in sys.path if path.endswith("site-packages")))
    subprocess.run([sys.executable, "-m", "venv", str(tmp_path / "venv")], check=True)
    python = tmp_path / "venv" / "bin" / "python"
    install = [str(python), "-m", "pip", "install", "--quiet", "--no-deps", str(wheel)]
    subprocess.run(install, check=True, capture_output=True)
    (own,) = (tmp_path / "venv" / "lib").glob("python*/site-packages")
    borrowed = tmp_path / "borrowed"
    borrowed.mkdir()
    for entry in packages.iterdir():
        if not entry.name.startswith("__editable__"):
            (borrowed / entry.name).symlink_to(entry)
    (own / "borrowed.pth").write_text(f"{borrowed}\n")

    experiment = tmp_path / "experiment.yaml"
    experiment.write_text(EXPERIMENT)
    command = [str(tmp_path / "venv" / "bin" / "pagecast"), "simulate", str(experiment), "--json"]
    done = subprocess.run(command, check=True, capture_output=True, text=True, cwd=tmp_path)
    assert json.loads(done.stdout)["completed"] == 20
    where = [str(python), "-c", "import sim; print(sim.__file__)"]
    found = subprocess.run(where, check=True, capture_output=True, text=True, cwd=tmp_path).stdout
    assert Path(found.strip()).is_relative_to(tmp_path)
