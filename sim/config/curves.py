"""The form of the `curves:` section of a hardware file: how long kernels take by their size.

Owns its keys; `sim.cost.curve_parameters` says what each means. `pagecast fit` writes it. Fractions are of
the file's own rates; a curve that is left out is taken over from an H100.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, PlainSerializer

from sim.config.value_types import Count, Section
from sim.cost.curve_parameters import (
    AllReduceCurve,
    DecodeAttentionCurve,
    ElementwiseCurve,
    FittedCurves,
    GemmCurve,
    PrefillAttentionCurve,
    Spread,
)
from sim.cost.hardware import Figure, Source
from sim.units import Dimension, format_quantity, parse_quantity


def _nanoseconds(value: object) -> float:
    return float(parse_quantity(value, Dimension.TIME, allow_zero=True))


def _bytes(value: object) -> float:
    return float(parse_quantity(value, Dimension.MEMORY))


Time = Annotated[
    float,
    BeforeValidator(_nanoseconds),
    PlainSerializer(lambda value: format_quantity(value, Dimension.TIME)),
]
"""Nanoseconds, parts of one too."""
Size = Annotated[
    float, BeforeValidator(_bytes), PlainSerializer(lambda value: format_quantity(value, Dimension.MEMORY))
]
NumGpus = Annotated[
    int,
    Field(ge=2, le=1024),
    BeforeValidator(lambda key: int(key) if isinstance(key, str) and key.isdecimal() else key),
]
"""Keys of YAML mappings are text."""
Fraction = Annotated[float, Field(gt=0, le=1)]
Sharpness = Annotated[float, Field(ge=1, le=20)]
Factor = Annotated[float, Field(ge=0, le=1e6)]


PARAMETERS = {
    "floor": "floor_ns",
    "serial_per_depth": "serial_ns_per_depth",
    "stream": "stream_ns",
    "first_tile": "first_tile_ns",
    "serial_per_token": "serial_ns_per_token",
    "per_gpu": "ns_per_gpu",
    "large": "large_bytes",
}
"""Keys with a unit in their value, and the parameters of the curves that have it in their name."""


class SpreadSection(Section):
    """Absolute relative errors of a curve against what it was fitted to."""

    median: Annotated[float, Field(ge=0)] = Field(description="Half the points are nearer, as a fraction.")
    p90: Annotated[float, Field(ge=0)] = Field(description="Nine points of ten are nearer.")
    num_points: Count = Field(description="Points it was fitted to.")
    domain: str = Field(description="Which points.")

    def spread(self) -> Spread:
        """The values behind it."""
        return Spread(self.median, self.p90, self.num_points, self.domain)


class CurveSection(Section):
    """What all curves have."""

    source: Literal["datasheet", "measured", "paper", "assumed"] = Field(description="Where it comes from.")
    note: str = Field(default="", description="What a reader should know of it.")
    spread: SpreadSection | None = Field(default=None, description="How far the measurements lie from it.")

    def values(self) -> dict[str, Any]:
        """Parameters by name, the spread among them."""
        names = set(type(self).model_fields) - {"source", "note", "spread"}
        spread = self.spread.spread() if self.spread else None
        return {**{PARAMETERS.get(name, name): getattr(self, name) for name in names}, "spread": spread}

    def figure(self, name: str) -> Figure:
        """What reports repeat of it."""
        text = "by size"
        if self.spread is not None:
            text = (
                f"median error {100 * self.spread.median:.1f} %, nine of ten within "
                f"{100 * self.spread.p90:.1f} % ({self.spread.num_points:,} points)"
            )
        return Figure(f"curves.{name}", text, Source(self.source), self.note)


class GemmSection(CurveSection):
    """Matrix products."""

    floor: Time = Field(description="What any product takes.")
    compute_fraction: Fraction = Field(description="Of `compute`, large products.")
    bandwidth_fraction: Fraction = Field(description="Of `memory_bandwidth`, large matrices.")
    serial_per_depth: Time = Field(description="A unit of inner dimension.")
    sharpness: Sharpness = Field(description="How abruptly one bound takes over from another.")


class DecodeAttentionSection(CurveSection):
    """Attention of one new token a sequence."""

    floor: Time = Field(description="What any launch takes.")
    stream: Time = Field(description="A sequence's KV head beside its bytes.")
    first_tile: Time = Field(description="The same at least.")
    bandwidth_fraction: Fraction = Field(description="Of `memory_bandwidth`, with many streams.")
    saturating_streams: Factor = Field(description="Streams it takes to reach it.")
    sharpness: Sharpness = Field(description="How abruptly.")


class PrefillAttentionSection(CurveSection):
    """Causal attention of chunks."""

    floor: Time = Field(description="What any launch takes.")
    compute_fraction: Fraction = Field(description="Of `compute`.")
    edge_tokens: Factor = Field(description="Keys that a token pays for beyond those it attends to.")
    serial_per_token: Time = Field(description="A token of context.")
    kv_passes: Factor = Field(description="How often keys and values cross the memory bus.")


class ElementwiseSection(CurveSection):
    """Kernels bound by memory."""

    floor: Time = Field(description="What any kernel takes.")
    bandwidth_fraction: Fraction = Field(description="Of `memory_bandwidth`.")


class AllReduceSection(CurveSection):
    """Sum over GPUs of one node."""

    floor: Time = Field(description="Least time of a sum over two GPUs.")
    per_gpu: Time = Field(description="What each further one adds.")
    large_factor: Factor = Field(description="Further floors that a large message takes.")
    large: Size = Field(description="Size where half of these are paid.")
    link_fractions: dict[NumGpus, Annotated[float, Field(gt=0, le=2)]] = Field(
        description="By number of GPUs: part of `link_bandwidth` that large sums reach.", min_length=1
    )

    def values(self) -> dict[str, Any]:
        """Parameters by name; GPUs ascending."""
        return {**super().values(), "link_fractions": tuple(sorted(self.link_fractions.items()))}


class CurvesSection(Section):
    """Curves of one GPU."""

    gemm: GemmSection | None = Field(default=None, description="Matrix products in 16 bits.")
    fp8_gemm: GemmSection | None = Field(
        default=None, description="In 8 bits, fractions of `fp8_compute`; left out: scaled from 16 bits."
    )
    narrow_gemm: GemmSection | None = Field(
        default=None, description="In 16 bits, weights of fewer; left out: scaled from 16 bits."
    )
    decode_attention: DecodeAttentionSection | None = Field(default=None, description="One new token each.")
    prefill_attention: PrefillAttentionSection | None = Field(default=None, description="Chunks.")
    elementwise: ElementwiseSection | None = Field(default=None, description="Bound by memory.")
    all_reduce: AllReduceSection | None = Field(default=None, description="Sum over GPUs.")

    def curves(self) -> FittedCurves:
        """The values behind it."""
        return FittedCurves(
            gemm=GemmCurve(**self.gemm.values()) if self.gemm else None,
            fp8_gemm=GemmCurve(**self.fp8_gemm.values()) if self.fp8_gemm else None,
            narrow_gemm=GemmCurve(**self.narrow_gemm.values()) if self.narrow_gemm else None,
            decode_attention=(
                DecodeAttentionCurve(**self.decode_attention.values()) if self.decode_attention else None
            ),
            prefill_attention=(
                PrefillAttentionCurve(**self.prefill_attention.values()) if self.prefill_attention else None
            ),
            elementwise=ElementwiseCurve(**self.elementwise.values()) if self.elementwise else None,
            all_reduce=AllReduceCurve(**self.all_reduce.values()) if self.all_reduce else None,
        )

    def figures(self) -> list[Figure]:
        """What reports repeat of it."""
        entries = [(name, getattr(self, name)) for name in type(self).model_fields]
        return [entry.figure(name) for name, entry in entries if entry is not None]
