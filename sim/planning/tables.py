"""What a sweep leaves: `runs`, a row a run, and `points`, a row a point with intervals; CSV, and Parquet.

The same rows give the same bytes, whoever simulated them and in whatever order. Parquet needs pyarrow (the
extra `tables`); without it there is CSV alone.
"""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sim.planning.intervals import estimate
from sim.planning.point_run import Row, Task, as_plain
from sim.planning.points import Setting

Record = Mapping[str, Any]


def run_records(points: Sequence[Setting], rows: Sequence[tuple[Task, Row]]) -> list[Record]:
    """A record a run, in the order of the sweep."""
    ordered = sorted(rows, key=lambda pair: pair[0].number)
    return [
        {
            "point": task.point,
            "replication": task.replication,
            **_shown(points[task.point]),
            **as_plain(row),
        }
        for task, row in ordered
    ]


def point_records(points: Sequence[Setting], rows: Sequence[tuple[Task, Row]]) -> list[Record]:
    """A record a point: the mean of each number over its runs, and `_low` and `_high` of its interval."""
    records: list[Record] = []
    for number, point in enumerate(points):
        found = [row for task, row in rows if task.point == number]
        good = [row for row in sorted(found, key=lambda row: row.key) if not row.error]
        record = {
            "point": number,
            "num_runs": len(good),
            "num_failed": len(found) - len(good),
            **_shown(point),
        }
        for key in good[0].values if good else ():
            values = [row.values.get(key) for row in good]
            known = [float(value) for value in values if value is not None]
            if len(known) == len(good):
                about = estimate(known)
                record |= {key: about.mean, f"{key}_low": about.low, f"{key}_high": about.high}
        records.append(record)
    return records


def _shown(point: Setting) -> dict[str, Any]:
    """Values of the swept keys; mappings and lists as JSON."""
    return {
        key: json.dumps(value) if isinstance(value, (dict, list)) else value for key, value in point.items()
    }


def write_table(path: Path, records: Sequence[Record]) -> list[Path]:
    """Write records as `path`.csv and, where pyarrow is there, `path`.parquet; returns the files."""
    columns = list(dict.fromkeys(key for record in records for key in record))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(records)
    files = [_replace(path.with_suffix(".csv"), text.getvalue().encode())]
    parquet = _as_parquet(columns, records)
    return files if parquet is None else [*files, _replace(path.with_suffix(".parquet"), parquet)]


def _as_parquet(columns: Sequence[str], records: Sequence[Record]) -> bytes | None:
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError:
        return None
    arrays = {column: _column([record.get(column) for record in records]) for column in columns}
    sink = io.BytesIO()
    pq.write_table(pa.table(arrays), sink)
    return sink.getvalue()


def _column(values: list[Any]) -> list[Any]:
    """Values of one type: where they differ in kind, all as text."""
    kinds = {type(value) for value in values if value is not None}
    if kinds <= {int, float} and len(kinds) > 1:
        return [None if value is None else float(value) for value in values]
    if len(kinds) > 1:
        return [None if value is None else str(value) for value in values]
    return values


def _replace(path: Path, content: bytes) -> Path:
    """Write a file whole, in place of one that is there."""
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    partial.write_bytes(content)
    partial.rename(path)
    return path
