"""How sure a run is: what its step times were fitted to, and the answer if they are off as far as that was.

Three simulations make a band: step times as predicted, and every fitted part at the short and at the long end
of where nine of ten measured times lie, all parts the same way for the whole run. Errors of different kernels
partly cancel, so what is fitted does less than that in nine of ten runs. What was not fitted is not moved,
and may move the answer further. Refuses to simulate: whoever asks says how an answer is had.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields, replace

from sim.cost.block_reads import AttentionKernel
from sim.cost.calibration import CalibratedCost
from sim.cost.cost_model import CostModel
from sim.cost.curve_parameters import FittedCurves, Spread
from sim.cost.hardware import Figure, Gpu, Source
from sim.cost.kernel_clock import product_curve_name
from sim.cost.measured import MeasuredCost
from sim.cost.model import BYTES_PER_KV_VALUE, ModelShape
from sim.cost.roofline import RooflineCost
from sim.cost.spread import range_of
from sim.cost.step_time import KernelCost
from sim.metrics.basis import Basis, Number, Part

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
Answer = Callable[[bool], Mapping[str, Number]]
"""The values of a summary with all fitted step times at one end: the slower one, or else the faster."""


@dataclass(frozen=True, slots=True)
class Grounds:
    """What the step times of a run are made of.

    Attributes:
        model: What is served.
        gpu: On what.
        attention: Which kernel attends.
        cost: The step times.
        tensor_parallel_size: GPUs that share each layer; sums over them count from two.
        drafts: Whether steps verify drafts.
        known_times: Where step times come from that are no cost model's; None: they are one's.
    """

    model: ModelShape
    gpu: Gpu
    attention: AttentionKernel
    cost: CostModel
    tensor_parallel_size: int = 1
    drafts: bool = False
    known_times: str | None = None


def basis_of(grounds: Grounds) -> Basis:
    """Figures and spreads; nothing is simulated."""
    model = grounds.model
    sizes = Figure("model", f"{model.num_parameters / 1e9:.2f} billion parameters", Source(model.source))
    return Basis((*grounds.gpu.figures, grounds.attention.figure, sizes), tuple(_parts(grounds)))


def with_band(basis: Basis, predicted: Mapping[str, Number], answer: Answer) -> Basis:
    """The same with the answer at both ends, beside `predicted`, the values of the run itself.

    Asks for two more answers, or for none where nothing is known.
    """
    if not basis.is_known:
        return basis
    ends = [answer(slower) for slower in (False, True)]
    keys = [key for key in HEADLINES if predicted.get(key) is not None]
    return replace(basis, band={key: (ends[0][key], predicted[key], ends[1][key]) for key in keys})


def _parts(grounds: Grounds) -> Iterator[Part]:
    if grounds.known_times is not None:
        yield _unknown("steps", grounds.known_times)
    elif not isinstance(grounds.cost, KernelCost):
        yield _unknown("steps", _how(grounds.cost))
    elif grounds.gpu.step_spread is not None:
        yield _known("steps", grounds.gpu.step_spread)
    else:
        yield from kernel_parts(grounds)


def _how(cost: CostModel) -> str:
    """Why nothing is known."""
    match cost:
        case MeasuredCost() | CalibratedCost():
            return "interpolated between measured steps; what lies between was not measured"
        case RooflineCost():
            return "a roofline of the hardware's figures, which were not fitted to steps"
        case _:
            return f"times of {type(cost).__name__}; how far they are off was not measured"


def kernel_parts(grounds: Grounds) -> Iterator[Part]:
    """What the times of a run's kernels rest on; what was measured holds for its own number type."""
    gpu = grounds.gpu
    products = product_curve_name(grounds.model, gpu)
    for field in fields(FittedCurves):
        name, curve = field.name, getattr(gpu.curves, field.name)
        if name in _SCALED_PRODUCTS and name != products:
            continue
        if name == "all_reduce" and grounds.tensor_parallel_size == 1:
            continue
        scaled = _scaled(name, grounds.model)
        if curve is None:
            yield _unknown(name, _NOT_MEASURED.get(name, _TAKEN_OVER))
        elif curve.spread is None:
            yield _unknown(name, _as_the_file_says(name, gpu))
        elif scaled is not None:
            yield _unknown(name, f"{scaled} ({curve.spread.domain})")
        else:
            yield _known(name, curve.spread)
    if grounds.drafts:
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
