"""Reads the measured operator tables of NVIDIA's AIConfigurator (the wheel `aiconfigurator-core`).

    systems/data/<system>/<operator>/<backend>/<version>/<table>_perf.parquet
    systems/<system>.yaml                                       rates and sizes of the GPU

Reads files only: neither that package nor anything of it is imported, and no GPU or network is needed. A
version without a table of its own is served by the newest older one, as AIConfigurator does it. Latencies are
milliseconds; message sizes are elements. Owns which rows are those that a curve of ours describes: 16-bit
activations and KV cache, full attention, sums of GPUs within a node. The rest is named in `left_out`.

The wheel's `silicon_sample.csv`, whole serving runs, is not read here or anywhere: it is for checking what
was made from the rest.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sim.cost.measured_tables import KernelTable, TableKind
from sim.errors import ConfigError, Problem
from sim.tables.measurements import Measurements, Rows, joined, kernel_table
from sim.tables.wheel import age, columns_of, parquet_reader, versions_in

_PRODUCTS = {"bfloat16": TableKind.GEMM, "fp8": TableKind.FP8_GEMM, "int8_wo": TableKind.NARROW_GEMM}
_COPIES = {"vllm": 6, "trtllm": 5, "sglang": 5}
"""How many layers of one size the collectors of products go through in turn (their `repeat_n`)."""
_PRICED = {"gemm", "attention", "comm"}


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which tables to read.

    Attributes:
        collectives: Sums over GPUs as the backend does them in CUDA graphs (its own kernel for small
            messages, NCCL for large ones), or by NCCL alone.
    """

    system: str
    backend: str
    version: str
    collectives: str = "custom"

    @property
    def source(self) -> str:
        """In a few words."""
        return f"NVIDIA aiconfigurator-core, {self.system}, {self.backend} {self.version}"


def read(folder: Path, wanted: Wanted) -> Measurements:
    """All that a hardware file can hold of one GPU under one engine.

    Raises:
        ConfigError: There are no tables of it, or they cannot be read.
    """
    _check(folder, wanted)
    products = _rows(folder, wanted, "gemm", "gemm")
    context = _rows(folder, wanted, "attention", "context_attention")
    generation = _rows(folder, wanted, "attention", "generation_attention")
    tables: list[KernelTable] = []
    left_out: list[str] = []
    for version, rows in filter(None, (products,)):
        tables += _products(rows, wanted, version)
        left_out += _others(rows, "gemm_dtype", "products", tuple(_PRODUCTS))
    for kind, found in ((TableKind.PREFILL_ATTENTION, context), (TableKind.DECODE_ATTENTION, generation)):
        if found is not None:
            tables.append(_attention(kind, found[1], wanted, found[0]))
            left_out += _attention_left_out(kind, found[1], len(tables[-1]))
    tables += _all_reduce(folder, wanted, left_out)
    left_out += _unpriced(folder, wanted)
    return Measurements(wanted.source, _device(products or generation), joined(tables), tuple(left_out))


def _check(folder: Path, wanted: Wanted) -> None:
    """That there is anything at all of what is wanted."""
    data = folder / "data"
    systems = sorted(path.parts[-4] for path in data.glob("*/gemm/*/*"))
    if wanted.system not in systems:
        message = f"no tables of '{wanted.system}'; there are {', '.join(dict.fromkeys(systems))}"
        raise ConfigError([Problem("--system", "", message)])
    backends = sorted({path.name for path in (data / wanted.system / "gemm").iterdir() if path.is_dir()})
    if wanted.backend not in backends:
        message = f"no tables of {wanted.system} under '{wanted.backend}'; there are {', '.join(backends)}"
        raise ConfigError([Problem("--backend", "", message)])
    if _newest(folder, wanted, "gemm", wanted.backend) is None:
        known = ", ".join(versions_in(data / wanted.system / "gemm" / wanted.backend))
        message = f"no tables of {wanted.backend} {wanted.version} or older; there are {known}"
        raise ConfigError([Problem("--version", "", message)])


def _newest(folder: Path, wanted: Wanted, operator: str, library: str) -> str | None:
    """The newest version of a library's tables that is not above the one that is wanted."""
    versions = versions_in(folder / "data" / wanted.system / operator / library)
    if library == wanted.backend:
        versions = [version for version in versions if age(version) <= age(wanted.version)]
    return versions[-1] if versions else None


