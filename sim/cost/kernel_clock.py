"""`KernelClock`: how long each kernel of a list takes on one device.

Owns which curve a kind of kernel is timed by, kernel by kernel: the slow way, that tables, reports and the
coefficients of `sim.cost.step_time` come from. Refuses to know launches and the host.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from sim.cost.curve_parameters import GemmCurve
from sim.cost.curves import DeviceCurves, Times
from sim.cost.hardware import Gpu
from sim.cost.kernels import Batch, Kernel, KernelKind, KernelList
from sim.cost.model import BYTES_PER_WEIGHT, ModelShape


@dataclass(frozen=True, slots=True)
class KernelClock:
    """How long single kernels take on one device."""

    curves: DeviceCurves
    kernels: KernelList
    product_curve: GemmCurve
    product_flops_per_s: float

    @classmethod
    def of(cls, kernels: KernelList, gpu: Gpu, block_read_factor: float = 1.0) -> KernelClock:
        """For kernels on a GPU; the factor is that of the attention kernel."""
        curves = DeviceCurves.of(gpu, block_read_factor)
        fast = gpu.fp8_flops_per_s if kernels.model.computes_in_fp8 else None
        product: GemmCurve = getattr(curves.parameters, product_curve_name(kernels.model, gpu))
        return cls(curves, kernels, product, fast or gpu.compute_flops_per_s)

    def decode_line(self, num_seqs: int) -> tuple[float, float]:
        """Fused decode attention of one layer: nanoseconds, and nanoseconds a token of context."""
        return self.curves.decode_attention_line(num_seqs, self.kernels.attention)

    def kernel_ns(self, kernel: Kernel, batch: Batch | None = None) -> Times:
        """One launch; attention kernels need the batch as well."""
        match kernel.kind:
            case KernelKind.PRODUCT:
                curve, peak = (
                    (self.product_curve, self.product_flops_per_s) if kernel.quantised else (None, None)
                )
                return self.curves.product_ns(
                    kernel.flops, kernel.num_bytes, kernel.depth, curve=curve, peak_flops_per_s=peak
                )
            case KernelKind.ELEMENTWISE:
                return self.curves.elementwise_ns(kernel.num_bytes)
            case KernelKind.ALL_REDUCE:
                return self.curves.all_reduce_ns(kernel.bytes_read, self.kernels.tensor_parallel_size)
            case KernelKind.SEND:
                return self.curves.send_ns(kernel.bytes_read)
            case KernelKind.DECODE_ATTENTION | KernelKind.PROMPT_ATTENTION:
                assert batch is not None, "attention depends on more than its bytes"
                return np.asarray(self._attention_ns(kernel, batch))

    def total_ns(self, kernels: list[Kernel], batch: Batch | None = None) -> Times:
        """All launches of all of them, one after another."""
        total: Times = sum(
            (self.kernel_ns(kernel, batch) * kernel.num_launches for kernel in kernels), start=np.zeros(())
        )
        return total

    def _attention_ns(self, kernel: Kernel, batch: Batch) -> float:
        """Decoding sequences as if alone; chunks what they add to that, as both are one launch."""
        base, slope = self.decode_line(batch.num_decode_seqs) if batch.num_decode_seqs else (0.0, 0.0)
        fused = base + slope * batch.decode_context_tokens
        if kernel.kind is KernelKind.PROMPT_ATTENTION:
            chunks = [chunk[:2] for chunk in batch.chunks]
            step = self.curves.step_attention(self.kernels.attention)
            fused = step.ns(batch.num_decode_seqs, batch.decode_context_tokens, chunks) - fused
        if kernel.share == 1:
            return fused
        pairs = batch.decode_context_tokens
        if kernel.kind is KernelKind.PROMPT_ATTENTION:
            pairs = sum(new * (computed + new) for new, computed, _ in batch.chunks)
        heads = self.kernels.model.num_attention_heads / self.kernels.tensor_parallel_size
        return kernel.share * fused + float(self.curves.elementwise_ns(2 * pairs * heads))


def product_curve_name(model: ModelShape, gpu: Gpu) -> str:
    """Which curve of `CurveParameters` the products of a model's layers have, by their number type."""
    if model.computes_in_fp8 and gpu.fp8_flops_per_s is not None:
        return "fp8_gemm"
    return "gemm" if model.bytes_per_weight == BYTES_PER_WEIGHT else "narrow_gemm"


def block_copies_ns(curves: DeviceCurves, num_copies: int, block_bytes: float) -> float:
    """Copies of blocks within the device, by one kernel: each byte is read and written."""
    return float(curves.elementwise_ns(2 * num_copies * block_bytes)) if num_copies else 0.0
