"""First section of results/accuracy.md: curves fitted to half of each H100 table, judged by the rest."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sim.config.catalog import load_gpu
from sim.cost.fitting import errors, fit, halves
from sim.cost.measured_tables import KernelTable, TableKind, read_table

SEED = 0
COPIES_OF_PRODUCTS = 6
"""Layers of one size that AIConfigurator's collector of products goes through in turn."""
FILES = {
    TableKind.GEMM: "aic_h100_sxm_gemm_bf16_vllm0.14.csv",
    TableKind.DECODE_ATTENTION: "aic_h100_sxm_decode_attention_bf16_vllm0.14.csv",
    TableKind.PREFILL_ATTENTION: "aic_h100_sxm_prefill_attention_bf16_vllm0.14.csv",
    TableKind.ALL_REDUCE: "aic_h100_sxm_nccl_2.27.3.csv",
}


def section(data: Path) -> list[str]:
    """Lines of Markdown."""
    return [
        "## Kernels on an H100",
        "",
        f"Each table is split at random (seed {SEED}; rows of one size stay together); curves are fitted to",
        "one half, and these are errors on the other. Bias is the signed median: above 0 where the curve is",
        "the longer one. The forms of the curves were chosen with whole tables in sight: only their",
        "parameters are held out. Other GPUs: `results/tables.md`.",
        "",
        "| kernels | points | median error | nine of ten within | bias |",
        "| --- | ---: | ---: | ---: | ---: |",
        *(row for kind, name in FILES.items() for row in _rows(kind, data / "measured" / name)),
        "",
    ]


def _rows(kind: TableKind, path: Path) -> list[str]:
    table = read_table(path)
    if kind is TableKind.GEMM:
        table = replace(table, num_copies=COPIES_OF_PRODUCTS)
    fitted_on, held_out = halves(table, SEED)
    gpu = load_gpu("h100-sxm")
    curve = fit(fitted_on, gpu)
    rows = []
    for name, chosen in regions(kind, held_out).items():
        found = errors(held_out.rows(chosen), gpu, curve)
        rows.append(
            f"| {name} | {found.num_points:,} | {100 * found.median:.1f} % | {100 * found.p90:.1f} % "
            f"| {100 * found.bias:+.1f} % |"
        )
    return rows


def regions(kind: TableKind, table: KernelTable) -> dict[str, NDArray[np.bool_]]:
    """Parts of a table that have a row of their own; the first is the one with a goal."""
    columns = table.columns
    match kind:
        case TableKind.GEMM | TableKind.FP8_GEMM | TableKind.NARROW_GEMM:
            large = (columns["n"] >= 4096) & (columns["k"] >= 4096)
            return {
                "products, n and k from 4,096": large,
                "products, n and k from 1,024": (columns["n"] >= 1024) & (columns["k"] >= 1024),
                "products, all sizes": columns["n"] > 0,
            }
        case TableKind.DECODE_ATTENTION:
            large = columns["batch_size"] * columns["context_len"] >= 16 * 1024
            return {
                "decode attention, from 16k tokens": large,
                "decode attention, all sizes": columns["batch_size"] > 0,
            }
        case TableKind.PREFILL_ATTENTION:
            return {
                "prompt attention, from 1,024 tokens": columns["isl"] >= 1024,
                "prompt attention, all sizes": columns["isl"] > 0,
            }
        case TableKind.ALL_REDUCE:
            return {"all-reduce, all sizes": columns["num_gpus"] > 0}
        case TableKind.ELEMENTWISE:
            return {"elementwise, all sizes": columns["num_bytes"] > 0}
