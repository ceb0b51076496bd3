"""Whether a folder or a file can be written, asked before the work that it is for; makes nothing."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from sim.errors import ConfigError, Problem
from sim.results.whole_folder import is_taken
from workloads.text import is_utf8


def refuse_unwritable(folder: Path) -> None:
    """Say before a simulation what would spoil its run folder at its end.

    Raises:
        ConfigError: The folder exists and is not empty, or cannot be made.
    """
    _refuse(folder, "is there already, and runs are not overwritten" if is_taken(folder) else None)
    _refuse(folder, _fault_of(folder))


def refuse_unwritable_files(*files: Path) -> None:
    """Say before a simulation what would spoil its files at its end; those that are there are replaced.

    Raises:
        ConfigError: One of them is a folder, or cannot be made or written.
    """
    for file in files:
        _refuse(file, _fault_of(file))
        if file.is_dir():
            _refuse(file, "cannot be written: is a folder")
        if file.exists() and not os.access(file, os.W_OK):
            _refuse(file, "cannot be written: no permission")


@contextmanager
def telling_unwritable(path: Path) -> Iterator[None]:
    """What cannot be written after all is bad input too.

    Raises:
        ConfigError: Writing failed.
    """
    try:
        yield
    except OSError as error:
        raise ConfigError([Problem(str(path), "", f"cannot be written: {error.strerror}")]) from error


def _refuse(path: Path, fault: str | None) -> None:
    if fault is not None:
        raise ConfigError([Problem(str(path), "", fault)])


def _fault_of(path: Path) -> str | None:
    """Why nothing of this name can be made."""
    if not is_utf8(str(path.absolute())):
        return "cannot be written: its name is not UTF-8"
    try:
        with suppress(FileNotFoundError):
            path.lstat()
            path = path.resolve()  # an empty folder may be linked to
        parent = next(parent for parent in path.absolute().parents if parent.exists())
    except (OSError, ValueError) as error:
        return f"cannot be written: {error.strerror if isinstance(error, OSError) else error}"
    if not parent.is_dir():
        return f"cannot be written: {parent} is no folder"
    if not os.access(parent, os.W_OK | os.X_OK):
        return f"cannot be written: no permission to write in {parent}"
    return None
