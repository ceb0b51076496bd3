"""Writing a folder whole or not at all: under a hidden name beside its own, flushed, then renamed.

What dies on the way leaves at most a folder whose name starts with a dot. Refuses to know what is written,
and whether a folder that is there may be replaced: whoever calls has looked.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sim.errors import ConfigError, Problem


@contextmanager
def whole_folder(folder: Path, *, replaces: bool = False) -> Iterator[Path]:
    """The folder to write into; it becomes `folder` when the block ends well.

    Args:
        folder: What it will be called.
        replaces: Whether one that is there gives way, at the last moment.

    Raises:
        ConfigError: It cannot be written.
    """
    partial = folder.parent / f".{folder.name}.partial-{os.getpid()}"
    try:
        partial.mkdir(parents=True)
        yield partial
        _flush(partial)
        if replaces and folder.exists():
            shutil.rmtree(folder)
        partial.rename(folder)
        _flush_folder(folder.parent)
    except OSError as error:
        raise ConfigError([Problem(str(folder), "", f"cannot be written: {error.strerror}")]) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _flush(folder: Path) -> None:
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())
        else:
            _flush_folder(path)
    _flush_folder(folder)


def _flush_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
