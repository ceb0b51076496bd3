"""`KernelCost`: the time of a step as its kernels, one after another, and the host that launches them.

Implements `sim.cost.cost_model.CostModel`. Kernels come from `sim.cost.kernels`, their times from
`sim.cost.kernel_clock`; this file owns what happens around them:

    step = max(sum of kernels, launches by the host) + overhead of a step + overhead of each sequence

Launches hide behind the device while kernels are long, and are what takes the time when kernels are short.
A captured graph is launched once. Where a step is scheduled while the one before it computes (asynchronous
scheduling), the overheads hide behind the device as well: max(kernels, launches + overheads). Figures of the
host are those of the hardware file. GPUs that share a model work as one.

Pipeline stages: one batch is under way, so a step passes all stages and takes the sum of their times, and the
activations sent between them; hosts of stages launch at the same time, so the fullest stage's launches count.
How often batches could follow each other, one in each stage, is `slowest_stage_ns`: `pagecast kernels`
prints it, no run does that.

Hot path: kernels that depend on the number of tokens only are summed in a table, grown by doubling; attention
is a line for each batch size, or a few products for each chunk, in plain Python. A step without chunks is
`max(base + slope * context, floor)` in double precision, in Python and in numpy by the same IEEE operations,
so a horizon is its steps one by one, to the bit. `device_ns` and `host_ns` are the slow way to the same.
"""

from __future__ import annotations

from itertools import accumulate

import numpy as np

from sim.core.compiling import mypyc_attr
from sim.core.step import StepPlan
from sim.cost.block_reads import NOTHING_MEASURED, AttentionKernel
from sim.cost.curves import Times
from sim.cost.hardware import Gpu
from sim.cost.kernel_clock import KernelClock
from sim.cost.kernels import Batch, Fusion, Kernel, KernelKind, KernelList
from sim.cost.model import ModelShape

_LONG_HORIZON = 32
_FIRST_TABLE, _LARGEST_TABLE = 512, 131_072
_FAR = 1_000_000
"""A context to tell slopes by."""


