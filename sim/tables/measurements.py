"""`Measurements`: what a reader found, as tables of kernels, and what it left out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sim.cost.measured_tables import KernelTable, TableKind

Column = NDArray[np.float64]
"""[num_rows]."""


@dataclass(frozen=True, slots=True)
class Measurements:
    """One GPU's tables, at most one of a kind.

    Attributes:
        source: What they are, in a few words that go into the hardware file.
        device: The GPU's own name, where the tables say it.
        left_out: What was measured and is not in the tables, a sentence each.
    """

    source: str
    device: str
    tables: tuple[KernelTable, ...]
    left_out: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Rows:
    """Columns of a file whose rows all have a value; text stays text."""

    columns: Mapping[str, NDArray[np.generic]]

    def __len__(self) -> int:
        return len(next(iter(self.columns.values()), ()))

    def where(self, chosen: NDArray[np.bool_]) -> Rows:
        """The rows for which `chosen` [num_rows] holds."""
        return Rows({name: column[chosen] for name, column in self.columns.items()})

    def number(self, name: str) -> Column:
        """A column of numbers."""
        return np.asarray(self.columns[name], dtype=np.float64)

    def is_one_of(self, name: str, *values: object) -> NDArray[np.bool_]:  # [num_rows]
        """Rows that have one of these values; all of them where the file has no such column."""
        if name not in self.columns:
            return np.ones(len(self), dtype=bool)
        return np.isin(self.columns[name], np.array(values))

    def counts(self, name: str) -> str:
        """As 'fp8 1,234, nvfp4 12': how many rows have which value."""
        values, counts = np.unique(self.columns[name], return_counts=True)
        return ", ".join(f"{value} {count:,}" for value, count in zip(values, counts, strict=True))


def kernel_table(
    kind: TableKind, name: str, columns: Mapping[str, Column], times_ns: Column, *, num_copies: float = 1
) -> KernelTable:
    """A table of the rows whose sizes and times are positive numbers; `num_computed` may be 0."""
    good = np.isfinite(times_ns) & (times_ns > 0)
    for key, column in columns.items():
        good &= (column >= 0) if key == "num_computed" else (column > 0)
    table = KernelTable(kind, name, dict(columns), times_ns, num_copies)
    return table.rows(good)


def joined(tables: Iterable[KernelTable]) -> tuple[KernelTable, ...]:
    """One table of each kind, of all that are of that kind; empty ones are dropped."""
    by_kind: dict[TableKind, list[KernelTable]] = {}
    for table in tables:
        if len(table):
            by_kind.setdefault(table.kind, []).append(table)
    return tuple(_one(parts) for parts in by_kind.values())


def _one(parts: Sequence[KernelTable]) -> KernelTable:
    first = parts[0]
    columns = {name: np.concatenate([part.columns[name] for part in parts]) for name in first.columns}
    times_ns = np.concatenate([part.times_ns for part in parts])
    copies = min(part.num_copies for part in parts)
    others = len({part.name for part in parts}) - 1
    name = f"{first.name} and {others} more" if others else first.name
    return KernelTable(first.kind, name, columns, times_ns, copies)
