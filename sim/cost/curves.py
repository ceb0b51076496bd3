"""`DeviceCurves`: how long one kernel takes on one kind of GPU, by its size.

Owns the formulas. Refuses to know models, plans, launches from the host, and where the numbers come from.
Times are a kernel's own on the device, in nanoseconds, double precision; sizes may be numpy arrays of one
shape, and the answer has that shape. All of one GPU: with tensor parallelism, give it its share.

    product            floor + (compute^s + memory^s + serial^s)^(1/s)
    decode attention   floor + max(first tiles, streams + context * (read or compute))
    prompt attention   floor + compute(pairs + edges) + serial(longest context) + KV passes; chunks of few
                       tokens, and those beside decoding sequences: `sim.cost.step_attention`
    elementwise        floor + bytes / bandwidth
    all-reduce         floor(GPUs) * (1 + factor * bytes / (bytes + large)) + bytes over the link
    send               the floor of an all-reduce of two GPUs + bytes over the link

Each grows with each size, and every parameter can be read off a picture. A GPU without measured curves
takes over an H100's (`taken_over`): fractions of its own datasheet rates, scaled by how its own
`compute_efficiency` and `bandwidth_efficiency` compare with the H100's; floors as they are, those of
all-reduce by how `link_latency` compares. That is an assumption, and `Gpu.curves` tells which curves it is
not made for.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sim.cost.curve_parameters import (
    REFERENCE,
    REFERENCE_BANDWIDTH_EFFICIENCY,
    REFERENCE_COMPUTE_EFFICIENCY,
    REFERENCE_LINK_LATENCY_NS,
    AllReduceCurve,
    CurveParameters,
    ElementwiseCurve,
    GemmCurve,
)
from sim.cost.hardware import Gpu
from sim.cost.step_attention import STREAMS_PER_KV_HEAD, StepAttention, prompt_share

Numbers = float | NDArray[Any]
Times = NDArray[np.float64]
"""Nanoseconds."""

_NS_PER_S = 1e9
_BYTES_IN_16_BITS = 2


@dataclass(frozen=True, slots=True)
class AttentionShape:
    """What one layer's attention moves and computes on one GPU; arrays for many shapes at once.

    Attributes:
        num_kv_heads: KV heads on this GPU; 1 for a latent that all heads share.
        kv_bytes_per_token: Keys and values of one token, all KV heads together.
        flops_per_pair: For one token to attend to one other, all heads together.
    """

    num_kv_heads: Numbers
    kv_bytes_per_token: Numbers
    flops_per_pair: Numbers

    @classmethod
    def of_heads(
        cls, num_heads: Numbers, num_kv_heads: Numbers, head_dim: Numbers, *, kv_bytes_per_value: float = 2
    ) -> AttentionShape:
        """Heads of one size, keys and values apart."""
        return cls(num_kv_heads, 2 * num_kv_heads * head_dim * kv_bytes_per_value, 4 * num_heads * head_dim)


@dataclass(frozen=True, slots=True)
class DeviceCurves:
    """Kernel times of one GPU.

    Attributes:
        flops_per_s: Datasheet rate of 16-bit products. memory_bytes_per_s, link_bytes_per_s: Datasheet
            bandwidths, one direction.
        block_read_factor: Time to read a context in its blocks, over that in blocks of the measured size.
    """

    flops_per_s: float
    memory_bytes_per_s: float
    link_bytes_per_s: float
    parameters: CurveParameters
    block_read_factor: float = 1.0

    @classmethod
    def of(cls, gpu: Gpu, block_read_factor: float = 1.0) -> DeviceCurves:
        """The curves of a GPU: its own where it has any, or those taken over from an H100."""
        return cls(
            flops_per_s=gpu.compute_flops_per_s,
            memory_bytes_per_s=gpu.memory_bandwidth_bytes_per_s,
            link_bytes_per_s=gpu.peer_bandwidth_bytes_per_s,
            parameters=curve_parameters(gpu),
            block_read_factor=block_read_factor,
        )

    def gemm_ns(
        self,
        m: Numbers,
        n: Numbers,
        k: Numbers,
    ) -> Times:
        """Product of activations [m, k] and weights [k, n] in 16 bits; m, n, k at least 1."""
        m, n, k = (np.asarray(size, dtype=np.float64) for size in (m, n, k))
        num_bytes = _BYTES_IN_16_BITS * (n * k + m * k + m * n)
        return self.product_ns(2 * m * n * k, num_bytes, k)

    def fp8_gemm_ns(self, m: Numbers, n: Numbers, k: Numbers, peak_flops_per_s: float | None) -> Times:
        """The same in 8 bits, results in 16."""
        m, n, k = (np.asarray(size, dtype=np.float64) for size in (m, n, k))
        num_bytes = n * k + _BYTES_IN_16_BITS * (m * k + m * n)  # activations as the kernel list counts them
        curve = self.parameters.fp8_gemm
        return self.product_ns(2 * m * n * k, num_bytes, k, curve=curve, peak_flops_per_s=peak_flops_per_s)

    def product_ns(
        self,
        num_flops: Numbers,
        num_bytes: Numbers,
        depth: Numbers,
        *,
        curve: GemmCurve | None = None,
        peak_flops_per_s: float | None = None,
    ) -> Times:
        """One kernel of matrix products, say of several experts: all work, all bytes, inner dimension.

        `curve` is that of a number type and `peak_flops_per_s` the datasheet's rate of it; None: of 16 bits.
        """
        curve = self.parameters.gemm if curve is None else curve
        peak, s = self.flops_per_s if peak_flops_per_s is None else peak_flops_per_s, curve.sharpness
        compute = np.asarray(num_flops, dtype=np.float64) * (_NS_PER_S / (peak * curve.compute_fraction))
        memory = np.asarray(num_bytes, dtype=np.float64) * (
            _NS_PER_S / (self.memory_bytes_per_s * curve.bandwidth_fraction)
        )
        serial = np.asarray(depth, dtype=np.float64) * curve.serial_ns_per_depth
        bound: Times = curve.floor_ns + (compute**s + memory**s + serial**s) ** (1 / s)
        return bound

    def decode_attention_line(self, num_seqs: int, shape: AttentionShape) -> tuple[float, float]:
        """Decode attention of so many sequences as `base_ns` and `ns_per_context_token`.

        Exact from about a tile (100 tokens) of context a sequence on; below, `decode_attention_ns` is longer
        by at most `first_tile_ns - stream_ns` a stream.
        """
        base, slope = self._decode_line(np.asarray(num_seqs, dtype=np.float64), shape)
        return float(base), float(slope)

    def decode_attention_ns(self, num_seqs: Numbers, context_tokens: Numbers, shape: AttentionShape) -> Times:
        """Attention of `num_seqs` new tokens over `context_tokens`, the sum over sequences."""
        curve = self.parameters.decode_attention
        num_seqs = np.asarray(num_seqs, dtype=np.float64)
        base, slope = self._decode_line(num_seqs, shape)
        first_tiles = curve.floor_ns + curve.first_tile_ns * num_seqs * shape.num_kv_heads
        longer: Times = np.maximum(first_tiles, base + slope * np.asarray(context_tokens, dtype=np.float64))
        return longer

    def _decode_line(self, num_seqs: Times, shape: AttentionShape) -> tuple[Times, Times]:
        curve = self.parameters.decode_attention
        base = curve.floor_ns + curve.stream_ns * num_seqs * shape.num_kv_heads
        streams = shape.num_kv_heads * np.maximum(num_seqs, STREAMS_PER_KV_HEAD)
        starved = (1 + (curve.saturating_streams / streams) ** curve.sharpness) ** (1 / curve.sharpness)
        read = self._read_ns(shape.kv_bytes_per_token) * starved
        return base, np.maximum(read, shape.flops_per_pair * self._attention_ns_per_flop)

    def _read_ns(self, num_bytes: Numbers) -> Numbers:
        """Reading keys and values once, by a saturated device, in its blocks; never beyond the datasheet."""
        reached = self.parameters.decode_attention.bandwidth_fraction / self.block_read_factor
        return num_bytes * (_NS_PER_S / (self.memory_bytes_per_s * min(reached, 1.0)))

    @property
    def _attention_ns_per_flop(self) -> float:
        return _NS_PER_S / (self.flops_per_s * self.parameters.prefill_attention.compute_fraction)

    def prefill_attention_ns(
        self, num_new: Numbers, num_computed: Numbers, shape: AttentionShape, *, num_chunks: Numbers = 1
    ) -> Times:
        """Causal attention of one kernel: equal chunks, over what is computed of each and themselves.

        `StepAttention.ns` of such chunks, for many sizes at once.
        """
        new = np.asarray(num_new, dtype=np.float64)
        context = new + np.asarray(num_computed, dtype=np.float64)
        line, share = self.step_attention(shape), prompt_share(new)
        more = (new - 1) * (context - new / 2 + line.edge_tokens)
        computing = line.pair_ns * (context + more)
        passes = computing + line.pair_ns * line.edge_tokens + line.pass_ns * context
        beyond = share * np.maximum(passes - line.read_ns * context, computing)
        _, slope = self._decode_line(np.asarray(num_chunks, dtype=np.float64), shape)
        rows = np.maximum(slope * context, line.pair_ns * (context + (1 - share) * more))
        prompt_floor = line.prompt_floor_ns + line.serial_ns * (context + line.edge_tokens)
        floor = line.floor_ns + share * np.maximum(prompt_floor - line.floor_ns, 0.0)
        time: Times = floor + num_chunks * (line.seq_ns + rows + beyond)
        return time

    def step_attention(self, shape: AttentionShape) -> StepAttention:
        """Decoding sequences and chunks of one layer, in closed form; of arrays of shapes, arrays."""
        decode, prompt = self.parameters.decode_attention, self.parameters.prefill_attention
        kv_bytes, heads = shape.kv_bytes_per_token, shape.num_kv_heads
        return StepAttention(
            floor_ns=decode.floor_ns,
            prompt_floor_ns=prompt.floor_ns,
            seq_ns=_like(decode.stream_ns * heads),
            read_ns=_like(self._read_ns(kv_bytes)),
            pair_ns=_like(shape.flops_per_pair * self._attention_ns_per_flop),
            starving=_like(decode.saturating_streams / heads),
            sharpness=decode.sharpness,
            edge_tokens=prompt.edge_tokens,
            serial_ns=prompt.serial_ns_per_token,
            pass_ns=_like(kv_bytes * (prompt.kv_passes * _NS_PER_S / self.memory_bytes_per_s)),
        )

    def elementwise_ns(self, num_bytes: Numbers) -> Times:
        """A kernel that reads and writes `num_bytes` in all and computes next to nothing."""
        curve = self.parameters.elementwise
        bandwidth = self.memory_bytes_per_s * curve.bandwidth_fraction
        time: Times = curve.floor_ns + np.asarray(num_bytes, dtype=np.float64) * (_NS_PER_S / bandwidth)
        return time

    def all_reduce_ns(self, num_bytes: Numbers, num_gpus: int) -> Times:
        """Sum of `num_bytes` on each of `num_gpus` GPUs of one node; nothing for one GPU."""
        num_bytes, curve = np.asarray(num_bytes, dtype=np.float64), self.parameters.all_reduce
        if num_gpus == 1:
            return np.zeros_like(num_bytes)
        floor_ns = curve.floor_ns + curve.ns_per_gpu * (num_gpus - 2)
        steps = 1 + curve.large_factor * num_bytes / (num_bytes + curve.large_bytes)
        bandwidth = self.link_bytes_per_s * _link_fraction(curve, num_gpus)
        ring = 2 * (num_gpus - 1) / num_gpus
        time: Times = floor_ns * steps + num_bytes * (ring * _NS_PER_S / bandwidth)
        return time

    def send_ns(self, num_bytes: Numbers) -> Times:
        """`num_bytes` from one GPU to the next, over the link or, without one, the host's bus."""
        curve = self.parameters.all_reduce
        bandwidth = self.link_bytes_per_s * _link_fraction(curve, 2)
        time: Times = curve.floor_ns + np.asarray(num_bytes, dtype=np.float64) * (_NS_PER_S / bandwidth)
        return time


