"""Imports flow one way, and the command loads nothing that it does not need yet."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parent.parent
SIMPY_HOMES = {"sim/driver.py", "sim/links.py", "sim/cluster.py", "sim/crosscheck/lockstep.py"}
MATPLOTLIB_HOMES = {
    "sim/report/plots.py",
    "sim/report/canvas.py",
    "sim/report/memory_picture.py",
    "sim/crosscheck/pictures.py",
}
ENGINE_COMMANDS = {"sim/cli/replay.py", "sim/cli/crosscheck.py"}
"""Commands that run the engine, which they import when they are called."""
NEVER_IN_SIM = {"torch", "triton", "gpu_backend", "tests"}
STANDARD = set(sys.stdlib_module_names)


def _modules(folder: str) -> list[str]:
    return sorted(path.relative_to(REPO).as_posix() for path in (REPO / folder).rglob("*.py"))


def _imports(source: str) -> set[str]:
    """Every module that is imported, at the top or inside a function."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: relative import"
            assert node.module is not None
            names.add(node.module)
    return names


def _imports_of(module: str) -> set[str]:
    return _imports((REPO / module).read_text(encoding="utf-8"))


def _tops(names: set[str]) -> set[str]:
    return {name.split(".")[0] for name in names}


def _outside(names: set[str], *allowed: str) -> set[str]:
    """Imports that are neither the standard library's nor an allowed package or below one."""
    return {
        name
        for name in names
        if name.split(".")[0] not in STANDARD
        and not any(name == package or name.startswith(f"{package}.") for package in allowed)
    }


@pytest.mark.parametrize("module", _modules("sim/core"))
def test_the_core_imports_numpy_and_the_standard_library_only(module: str) -> None:
    assert not _outside(_imports_of(module), "numpy", "sim.core")


@pytest.mark.parametrize("module", _modules("workloads"))
def test_workloads_import_numpy_and_the_standard_library_only(module: str) -> None:
    assert not _outside(_imports_of(module), "numpy", "workloads")


@pytest.mark.parametrize("module", _modules("sim"))
def test_the_simulator_imports_no_engine_and_keeps_simpy_and_matplotlib_in_their_homes(module: str) -> None:
    tops = _tops(_imports_of(module))
    assert not tops & (NEVER_IN_SIM - ({"gpu_backend"} if module in ENGINE_COMMANDS else set()))
    assert "simpy" not in tops or module in SIMPY_HOMES
    assert "matplotlib" not in tops or module in MATPLOTLIB_HOMES


@pytest.mark.parametrize("module", _modules("gpu_backend"))
def test_triton_is_imported_only_by_operators(module: str) -> None:
    tops = _tops(_imports_of(module))
    assert "tests" not in tops
    assert "triton" not in tops or module.startswith("gpu_backend/ops/")


def test_a_forbidden_import_is_noticed_wherever_it_stands() -> None:
    names = _imports("import numpy as np\nimport os\ndef f():\n    from sim.metrics import Slo\n")
    assert _outside(names, "numpy", "sim.core") == {"sim.metrics"}
    assert _outside({"sim"}, "sim.core") == {"sim"}
    with pytest.raises(AssertionError, match="relative import"):
        _imports("from . import metrics\n")


HELP = "import sys; sys.argv = ['pagecast', '--help']\ntry: main()\nexcept SystemExit: pass"
HEAVY = {"matplotlib", "torch", "triton", "pandas", "scipy", "ray", "gpu_backend.ops"}


@pytest.mark.parametrize(
    ("statement", "also_forbidden"),
    [
        ("import sim, workloads, gpu_backend", {"numpy", "yaml", "pydantic", "simpy", "typer", "rich"}),
        ("import sim.core.engine", {"yaml", "pydantic", "simpy", "typer", "rich", "workloads"}),
        ("import workloads.generate", {"yaml", "pydantic", "simpy", "typer", "rich", "sim"}),
        ("import sim.simulation", {"typer", "rich"}),
        (f"from sim.cli import main; {HELP}", {"numpy", "yaml", "pydantic", "simpy", "sim.core"}),
    ],
)
def test_nothing_heavy_is_loaded_before_it_is_needed(statement: str, also_forbidden: set[str]) -> None:
    code = f"{statement}\nimport sys; print('LOADED', *sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=REPO)
    loaded = done.stdout.partition("LOADED")[2].split()
    assert len(loaded) > 10
    assert not (HEAVY | also_forbidden) & set(loaded)
