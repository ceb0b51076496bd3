"""A wheel of measured tables as small as tests need it, made of known curves."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from sim.config.catalog import load_gpu
from sim.cost.curve_parameters import REFERENCE, CurveParameters
from sim.cost.fitting import predict_ns
from sim.cost.measured_tables import KernelTable, TableKind

GPU = load_gpu("l40s")
TRUTH: CurveParameters = replace(
    REFERENCE,
    gemm=replace(REFERENCE.gemm, floor_ns=5_000, compute_fraction=0.6, bandwidth_fraction=0.8),
    decode_attention=replace(REFERENCE.decode_attention, floor_ns=15_000, bandwidth_fraction=0.7),
    prefill_attention=replace(REFERENCE.prefill_attention, compute_fraction=0.5),
    all_reduce=replace(
        REFERENCE.all_reduce, floor_ns=5_000, link_fractions=((2, 0.6), (4, 0.12), (8, 0.063))
    ),
)
"""What the tables are made of; products in fp8 reach 0.4 of their rate."""
Rows = dict[str, list[Any]]


def grid(**axes: Sequence[float]) -> dict[str, np.ndarray[Any, np.dtype[np.float64]]]:
    """All combinations, each [num_rows]."""
    sizes = np.meshgrid(*(np.array(axis, dtype=float) for axis in axes.values()), indexing="ij")
    return {name: size.ravel() for name, size in zip(axes, sizes, strict=True)}


def timed(kind: TableKind, columns: Mapping[str, Any], truth: Any) -> KernelTable:
    """A table of these sizes whose times are those of a curve."""
    table = KernelTable(kind, "made", dict(columns), np.ones(len(next(iter(columns.values())))))
    return replace(table, times_ns=predict_ns(table, GPU, truth))


def products() -> Rows:
    """Both kinds that we price, and one that we do not."""
    sizes = grid(m=(1, 16, 256, 4096), n=(512, 4096, 16384), k=(1024, 4096, 16384))
    fast = replace(TRUTH.gemm, compute_fraction=0.4)
    kinds = (("bfloat16", TableKind.GEMM, TRUTH.gemm), ("fp8", TableKind.FP8_GEMM, fast))
    rows: Rows = {"gemm_dtype": [], "m": [], "n": [], "k": [], "latency": [], "device": []}
    for dtype, kind, curve in (*kinds, ("nvfp4", TableKind.FP8_GEMM, fast)):
        table = timed(kind, sizes, curve)
        _extend(rows, table, {"gemm_dtype": dtype, "device": "NVIDIA L40S"})
    return rows


def attention(*, is_decode: bool) -> Rows:
    """Heads of 128; sliding windows and caches of 8 bits are there too, ten times as slow."""
    kind = TableKind.DECODE_ATTENTION if is_decode else TableKind.PREFILL_ATTENTION
    length = "context_len" if is_decode else "isl"
    lengths = (16, 1024, 8192, 65536) if is_decode else (512, 1024, 4096, 8192)
    sizes = grid(**{"batch_size": (1, 8, 64), "num_heads": (8, 32), "num_kv_heads": (4,), length: lengths})
    sizes["head_dim"] = np.full(len(sizes["batch_size"]), 128.0)
    curve = TRUTH.decode_attention if is_decode else TRUTH.prefill_attention
    rows: Rows = {"attn_dtype": [], "kv_cache_dtype": [], "window_size": [], "latency": [], "step": []}
    rows |= {"isl": [], "batch_size": [], "num_heads": [], "num_key_value_heads": [], "head_dim": []}
    for cache, window, slower in (("bfloat16", 0, 1), ("fp8", 0, 10), ("bfloat16", 128, 10)):
        table = timed(kind, sizes, curve)
        columns = {**table.columns, "num_key_value_heads": table.columns["num_kv_heads"]}
        columns["step"] = columns.pop(length) - 1 if is_decode else np.zeros(len(table))
        columns.setdefault("isl", np.ones(len(table)))
        same = {"attn_dtype": "bfloat16", "kv_cache_dtype": cache, "window_size": window}
        _extend(rows, replace(table, columns=columns, times_ns=slower * table.times_ns), same)
    return rows


def sums() -> Rows:
    """In graphs, and ten times as slow outside of them; sizes in elements of 16 bits."""
    sizes = grid(num_gpus=(2, 4, 8), message_size=[2.0**power for power in range(8, 29, 2)])
    table = timed(TableKind.ALL_REDUCE, {**sizes, "num_bytes": 2 * sizes["message_size"]}, TRUTH.all_reduce)
    rows: Rows = {"num_gpus": [], "message_size": [], "backend": [], "latency": []}
    _extend(rows, table, {"backend": "vllm_graph"})
    _extend(rows, replace(table, times_ns=10 * table.times_ns), {"backend": "vllm_eager"})
    return rows


def _extend(rows: Rows, table: KernelTable, same: Mapping[str, object]) -> None:
    for name, column in rows.items():
        if name == "latency":
            column += (table.times_ns / 1e6).tolist()
        elif name in same:
            column += [same[name]] * len(table)
        else:
            column += table.columns[name].tolist()


def tables() -> Iterator[tuple[str, Rows]]:
    """Where each lies, and its rows."""
    yield "gemm/vllm/0.24.0/gemm_perf", products()
    yield "attention/vllm/0.24.0/context_attention_perf", attention(is_decode=False)
    yield "attention/vllm/0.24.0/generation_attention_perf", attention(is_decode=True)
    yield "comm/vllm/0.22.0/custom_allreduce_perf", sums()
    yield "comm/vllm/0.27.0/custom_allreduce_perf", {**sums(), "num_gpus": ["newer than asked for"]}
    yield "moe/vllm/0.24.0/moe_perf", {"latency": [1.0]}


def write_wheel(folder: Path) -> Path:
    """Folders as the wheel has them; JSON instead of Parquet (`StandIn` reads it)."""
    for name, rows in tables():
        path = folder / "systems" / "data" / "l40s" / f"{name}.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(rows))
    return folder


@dataclass
class _Column:
    values: list[Any]

    def to_numpy(self) -> np.ndarray[Any, Any]:
        return np.array(self.values, dtype=object if isinstance(self.values[0], str) else None)


class _Table:
    def __init__(self, rows: Rows) -> None:
        self.rows = rows
        self.column_names = list(rows)

    def column(self, name: str) -> _Column:
        return _Column(self.rows[name])


class StandIn:
    """What of pyarrow.parquet the reader uses, for JSON files."""

    @staticmethod
    def read_table(path: Path) -> _Table:
        return _Table(json.loads(path.read_text()))

    @staticmethod
    def ParquetFile(path: Path) -> SimpleNamespace:  # noqa: N802  pyarrow's name
        num_rows = len(json.loads(path.read_text())["latency"])
        return SimpleNamespace(metadata=SimpleNamespace(num_rows=num_rows))
