"""The files of the wheel `aiconfigurator-core`: where they lie, which versions there are, how one is read.

Owns pyarrow, which is imported when a file is read. Refuses to know what the tables mean
(`sim.tables.aiconfigurator`).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import yaml

from sim.errors import ConfigError, Problem
from sim.tables.measurements import Rows

INSTALL = "pip install 'pagecast[tables]' installs aiconfigurator-core and pyarrow, which reads it"


@dataclass(frozen=True, slots=True)
class Listed:
    """One table of the wheel."""

    system: str
    backend: str
    version: str
    operator: str
    table: str
    num_rows: int


def systems_folder(given: Path | None = None) -> Path:
    """Folder `systems` of the installed wheel, or of one that was unpacked at `given`.

    Raises:
        ConfigError: It is not there.
    """
    if given is not None:
        for folder in (given, given / "systems", given / "aiconfigurator_core" / "systems"):
            if (folder / "data").is_dir():
                return folder
        raise ConfigError([Problem(str(given), "", "has no folder systems/data of aiconfigurator-core")])
    spec = find_spec("aiconfigurator_core")
    for place in spec.submodule_search_locations or () if spec else ():
        if (Path(place) / "systems" / "data").is_dir():
            return Path(place) / "systems"
    raise ConfigError([Problem("--from aiconfigurator", "", f"is not installed: {INSTALL}")])


def listing(folder: Path) -> Iterator[Listed]:
    """Every table there is, in order of its path."""
    parquet = parquet_reader()
    for path in sorted((folder / "data").glob("*/*/*/*/*.parquet")):
        system, operator, backend, version = path.parts[-5:-1]
        num_rows = parquet.ParquetFile(path).metadata.num_rows
        yield Listed(system, backend, version, operator, path.stem.removesuffix("_perf"), num_rows)


def versions_in(folder: Path) -> list[str]:
    """Versions that a folder has tables of, oldest first."""
    names = [path.name for path in folder.iterdir() if path.is_dir()] if folder.is_dir() else []
    return sorted(names, key=age)


def newest(versions: Iterable[str]) -> str:
    """The newest of some versions."""
    return max(versions, key=age)


def age(version: str) -> tuple[tuple[int, str], ...]:
    """1.3.0rc9 before 1.3.0rc20, both before 1.3.0."""
    parts = re.findall(r"\d+|[a-z]+", version)
    known = [(int(part), "") if part.isdecimal() else (-1, part) for part in parts]
    return (*known, (0, ""))


def columns_of(parquet: Any, path: Path) -> Rows:
    """A file's columns, read by `parquet`; text is no object.

    Raises:
        ConfigError: It cannot be read.
    """
    try:
        read = parquet.read_table(path)
    except (OSError, ValueError) as error:
        raise ConfigError([Problem(str(path), "", f"cannot be read: {error}")]) from error
    columns = {name: read.column(name).to_numpy() for name in read.column_names}
    text = {name: column.astype(str) for name, column in columns.items() if column.dtype == object}
    return Rows(columns | text)


def parquet_reader() -> Any:
    """The module that reads Parquet.

    Raises:
        ConfigError: It is not installed.
    """
    try:
        from pyarrow import parquet
    except ImportError as error:
        raise ConfigError([Problem("pyarrow", "", f"is not installed: {INSTALL}")]) from error
    return parquet


def datasheet(folder: Path, system: str) -> dict[str, tuple[float, str]]:
    """Rates and sizes of a GPU as the wheel has them, by the keys of a hardware file: value and unit."""
    document = yaml.safe_load((folder / f"{system}.yaml").read_text(encoding="utf-8"))
    gpu, node = document.get("gpu", {}), document.get("node", {})
    entries = {
        "memory": (gpu.get("mem_capacity"), "B", 1),
        "memory_bandwidth": (gpu.get("mem_bw"), "GB/s", 1e9),
        "compute": (gpu.get("bfloat16_tc_flops"), "TFLOP/s", 1e12),
        "fp8_compute": (gpu.get("fp8_tc_flops"), "TFLOP/s", 1e12),
        "host_bandwidth": (node.get("pcie_bw"), "GB/s", 1e9),
        "link_bandwidth": (node.get("intra_node_bw"), "GB/s", 1e9),
    }
    return {key: (value / scale, unit) for key, (value, unit, scale) in entries.items() if value}
