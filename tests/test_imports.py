"""Imports flow one way; a look at the source keeps it so."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parent.parent
SIMPY_HOMES = {"sim/driver.py", "sim/links.py", "sim/cluster.py"}
STANDARD = set(sys.stdlib_module_names)


def _modules(folder: str) -> list[Path]:
    return sorted((REPO / folder).rglob("*.py"))


def _imports(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, f"{path}: relative import"
            names.add(node.module)
    return names


def _outside(path: Path, allowed: set[str]) -> set[str]:
    """Imports that are neither the standard library's nor below one of the allowed packages."""
    return {
        name
        for name in _imports(path)
        if name.split(".")[0] not in STANDARD
        and not any(name == package or name.startswith(f"{package}.") for package in allowed)
    }


@pytest.mark.parametrize("path", _modules("sim/core"), ids=str)
def test_the_core_imports_numpy_and_the_standard_library_only(path: Path) -> None:
    assert not _outside(path, {"numpy", "sim.core"})


@pytest.mark.parametrize("path", _modules("workloads"), ids=str)
def test_workloads_import_numpy_and_the_standard_library_only(path: Path) -> None:
    assert not _outside(path, {"numpy", "workloads"})


@pytest.mark.parametrize("path", _modules("sim"), ids=str)
def test_the_simulator_never_imports_the_real_engine_and_simpy_stays_in_its_homes(path: Path) -> None:
    tops = {name.split(".")[0] for name in _imports(path)}
    assert not tops & {"torch", "triton", "gpu_backend", "tests"}
    if path.relative_to(REPO).as_posix() not in SIMPY_HOMES:
        assert "simpy" not in tops


def test_a_forbidden_import_is_noticed(tmp_path: Path) -> None:
    module = tmp_path / "module.py"
    module.write_text("import numpy\nfrom sim.metrics import Slo\nimport os\n")
    assert _outside(module, {"numpy", "sim.core"}) == {"sim.metrics"}


@pytest.mark.parametrize(
    ("statement", "forbidden"),
    [
        ("import sim, workloads, gpu_backend", {"numpy", "yaml", "pydantic", "matplotlib", "torch", "simpy"}),
        ("import sim.core.engine", {"yaml", "pydantic", "matplotlib", "torch", "simpy"}),
        ("import sim.cli", {"numpy", "yaml", "matplotlib", "torch", "simpy"}),
        ("import sim.simulation", {"matplotlib", "torch", "typer", "rich"}),
    ],
)
def test_importing_loads_nothing_heavy_that_is_not_needed(statement: str, forbidden: set[str]) -> None:
    code = f"import sys; {statement}; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=REPO)
    assert not forbidden & set(done.stdout.split())
