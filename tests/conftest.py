"""Which code is tested, compiled or plain; where the public traces lie; the hypothesis profiles."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

import sim
from sim.compiled import is_compiled, running_code

REPO = Path(__file__).resolve().parent.parent

settings.register_profile("ci", derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile(
    "nightly", max_examples=10_000, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))


MUST_BE_COMPILED = "PAGECAST_TESTS_COMPILED"
"""Set by `tests/compiled.py`: then it is a mistake if plain Python is what is tested."""


def pytest_configure() -> None:
    if os.environ.get(MUST_BE_COMPILED) and not is_compiled():
        raise pytest.UsageError(f"compiled code was to be tested, but {sim.__file__} is plain Python")


def pytest_report_header() -> str:
    return f"pagecast: {running_code()}, {sim.__file__}"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if is_compiled():
        skip = pytest.mark.skip(reason="patches methods that compiled code calls directly")
        for item in items:
            if item.get_closest_marker("plain"):
                item.add_marker(skip)


def _folder(variable: str, default: Path, what: str) -> Path:
    folder = Path(os.environ.get(variable, default))
    if not folder.is_dir():
        pytest.skip(f"{what} not found at {folder}; set {variable}")
    return folder


@pytest.fixture(scope="session")
def traces_dir() -> Path:
    """Folder of the public request traces; the test is skipped where they are absent."""
    return _folder("PAGECAST_DATA", REPO.parent / "shared" / "data", "public traces") / "traces"


@pytest.fixture(scope="session")
def decision_traces_dir() -> Path:
    """Folder of the recorded engine decisions; the test is skipped where they are absent."""
    folder = _folder("PAGECAST_REFERENCE", REPO.parent / "shared" / "reference", "recorded engine traces")
    return folder / "decision_traces"
