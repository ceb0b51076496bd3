"""Paths in configuration files: relative to the file, with ${PAGECAST_DATA} for the data folder.

The data folder is the environment variable's, or else `../shared/data` beside the checkout that the
configuration lies in. Other variables are refused, so that a file means the same everywhere.
"""

from __future__ import annotations

import difflib
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, ValidationInfo

from workloads.text import is_utf8

DATA_VARIABLE = "PAGECAST_DATA"
_VARIABLE = re.compile(r"\$\{([^}]*)\}|\$(\w+)")
_DEFAULT_DATA = Path("shared") / "data"


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What a configuration is read in: the folder that its paths start from."""

    folder: Path


def expand_path(text: str, folder: Path) -> Path:
    """The absolute path that `text` means in a configuration that lies in `folder`.

    Raises:
        ValueError: An unknown variable, a data folder that is not there, or a name that is not UTF-8.
    """
    for match in _VARIABLE.finditer(text):
        if match[1] != DATA_VARIABLE:
            raise ValueError(f"unknown variable {match[0]}: only ${{{DATA_VARIABLE}}} is expanded")
    if _VARIABLE.search(text):
        data = str(data_folder(folder))
        text = _VARIABLE.sub(lambda _: data, text)
    path = (folder / text).resolve()
    if not is_utf8(str(path)):
        raise ValueError(f"{str(path).encode(errors='backslashreplace').decode()} is not UTF-8: rename it")
    return path


def data_folder(folder: Path) -> Path:
    """Where public data lies.

    Raises:
        ValueError: It is not there; the message says how to name it.
    """
    if DATA_VARIABLE in os.environ:
        data = Path(os.environ[DATA_VARIABLE]).resolve()
        if not data.is_dir():
            raise ValueError(f"{DATA_VARIABLE} is {data}, which is no folder")
        return data
    for parent in (folder.resolve(), *folder.resolve().parents):
        if (parent / "pyproject.toml").is_file():
            data = parent.parent / _DEFAULT_DATA
            if data.is_dir():
                return data
            raise ValueError(f"set {DATA_VARIABLE} to the folder of public data (there is none at {data})")
    raise ValueError(f"set {DATA_VARIABLE} to the folder of public data")


def folder_of(info: ValidationInfo) -> Path:
    """Where the configuration that is being validated lies."""
    surroundings = info.context
    return surroundings.folder if isinstance(surroundings, Surroundings) else Path()


def _existing_file(text: str, info: ValidationInfo) -> str:
    path = expand_path(text, folder_of(info))
    if not path.is_file():
        raise ValueError(f"there is no file {path}{_similar(path)}")
    return str(path)


def _existing_folder(text: str, info: ValidationInfo) -> str:
    path = expand_path(text, folder_of(info))
    if not path.is_dir():
        raise ValueError(f"there is no folder {path}{_similar(path)}")
    return str(path)


def _similar(path: Path) -> str:
    if not path.parent.is_dir():
        return f" (nor a folder {path.parent})"
    near = difflib.get_close_matches(path.name, sorted(other.name for other in path.parent.iterdir()), n=1)
    return f" (did you mean {near[0]}?)" if near else ""


DataFile = Annotated[str, AfterValidator(_existing_file)]
"""A file that is there; absolute once read."""
DataFolder = Annotated[str, AfterValidator(_existing_folder)]
"""A folder that is there; absolute once read."""
