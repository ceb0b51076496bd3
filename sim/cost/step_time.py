"""`KernelCost`: the time of a step as its kernels, one after another, and the host that launches them.

Implements `sim.cost.cost_model.CostModel`. Kernels come from `sim.cost.kernels`, their times from
`sim.cost.curves`; this file owns what happens around them:

    step = max(sum of kernels, launches by the host) + overhead of a step + overhead of each sequence

Launches hide behind the device while kernels are long, and are what takes the time when kernels are short.
A captured graph is launched once. Where a step is scheduled while the one before it computes (asynchronous
scheduling), the overheads hide behind the device as well: max(kernels, launches + overheads). GPUs that
share a model work as one.

Hot path: kernels that depend on the number of tokens only are summed in a table, grown by doubling; decode
attention is a line for each batch size. A step is `max(base + slope * context, floor)` in double precision,
in Python and in numpy by the same IEEE operations, so a horizon is its steps one by one, to the bit.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import accumulate

import numpy as np

from sim.core.step import StepPlan
from sim.cost.block_reads import block_read_factor
from sim.cost.curves import DeviceCurves, Times
from sim.cost.hardware import Gpu
from sim.cost.kernels import Batch, Fusion, Kernel, KernelKind, KernelList
from sim.cost.model import ModelShape

LAUNCH_NS = {Fusion.NONE: 20_000.0, Fusion.FUSED: 5_000.0, Fusion.GRAPH: 1.0}
"""Of the host, for each kernel: an eager operation 20 us (NVIDIA Nsight guide, V100), a launch 4 to 6 us, a
node of a graph about 1 ns (NVIDIA, constant-time launch of straight-line graphs)."""
GRAPH_LAUNCH_NS = 2_500.0
SEQ_OVERHEAD_NS = 5_000.0
"""Assumed: what scheduling and sampling on the host take for each sequence of a step."""
_LONG_HORIZON = 32
_FIRST_TABLE, _LARGEST_TABLE = 512, 32_768


@dataclass(frozen=True, slots=True)
class KernelClock:
    """How long single kernels take on one device."""

    curves: DeviceCurves
    kernels: KernelList
    product_flops_per_s: float
    decode_read_factor: float = 1.0

    @classmethod
    def of(cls, kernels: KernelList, gpu: Gpu, block_size: int | None = 16) -> KernelClock:
        """For kernels on a GPU, KV in blocks of so many tokens (None: contiguous)."""
        fast = gpu.fp8_flops_per_s if kernels.model.computes_in_fp8 else None
        peak = fast or gpu.compute_flops_per_s
        return cls(DeviceCurves.of(gpu), kernels, peak, block_read_factor(block_size))

    def decode_line(self, num_seqs: int) -> tuple[float, float]:
        """Fused decode attention of one layer: nanoseconds, and nanoseconds a token of context."""
        base, slope = self.curves.decode_attention_line(num_seqs, self.kernels.attention)
        return base, slope * self.decode_read_factor

    def kernel_ns(self, kernel: Kernel, batch: Batch | None = None) -> Times:
        """One launch; attention kernels need the batch as well."""
        match kernel.kind:
            case KernelKind.PRODUCT:
                peak = self.product_flops_per_s if kernel.quantised else None
                return self.curves.product_ns(
                    kernel.flops, kernel.num_bytes, kernel.depth, peak_flops_per_s=peak
                )
            case KernelKind.ELEMENTWISE:
                return self.curves.elementwise_ns(kernel.num_bytes)
            case KernelKind.ALL_REDUCE:
                return self.curves.all_reduce_ns(kernel.bytes_read, self.kernels.tensor_parallel_size)
            case KernelKind.DECODE_ATTENTION | KernelKind.PROMPT_ATTENTION:
                assert batch is not None, "attention depends on more than its bytes"
                return np.asarray(self._attention_ns(kernel, batch))

    def _attention_ns(self, kernel: Kernel, batch: Batch) -> float:
        if kernel.kind is KernelKind.DECODE_ATTENTION:
            base, slope = self.decode_line(batch.num_decode_seqs)
            fused = base + slope * batch.decode_context_tokens
        else:
            new = np.array([chunk[0] for chunk in batch.chunks])
            computed = np.array([chunk[1] for chunk in batch.chunks])
            fused = self.curves.prefill_attention_batch_ns(new, computed, self.kernels.attention)
        if kernel.share == 1:
            return fused
        pairs = batch.decode_context_tokens
        if kernel.kind is KernelKind.PROMPT_ATTENTION:
            pairs = sum(new * (computed + new) for new, computed, _ in batch.chunks)
        heads = self.kernels.model.num_attention_heads / self.kernels.tensor_parallel_size
        return kernel.share * fused + float(self.curves.elementwise_ns(2 * pairs * heads))


def block_copies_ns(curves: DeviceCurves, num_copies: int, block_bytes: float) -> float:
    """Copies of blocks within the device, by one kernel: each byte is read and written."""
    return float(curves.elementwise_ns(2 * num_copies * block_bytes)) if num_copies else 0.0


class KernelCost:
    """Step times of one model on one kind of GPU."""

    __slots__ = (
        "_clock",
        "_decode_lines",
        "_fixed_ns",
        "_graph_ns",
        "_launch_ns",
        "_num_layers",
        "_overlaps_host",
        "_sampling_ns",
        "_token_launches",
        "_tokens_ns",
        "kernels",
    )

    def __init__(
        self,
        model: ModelShape,
        gpu: Gpu,
        *,
        tensor_parallel_size: int = 1,
        block_size: int | None = 16,
        fusion: Fusion = Fusion.GRAPH,
        overlaps_host: bool = False,
    ) -> None:
        self._overlaps_host = overlaps_host
        self.kernels = KernelList(model, fusion, tensor_parallel_size)
        self._clock = KernelClock.of(self.kernels, gpu, block_size)
        self._num_layers = model.num_hidden_layers
        self._launch_ns = LAUNCH_NS[fusion]
        self._graph_ns = GRAPH_LAUNCH_NS if fusion is Fusion.GRAPH else 0.0
        self._fixed_ns = float(max(gpu.step_overhead_ns, 1))
        self._token_launches = _num_launches(self.kernels.per_token(1))
        self._tokens_ns: list[float] = []
        self._sampling_ns: list[float] = []
        self._decode_lines: dict[int, tuple[float, float, float]] = {}

    def step_ends_ns(self, plan: StepPlan) -> list[int]:  # [horizon]
        """End of each step of a plan, counted from its start."""
        num_decodes, context, horizon = plan.num_decode_seqs, plan.decode_context_tokens, plan.horizon
        line = self._line_with_chunks(plan) if plan.chunks else self._decode_lines.get(num_decodes)
        base, slope, floor = self._remember_line(num_decodes) if line is None else line
        if horizon == 1:
            return [int(max(slope * context + base, floor) + 0.5)]
        if horizon < _LONG_HORIZON:
            contexts = (context + num_decodes * step for step in range(horizon))
            return list(accumulate(int(max(slope * tokens + base, floor) + 0.5) for tokens in contexts))
        tokens = np.arange(horizon, dtype=np.int64) * num_decodes + context
        steps = (np.maximum(slope * tokens + base, floor) + 0.5).astype(np.int64)
        ends: list[int] = steps.cumsum().tolist()
        return ends

    def device_ns(self, batch: Batch) -> float:
        """Time of all kernels of a batch, without launches and the host."""
        return sum(
            float(self._clock.kernel_ns(kernel, batch)) * kernel.num_launches
            for kernel in self.kernels.of(batch)
        )

    def timed_kernels(self, batch: Batch) -> list[tuple[Kernel, float]]:
        """Each kernel of a batch with the time of one launch."""
        return [(kernel, float(self._clock.kernel_ns(kernel, batch))) for kernel in self.kernels.of(batch)]

    def host_ns(self, batch: Batch) -> float:
        """What launching takes the host; hidden where the device takes longer."""
        return self._graph_ns + self._launch_ns * _num_launches(self.kernels.of(batch))

    def overhead_ns(self, num_seqs: int) -> float:
        """What the host takes besides: scheduling and sampling."""
        return self._fixed_ns + SEQ_OVERHEAD_NS * num_seqs

    def _remember_line(self, num_decodes: int) -> tuple[float, float, float]:
        line = self._line(Batch(num_decodes, 0), 0.0)
        self._decode_lines[num_decodes] = line
        return line

    def _line_with_chunks(self, plan: StepPlan) -> tuple[float, float, float]:
        batch = Batch.of(plan)
        attention = sum(
            float(self._clock.kernel_ns(kernel, batch)) * kernel.num_launches
            for kernel in self.kernels.prompt_attention(batch.chunks)
        )
        return self._line(batch, attention)

    def _line(self, batch: Batch, attention_ns: float) -> tuple[float, float, float]:
        """Base, slope and floor of a step, for any context of its decoding sequences."""
        base, slope = self._decode_attention_line(batch.num_decode_seqs)
        overhead = self.overhead_ns(batch.num_decode_seqs + len(batch.chunks))
        base += self._per_token_ns(batch.num_tokens) + self._per_sampled_ns(batch.num_sampled)
        launches = self._token_launches + _num_launches(self.kernels.sampling(batch.num_sampled))
        launches += _num_launches(self.kernels.decode_attention(batch.num_decode_seqs, 0))
        launches += _num_launches(self.kernels.prompt_attention(batch.chunks))
        host = self._graph_ns + self._launch_ns * launches
        shown = 0.0 if self._overlaps_host else overhead
        return base + attention_ns + shown, slope, host + overhead

    def _decode_attention_line(self, num_decodes: int) -> tuple[float, float]:
        """All layers; every kernel of it is a line in the context."""
        if not num_decodes:
            return 0.0, 0.0
        ends = []
        for context in (0, 1_000_000):
            batch = Batch(num_decodes, context)
            kernels = self.kernels.decode_attention(num_decodes, context)
            ends.append(sum(float(self._clock.kernel_ns(k, batch)) * k.num_launches for k in kernels))
        return ends[0], (ends[1] - ends[0]) / 1_000_000

    def _per_token_ns(self, num_tokens: int) -> float:
        if num_tokens >= len(self._tokens_ns):
            if num_tokens >= _LARGEST_TABLE:
                return float(self._total_ns(self.kernels.per_token(num_tokens)))
            self._tokens_ns = self._total_ns(self.kernels.per_token(_sizes_up_to(num_tokens))).tolist()
        return self._tokens_ns[num_tokens]

    def _per_sampled_ns(self, num_sampled: int) -> float:
        if not num_sampled:
            return 0.0
        if num_sampled >= len(self._sampling_ns):
            if num_sampled >= _LARGEST_TABLE:
                return float(self._total_ns(self.kernels.sampling(num_sampled)))
            self._sampling_ns = self._total_ns(self.kernels.sampling(_sizes_up_to(num_sampled))).tolist()
        return self._sampling_ns[num_sampled]

    def _total_ns(self, kernels: list[Kernel]) -> Times:
        total: Times = sum(
            (self._clock.kernel_ns(kernel) * kernel.num_launches for kernel in kernels), start=np.zeros(())
        )
        return total


def _sizes_up_to(count: int) -> Times:
    """0, 1, 2, and so on, beyond `count`."""
    return np.arange(max(_FIRST_TABLE, 1 << count.bit_length()), dtype=np.float64)


def _num_launches(kernels: list[Kernel]) -> int:
    return sum(kernel.num_launches for kernel in kernels)
