"""What a run depended on besides its configuration: code, machine, inputs; written as `environment.json`.

The only file of a run, together with the date in `bench.json`, that differs between two runs of the same
experiment with the same seed.
"""

from __future__ import annotations

import hashlib
import os
import platform
import resource
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

ENVIRONMENT_SCHEMA_VERSION = 1
PACKAGES = ("numpy", "simpy", "pydantic", "PyYAML", "typer", "rich", "matplotlib")
_SOURCE = Path(__file__).resolve().parents[1]


@dataclass(frozen=True, slots=True)
class Facts:
    """What only the caller knows."""

    seed: int
    command_line: Sequence[str]
    inputs: Sequence[Path]
    """Files whose content the result depends on: the experiment file and what it names of the user's."""
    started: datetime
    """With a time zone."""
    cpu_s: float
    """CPU seconds of the simulation alone."""


def collect_environment(facts: Facts) -> dict[str, Any]:
    """Everything `environment.json` holds; the run is taken to end now."""
    ended = datetime.now(UTC)
    return {
        "schema_version": ENVIRONMENT_SCHEMA_VERSION,
        "pagecast_version": package_version("pagecast"),
        "git": git_state(_SOURCE),
        "python": platform.python_version(),
        "implementation": platform.python_implementation(),
        "os": platform.platform(),
        "cpu": cpu_model(),
        "num_cpus": os.cpu_count(),
        "packages": {name: package_version(name) for name in PACKAGES},
        "command_line": list(facts.command_line),
        "seed": facts.seed,
        "started": facts.started.astimezone(UTC).isoformat(timespec="milliseconds"),
        "ended": ended.isoformat(timespec="milliseconds"),
        "wall_s": round((ended - facts.started).total_seconds(), 3),
        "simulation_cpu_s": facts.cpu_s,
        "process_cpu_s": _process_cpu_s(),
        "peak_memory_bytes": peak_memory_bytes(),
        "inputs": {str(path): file_sha256(path) for path in facts.inputs},
    }


def package_version(package: str) -> str | None:
    """The version of an installed package; None where it is not installed."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def git_state(source: Path) -> dict[str, Any] | None:
    """Commit of the checkout that `source` (a folder of tracked code) lies in; None where there is none.

    A package installed into a virtual environment inside some checkout is not tracked by it: None.
    """
    if _git(source, "ls-files", "--error-unmatch", "__init__.py") is None:
        return None
    commit = _git(source, "rev-parse", "HEAD")
    changes = _git(source, "status", "--porcelain", "--untracked-files=no")
    return {"commit": commit, "dirty": bool(changes)} if commit else None


def _git(folder: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *arguments], capture_output=True, text=True, timeout=20, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def cpu_model() -> str:
    """The processor by its maker's name where the system tells it."""
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _process_cpu_s() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return round(usage.ru_utime + usage.ru_stime, 3)


def peak_memory_bytes() -> int:
    """Most memory this process ever held."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # Linux counts KiB


def file_sha256(path: Path) -> str | None:
    """SHA-256 of a file's bytes; None if it cannot be read."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return None
