"""The form of a hardware file: every figure with its unit and its source.

Owns the keys of `sim/catalog/hardware/*.yaml` and of files like them. Refuses to know where files lie.
"""

from __future__ import annotations

from fractions import Fraction
from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from sim.config.curves import CurvesSection, SpreadSection
from sim.config.value_types import Section
from sim.cost.hardware import Figure, Gpu, Source
from sim.units import Dimension, UnitError, format_quantity, parse_quantity

SourceName = Literal["datasheet", "measured", "paper", "assumed"]


class FigureEntry(Section):
    """A figure with its unit and where it comes from; of a dimension that a subclass names."""

    dimension: ClassVar[Dimension]
    allow_zero: ClassVar[bool] = False
    possible: ClassVar[tuple[float, float] | None] = None
    """Least and most that one GPU has, in base units; beyond is a slip of the pen."""

    value: float = Field(description="The number.")
    unit: str = Field(description="Its unit, such as GiB, GB/s, TFLOP/s, us, or fraction.")
    source: SourceName = Field(description="Where it comes from.")
    note: str = Field(default="", description="What a reader should know of it.")

    @model_validator(mode="after")
    def _has_an_amount(self) -> FigureEntry:
        _ = self.amount
        return self

    @property
    def amount(self) -> Fraction:
        """Its value in base units.

        Raises:
            UnitError: Its unit is of something else, or no GPU has so little or so much.
        """
        amount = parse_quantity(f"{self.value!r} {self.unit}", self.dimension, allow_zero=self.allow_zero)
        if self.possible is not None and not self.possible[0] <= amount <= self.possible[1]:
            least, most = (format_quantity(end, self.dimension) for end in self.possible)
            raise UnitError(
                f"{self.value:g} {self.unit} is impossible for one GPU: expected {least} to {most}"
            )
        return amount

    def figure(self, name: str) -> Figure:
        """What reports repeat of it."""
        return Figure(name, format_quantity(self.amount, self.dimension), Source(self.source), self.note)


class MemoryFigure(FigureEntry):
    """An amount of memory."""

    dimension = Dimension.MEMORY
    allow_zero = True


class BandwidthFigure(FigureEntry):
    """A bandwidth, one direction."""

    dimension = Dimension.BANDWIDTH
    possible = (10**6, 10**15)


class ComputeFigure(FigureEntry):
    """A dense rate of operations."""

    dimension = Dimension.COMPUTE
    possible = (10**9, 10**19)


class TimeFigure(FigureEntry):
    """A duration, or none."""

    dimension = Dimension.TIME
    allow_zero = True


class FractionFigure(FigureEntry):
    """A part of another figure, above 0 and at most 1; its unit is `fraction`."""

    @property
    def amount(self) -> Fraction:
        """Its value.

        Raises:
            UnitError: It has another unit, or is out of range.
        """
        if self.unit != "fraction" or not 0 < self.value <= 1:
            raise UnitError(
                f"must be above 0 and at most 1, with `unit: fraction`, not {self.value:g} {self.unit}"
            )
        return Fraction(repr(self.value))

    def figure(self, name: str) -> Figure:
        """What reports repeat of it."""
        return Figure(name, repr(self.value), Source(self.source), self.note)


