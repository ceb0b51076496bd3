"""How sure a run is: what its step times were fitted to, and the answer if they are off as far as that was.

Three simulations make a band: step times as predicted, and every fitted part at the short and at the long end
of where nine of ten measured times lie, all parts the same way for the whole run. Errors of different kernels
partly cancel, so what is fitted does less than that in nine of ten runs. What was not fitted is not moved,
and may move the answer further.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import fields, replace

from sim.basis import Basis, Number, Part
from sim.cost.calibration import CalibratedCost
from sim.cost.cost_model import CostModel
from sim.cost.curve_parameters import FittedCurves, Spread
from sim.cost.hardware import Figure, Gpu, Source
from sim.cost.kernel_clock import product_curve_name
from sim.cost.measured import MeasuredCost
from sim.cost.model import BYTES_PER_KV_VALUE, ModelShape
from sim.cost.roofline import RooflineCost
from sim.cost.spread import ScaledCost, moved_curves, range_of
from sim.cost.step_time import KernelCost
from sim.experiment import Experiment
from sim.metrics import Identity, summarize
from sim.simulation import experiment_cost, simulate
from workloads.spec import Workload

HEADLINES = (
    "median_ttft_ms",
    "p99_ttft_ms",
    "median_tpot_ms",
    "p99_tpot_ms",
    "median_e2el_ms",
    "p99_e2el_ms",
    "request_throughput",
    "output_throughput",
    "sim_slo_attainment",
)
"""What the band is given for."""


def basis_of(experiment: Experiment) -> Basis:
    """Figures and spreads; nothing is simulated."""
    model = experiment.model
    sizes = Figure("model", f"{model.num_parameters / 1e9:.2f} billion parameters", Source(model.source))
    figures = (*experiment.gpu.figures, experiment.attention.figure, sizes)
    return Basis(figures, tuple(_parts(experiment)))


def with_band(
    basis: Basis, experiment: Experiment, workload: Workload, predicted: Mapping[str, Number]
) -> Basis:
    """The same with the answer at both ends, beside `predicted`, the values of the run itself.

    Simulates the requests twice more.
    """
    if not basis.is_known:
        return basis
    ends = [_answer(experiment, workload, slower=slower) for slower in (False, True)]
    keys = [key for key in HEADLINES if predicted.get(key) is not None]
    return replace(basis, band={key: (ends[0][key], predicted[key], ends[1][key]) for key in keys})


def _answer(experiment: Experiment, workload: Workload, *, slower: bool) -> Mapping[str, Number]:
    gpu, cost = experiment.gpu, None
    if gpu.step_spread is not None:
        cost = ScaledCost(experiment_cost(experiment), range_of(gpu.step_spread)[slower])
    else:
        known = {part.name for part in kernel_parts(experiment) if part.longer_fraction is not None}
        curves = moved_curves(gpu.curves, slower=slower, names=known)
        experiment = replace(experiment, gpu=replace(gpu, curves=curves))
    record = simulate(experiment, workload=workload, cost=cost)
    return summarize(record, experiment.slo, Identity("", "", experiment.seed)).values


def _parts(experiment: Experiment) -> Iterator[Part]:
    cost, gpu = experiment_cost(experiment), experiment.gpu
    if experiment.step_times is not None:
        yield _unknown("steps", experiment.step_times.origin)
    elif not isinstance(cost, KernelCost):
        yield _unknown("steps", _how(cost))
    elif gpu.step_spread is not None:
        yield _known("steps", gpu.step_spread)
    else:
        yield from kernel_parts(experiment)


def _how(cost: CostModel) -> str:
    """Why nothing is known."""
    match cost:
        case MeasuredCost() | CalibratedCost():
            return "interpolated between measured steps; what lies between was not measured"
        case RooflineCost():
            return "a roofline of the hardware's figures, which were not fitted to steps"
        case _:
            return f"times of {type(cost).__name__}; how far they are off was not measured"


def kernel_parts(experiment: Experiment) -> Iterator[Part]:
    """What the times of an experiment's kernels rest on; what was measured holds for its own number type."""
    gpu = experiment.gpu
    products = product_curve_name(experiment.model, gpu)
    for field in fields(FittedCurves):
        name, curve = field.name, getattr(gpu.curves, field.name)
        if name in _SCALED_PRODUCTS and name != products:
            continue
        if name == "all_reduce" and experiment.tensor_parallel_size == 1:
            continue
        scaled = _scaled(name, experiment.model)
        if curve is None:
            yield _unknown(name, _NOT_MEASURED.get(name, _TAKEN_OVER))
        elif curve.spread is None:
            yield _unknown(name, _as_the_file_says(name, gpu))
        elif scaled is not None:
            yield _unknown(name, f"{scaled} ({curve.spread.domain})")
        else:
            yield _known(name, curve.spread)
    if experiment.speculation is not None:
        yield _unknown("verifying", _VERIFYING)
    yield _unknown("host", "launches, scheduling, sampling: figures of the hardware file, not fitted")


_TAKEN_OVER = "not measured on this GPU: an H100's curve, scaled by datasheet rates and efficiencies"
_VERIFYING = "attention to drafts was not measured: decode attention, a context read once for all of its rows"
_SCALED_PRODUCTS = {
    "fp8_gemm": "not measured in 8 bits: scaled from products in 16 bits by the rates of the datasheet",
    "narrow_gemm": "not measured with weights so narrow: scaled from products in 16 bits by their bytes",
}
_NOT_MEASURED = {
    **_SCALED_PRODUCTS,
    "elementwise": "measured on no GPU: assumed to stream as well as products do",
}
"""What is said of a curve that a hardware file does not have."""


def _scaled(name: str, model: ModelShape) -> str | None:
    """Why a curve that was measured is no measurement of this model's kernels."""
    if not name.endswith("_attention"):
        return None
    if model.latent_size:
        return "measured with heads of keys and values: scaled to one latent by bytes and operations"
    if model.kv_bytes_per_value != BYTES_PER_KV_VALUE:
        return "measured with a KV cache in 16 bits: scaled by its bytes"
    return None


def _as_the_file_says(name: str, gpu: Gpu) -> str:
    """Of a curve without a spread: its source and note."""
    figure = next((figure for figure in gpu.figures if figure.name == f"curves.{name}"), None)
    if figure is None:
        return "its curve in the hardware file has no spread"
    return f"{figure.source.value}, no spread known" + (f": {figure.note}" if figure.note else "")


def _known(name: str, spread: Spread) -> Part:
    low, high = range_of(spread)
    rests_on = f"nine of ten of {spread.num_points:,} measured times; {spread.domain}"
    return Part(name, 1 - low, high - 1 if high != float("inf") else None, rests_on)


def _unknown(name: str, rests_on: str) -> Part:
    return Part(name, None, None, rests_on)
