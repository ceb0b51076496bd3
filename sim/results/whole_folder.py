"""Writing a folder whole or not at all: under a hidden name of its own, flushed, then renamed.

Nobody else's folder is ever touched. A name that others have taken by then costs nothing but the name: the
folder is called `NAME-2`, or whatever is free. An empty folder of that name is taken over. What dies on the
way leaves at most a folder whose name starts with a dot. Refuses to know what is written, and whether a
folder that is there may be replaced: whoever calls has looked.
"""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Iterator
from itertools import count, repeat
from pathlib import Path
from types import TracebackType

from sim.errors import ConfigError, Problem

_MOST_NAME_BYTES = 200
"""Of a name that something is put behind: file systems allow 255."""


class WholeFolder:
    """Gives the folder to write into; it becomes `folder` when the block ends well."""

    def __init__(self, folder: Path, *, replaces: bool = False) -> None:
        """Be ready to write.

        Args:
            folder: What it will be called, if that is free.
            replaces: Whether one that is there gives way, at the last moment.
        """
        self.folder = folder
        """What it is called, once it is written."""
        self._wanted = folder.resolve() if is_empty_folder(folder) else folder
        self._replaces = replaces
        self._partial: Path | None = None

    def __enter__(self) -> Path:
        """Make the folder to write into.

        Raises:
            ConfigError: It cannot be made.
        """
        try:
            self._partial = _new_partial(self._wanted)
        except OSError as error:
            raise self._unwritable(error) from error
        return self._partial

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        """Give it its name, or leave nothing.

        Raises:
            ConfigError: It cannot be written.
        """
        assert self._partial is not None, "the block was entered"
        try:
            if kind is None:
                _flush(self._partial)
                self._rename(self._partial)
        except OSError as failure:
            raise self._unwritable(failure) from failure
        finally:
            shutil.rmtree(self._partial, ignore_errors=True)
        if isinstance(error, OSError):
            raise self._unwritable(error) from error

    def _rename(self, partial: Path) -> None:
        for name in repeat(self._wanted) if self._replaces else _names(self._wanted):
            if self._replaces and name.exists():
                shutil.rmtree(name)
            try:
                partial.rename(name)
            except OSError:
                if not is_taken(name):
                    raise
            else:
                if name != self._wanted:
                    self.folder = self.folder.with_name(name.name)
                _flush_folder(name.absolute().parent)
                return

    def _unwritable(self, error: OSError) -> ConfigError:
        return ConfigError([Problem(str(self._wanted), "", f"cannot be written: {error.strerror or error}")])


def is_taken(path: Path) -> bool:
    """Whether there is something of this name that a folder cannot take over."""
    return os.path.lexists(path) and not is_empty_folder(path)


def is_empty_folder(path: Path) -> bool:
    """Whether there is a folder of this name with nothing in it."""
    return path.is_dir() and not any(path.iterdir())


def free_name(folder: Path) -> Path:
    """This name, or the first one with a number behind it, that nobody has."""
    return next(name for name in _names(folder) if not os.path.lexists(name))


def _new_partial(folder: Path) -> Path:
    whole = folder.absolute()
    whole.parent.mkdir(parents=True, exist_ok=True)
    while True:
        partial = whole.parent / f".{_shortened(whole.name)}.partial-{secrets.token_hex(8)}"
        try:
            partial.mkdir()
        except FileExistsError:
            continue
        return partial


def _names(folder: Path) -> Iterator[Path]:
    """The name that is wanted, and others that will do."""
    yield folder
    for number in count(2):
        yield folder.with_name(f"{_shortened(folder.name)}-{number}")


def _shortened(name: str) -> str:
    return os.fsencode(name)[:_MOST_NAME_BYTES].decode(errors="ignore")


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
