"""Fits a device's curves to measured kernel times.

Method: least squares on the logarithm of predicted over measured, all parameters positive (their logarithms
are searched), with a soft-L1 loss that turns linear beyond 10 %: a few points where a library chose a bad
kernel do not bend the curve. It starts from the reference curve and draws nothing at random. Owns which
points count; the formulas are those of `sim.cost.curves`.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sim.cost.curve_parameters import REFERENCE, CurveParameters, Spread
from sim.cost.curves import AttentionShape, DeviceCurves
from sim.cost.hardware import Gpu
from sim.cost.measured_tables import KernelTable, TableKind

_LINEAR_BEYOND = 0.1
_LEAST_POINTS = 20
_DOMAINS = {
    TableKind.GEMM: "n, k from 1,024",
    TableKind.FP8_GEMM: "n, k from 1,024",
    TableKind.DECODE_ATTENTION: "all sizes",
    TableKind.PREFILL_ATTENTION: "lengths from 1,024",
    TableKind.ALL_REDUCE: "all sizes",
}


@dataclass(frozen=True, slots=True)
class Errors:
    """Predicted over measured less one: signed median, and absolute median and 90th percentile."""

    num_points: int
    bias: float
    median: float
    p90: float


def fit(table: KernelTable, gpu: Gpu) -> Any:
    """The curve of a table's kind, its residual spread with it.

    Raises:
        ValueError: The table has too few points of the sizes that count.
    """
    from scipy.optimize import least_squares

    points = table.rows(in_domain(table))
    if table.kind is TableKind.FP8_GEMM and gpu.fp8_flops_per_s is None:
        raise ValueError(f"products in 8 bits, and the file of {gpu.name} has no fp8_compute")
    if len(points) < _LEAST_POINTS:
        raise ValueError(f"{len(points)} points of {_DOMAINS[table.kind]}; a fit takes {_LEAST_POINTS}")
    start = _start(points)

    def residuals(logs: NDArray[np.float64]) -> NDArray[np.float64]:  # [num_points]
        return np.log(predict_ns(points, gpu, _unpacked(start, np.exp(logs))) / points.times_ns)

    found = least_squares(residuals, np.log(_packed(start)), loss="soft_l1", f_scale=_LINEAR_BEYOND)
    curve = _unpacked(start, np.exp(found.x))
    left = errors(points, gpu, curve)
    spread = Spread(left.median, left.p90, left.num_points, f"{table.name}: {_DOMAINS[table.kind]}")
    return replace(curve, spread=spread)


def in_domain(table: KernelTable) -> NDArray[np.bool_]:  # [num_rows]
    """Rows that a fit looks at."""
    columns = table.columns
    match table.kind:
        case TableKind.GEMM | TableKind.FP8_GEMM:
            return (columns["n"] >= 1024) & (columns["k"] >= 1024)
        case TableKind.PREFILL_ATTENTION:
            return columns["isl"] >= 1024
        case _:
            return np.ones(len(table), dtype=bool)


def halves(table: KernelTable, seed: int) -> tuple[KernelTable, KernelTable]:
    """The table split at random: to fit on, and to look at afterwards."""
    chosen = np.random.default_rng(seed).permutation(len(table)) < len(table) // 2
    return table.rows(chosen), table.rows(~chosen)


def errors(table: KernelTable, gpu: Gpu, curve: Any) -> Errors:
    """How far a curve is from a table."""
    relative = predict_ns(table, gpu, curve) / table.times_ns - 1
    size = np.abs(relative)
    return Errors(
        len(table), float(np.median(relative)), float(np.median(size)), float(np.percentile(size, 90))
    )


def predict_ns(table: KernelTable, gpu: Gpu, curve: Any) -> NDArray[np.float64]:  # [num_rows]
    """What a curve of the table's kind says of its rows."""
    parameters: CurveParameters = replace(REFERENCE, **{table.kind.value: curve})
    device = replace(DeviceCurves.of(gpu), parameters=parameters)
    columns = table.columns
    match table.kind:
        case TableKind.GEMM:
            return device.gemm_ns(columns["m"], columns["n"], columns["k"])
        case TableKind.FP8_GEMM:
            return device.fp8_gemm_ns(columns["m"], columns["n"], columns["k"], gpu.fp8_flops_per_s)
        case TableKind.DECODE_ATTENTION:
            batch = columns["batch_size"]
            return device.decode_attention_ns(batch, batch * columns["context_len"], _shape(table))
        case TableKind.PREFILL_ATTENTION:
            batch = columns["batch_size"]
            return device.prefill_attention_ns(columns["isl"], 0, _shape(table), num_chunks=batch)
        case TableKind.ALL_REDUCE:
            times = np.empty(len(table))
            for num_gpus in np.unique(columns["num_gpus"]):
                rows = columns["num_gpus"] == num_gpus
                times[rows] = device.all_reduce_ns(columns["num_bytes"][rows], int(num_gpus))
            return times


def _shape(table: KernelTable) -> AttentionShape:
    columns = table.columns
    return AttentionShape.of_heads(columns["num_heads"], columns["num_kv_heads"], columns["head_dim"])


def _start(table: KernelTable) -> Any:
    """The reference curve; of all-reduce with a fraction for each count of GPUs in the table."""
    curve = getattr(REFERENCE, table.kind.value)
    if table.kind is TableKind.ALL_REDUCE:
        counts = [int(count) for count in np.unique(table.columns["num_gpus"])]
        return replace(curve, link_fractions=tuple((count, 0.8) for count in counts))
    return curve


def _names(curve: Any) -> list[str]:
    return [f.name for f in fields(curve) if f.name not in ("spread", "link_fractions")]


def _packed(curve: Any) -> NDArray[np.float64]:  # [num_parameters]
    links = [fraction for _, fraction in getattr(curve, "link_fractions", ())]
    return np.array([*(getattr(curve, name) for name in _names(curve)), *links])


def _unpacked(like: Any, values: NDArray[np.float64]) -> Any:
    names = _names(like)
    changed: dict[str, Any] = {name: float(value) for name, value in zip(names, values, strict=False)}
    if hasattr(like, "link_fractions"):
        counts = [count for count, _ in like.link_fractions]
        changed["link_fractions"] = tuple(zip(counts, map(float, values[len(names) :]), strict=True))
    return replace(like, **changed)
