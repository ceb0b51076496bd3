"""What a fit looks at: which rows of a table count, how much each, and between which bounds parameters lie.

Owns the choice of rows. Three kinds are left out, and every fit says so in the domain of its spread:

    outside the form   sizes that a curve does not describe: narrow products, heads of another size,
                       prompts of fewer than 512 tokens, decode attention whose query heads share nothing
                       (FlashAttention 2 does not split a long context then, and takes many times as long)
    from the cache     rows bound by memory whose operands were still in the L2 cache: whoever measures the
                       same operands again and again finds them there, a step of a whole model does not
    too few            where leaving out would leave less than a fit takes, the rows stay

Rows weigh so that each octave of the size that matters most (`octave_of`) has the same say: a table with
twenty points at one end and two at the other is not fitted at one end only.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sim.cost.hardware import Gpu
from sim.cost.measured_tables import KernelTable, TableKind

LEAST_POINTS = 20
"""What a fit takes."""
LEAST_WIDTH = 1024
LEAST_PROMPT = 512
COMMON_HEAD = 128
"""Size of the heads of nearly all models; kernels for others reach other rates."""
_CACHED_UP_TO = 1.5
"""Operands of so many times the L2 cache are still partly found in it."""
_NOTICEABLE = 0.15
"""Reading matters from this part of the measured time on."""
_L2_BYTES = {
    "a100": 40 * 2**20,
    "h100": 50 * 2**20,
    "h200": 50 * 2**20,
    "b200": 126 * 2**20,
    "b300": 126 * 2**20,
    "gb200": 126 * 2**20,
    "gb300": 126 * 2**20,
    "l40s": 96 * 2**20,
    "l4": 48 * 2**20,
    "rtx-4090": 72 * 2**20,
    "rtx-pro-6000": 128 * 2**20,
}
"""By the beginning of a GPU's name; NVIDIA's datasheets and architecture papers."""

BOUNDS: dict[str, tuple[float, float]] = {
    "floor_ns": (100, 200_000),
    "compute_fraction": (0.02, 1),
    "bandwidth_fraction": (0.1, 1),
    "serial_ns_per_depth": (1e-3, 50),
    "sharpness": (1, 20),
    "stream_ns": (1e-2, 2_000),
    "first_tile_ns": (1e-2, 2_000),
    "saturating_streams": (1e-1, 10_000),
    "edge_tokens": (1, 10_000),
    "serial_ns_per_token": (1e-2, 1_000),
    "kv_passes": (1e-1, 100),
    "ns_per_gpu": (1e-1, 200_000),
    "large_factor": (1e-3, 100),
    "large_bytes": (1e3, 1e10),
    "link_fraction": (1e-3, 2),
}
"""Least and most that a parameter may be: beyond, it describes no device but the noise of a table. A fraction
of a datasheet's rate above 1 is a cache; of a link it may be where a switch does the summing."""


@dataclass(frozen=True, slots=True)
class Chosen:
    """Rows that a fit looks at.

    Attributes:
        rows: [num_rows]. num_cached: How many were left out because they were read from the cache.
        words: Which rows these are.
    """

    rows: NDArray[np.bool_]
    num_cached: int
    words: str


def in_order(tables: Iterable[KernelTable]) -> list[KernelTable]:
    """Decode attention before prompt attention, which reads contexts as it does."""
    return sorted(tables, key=lambda table: table.kind is TableKind.PREFILL_ATTENTION)


def rows_to_fit(table: KernelTable, gpu: Gpu) -> Chosen:
    """The rows of a table that count on a GPU."""
    rows = np.ones(len(table), dtype=bool)
    words = []
    for part, word in _form(table):
        if (rows & part).sum() >= LEAST_POINTS:
            rows &= part
            words.append(word)
    cached = rows & from_cache(table, gpu)
    num_cached = int(cached.sum())
    if num_cached and (rows & ~cached).sum() >= LEAST_POINTS:
        rows &= ~cached
        words.append(f"without {num_cached:,} read from L2")
    else:
        num_cached = 0
    return Chosen(rows, num_cached, ", ".join(words) or "all sizes")


