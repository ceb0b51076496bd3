"""The few numbers behind a device's curves, and how well they describe what they were fitted to.

Owns the parameters; `sim.cost.curves` owns the formulas, `sim.cost.fitting` where the numbers come from.
Fractions are of the device's own datasheet rates, so that a set fitted on one GPU says something of another.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Spread:
    """How far measured times lie from a curve: absolute relative errors over the points it was fitted to."""

    median_fraction: float
    p90_fraction: float
    num_points: int
    domain: str
    """Which points: sizes, kernel library."""


@dataclass(frozen=True, slots=True)
class GemmCurve:
    """Matrix products of one number type.

    Attributes:
        floor_ns: What any product takes. compute_fraction: Of the datasheet's rate, for large products.
        bandwidth_fraction: Of the memory bandwidth, for large matrices. serial_ns_per_depth: What each
            element of the inner dimension takes one after another, however small the rest.
        sharpness: How abruptly one bound takes over from another; above 1.
    """

    floor_ns: float
    compute_fraction: float
    bandwidth_fraction: float
    serial_ns_per_depth: float
    sharpness: float
    spread: Spread | None = None


@dataclass(frozen=True, slots=True)
class DecodeAttentionCurve:
    """Attention of one new token a sequence over a paged context.

    A *stream* is one sequence's one KV head.

    Attributes:
        floor_ns: What any launch takes. stream_ns: What a stream takes beside its bytes.
        first_tile_ns: What a stream takes at least: its first tile of keys costs the same however full.
        bandwidth_fraction: Of the memory bandwidth, with many streams. saturating_streams: How many
            streams it takes to reach it. sharpness: How abruptly; above 1.
    """

    floor_ns: float
    stream_ns: float
    first_tile_ns: float
    bandwidth_fraction: float
    saturating_streams: float
    sharpness: float
    spread: Spread | None = None


@dataclass(frozen=True, slots=True)
class PrefillAttentionCurve:
    """Causal attention of a chunk of new tokens over a paged context.

    Attributes:
        floor_ns: What any launch takes. compute_fraction: Of the datasheet's rate.
        edge_tokens: How many more keys each new token pays for than it attends to: tile edges, softmax.
        serial_ns_per_token: What a token of the longest context takes one after another.
        kv_passes: How often keys and values cross the memory bus, all told.
    """

    floor_ns: float
    compute_fraction: float
    edge_tokens: float
    serial_ns_per_token: float
    kv_passes: float
    spread: Spread | None = None


@dataclass(frozen=True, slots=True)
class ElementwiseCurve:
    """Kernels bound by memory: norms, activations, copies."""

    floor_ns: float
    bandwidth_fraction: float
    spread: Spread | None = None


@dataclass(frozen=True, slots=True)
class AllReduceCurve:
    """Sum over GPUs of one node.

    Attributes:
        floor_ns: Least time of a sum over two GPUs. ns_per_gpu: What each further one adds to it.
        large_factor: How many more floors a large message takes (more steps, each waiting for the last).
        large_bytes: Size where half of these are paid. link_fractions: GPUs and what of the link's
            bandwidth large sums reach; above 1 where the switch does the summing.
    """

    floor_ns: float
    ns_per_gpu: float
    large_factor: float
    large_bytes: float
    link_fractions: tuple[tuple[int, float], ...]
    spread: Spread | None = None


@dataclass(frozen=True, slots=True)
class FittedCurves:
    """Curves that were fitted to measurements of one device; None where nothing was measured.

    A curve belongs to the number type that was measured: `gemm` and both kinds of attention to 16 bits,
    `fp8_gemm` to products in 8 bits, `narrow_gemm` to products in 16 bits of weights that are narrower.
    """

    gemm: GemmCurve | None = None
    fp8_gemm: GemmCurve | None = None
    narrow_gemm: GemmCurve | None = None
    decode_attention: DecodeAttentionCurve | None = None
    prefill_attention: PrefillAttentionCurve | None = None
    elementwise: ElementwiseCurve | None = None
    all_reduce: AllReduceCurve | None = None


@dataclass(frozen=True, slots=True)
class CurveParameters:
    """All curves of a device, fitted or taken over; `fp8_gemm` and `narrow_gemm` as in `FittedCurves`."""

    gemm: GemmCurve
    fp8_gemm: GemmCurve
    narrow_gemm: GemmCurve
    decode_attention: DecodeAttentionCurve
    prefill_attention: PrefillAttentionCurve
    elementwise: ElementwiseCurve
    all_reduce: AllReduceCurve


_GEMM = GemmCurve(3_309, 0.8431, 0.9005, 1.089, 2.934)
REFERENCE = CurveParameters(
    gemm=_GEMM,
    fp8_gemm=_GEMM,
    narrow_gemm=_GEMM,
    decode_attention=DecodeAttentionCurve(11_130, 11.06, 27.77, 0.922, 53.16, 3.771),
    prefill_attention=PrefillAttentionCurve(10_730, 0.638, 348.6, 7.094, 5.115),
    elementwise=ElementwiseCurve(2_450, 0.9),
    all_reduce=AllReduceCurve(7_010, 1_524, 2.683, 4.196e6, ((2, 0.6445), (4, 0.7762), (8, 0.922))),
)
"""Fitted to an H100 (its hardware file says to what), in 16 bits: products of other types are taken to reach
as much of their own rate. Elementwise kernels are assumed to stream as well as products do, and to take at
least what the smallest product takes."""
REFERENCE_COMPUTE_EFFICIENCY = 0.84
REFERENCE_BANDWIDTH_EFFICIENCY = 0.84
REFERENCE_LINK_LATENCY_NS = 10_000
"""The H100's own such figures in its hardware file: by them other devices are compared with it."""
