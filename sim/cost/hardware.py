"""GPUs: what a datasheet says of one, what it reaches in practice, and where each figure comes from.

Refuses to know models, kernels and files (`sim.config.catalog` reads them). Rates are dense and in one
direction. A figure without a source cannot be made.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum

from sim.cost.curve_parameters import FittedCurves, Spread


class Source(Enum):
    """Where a figure comes from; reports repeat it."""

    DATASHEET = "datasheet"
    MEASURED = "measured"
    PAPER = "paper"
    ASSUMED = "assumed"


@dataclass(frozen=True, slots=True)
class Figure:
    """One figure of a hardware file as it is written there."""

    name: str
    quantity: str
    """With its unit: '80 GiB'."""
    source: Source
    note: str = ""


@dataclass(frozen=True, slots=True)
class Gpu:
    """One kind of GPU.

    Attributes:
        compute_flops_per_s: Dense rate of 16-bit matrix products with 32-bit sums. fp8_flops_per_s: Of
            8-bit floating point; None where there is none. memory_bandwidth_bytes_per_s: Of its own
            memory. host_bandwidth_bytes_per_s: To the host, one direction. link_bandwidth_bytes_per_s: To
            its peers, one direction; None where they meet over the host's bus only.
        reserved_memory_bytes: What activations, graphs and libraries take beside weights and KV cache.
        compute_efficiency_fraction: What large matrix products reach of the rate.
        bandwidth_efficiency_fraction: What streaming weights and KV reaches of the bandwidth.
        step_overhead_ns: Time of a step that neither computing nor memory explains: launches, scheduling.
        link_latency_ns: What one collective operation takes at least.
        host_efficiency_fraction: What copies of pinned memory reach of the bandwidth to the host.
        host_copy_latency_ns: What one such copy takes beside its bytes.
        gpus_per_host_link: How many GPUs share one link to the host.
        eager_operation_ns: What an operation that an eager framework dispatches takes its host.
        kernel_launch_ns: The same of a kernel that is launched without such a framework's dispatch.
        graph_launch_ns: Of a captured graph. graph_node_ns: Of each kernel in it.
        seq_overhead_ns: What scheduling and sampling take the host for each sequence of a step.
        curves: Of kernels by size, where they were measured.
        figures: All of these as written, with their sources.
        step_spread: How far measured whole steps lie from predicted ones, where figures were fitted to steps.
    """

    name: str
    memory_bytes: int
    memory_bandwidth_bytes_per_s: float
    compute_flops_per_s: float
    fp8_flops_per_s: float | None
    host_bandwidth_bytes_per_s: float
    link_bandwidth_bytes_per_s: float | None
    reserved_memory_bytes: int
    compute_efficiency_fraction: float
    bandwidth_efficiency_fraction: float
    step_overhead_ns: int
    link_latency_ns: int
    host_efficiency_fraction: float = 0.78
    host_copy_latency_ns: int = 4_000
    gpus_per_host_link: int = 1
    eager_operation_ns: float = 20_000
    kernel_launch_ns: float = 5_000
    graph_launch_ns: float = 2_500
    graph_node_ns: float = 1
    seq_overhead_ns: float = 5_000
    curves: FittedCurves = field(default_factory=FittedCurves)
    figures: tuple[Figure, ...] = ()
    step_spread: Spread | None = None

    @property
    def achieved_flops_per_s(self) -> float:
        """16-bit rate that large products reach."""
        return self.compute_flops_per_s * self.compute_efficiency_fraction

    @property
    def achieved_bandwidth_bytes_per_s(self) -> float:
        """Memory bandwidth that streaming reaches."""
        return self.memory_bandwidth_bytes_per_s * self.bandwidth_efficiency_fraction

    @property
    def achieved_host_bandwidth_bytes_per_s(self) -> float:
        """Bandwidth to the host, one direction, that large copies of pinned memory reach."""
        return self.host_bandwidth_bytes_per_s * self.host_efficiency_fraction

    @property
    def peer_bandwidth_bytes_per_s(self) -> float:
        """Bandwidth to other GPUs: of the link, or of the host's bus where there is none."""
        if self.link_bandwidth_bytes_per_s is None:
            return self.host_bandwidth_bytes_per_s
        return self.link_bandwidth_bytes_per_s