def _rows(
    folder: Path, wanted: Wanted, operator: str, table: str, library: str | None = None
) -> tuple[str, Rows] | None:
    """A table's rows, and the version they are of; None where there are none."""
    library = library or wanted.backend
    version = _newest(folder, wanted, operator, library)
    if version is None:
        return None
    path = folder / "data" / wanted.system / operator / library / version / f"{table}_perf.parquet"
    if not path.is_file():
        return None
    return version, columns_of(parquet_reader(), path)


def _products(rows: Rows, wanted: Wanted, version: str) -> Iterator[KernelTable]:
    for dtype, kind in _PRODUCTS.items():
        of = rows.where(rows.is_one_of("gemm_dtype", dtype))
        sizes = {name: of.number(name) for name in ("m", "n", "k")}
        name = f"aiconfigurator {wanted.system} gemm {dtype}, {wanted.backend} {version}"
        copies = _COPIES.get(wanted.backend, 1)
        yield kernel_table(kind, name, sizes, of.number("latency") * 1e6, num_copies=copies)


def _attention(kind: TableKind, rows: Rows, wanted: Wanted, version: str) -> KernelTable:
    rows = rows.where(_is_plain(rows))
    heads, kv_heads = rows.number("num_heads"), rows.number("num_key_value_heads")
    columns = {
        "batch_size": rows.number("batch_size"),
        "num_heads": heads,
        "num_kv_heads": np.where(kv_heads == 0, heads, kv_heads),
        "head_dim": rows.number("head_dim") if "head_dim" in rows.columns else np.full(len(rows), 128.0),
    }
    if kind is TableKind.DECODE_ATTENTION:
        columns["context_len"] = rows.number("isl") + rows.number("step")
    else:
        columns["isl"] = rows.number("isl")
    name = f"aiconfigurator {wanted.system} {kind.value} bf16, {wanted.backend} {version}"
    return kernel_table(kind, name, columns, rows.number("latency") * 1e6)


def _is_plain(rows: Rows) -> Any:  # [num_rows]
    """Full attention in 16 bits over a cache of 16 bits."""
    wide = ("bfloat16", "float16")
    cache = rows.is_one_of("kv_cache_dtype", *wide) & rows.is_one_of("attn_dtype", *wide)
    return cache & rows.is_one_of("window_size", 0) & rows.is_one_of("beam_width", 1)


def _attention_left_out(kind: TableKind, rows: Rows, num_kept: int) -> Iterator[str]:
    """KV caches of 8 bits and sliding windows."""
    if len(rows) > num_kept:
        name = kind.value.replace("_", " ")
        yield f"{name}: {len(rows) - num_kept:,} rows of 8-bit KV caches or sliding windows"


def _all_reduce(folder: Path, wanted: Wanted, left_out: list[str]) -> Iterator[KernelTable]:
    own = _rows(folder, wanted, "comm", "custom_allreduce")
    if own is not None and wanted.collectives == "custom":
        version, rows = own
        graph = rows.where(rows.is_one_of("backend", f"{wanted.backend}_graph"))
        rows = graph if len(graph) else rows
        name = f"aiconfigurator {wanted.system} custom all-reduce, {wanted.backend} {version}"
        yield _sums(rows, name)
        left_out.append("nccl: all-reduce is the engine's own, which calls NCCL for large messages itself")
        return
    found = _rows(folder, wanted, "comm", "nccl", library="nccl")
    if found is not None:
        version, rows = found
        rows = rows.where(rows.is_one_of("op_name", "all_reduce") & rows.is_one_of("nccl_dtype", "half"))
        yield _sums(rows, f"aiconfigurator {wanted.system} all-reduce, NCCL {version}")


def _sums(rows: Rows, name: str) -> KernelTable:
    """Messages are counted in elements of 16 bits."""
    columns = {"num_gpus": rows.number("num_gpus"), "num_bytes": 2 * rows.number("message_size")}
    return kernel_table(TableKind.ALL_REDUCE, name, columns, rows.number("latency") * 1e6)


def _others(rows: Rows, column: str, what: str, known: tuple[str, ...]) -> Iterator[str]:
    other = rows.where(~rows.is_one_of(column, *known))
    if len(other):
        yield f"{what}: no curve for {other.counts(column)} rows"


def _unpriced(folder: Path, wanted: Wanted) -> Iterator[str]:
    """Operators that the cost model has no curve for."""
    for place in sorted((folder / "data" / wanted.system).iterdir()):
        if place.name not in _PRICED and _newest(folder, wanted, place.name, wanted.backend) is not None:
            yield f"{place.name}: the cost model has no curve for it"


def _device(found: tuple[str, Rows] | None) -> str:
    """What the tables call the GPU."""
    if found is None or "device" not in found[1].columns:
        return ""
    return str(found[1].columns["device"][0])
