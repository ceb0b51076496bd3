"""Tables of measured kernel times, and their reader: one CSV file a table, its kind told by its columns.

Owns the columns; times come in milliseconds and leave in nanoseconds. Refuses to fit anything, and to know
the forms of other projects (`sim.tables`). A value that is no positive number is an error with file, line
and column.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass, replace
from enum import Enum
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sim.cost.measured import AXES, STEP
from sim.errors import ConfigError, Problem
from workloads.text import parse_number

_LATENCY = "latency_ms"
_COPIES = "num_copies"
"""May be left out: then the same operands were measured over and over."""
_BYTES_PER_ELEMENT = {"half": 2, "bfloat16": 2, "float": 4, "int8": 1}


class TableKind(Enum):
    """What was measured; the name is that of the curve."""

    GEMM = "gemm"
    DECODE_ATTENTION = "decode_attention"
    PREFILL_ATTENTION = "prefill_attention"
    ALL_REDUCE = "all_reduce"
    ELEMENTWISE = "elementwise"
    FP8_GEMM = "fp8_gemm"
    NARROW_GEMM = "narrow_gemm"  # 8-bit weights in 16-bit products

    @property
    def bytes_per_weight(self) -> int:
        """Of products: how wide their weights are."""
        return 2 if self is TableKind.GEMM else 1


_COLUMNS = {
    TableKind.GEMM: ("m", "n", "k"),
    TableKind.FP8_GEMM: ("m", "n", "k"),
    TableKind.NARROW_GEMM: ("m", "n", "k"),
    TableKind.DECODE_ATTENTION: ("batch_size", "num_heads", "num_kv_heads", "head_dim", "context_len"),
    TableKind.PREFILL_ATTENTION: ("batch_size", "isl", "num_heads", "num_kv_heads", "head_dim"),
    TableKind.ALL_REDUCE: ("num_gpus", "message_size"),
    TableKind.ELEMENTWISE: ("num_bytes",),
}
_PRODUCTS = {
    **dict.fromkeys(("half", "float16", "fp16", "bfloat16", "bf16"), TableKind.GEMM),
    **dict.fromkeys(("fp8", "float8", "float8_e4m3fn"), TableKind.FP8_GEMM),
    "int8_wo": TableKind.NARROW_GEMM,
}
"""Number types of products, where a table names them (`dtype`), and the curve they are points of."""


@dataclass(frozen=True, slots=True)
class KernelTable:
    """Sizes and times of one kind of kernel.

    Attributes:
        columns: By the name in the file, each [num_rows]; `num_bytes` of all-reduce is made from elements.
            `num_computed`, where prompt attention has it: tokens before the chunk.
        times_ns: [num_rows].
        num_copies: How many sets of operands whoever measured went through in turn; infinite where a whole
            model ran between two measurements, so that no cache held any of them.
    """

    kind: TableKind
    name: str
    columns: dict[str, NDArray[np.float64]]
    times_ns: NDArray[np.float64]
    num_copies: float = 1

    def __len__(self) -> int:
        return len(self.times_ns)

    def rows(self, chosen: NDArray[np.bool_]) -> KernelTable:
        """The rows for which `chosen` [num_rows] holds."""
        columns = {name: column[chosen] for name, column in self.columns.items()}
        return replace(self, columns=columns, times_ns=self.times_ns[chosen])


def read_table(path: Path) -> KernelTable:
    """Read a table of a known kind; of a table of collectives, the all-reduce rows.

    Raises:
        ConfigError: The file is missing, of no known kind, or has a value that is no positive number.
    """
    try:
        with path.open(newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file)
            rows = [(reader.line_num, row) for row in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ConfigError([Problem(str(path), "", f"cannot be read: {error}")]) from error
    kind = _kind_of(path, reader.fieldnames or ())
    if kind is TableKind.GEMM and "dtype" in (reader.fieldnames or ()):
        kind = _products_of(path, rows)
    if kind is TableKind.ALL_REDUCE:
        rows = [(line, row) for line, row in rows if row.get("op", "all_reduce") == "all_reduce"]
    if not rows:
        raise ConfigError([Problem(str(path), "", f"has no rows of {kind.value}")])
    columns = {
        name: np.array([_number(path, line, row, name) for line, row in rows])
        for name in (*_COLUMNS[kind], _LATENCY)
    }
    if kind is TableKind.ALL_REDUCE:
        sizes = np.array([_element_bytes(path, line, row) for line, row in rows])
        columns["num_bytes"] = columns["message_size"] * sizes
    copies = _number(path, rows[0][0], rows[0][1], _COPIES) if _COPIES in rows[0][1] else 1
    return KernelTable(kind, path.name, columns, columns.pop(_LATENCY) * 1e6, copies)


def _products_of(path: Path, rows: list[tuple[int, dict[str, str]]]) -> TableKind:
    """Which curve products are points of: those of two number types are of none."""
    kind = TableKind.GEMM
    for place, (line, row) in enumerate(rows):
        found = _PRODUCTS.get(str(row["dtype"]).lower())
        if found is None:
            known = ", ".join(_PRODUCTS)
            raise ConfigError([Problem(str(path), "dtype", f"'{row['dtype']}' is not one of {known}", line)])
        if place and found is not kind:
            message = f"'{row['dtype']}' in a table of another number type: fit each by itself"
            raise ConfigError([Problem(str(path), "dtype", message, line)])
        kind = found
    return kind


def is_calibration(path: Path) -> bool:
    """Whether a file has the columns of whole steps, which `sim.cost.measured` reads; False if unreadable."""
    try:
        with path.open(newline="", encoding="utf-8") as file:
            return {*AXES, STEP} <= set(next(csv.reader(file), ()))
    except (OSError, UnicodeDecodeError, csv.Error):
        return False


def _kind_of(path: Path, names: object) -> TableKind:
    found = set(names if isinstance(names, (list, tuple)) else ())
    for kind, columns in _COLUMNS.items():
        if {*columns, _LATENCY} <= found:
            return kind
    forms = "; ".join(dict.fromkeys(",".join((*columns, _LATENCY)) for columns in _COLUMNS.values()))
    raise ConfigError(
        [Problem(str(path), "", f"is no table of a known kind; columns are one of: {forms}", 1)]
    )


def _number(path: Path, line: int, row: dict[str, str], name: str) -> float:
    text = row.get(name)
    try:
        value = parse_number(text or "")
    except ValueError:
        value = float("nan")
    if not 0 < value < 1e18:
        raise ConfigError([Problem(str(path), name, f"must be a number above 0, not {text!r}", line)])
    return value


def _element_bytes(path: Path, line: int, row: dict[str, str]) -> int:
    dtype = row.get("dtype", "half")
    if dtype not in _BYTES_PER_ELEMENT:
        known = ", ".join(_BYTES_PER_ELEMENT)
        raise ConfigError([Problem(str(path), "dtype", f"'{dtype}' is not one of {known}", line)])
    return _BYTES_PER_ELEMENT[dtype]
