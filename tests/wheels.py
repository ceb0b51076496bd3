"""Wheels of this checkout, and virtual environments that have pagecast from one of them."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

REPO = Path(__file__).resolve().parent.parent
NOTHING: Mapping[str, str] = MappingProxyType({})


def run(*command: str, cwd: Path | None = None, env: Mapping[str, str] = NOTHING) -> str:
    """Standard output of a command that must succeed, with variables besides those that name no code."""
    kept = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "PAGECAST_PURE")}
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=cwd, env={**kept, **env})
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def copy_source(folder: Path) -> Path:
    """A copy of the source without what former builds and runs left behind."""
    anywhere = shutil.ignore_patterns(".*", "__pycache__", "*.egg-info")

    def left_out(place: str, names: list[str]) -> set[str]:
        at_the_top = {"build", "dist", "results"} if Path(place) == REPO else set()
        return at_the_top & set(names) | anywhere(place, names)

    return shutil.copytree(REPO, folder / "pagecast", ignore=left_out)


def build_wheel(folder: Path, env: Mapping[str, str] = NOTHING) -> Path:
    """A wheel of this checkout."""
    source, dist = copy_source(folder), folder / "dist"
    run(sys.executable, "-m", "build", "--wheel", "--outdir", str(dist), str(source), env=env)
    (built,) = dist.glob("pagecast-*.whl")
    return built


def install(what: Path, folder: Path, *options: str, env: Mapping[str, str] = NOTHING) -> Path:
    """The interpreter of a new virtual environment: pagecast from a wheel or source, the rest borrowed."""
    venv, borrowed = folder / "venv", folder / "borrowed"
    run(sys.executable, "-m", "venv", str(venv))
    python = venv / "bin" / "python"
    run(str(python), "-m", "pip", "install", "--quiet", "--no-deps", *options, str(what), env=env)
    borrowed.mkdir()
    for entry in Path(sysconfig.get_path("purelib")).iterdir():
        if not entry.name.startswith(("__editable__", "pagecast-", "pip-")):
            (borrowed / entry.name).symlink_to(entry)
    (own,) = (venv / "lib").glob("python*/site-packages")
    (own / "borrowed.pth").write_text(f"{borrowed}\n")
    return python
