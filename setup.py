"""How the wheel is built: by setuptools, and by a compiler where there is one.

    a wheel             what `[tool.pagecast]` in pyproject.toml names, compiled by mypyc, beside its sources
    ... of plain Python where no C compiler works, or with PAGECAST_PURE=1: one for every machine
    editable install    plain Python, always: it needs neither a compiler nor mypy

setuptools runs this file as a script. As the build backend that pyproject.toml names it is setuptools' own,
except that a wheel which will be compiled asks for mypy.
"""

from __future__ import annotations

import os
import sys
import sysconfig
import tempfile
import tomllib
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from setuptools import Extension, build_meta, setup
from setuptools.build_meta import (
    build_editable,
    build_sdist,
    build_wheel,
    get_requires_for_build_editable,
    get_requires_for_build_sdist,
    prepare_metadata_for_build_editable,
    prepare_metadata_for_build_wheel,
)
from setuptools.errors import BaseError, CCompilerError

__all__ = [
    "build_editable",
    "build_sdist",
    "build_wheel",
    "get_requires_for_build_editable",
    "get_requires_for_build_sdist",
    "get_requires_for_build_wheel",
    "prepare_metadata_for_build_editable",
    "prepare_metadata_for_build_wheel",
]

COMPILER = "mypy>=2.4,<2.5"
"""It and its mypyc are one package. Another release may take other constructs: let the tests see it first."""
SAME_FLOATS = "-ffp-contract=off"
"""A product and a sum are rounded one after the other, as in Python, on machines that could fuse them too."""


def get_requires_for_build_wheel(config_settings: Any = None) -> list[str]:
    """What has to be installed to build a wheel here, besides setuptools."""
    needed: list[str] = build_meta.get_requires_for_build_wheel(config_settings)
    return [*needed, COMPILER] if why_plain() is None else needed


def why_plain() -> str | None:
    """Why nothing is compiled here; None: it is."""
    if os.environ.get("PAGECAST_PURE", "") not in ("", "0"):
        return "PAGECAST_PURE is set"
    if not _compiles_c():
        return "no C compiler that finds Python's headers works here"
    return None


def _compiles_c() -> bool:
    # Once setuptools is imported these are its own; Python's are gone since 3.12.
    from distutils.ccompiler import new_compiler
    from distutils.sysconfig import customize_compiler

    compiler = new_compiler()
    customize_compiler(compiler)
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder, "nothing.c")
        source.write_text("#include <Python.h>\n", encoding="utf-8")
        try:
            compiler.compile(
                [str(source)], output_dir=folder, include_dirs=[sysconfig.get_paths()["include"]]
            )
        except (BaseError, CCompilerError):
            return False
    return True


def compiled_files() -> list[str]:
    """What `[tool.pagecast]` names."""
    lists = tomllib.loads(Path("pyproject.toml").read_text(encoding="utf-8"))["tool"]["pagecast"]
    found = {path.as_posix() for glob in lists["compiled"] for path in Path().glob(glob)}
    return sorted(path for path in found if not any(fnmatch(path, plain) for plain in lists["plain"]))


def extensions() -> list[Extension]:
    """The compiled modules of a wheel: one library, and for each module a door to it."""
    why = why_plain()
    if why is None:
        try:
            from mypyc.build import mypycify
        except ImportError:
            why = f"{COMPILER} is not installed"
    if why is not None:
        sys.stderr.write(f"pagecast: a wheel of plain Python, since {why}\n")
        return []
    checks = ["--config-file=", "--ignore-missing-imports", "--follow-imports=silent"]
    made: list[Extension] = mypycify([*checks, *compiled_files()], debug_level="0", group_name="pagecast")
    for extension in made:
        # A warning of some C compiler about what mypyc wrote is no reason to have no wheel.
        extension.extra_compile_args = [flag for flag in extension.extra_compile_args if flag != "-Werror"]
        if sys.platform != "win32":
            extension.extra_compile_args.append(SAME_FLOATS)
    return made


if __name__ == "__main__":
    setup(ext_modules=extensions() if "bdist_wheel" in sys.argv else [])
