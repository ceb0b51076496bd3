"""Shared fixtures: where the public traces lie, and the hypothesis profiles."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

REPO = Path(__file__).resolve().parent.parent

settings.register_profile("ci", derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile(
    "nightly", max_examples=10_000, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))


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
