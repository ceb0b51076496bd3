"""Imports flow one way, from room to room, and the command loads nothing that it does not need yet.

A room is a package right below `sim` or `gpu_backend`, or a module that stands beside these. `FLOORS` lists
them from the ground up; a room imports rooms below it only, under `TYPE_CHECKING` too.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from collections import Counter
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parent.parent
FLOORS = (
    "workloads",
    "sim.compiled",
    "sim.errors",
    "sim.units",
    "sim.replay_settings",
    "sim.core",
    "sim.cost",
    "sim.tables",
    "sim.speculation",
    "sim.record",
    "sim.fleet",
    "sim.metrics",
    "sim.experiment",
    "sim.simulation",
    "sim.config",
    "sim.results",
    "sim.report",
    "sim.recording",
    "sim.planning",
    "sim.conform",
    "sim.testing",
    "sim.crosscheck",
    "gpu_backend.stopwatch",
    "gpu_backend.kernel_list",
    "gpu_backend.ops",
    "gpu_backend.devices",
    "gpu_backend.model",
    "gpu_backend.memory",
    "gpu_backend.batch",
    "gpu_backend.runner",
    "gpu_backend.cuda_graphs",
    "gpu_backend.yardstick",
    "gpu_backend.speculation",
    "gpu_backend.executor",
    "gpu_backend.engine",
    "gpu_backend.replay",
    "gpu_backend.calibration",
    "gpu_backend.crosscheck",
    "gpu_backend.training",
    "sim.cli",
    "pagecast",
)
"""From the ground up. A package that is needed in a new room gets its place here, or does not get in."""
LOOSE = {
    "sim": {"compiled", "errors", "units", "replay_settings", "experiment", "simulation", "recording"},
    "gpu_backend": {
        "stopwatch",
        "kernel_list",
        "devices",
        "batch",
        "runner",
        "cuda_graphs",
        "yardstick",
        "executor",
        "engine",
        "replay",
        "crosscheck",
    },
}
"""Modules that stand beside the rooms of a package."""
MAX_MODULES = 30
"""Modules of one folder: the core is the largest."""
MATPLOTLIB_HOMES = {
    "sim/report/plots.py",
    "sim/report/canvas.py",
    "sim/report/fit_picture.py",
    "sim/report/memory_picture.py",
    "sim/crosscheck/pictures.py",
}
ENGINE_COMMANDS = {"sim/cli/replay.py", "sim/cli/crosscheck.py"}
"""Commands that run the engine, which they import when they are called."""
NAMES_OF_THE_COMPILER = {"sim/core/compiling.py": "mypy_extensions"}
"""Imported where types are checked, never when it runs."""
NEVER_IN_SIM = {"torch", "triton", "gpu_backend", "tests"}
PACKAGES = {"pagecast", "sim", "gpu_backend", "workloads"}
STANDARD = set(sys.stdlib_module_names)


def _room(name: str) -> str:
    """The room of a dotted module."""
    return ".".join(name.split(".")[: 1 if name.startswith(("workloads", "pagecast")) else 2])


def _dotted(module: str) -> str:
    return module.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


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
    assert not _outside(
        _imports_of(module), "numpy", "sim.core", *filter(None, [NAMES_OF_THE_COMPILER.get(module)])
    )


@pytest.mark.parametrize("module", _modules("workloads"))
def test_workloads_import_numpy_and_the_standard_library_only(module: str) -> None:
    assert not _outside(_imports_of(module), "numpy", "workloads")


@pytest.mark.parametrize("module", [module for package in sorted(PACKAGES) for module in _modules(package)])
def test_a_room_imports_rooms_below_it_only(module: str) -> None:
    own = _room(_dotted(module))
    if own in ("sim", "gpu_backend"):
        return  # the package itself, which imports nothing
    ours = {_room(name) for name in _imports_of(module) if name.split(".")[0] in PACKAGES and "." in name}
    if own == "sim.cli":
        assert module in ENGINE_COMMANDS or not {room for room in ours if room.startswith("gpu_backend")}
    above = {room for room in ours - {own} if FLOORS.index(room) >= FLOORS.index(own)}
    assert not above, f"{own} imports what stands above it"


def test_no_modules_import_each_other_in_a_circle() -> None:
    """A circle that only the type checker would see is a circle."""
    modules = [module for package in PACKAGES for module in _modules(package)]
    names = {_dotted(module): module for module in modules}
    imports = {name: _imports_of(module) & names.keys() - {name} for name, module in names.items()}
    TopologicalSorter(imports).prepare()  # raises CycleError, which names the circle


def test_a_circle_that_only_types_close_is_seen() -> None:
    types_alone = _imports("if TYPE_CHECKING:\n    from b import B\n")
    with pytest.raises(CycleError):
        TopologicalSorter({"a": types_alone, "b": _imports("from a import A\n")}).prepare()


@pytest.mark.parametrize("package", sorted(PACKAGES))
def test_a_package_holds_the_rooms_and_modules_that_are_listed(package: str) -> None:
    modules = _modules(package)
    beside = {module.split("/")[1].removesuffix(".py") for module in modules if module.count("/") == 1}
    assert beside - {"__init__"} == LOOSE.get(package, beside - {"__init__"})
    folders = Counter(module.rpartition("/")[0] for module in modules)
    assert max(folders.values()) <= MAX_MODULES
    if package in LOOSE:
        rooms = {f"{package}.{folder.split('/')[1]}" for folder in folders if "/" in folder}
        assert rooms <= set(FLOORS), "a new room needs its floor"


@pytest.mark.parametrize("module", _modules("sim"))
def test_the_simulator_imports_no_engine_and_keeps_simpy_and_matplotlib_in_their_homes(module: str) -> None:
    tops = _tops(_imports_of(module))
    assert not tops & (NEVER_IN_SIM - ({"gpu_backend"} if module in ENGINE_COMMANDS else set()))
    assert "simpy" not in tops or module.startswith("sim/fleet/")
    assert "matplotlib" not in tops or module in MATPLOTLIB_HOMES


@pytest.mark.parametrize("module", _modules("gpu_backend"))
def test_triton_is_imported_only_by_operators(module: str) -> None:
    tops = _tops(_imports_of(module))
    assert "tests" not in tops
    assert "triton" not in tops or module.startswith("gpu_backend/ops/")


def test_a_forbidden_import_is_noticed_wherever_it_stands() -> None:
    names = _imports("import numpy as np\nimport os\ndef f():\n    from sim.metrics.summary import Slo\n")
    assert _outside(names, "numpy", "sim.core") == {"sim.metrics.summary"}
    assert _outside({"sim"}, "sim.core") == {"sim"}
    with pytest.raises(AssertionError, match="relative import"):
        _imports("from . import metrics\n")


HELP = "import sys; sys.argv = ['pagecast', '--help']\ntry: main()\nexcept SystemExit: pass"
HEAVY = {"matplotlib", "torch", "triton", "pandas", "scipy", "ray", "gpu_backend.ops"}


@pytest.mark.parametrize(
    ("statement", "also_forbidden"),
    [
        ("import sim, workloads, gpu_backend", {"numpy", "yaml", "pydantic", "simpy", "typer", "rich"}),
        (
            "import sim.core.engine",
            {"yaml", "pydantic", "simpy", "typer", "rich", "workloads", "mypy_extensions"},
        ),
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
