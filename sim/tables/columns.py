"""Reads CSV files of other projects as columns; what is wrong in one is told with file, line and column."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np

from sim.errors import ConfigError, Problem
from sim.tables.measurements import Rows


def read_columns(
    path: Path,
    numbers: tuple[str, ...],
    texts: tuple[str, ...] = (),
    *,
    optional: tuple[str, ...] = (),
) -> Rows:
    """The named columns of a file; a missing one is an error.

    An empty number is not a number (nan), and so is each of an optional column that is missing.

    Raises:
        ConfigError: The file cannot be read, lacks a column, or has a value that is no number.
    """
    try:
        with path.open(newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file)
            rows = [(reader.line_num, row) for row in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ConfigError([Problem(str(path), "", f"cannot be read: {error}")]) from error
    missing = [name for name in (*numbers, *texts) if name not in (reader.fieldnames or ())]
    if missing:
        raise ConfigError([Problem(str(path), "", f"lacks the columns {', '.join(missing)}", 1)])
    columns = {
        name: np.array([_number(path, line, row, name) for line, row in rows], dtype=float)
        for name in (*numbers, *optional)
    }
    words = {name: np.array([row[name] or "" for _, row in rows], dtype=str) for name in texts}
    return Rows({**columns, **words})


def _number(path: Path, line: int, row: dict[str, str | None], name: str) -> float:
    text = row.get(name) or "nan"
    try:
        return float(text)
    except ValueError as error:
        raise ConfigError([Problem(str(path), name, f"must be a number, not {text!r}", line)]) from error
