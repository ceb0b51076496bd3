"""Rows of a sweep on disk, one small file each, named by the key of its content.

Written under another name, flushed, then renamed: a row is there whole or not at all, and once its writing
has returned it survives a crash. Several processes may write the same row: they write the same bytes.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sim.errors import ConfigError, Problem


def find_row(store: Path, key: str) -> dict[str, Any] | None:
    """A row by its key; None if it is not there, or is not whole."""
    try:
        document = json.loads((store / f"{key}.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return document if isinstance(document, dict) and document.get("key") == key else None


def write_row(store: Path, key: str, row: Mapping[str, Any]) -> None:
    """Keep a row.

    Raises:
        ConfigError: It cannot be written.
    """
    partial = store / f".{key}.{os.getpid()}"
    try:
        with partial.open("w", encoding="utf-8") as file:
            json.dump(row, file, allow_nan=False)
            file.flush()
            os.fsync(file.fileno())
        partial.rename(store / f"{key}.json")
    except OSError as error:
        partial.unlink(missing_ok=True)
        message = f"a row cannot be written: {error.strerror}; nothing that was reported as done is lost"
        raise ConfigError([Problem(str(store), "", message)]) from error