def _form(table: KernelTable) -> list[tuple[NDArray[np.bool_], str]]:
    """Conditions under which a curve describes a row, the most important first."""
    columns = table.columns
    match table.kind:
        case TableKind.GEMM | TableKind.FP8_GEMM | TableKind.NARROW_GEMM:
            wide = (columns["n"] >= LEAST_WIDTH) & (columns["k"] >= LEAST_WIDTH)
            return [(wide, f"n, k from {LEAST_WIDTH:,}")]
        case TableKind.PREFILL_ATTENTION:
            common = columns["head_dim"] == COMMON_HEAD
            long = columns["isl"] >= LEAST_PROMPT
            return [(long, f"lengths from {LEAST_PROMPT}"), (common, f"heads of {COMMON_HEAD}")]
        case TableKind.DECODE_ATTENTION:
            common = columns["head_dim"] == COMMON_HEAD
            shared = columns["num_heads"] > columns["num_kv_heads"]
            return [(common, f"heads of {COMMON_HEAD}"), (shared, "grouped heads")]
        case _:
            return []


def from_cache(table: KernelTable, gpu: Gpu) -> NDArray[np.bool_]:  # [num_rows]
    """Rows bound by memory whose operands the L2 cache held; none where its size is unknown."""
    l2_bytes, operands = l2_bytes_of(gpu), operand_bytes(table)
    if l2_bytes is None or operands is None:
        return np.zeros(len(table), dtype=bool)
    reading_ns = operands / gpu.memory_bandwidth_bytes_per_s * 1e9
    bound = reading_ns > _NOTICEABLE * table.times_ns
    if table.kind in GEMMS:
        columns = table.columns
        flops = 2 * columns["m"] * columns["n"] * columns["k"]
        bound &= reading_ns > flops / gpu.compute_flops_per_s * 1e9
    cached: NDArray[np.bool_] = bound & (operands * table.num_copies <= _CACHED_UP_TO * l2_bytes)
    return cached


def l2_bytes_of(gpu: Gpu) -> float | None:
    """Size of a GPU's L2 cache, by its name."""
    known = [name for name in _L2_BYTES if gpu.name.startswith(name)]
    return _L2_BYTES[max(known, key=len)] if known else None


def operand_bytes(table: KernelTable) -> NDArray[np.float64] | None:  # [num_rows]
    """What a kernel reads that stays between measurements; None where memory does not bound it."""
    columns = table.columns
    match table.kind:
        case TableKind.GEMM | TableKind.FP8_GEMM | TableKind.NARROW_GEMM:
            return columns["n"] * columns["k"] * table.kind.bytes_per_weight
        case TableKind.DECODE_ATTENTION:
            per_token = 4 * columns["num_kv_heads"] * columns["head_dim"]
            return columns["batch_size"] * columns["context_len"] * per_token
        case TableKind.ELEMENTWISE:
            return columns["num_bytes"]
        case _:
            return None


GEMMS = (TableKind.GEMM, TableKind.FP8_GEMM, TableKind.NARROW_GEMM)


def sizes_of(table: KernelTable) -> tuple[NDArray[np.float64], str]:
    """The size that a kernel's time depends on most, [num_rows], and its name."""
    columns = table.columns
    match table.kind:
        case TableKind.GEMM | TableKind.FP8_GEMM | TableKind.NARROW_GEMM:
            return columns["m"], "Rows (m)"
        case TableKind.DECODE_ATTENTION:
            per_seq = columns["context_len"] * columns["num_kv_heads"]
            return columns["batch_size"] * per_seq, "Tokens of context x KV heads"
        case TableKind.PREFILL_ATTENTION:
            return columns["isl"], "Tokens of a prompt"
        case _:
            return columns["num_bytes"], "Bytes"


def octave_of(table: KernelTable) -> NDArray[np.int64]:  # [num_rows]
    """The octave of that size."""
    return np.floor(np.log2(sizes_of(table)[0])).astype(np.int64)


def weights(table: KernelTable) -> NDArray[np.float64]:  # [num_rows]
    """What each row weighs, 1 on the average; an octave of less than `LEAST_POINTS` weighs less."""
    octaves, counts = np.unique(octave_of(table), return_inverse=True, return_counts=True)[1:]
    weight = 1 / np.maximum(counts, LEAST_POINTS)[octaves]
    return np.asarray(weight / weight.mean(), dtype=np.float64)
