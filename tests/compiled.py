"""The tests once more with compiled code: a wheel, a virtual environment, and the tests alone beside it.

    python -m tests.compiled WHEEL [PYTEST'S ARGUMENTS]

`make test-compiled` runs it. Nothing of the checkout that could be imported instead lies where they run.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.wheels import REPO, install

BESIDE_THE_TESTS = ("tests", "configs", "pyproject.toml", "README.md")
CHOSEN = (
    "tests/core",
    "tests/conform",
    "tests/cost/test_step_properties.py",
    "tests/cost/test_step_time.py",
    "tests/test_compiled.py",
    "tests/fleet",
    "tests/record",
    "tests/pagecast/test_own_policies.py",
    "tests/test_simulation.py",
    "tests/test_simulation_properties.py",
    "tests/testing/test_schedulers_read_back.py",
    "tests/gpu_backend/test_executor.py",
    "tests/gpu_backend/test_replay.py::test_a_replay_writes_a_run_like_any_other_and_what_it_decided",
)
"""Decisions, recordings of them, equivalences and properties; what surrounds the core; the real engine."""

OUTSIDE = {"PAGECAST_DATA": "data", "PAGECAST_REFERENCE": "reference"}
"""What tests look for beside the checkout, unless they are told of another place."""


def main(wheel: Path, arguments: list[str]) -> int:
    """Pytest's exit code."""
    with tempfile.TemporaryDirectory() as folder:
        python, place = install(wheel, Path(folder)), Path(folder, "checkout")
        place.mkdir()
        for name in BESIDE_THE_TESTS:
            copy = shutil.copytree if (REPO / name).is_dir() else shutil.copyfile
            copy(REPO / name, place / name)
        environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
        environment |= {"PAGECAST_TESTS_COMPILED": "1"}
        for variable, folder_of_it in OUTSIDE.items():
            environment.setdefault(variable, str(REPO.parent / "shared" / folder_of_it))
        chosen = arguments or ["-q", "-n", "2", "-m", "not slow and not gpu", *CHOSEN]
        return subprocess.run(
            [str(python), "-m", "pytest", *chosen], cwd=place, env=environment, check=False
        ).returncode


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]).resolve(), sys.argv[2:]))