@mypyc_attr(allow_interpreted_subclasses=True)
class KernelCost:
    """Step times of one model on one kind of GPU."""

    __slots__ = (
        "_attention",
        "_attention_lines",
        "_clock",
        "_decode_extra",
        "_decode_launches",
        "_decode_lines",
        "_fixed_ns",
        "_graph_ns",
        "_launch_ns",
        "_num_layers",
        "_overlaps_host",
        "_prompt_extra",
        "_prompt_launches",
        "_sampling_launches",
        "_sampling_ns",
        "_seq_ns",
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
        pipeline_parallel_size: int = 1,
        block_size: int | None = 16,
        attention: AttentionKernel = NOTHING_MEASURED,
        fusion: Fusion = Fusion.GRAPH,
        overlaps_host: bool = False,
        packs_query_heads: bool = True,
    ) -> None:
        self._overlaps_host = overlaps_host
        self.kernels = KernelList(
            model, fusion, tensor_parallel_size, pipeline_parallel_size, packs_query_heads
        )
        self._clock = KernelClock.of(self.kernels, gpu, attention.read_factor(block_size))
        self._num_layers = model.num_hidden_layers
        self._set_host(gpu)
        self._set_attention()
        self._tokens_ns: list[float] = []
        self._sampling_ns: list[float] = []
        self._decode_lines: dict[int, tuple[float, float, float]] = {}
        self._attention_lines: dict[int, tuple[float, float]] = {}

    def _set_host(self, gpu: Gpu) -> None:
        launch, graph = launch_ns(gpu, self.kernels.fusion)
        stages = self.kernels.model.stage_layers(self.kernels.pipeline_parallel_size)
        self._launch_ns = launch * max(stages) / self._num_layers
        self._graph_ns = graph
        self._seq_ns = gpu.seq_overhead_ns
        self._fixed_ns = float(max(gpu.step_overhead_ns, 1))

    def _set_attention(self) -> None:
        """Coefficients of attention, and how many kernels each part of a step is."""
        kernels, shape = self.kernels, self.kernels.attention
        self._attention = self._clock.curves.step_attention(shape)
        decode, prompt = kernels.decode_attention(1, 1), kernels.prompt_attention(((1, 0, 1),))
        self._token_launches = _num_launches(kernels.per_token(1))
        self._sampling_launches = _num_launches(kernels.sampling(1))
        self._decode_launches, self._prompt_launches = _num_launches(decode), _num_launches(prompt)
        self._decode_extra = self._extra([Batch(1, 0), Batch(1, _FAR)])
        self._prompt_extra = self._extra([Batch(0, 0, ((0, 0, 1),)), Batch(0, 0, ((1, _FAR - 1, 1),))])

    def _extra(self, ends: list[Batch]) -> tuple[float, float]:
        """What unfused attention takes over the whole of it fused, in a layer: fixed, and a pair."""
        if self.kernels.fusion is not Fusion.NONE:
            return 0.0, 0.0
        curves, heads = self._clock.curves, self.kernels.model.num_attention_heads
        extras = []
        for pairs, batch in zip((0, _FAR), ends, strict=True):
            kernels = self.kernels.decode_attention(batch.num_decode_seqs, batch.decode_context_tokens)
            kernels += self.kernels.prompt_attention(batch.chunks)
            extra = sum(
                float(curves.elementwise_ns(kernel.num_bytes))
                for kernel in kernels
                if kernel.kind is KernelKind.ELEMENTWISE
            )
            scores = float(curves.elementwise_ns(2 * pairs * heads / self.kernels.tensor_parallel_size))
            extras.append(extra + 2 * scores)
        return extras[0], (extras[1] - extras[0]) / _FAR

    def step_ends_ns(self, plan: StepPlan) -> list[int]:  # [horizon]
        """End of each step of a plan, counted from its start."""
        num_decodes, context, horizon = plan.num_decode_seqs, plan.decode_context_tokens, plan.horizon
        if plan.chunks:
            steps = (self._with_chunks_ns(plan, context + num_decodes * step) for step in range(horizon))
            return list(accumulate(int(step_ns + 0.5) for step_ns in steps))
        line = self._decode_lines.get(num_decodes)
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
        return float(self._clock.total_ns(self.kernels.of(batch), batch))

    def timed_kernels(self, batch: Batch) -> list[tuple[Kernel, float]]:
        """Each kernel of a batch with the time of one launch."""
        return [(kernel, float(self._clock.kernel_ns(kernel, batch))) for kernel in self.kernels.of(batch)]

    def peak_flops_per_s(self, kernel: Kernel) -> float:
        """Datasheet rate of a kernel's arithmetic."""
        clock = self._clock
        return clock.product_flops_per_s if kernel.quantised else clock.curves.flops_per_s

    def host_ns(self, batch: Batch) -> float:
        """What launching takes the host; hidden where the device takes longer."""
        return self._graph_ns + self._launch_ns * _num_launches(self.kernels.of(batch))

    def overhead_ns(self, num_seqs: int) -> float:
        """What the host takes besides: scheduling and sampling."""
        return self._fixed_ns + self._seq_ns * num_seqs

    def slowest_stage_ns(self, batch: Batch) -> float:
        """Device time of the fullest pipeline stage, a send with it: the least between two batches."""
        total = once = 0.0
        for kernel, each_ns in self.timed_kernels(batch):
            if kernel.kind is KernelKind.SEND:
                once += each_ns
            else:
                total += each_ns * kernel.num_launches
        stages = self.kernels.model.stage_layers(self.kernels.pipeline_parallel_size)
        ends = float(self._clock.total_ns(self.kernels.sampling(batch.num_sampled)))
        in_layers = (total - ends) / self._num_layers
        return once + max(in_layers * max(stages), in_layers * stages[-1] + ends)

    def _remember_line(self, num_decodes: int) -> tuple[float, float, float]:
        fixed, slope = self._decode_attention_line(num_decodes) if num_decodes else (0.0, 0.0)
        base, floor = self._beside_attention_ns(num_decodes, num_decodes, num_decodes, 0)
        line = base + fixed, slope, floor
        self._decode_lines[num_decodes] = line
        return line

    def _with_chunks_ns(self, plan: StepPlan, context: int) -> float:
        """One step with chunks; `context` is what its decoding sequences attend to."""
        num_decodes, chunks = plan.num_decode_seqs, plan.chunks
        new_tokens = masked_pairs = 0
        num_sampled = num_decodes
        sizes = []
        for chunk in chunks:
            count, computed = chunk.num_tokens, chunk.num_computed_tokens
            sizes.append((count, computed))
            new_tokens += count
            masked_pairs += count * (count + computed)
            if chunk.yields_token:
                num_sampled += 1 + chunk.num_draft_tokens
        attention = self._attention.ns(num_decodes, context, sizes)
        attention += self._prompt_extra[0] + masked_pairs * self._prompt_extra[1]
        if num_decodes:
            attention += self._decode_extra[0] + context * self._decode_extra[1]
        base, floor = self._beside_attention_ns(
            num_decodes + new_tokens, num_sampled, num_decodes, len(chunks)
        )
        return max(base + self._num_layers * attention, floor)

    def _beside_attention_ns(
        self, num_tokens: int, num_sampled: int, num_decodes: int, num_chunks: int
    ) -> tuple[float, float]:
        """What a step takes but for attention, and what it takes at least, by its host."""
        base, launches = self._per_token_ns(num_tokens), self._token_launches
        launches += self._decode_launches if num_decodes else 0
        launches += self._prompt_launches if num_chunks else 0
        if num_sampled:
            base += self._per_sampled_ns(num_sampled)
            launches += self._sampling_launches
        host = self._graph_ns + self._launch_ns * launches
        overhead = self._fixed_ns + self._seq_ns * (num_decodes + num_chunks)
        return base if self._overlaps_host else base + overhead, host + overhead

    def _decode_attention_line(self, num_decodes: int) -> tuple[float, float]:
        """All layers; every kernel of it is a line in the context."""
        line = self._attention_lines.get(num_decodes)
        if line is None:
            base, slope = self._clock.decode_line(num_decodes)
            fixed, a_pair = self._decode_extra
            line = self._num_layers * (base + fixed), self._num_layers * (slope + a_pair)
            self._attention_lines[num_decodes] = line
        return line

    def _per_token_ns(self, num_tokens: int) -> float:
        if num_tokens >= len(self._tokens_ns):
            if num_tokens >= _LARGEST_TABLE:
                return float(self._clock.total_ns(self.kernels.per_token(num_tokens)))
            kernels = self.kernels.per_token(_sizes_up_to(num_tokens))
            self._tokens_ns = self._clock.total_ns(kernels).tolist()
        return self._tokens_ns[num_tokens]

    def _per_sampled_ns(self, num_sampled: int) -> float:
        if num_sampled >= len(self._sampling_ns):
            if num_sampled >= _LARGEST_TABLE:
                return float(self._clock.total_ns(self.kernels.sampling(num_sampled)))
            kernels = self.kernels.sampling(_sizes_up_to(num_sampled))
            self._sampling_ns = self._clock.total_ns(kernels).tolist()
        return self._sampling_ns[num_sampled]


def launch_ns(gpu: Gpu, fusion: Fusion) -> tuple[float, float]:
    """What each kernel takes the host, and the step's one graph."""
    match fusion:
        case Fusion.NONE:
            return gpu.eager_operation_ns, 0.0
        case Fusion.FUSED:
            return gpu.kernel_launch_ns, 0.0
        case Fusion.GRAPH:
            return gpu.graph_node_ns, gpu.graph_launch_ns


def _sizes_up_to(count: int) -> Times:
    """0, 1, 2, and so on, beyond `count`."""
    return np.arange(max(_FIRST_TABLE, 1 << count.bit_length()), dtype=np.float64)


def _num_launches(kernels: list[Kernel]) -> int:
    return sum(kernel.num_launches for kernel in kernels)
