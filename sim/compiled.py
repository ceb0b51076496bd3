"""Which code runs: modules that the wheel compiled, or the Python that they were compiled from.

    sim/core/engine.py                        in a checkout, and in any wheel
    sim/core/engine.cpython-311-....so        beside it, in a compiled wheel: Python prefers it

PAGECAST_PURE=1 has all of `sim` found as plain Python. It is all or nothing, and decided before any module of
`sim` is loaded: compiled modules call each other directly, so they cannot make do with each other's sources.
"""

from __future__ import annotations

import os
import sys
from importlib.abc import PathEntryFinder
from importlib.machinery import EXTENSION_SUFFIXES, SOURCE_SUFFIXES, FileFinder, SourceFileLoader
from importlib.util import find_spec
from pathlib import Path

VARIABLE = "PAGECAST_PURE"


def is_plain_wanted() -> bool:
    """Whether the environment asks for plain Python."""
    return os.environ.get(VARIABLE, "") not in ("", "0")


def find_sources_only(package: str) -> None:
    """From now on, in the folder of a package and below, Python finds source files and nothing else."""
    sources = FileFinder.path_hook((SourceFileLoader, SOURCE_SUFFIXES))

    def finder(folder: str) -> PathEntryFinder:
        if not Path(folder).is_relative_to(package):
            raise ImportError(folder)  # the protocol's word for: not mine, ask the next
        return sources(folder)

    sys.path_hooks.insert(0, finder)
    for folder in [folder for folder in sys.path_importer_cache if Path(folder).is_relative_to(package)]:
        del sys.path_importer_cache[folder]


def is_compiled() -> bool:
    """Whether the compiled modules run."""
    spec = find_spec("sim.core.engine")
    return spec is not None and str(spec.origin).endswith(tuple(EXTENSION_SUFFIXES))


def running_code() -> str:
    """Which of the two runs, in words."""
    return "compiled" if is_compiled() else "plain Python"
