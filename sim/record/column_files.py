"""Tables on disk: one `.npz` a table, one compressed `.npy` a column; the same columns give the same bytes.

`numpy.load` opens them anywhere. Times keep their type (`timedelta64[ns]`). Nothing in the archive depends
on the clock: every member carries the earliest date that zip knows.
"""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sim.errors import ConfigError, Problem

_EPOCH = (1980, 1, 1, 0, 0, 0)
_COMPRESSION_LEVEL = 4  # twice as fast as zlib's 6 on token times, files a fifth larger


def write_columns(path: Path, columns: Mapping[str, NDArray[Any]]) -> None:
    """Write a table."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=_COMPRESSION_LEVEL) as archive:
        for name, column in columns.items():
            member = zipfile.ZipInfo(f"{name}.npy", _EPOCH)
            member.compress_type = zipfile.ZIP_DEFLATED
            member.external_attr = 0o644 << 16
            with archive.open(member, "w", force_zip64=True) as file:
                np.lib.format.write_array(file, np.ascontiguousarray(column), allow_pickle=False)


def read_columns(path: Path) -> dict[str, NDArray[Any]]:
    """Read a table.

    Raises:
        ConfigError: The file is missing, damaged, or holds something else than columns.
    """
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            if not isinstance(archive, np.lib.npyio.NpzFile):
                raise ConfigError([Problem(str(path), "", "is one array, not a table of columns (.npz)")])
            return {name: archive[name] for name in archive.files}
    except FileNotFoundError:
        raise ConfigError([Problem(str(path), "", "is missing")]) from None
    except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile, zlib.error) as error:
        if isinstance(error, ConfigError):
            raise
        raise ConfigError([Problem(str(path), "", f"is damaged: {error}")]) from error
