"""Fits a device's curves to measured kernel times.

Method: least squares on the logarithm of predicted over measured, with a soft-L1 loss that turns linear
beyond 10 %: a few points where a library chose a bad kernel do not bend the curve. Parameters are positive
(their logarithms are searched) and bounded, rows that the form does not describe are left out, and every
region of the rest has its say (`sim.cost.fit_rows`). It starts from the reference curve and draws nothing at
random. A curve that still lies far from its points is refused (`PoorFitError`). The formulas are those of
`sim.cost.curves`.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sim.cost.curve_parameters import REFERENCE, Spread
from sim.cost.curves import AttentionShape, DeviceCurves
from sim.cost.fit_rows import BOUNDS, GEMMS, LEAST_POINTS, octave_of, rows_to_fit, weights
from sim.cost.hardware import Gpu
from sim.cost.kernel import ACTIVATION_BYTES
from sim.cost.measured_tables import KernelTable, TableKind

_LINEAR_BEYOND = 0.1
_WORST_MEDIAN = 0.3
_WORST_OCTAVE = 0.6
"""A curve that is further than this from half of all points, or of those of one octave, does not fit."""


@dataclass(frozen=True, slots=True)
class Errors:
    """Predicted over measured less one: signed median; absolute median, mean and 90th percentile."""

    num_points: int
    bias: float
    median: float
    p90: float
    mean: float
    """MAPE, as a fraction."""


class PoorFitError(ValueError):
    """The best curve of its form lies too far from what was measured; `curve` has it nevertheless."""

    def __init__(self, message: str, curve: Any) -> None:
        super().__init__(message)
        self.curve = curve


def fit(table: KernelTable, gpu: Gpu) -> Any:
    """The curve of a table's kind, its residual spread with it.

    Raises:
        PoorFitError: The form does not describe the table.
        ValueError: The table has too few points of the sizes that count.
    """
    if table.kind is TableKind.FP8_GEMM and gpu.fp8_flops_per_s is None:
        raise ValueError(f"products in 8 bits, and the file of {gpu.name} has no fp8_compute")
    chosen = rows_to_fit(table, gpu)
    points = table.rows(chosen.rows)
    if len(points) < LEAST_POINTS:
        raise ValueError(f"{len(points)} points of {chosen.words}; a fit takes {LEAST_POINTS}")
    curve = _least_squares(points, gpu)
    left = errors(points, gpu, curve)
    curve = replace(
        curve, spread=Spread(left.median, left.p90, left.num_points, f"{table.name}: {chosen.words}")
    )
    if (why := _misfit(points, gpu, curve, left)) is not None:
        raise PoorFitError(f"the form of {table.kind.value} does not fit: {why}", curve)
    return curve


def _least_squares(points: KernelTable, gpu: Gpu) -> Any:
    from scipy.optimize import least_squares

    start = _start(points)
    least, most = (np.log(ends) for ends in zip(*_bounds(start), strict=True))
    shares = np.sqrt(weights(points))

    def residuals(logs: NDArray[np.float64]) -> NDArray[np.float64]:  # [num_points]
        off = np.log(predict_ns(points, gpu, _unpacked(start, np.exp(logs))) / points.times_ns)
        return shares * np.sign(off) * _soft(off)

    inside = np.clip(np.log(_packed(start)), least + 1e-6, most - 1e-6)
    found = least_squares(residuals, inside, bounds=(least, most))
    return _unpacked(start, np.exp(found.x))


def _soft(off: NDArray[np.float64]) -> NDArray[np.float64]:
    """Whose square is the soft-L1 loss of a residual.

    Not least_squares's own, which would move where it turns linear with a row's weight.
    """
    soft: NDArray[np.float64] = np.sqrt(2 * (np.sqrt(1 + (off / _LINEAR_BEYOND) ** 2) - 1)) * _LINEAR_BEYOND
    return soft


def _misfit(points: KernelTable, gpu: Gpu, curve: Any, left: Errors) -> str | None:
    """Why a curve does not do; None where it does."""
    if left.median > _WORST_MEDIAN:
        return f"half the points are off by more than {100 * left.median:.0f} %"
    octaves = octave_of(points)
    for octave in np.unique(octaves):
        part = points.rows(octaves == octave)
        if len(part) >= LEAST_POINTS and (off := errors(part, gpu, curve).median) > _WORST_OCTAVE:
            return f"half of the {len(part):,} points of size {2.0**octave:,.0f} are off by {100 * off:.0f} %"
    return None


def at_bounds(curve: Any) -> list[str]:
    """Parameters that stopped at an end of their range: the table would have them beyond it.

    Of sharpness that says nothing of the table: at its least, bounds simply add up.
    """
    ends = zip(_names(curve), _packed(curve), _bounds(curve), strict=False)
    return [
        name
        for name, value, (least, most) in ends
        if name != "sharpness" and not 1.001 * least < value < most / 1.001
    ]


def with_curve(gpu: Gpu, kind: TableKind, curve: Any) -> Gpu:
    """The GPU with that curve for its own."""
    curves: dict[str, Any] = {kind.value: curve}
    return replace(gpu, curves=replace(gpu.curves, **curves))


def halves(table: KernelTable, seed: int) -> tuple[KernelTable, KernelTable]:
    """The table split at random: to fit on, and to look at afterwards; rows of one size stay together."""
    sizes = np.stack(list(table.columns.values()), axis=1)  # [num_rows, num_columns]
    which = np.unique(sizes, axis=0, return_inverse=True)[1].reshape(-1)
    num_sizes = int(which.max()) + 1
    chosen = (np.random.default_rng(seed).permutation(num_sizes) < num_sizes // 2)[which]
    return table.rows(chosen), table.rows(~chosen)


def errors(table: KernelTable, gpu: Gpu, curve: Any) -> Errors:
    """How far a curve is from a table."""
    relative = predict_ns(table, gpu, curve) / table.times_ns - 1
    size = np.abs(relative)
    return Errors(
        num_points=len(table),
        bias=float(np.median(relative)),
        median=float(np.median(size)),
        p90=float(np.percentile(size, 90)),
        mean=float(size.mean()),
    )


def predict_ns(table: KernelTable, gpu: Gpu, curve: Any) -> NDArray[np.float64]:  # [num_rows]
    """What a curve of the table's kind says of its rows; where others have a part in it, the GPU's own."""
    curves: dict[str, Any] = {"gemm" if table.kind in GEMMS else table.kind.value: curve}
    device = DeviceCurves.of(gpu)
    device = replace(device, parameters=replace(device.parameters, **curves))
    columns = table.columns
    match table.kind:
        case TableKind.GEMM | TableKind.FP8_GEMM | TableKind.NARROW_GEMM:
            return _product_ns(table, gpu, device)
        case TableKind.DECODE_ATTENTION:
            batch = columns["batch_size"]
            return device.decode_attention_ns(batch, batch * columns["context_len"], _shape(table))
        case TableKind.PREFILL_ATTENTION:
            batch = columns["batch_size"]
            computed = columns.get("num_computed", 0.0)
            return device.prefill_attention_ns(columns["isl"], computed, _shape(table), num_chunks=batch)
        case TableKind.ELEMENTWISE:
            return device.elementwise_ns(columns["num_bytes"])
        case TableKind.ALL_REDUCE:
            times = np.empty(len(table))
            for num_gpus in np.unique(columns["num_gpus"]):
                rows = columns["num_gpus"] == num_gpus
                times[rows] = device.all_reduce_ns(columns["num_bytes"][rows], int(num_gpus))
            return times


def _product_ns(table: KernelTable, gpu: Gpu, device: DeviceCurves) -> NDArray[np.float64]:  # [num_rows]
    """Activations count in 16 bits, as the kernel list has them."""
    m, n, k = (table.columns[name] for name in ("m", "n", "k"))
    num_bytes = table.kind.bytes_per_weight * n * k + ACTIVATION_BYTES * (m * k + m * n)
    peak = gpu.fp8_flops_per_s if table.kind is TableKind.FP8_GEMM else None
    return device.product_ns(2 * m * n * k, num_bytes, k, peak_flops_per_s=peak)


def _shape(table: KernelTable) -> AttentionShape:
    columns = table.columns
    return AttentionShape.of_heads(columns["num_heads"], columns["num_kv_heads"], columns["head_dim"])


def _start(table: KernelTable) -> Any:
    """The reference curve; of all-reduce with a fraction for each count of GPUs in the table."""
    curve = REFERENCE.gemm if table.kind in GEMMS else getattr(REFERENCE, table.kind.value)
    if table.kind is TableKind.ALL_REDUCE:
        counts = [int(count) for count in np.unique(table.columns["num_gpus"])]
        return replace(curve, link_fractions=tuple((count, 0.8) for count in counts))
    return curve


def _names(curve: Any) -> list[str]:
    return [f.name for f in fields(curve) if f.name not in ("spread", "link_fractions")]


def _bounds(curve: Any) -> list[tuple[float, float]]:
    links = [BOUNDS["link_fraction"]] * len(getattr(curve, "link_fractions", ()))
    return [*(BOUNDS[name] for name in _names(curve)), *links]


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
