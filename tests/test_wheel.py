"""The wheel, compiled and plain, built from a copy of the source and tried outside the checkout."""

from __future__ import annotations

import json
import os
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

from tests import same_bytes
from tests.test_compilable import compiled_files
from tests.wheels import REPO, build_wheel, copy_source, install, run

PACKAGES = ("pagecast", "sim", "gpu_backend", "workloads")
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
BUILT = "PAGECAST_WHEEL"
"""Names a compiled wheel of this state of the code, so that it need not be built once more."""

NO_COMPILER = {"CC": "no-such-compiler"}

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    built = os.environ.get(BUILT)
    return Path(built).resolve() if built else build_wheel(tmp_path_factory.mktemp("compiled"))


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_wheel(tmp_path_factory.mktemp("plain"), {"PAGECAST_PURE": "1"})


@pytest.fixture(scope="module")
def python(compiled: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of an environment that has the compiled wheel."""
    return install(compiled, tmp_path_factory.mktemp("installed"))


@pytest.fixture(scope="module")
def plain_python(plain: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of an environment that has the plain wheel."""
    return install(plain, tmp_path_factory.mktemp("installed_plain"))


def _files(wheel: Path) -> set[str]:
    return {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}


def test_the_plain_wheel_holds_the_packages_whole_and_nothing_else(plain: Path) -> None:
    kept = (".py", ".yaml", ".json", ".safetensors", ".txt")
    wanted = {
        path.relative_to(REPO).as_posix()
        for package in PACKAGES
        for path in (REPO / package).rglob("*")
        if path.suffix in kept or path.name == "py.typed"
    } | {"gpu_backend/checkpoints/README.md", "pagecast/README.md"}
    names = _files(plain)
    assert names == wanted
    assert {f"{package}/py.typed" for package in PACKAGES} <= names
    shelves = {"attention/flash_attn", "hardware/a100-80gb-sxm", "models/llama-3-8b"}
    assert {f"sim/catalog/{name}.yaml" for name in shelves} <= names
    assert plain.name.endswith("-py3-none-any.whl")


def test_the_compiled_wheel_holds_besides_what_is_compiled_and_one_library(
    compiled: Path, plain: Path
) -> None:
    suffix = sysconfig.get_config_var("EXT_SUFFIX")
    doors = {name.removesuffix(".py") + suffix for name in compiled_files()}
    assert len(doors) > 20
    assert _files(compiled) - _files(plain) == doors | {f"pagecast__mypyc{suffix}"}
    assert _files(plain) <= _files(compiled)


def test_the_command_works_outside_the_checkout(python: Path, tmp_path: Path) -> None:
    pagecast = python.parent / "pagecast"
    (tmp_path / "experiment.yaml").write_text(EXPERIMENT)
    where = run(str(python), "-c", "import sim; print(sim.__file__)", cwd=tmp_path)
    assert Path(where.strip()).is_relative_to(python.parents[1])
    summary = run(str(pagecast), "simulate", "experiment.yaml", "--json", cwd=tmp_path)
    assert json.loads(summary)["completed"] == 20
    (picture,) = tmp_path.glob("results/from-the-wheel/*/plots/latency.png")
    assert picture.stat().st_size > 1000


def test_the_version_says_which_code_runs(python: Path, plain_python: Path, tmp_path: Path) -> None:
    def version(python: Path, pure: str) -> str:
        pagecast = python.parent / "pagecast"
        return run(str(pagecast), "--version", cwd=tmp_path, env={"PAGECAST_PURE": pure}).strip()

    assert version(python, "").endswith(", compiled")
    assert version(python, "1").endswith(", plain Python")
    assert version(plain_python, "").endswith(", plain Python")


def test_all_three_ways_to_run_the_wheels_give_the_same_bytes(
    python: Path, plain_python: Path, tmp_path: Path
) -> None:
    digests = []
    for number, (interpreter, pure) in enumerate(((python, ""), (python, "1"), (plain_python, ""))):
        out = tmp_path / f"{number}.json"
        script = (str(interpreter), str(Path(same_bytes.__file__)), str(out), "quickstart")
        run(*script, cwd=tmp_path, env={"PAGECAST_PURE": pure})
        digests.append(json.loads(out.read_text()))
    assert digests[0] == digests[1] == digests[2]
    assert digests[0].keys() == {"quickstart"}


def test_without_a_compiler_the_wheel_is_plain(tmp_path: Path) -> None:
    assert build_wheel(tmp_path, NO_COMPILER).name.endswith("-py3-none-any.whl")


def test_an_editable_install_is_plain_and_needs_no_compiler(tmp_path: Path) -> None:
    source = copy_source(tmp_path)
    python = install(source, tmp_path, "--editable", env=NO_COMPILER)
    where = run(str(python), "-c", "import sim.core.engine as engine; print(engine.__file__)", cwd=tmp_path)
    assert Path(where.strip()) == source / "sim" / "core" / "engine.py"
    assert not list(source.rglob("*.so"))


def test_an_editable_install_asks_for_no_mypy_though_there_is_a_compiler(tmp_path: Path) -> None:
    asked = (
        "import setup; print(setup.get_requires_for_build_editable(), setup.get_requires_for_build_wheel())"
    )
    editable, wheel = run(sys.executable, "-c", asked, cwd=copy_source(tmp_path)).strip().split("] ")
    assert "mypy" not in editable
    assert "mypy" in wheel