class HardwareFile(Section):
    """One kind of GPU; rates are dense, bandwidths one direction."""

    name: str = Field(description="What reports call it.")
    memory: MemoryFigure = Field(description="Memory that programs see.")
    memory_bandwidth: BandwidthFigure = Field(description="Of its own memory.")
    compute: ComputeFigure = Field(description="16-bit matrix products with 32-bit sums.")
    fp8_compute: ComputeFigure | None = Field(default=None, description="8-bit matrix products.")
    host_bandwidth: BandwidthFigure = Field(description="To the host.")
    link_bandwidth: BandwidthFigure | None = Field(
        default=None, description="To other GPUs over their own link; left out where there is none."
    )
    reserved_memory: MemoryFigure = Field(description="What is used beside weights and KV cache.")
    compute_efficiency: FractionFigure = Field(description="What large matrix products reach of `compute`.")
    bandwidth_efficiency: FractionFigure = Field(
        description="What streaming weights and KV reaches of `memory_bandwidth`."
    )
    step_overhead: TimeFigure = Field(description="Fixed time of a step.")
    link_latency: TimeFigure = Field(description="Least time of one collective operation.")
    host_efficiency: FractionFigure = Field(
        default=FractionFigure(
            value=0.78, unit="fraction", source="paper", note="H100: about 50 of 64 GB/s, vLLM blog 2026-01"
        ),
        description="What copies of pinned memory reach of `host_bandwidth`.",
    )
    host_copy_latency: TimeFigure = Field(
        default=TimeFigure(
            value=4, unit="us", source="paper", note="fits PagedAttention Fig. 19a: 3.5 to 4.5 us a copy"
        ),
        description="Time of one copy between host and GPU beside its bytes.",
    )
    eager_operation: TimeFigure = Field(
        default=TimeFigure(
            value=20,
            unit="us",
            source="paper",
            note="a PyTorch operation on a V100's host, NVIDIA Nsight guide",
        ),
        description="What an operation of an eager framework takes the host (fusion: none).",
    )
    kernel_launch: TimeFigure = Field(
        default=TimeFigure(
            value=5, unit="us", source="paper", note="4 to 6 us with driver calls, RTX 5070 Ti"
        ),
        description="What launching one kernel takes the host (fusion: fused).",
    )
    graph_launch: TimeFigure = Field(
        default=TimeFigure(
            value=2.5, unit="us", source="paper", note="NVIDIA, constant-time launch of straight-line graphs"
        ),
        description="What launching a captured graph takes the host.",
    )
    graph_node: TimeFigure = Field(
        default=TimeFigure(value=1, unit="ns", source="paper", note="as graph_launch"),
        description="What each kernel of a graph adds to its launch.",
    )
    seq_overhead: TimeFigure = Field(
        default=TimeFigure(value=5, unit="us", source="assumed", note="scheduling and sampling"),
        description="What each sequence of a step takes the host.",
    )
    gpus_per_host_link: Annotated[int, Field(ge=1, le=64)] = Field(
        default=1, description="GPUs that share one link to the host's memory."
    )
    curves: CurvesSection = Field(
        default=CurvesSection(), description="Kernel times by size, where they were measured."
    )
    step_spread: SpreadSection | None = Field(
        default=None, description="How far measured steps lie from predicted ones, where they were fitted to."
    )

    def gpu(self) -> Gpu:
        """The values behind it."""
        return Gpu(
            name=self.name,
            memory_bytes=int(self.memory.amount),
            memory_bandwidth_bytes_per_s=float(self.memory_bandwidth.amount),
            compute_flops_per_s=float(self.compute.amount),
            fp8_flops_per_s=float(self.fp8_compute.amount) if self.fp8_compute else None,
            host_bandwidth_bytes_per_s=float(self.host_bandwidth.amount),
            link_bandwidth_bytes_per_s=float(self.link_bandwidth.amount) if self.link_bandwidth else None,
            reserved_memory_bytes=int(self.reserved_memory.amount),
            compute_efficiency_fraction=float(self.compute_efficiency.amount),
            bandwidth_efficiency_fraction=float(self.bandwidth_efficiency.amount),
            step_overhead_ns=round(self.step_overhead.amount),
            link_latency_ns=round(self.link_latency.amount),
            host_efficiency_fraction=float(self.host_efficiency.amount),
            host_copy_latency_ns=round(self.host_copy_latency.amount),
            gpus_per_host_link=self.gpus_per_host_link,
            eager_operation_ns=float(self.eager_operation.amount),
            kernel_launch_ns=float(self.kernel_launch.amount),
            graph_launch_ns=float(self.graph_launch.amount),
            graph_node_ns=float(self.graph_node.amount),
            seq_overhead_ns=float(self.seq_overhead.amount),
            curves=self.curves.curves(),
            figures=(*self._figures(), *self.curves.figures()),
            step_spread=self.step_spread.spread() if self.step_spread else None,
        )

    def _figures(self) -> list[Figure]:
        entries = [(name, getattr(self, name)) for name in type(self).model_fields]
        return [entry.figure(name) for name, entry in entries if isinstance(entry, FigureEntry)]