def _like(value: Numbers) -> Any:
    """A plain number where it is one, for steps in plain Python."""
    return value if isinstance(value, np.ndarray) and value.ndim else float(value)


def _link_fraction(curve: AllReduceCurve, num_gpus: int) -> float:
    """Between counts of GPUs that were measured, along a line; outside, as at the nearest."""
    counts, fractions = zip(*curve.link_fractions, strict=True)
    return float(np.interp(num_gpus, counts, fractions))


def curve_parameters(gpu: Gpu) -> CurveParameters:
    """Each curve of a GPU: as fitted where it was measured, else taken over, or products from 16 bits."""
    other, own = taken_over(gpu), gpu.curves
    gemm = own.gemm or other.gemm
    return CurveParameters(
        gemm=gemm,
        fp8_gemm=own.fp8_gemm or gemm,
        narrow_gemm=own.narrow_gemm or gemm,
        decode_attention=own.decode_attention or other.decode_attention,
        prefill_attention=own.prefill_attention or other.prefill_attention,
        elementwise=own.elementwise or other.elementwise,
        all_reduce=own.all_reduce or other.all_reduce,
    )


def taken_over(gpu: Gpu) -> CurveParameters:
    """An H100's curves as they are assumed for another GPU (see the module); without residuals."""
    compute = gpu.compute_efficiency_fraction / REFERENCE_COMPUTE_EFFICIENCY
    memory = gpu.bandwidth_efficiency_fraction / REFERENCE_BANDWIDTH_EFFICIENCY
    latency = gpu.link_latency_ns / REFERENCE_LINK_LATENCY_NS
    gemm, decode, prefill = REFERENCE.gemm, REFERENCE.decode_attention, REFERENCE.prefill_attention
    reduce = REFERENCE.all_reduce
    links = reduce.link_fractions if gpu.link_bandwidth_bytes_per_s else reduce.link_fractions[:1]
    product = replace(
        gemm,
        compute_fraction=min(1.0, gemm.compute_fraction * compute),
        bandwidth_fraction=min(1.0, gemm.bandwidth_fraction * memory),
    )
    return CurveParameters(
        gemm=product,
        fp8_gemm=product,
        narrow_gemm=product,
        decode_attention=replace(decode, bandwidth_fraction=min(1.0, decode.bandwidth_fraction * memory)),
        prefill_attention=replace(prefill, compute_fraction=min(1.0, prefill.compute_fraction * compute)),
        elementwise=ElementwiseCurve(
            REFERENCE.elementwise.floor_ns, min(1.0, REFERENCE.elementwise.bandwidth_fraction * memory)
        ),
        all_reduce=replace(
            reduce,
            floor_ns=reduce.floor_ns * latency,
            ns_per_gpu=reduce.ns_per_gpu * latency,
            link_fractions=links,
        ),
    )
