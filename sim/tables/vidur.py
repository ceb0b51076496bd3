"""Reads the profiles of Vidur: `mlp.csv`, `attention.csv` and `all_reduce.csv`, anywhere below one folder.

    compute/<gpu>/<model>/mlp.csv        layers by num_tokens; sizes of the model and its shards in columns
    compute/<gpu>/<model>/attention.csv  chunks and decoding sequences (kv_cache_size tokens each)
    network/<node>/all_reduce.csv        by size in bytes

Times are milliseconds: the medians, columns `time_stats.<name>.median`. Models without a layer lack its
column. Products run within a whole layer, so no cache holds their weights; attention is measured again and
again on the same contexts. Sums count where all their GPUs are in one node (`devices_per_node` is
`num_workers`). What Vidur measures of the host (`cpu_overheads.csv`) and of sends is left out. One folder
should hold one GPU: nothing in the files says which.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from sim.cost.measured_tables import KernelTable, TableKind
from sim.errors import ConfigError, Problem
from sim.tables.columns import read_columns
from sim.tables.measurements import Column, Measurements, Rows, joined, kernel_table

_BYTES = 2
"""Of a number in 16 bits."""
_PRODUCTS = ("attn_pre_proj", "attn_post_proj", "mlp_up_proj", "mlp_down_proj")
_ELEMENTWISE = ("mlp_act", "add")
_MODEL = ("n_head", "n_kv_head", "n_embd", "n_expanded_embd", "num_tokens", "num_tensor_parallel_workers")
_ATTENTION = (
    "n_embd",
    "n_q_head",
    "n_kv_head",
    "num_tensor_parallel_workers",
    "batch_size",
    "prefill_chunk_size",
    "kv_cache_size",
)
_FILES = ("mlp.csv", "attention.csv", "all_reduce.csv")
_LEFT_OUT = ("cpu_overheads.csv", "send_recv.csv", "all_gather.csv")


def read(folder: Path) -> Measurements:
    """All tables below a folder.

    Raises:
        ConfigError: There are none, or one is wrong.
    """
    tables: list[KernelTable] = []
    for name, of in zip(_FILES, (_mlp, _attention, _all_reduce), strict=True):
        for path in sorted(folder.rglob(name)):
            tables += of(path)
    if not tables:
        raise ConfigError([Problem(str(folder), "", f"has none of {', '.join(_FILES)}")])
    unused = sorted({path.name for name in _LEFT_OUT for path in folder.rglob(name)})
    left_out = tuple(f"{name}: nothing is fitted to it" for name in unused)
    return Measurements(f"Vidur profiles in {folder.name}", "", joined(tables), left_out)


def _mlp(path: Path) -> Iterator[KernelTable]:
    products, elementwise = (tuple(map(_median, names)) for names in (_PRODUCTS, _ELEMENTWISE))
    rows = read_columns(path, (*_MODEL, *products), ("use_gated_mlp",), optional=elementwise)
    source = f"Vidur {path.parent.name} mlp.csv"
    tokens, size = rows.number("num_tokens"), rows.number("num_tensor_parallel_workers")
    hidden, head_dim = rows.number("n_embd"), rows.number("n_embd") / rows.number("n_head")
    query = hidden / size
    kv = np.maximum(rows.number("n_kv_head") / size, 1) * head_dim
    inner = rows.number("n_expanded_embd") / size
    up = np.where(rows.is_one_of("use_gated_mlp", "True", "true"), 2 * inner, inner)
    matrices = ((query + 2 * kv, hidden), (hidden, query), (up, hidden), (hidden, inner))
    for name, (n, k) in zip(_PRODUCTS, matrices, strict=True):
        sizes = {"m": tokens, "n": n, "k": k}
        times_ns = _times_ns(rows, name)
        yield kernel_table(TableKind.GEMM, source, sizes, times_ns, num_copies=math.inf)
    for name, values in zip(_ELEMENTWISE, (up + inner, 3 * hidden), strict=True):
        sizes = {"num_bytes": tokens * values * _BYTES}
        yield kernel_table(TableKind.ELEMENTWISE, source, sizes, _times_ns(rows, name))


def _attention(path: Path) -> Iterator[KernelTable]:
    prefill, decode = _median("attn_prefill"), _median("attn_decode")
    rows = read_columns(path, _ATTENTION, ("is_prefill",), optional=(prefill, decode))
    is_prefill = rows.is_one_of("is_prefill", "True", "true")
    name = f"Vidur {path.parent.name} attention.csv"
    prompts, decodes = rows.where(is_prefill), rows.where(~is_prefill)
    sizes = {**_heads(prompts), "batch_size": prompts.number("batch_size")}
    sizes |= {"isl": prompts.number("prefill_chunk_size"), "num_computed": prompts.number("kv_cache_size")}
    yield kernel_table(TableKind.PREFILL_ATTENTION, name, sizes, _times_ns(prompts, "attn_prefill"))
    sizes = {**_heads(decodes), "batch_size": decodes.number("batch_size")}
    sizes |= {"context_len": decodes.number("kv_cache_size")}
    yield kernel_table(TableKind.DECODE_ATTENTION, name, sizes, _times_ns(decodes, "attn_decode"))


def _heads(rows: Rows) -> dict[str, Column]:
    size = rows.number("num_tensor_parallel_workers")
    return {
        "num_heads": rows.number("n_q_head") / size,
        "num_kv_heads": np.maximum(rows.number("n_kv_head") / size, 1),
        "head_dim": rows.number("n_embd") / rows.number("n_q_head"),
    }


def _all_reduce(path: Path) -> Iterator[KernelTable]:
    numbers = ("num_workers", "size", "devices_per_node", _median("all_reduce"))
    rows = read_columns(path, numbers, ("collective",))
    together = rows.number("num_workers") == rows.number("devices_per_node")
    rows = rows.where(together & rows.is_one_of("collective", "all_reduce"))
    sizes = {"num_gpus": rows.number("num_workers"), "num_bytes": rows.number("size")}
    name = f"Vidur {path.parent.name} all_reduce.csv"
    yield kernel_table(TableKind.ALL_REDUCE, name, sizes, _times_ns(rows, "all_reduce"))


def _median(name: str) -> str:
    return f"time_stats.{name}.median"


def _times_ns(rows: Rows, name: str) -> Column:
    return rows.number(_median(name)) * 1e6
