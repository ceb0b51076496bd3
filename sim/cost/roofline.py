"""`RooflineCost`: the time of a step from first principles, for any GPU with a datasheet.

Implements `sim.cost.cost_model.CostModel`.

A step runs its kernels one after another, so their times add up; each kind is bound by whichever takes
longer, computing or moving bytes:

    linear layers      all weights read once, new KV written     |  2 FLOPs a weight and token
    decode attention   each context's KV read                    |  4 FLOPs a head channel and token pair
    prompt attention   the same for each chunk, causal within it: its context is read once
    all-reduce         two a layer where a model is split over GPUs
    overhead           a fixed time a step

Rates are the datasheet's times what large kernels reach of them; the output projection is paid for
sampled tokens only. Refuses to know kernel sizes and launches.

Hot path: everything that does not depend on the plan is a coefficient, and what does not depend on the
context is looked up by batch size. A step is `base + slope * context` in double precision, rounded to a
nanosecond; short horizons do that in Python and long ones in numpy, which round alike (two IEEE
operations, no fused multiply-add), so all ways give the same bits.
"""

from __future__ import annotations

from itertools import accumulate

import numpy as np

from sim.core.step import ScheduledSequence, StepPlan
from sim.cost.block_reads import NOTHING_MEASURED, AttentionKernel
from sim.cost.hardware import Gpu
from sim.cost.model import BYTES_PER_WEIGHT, ModelShape

_NS_PER_S = 1e9
_LONG_HORIZON = 32
"""From here on numpy is faster than a Python loop."""


class RooflineCost:
    """Step times of one model on one kind of GPU; split over several, they work as one."""

    __slots__ = (
        "_all_reduce_ns_per_token",
        "_decode_bases_ns",
        "_fixed_ns",
        "_head_flop_ns_per_token",
        "_kv_ns_per_token",
        "_layer_flop_ns_per_token",
        "_ns_per_context_token",
        "_pair_flop_ns",
        "_read_ns",
        "_weights_ns",
    )

    def __init__(
        self,
        model: ModelShape,
        gpu: Gpu,
        *,
        tensor_parallel_size: int = 1,
        block_size: int | None = 16,
        attention: AttentionKernel = NOTHING_MEASURED,
    ) -> None:
        num_layers = model.num_hidden_layers
        layer_parameters = num_layers * model.num_parameters_per_layer
        ns_per_flop = _NS_PER_S / (gpu.achieved_flops_per_s * tensor_parallel_size)
        ns_per_byte = _NS_PER_S / gpu.achieved_bandwidth_bytes_per_s
        weight_bytes = (
            layer_parameters * model.bytes_per_weight + model.num_head_parameters * BYTES_PER_WEIGHT
        )
        self._weights_ns = weight_bytes * (ns_per_byte / tensor_parallel_size)
        fast = gpu.fp8_flops_per_s if model.computes_in_fp8 else None
        layer_ns_per_flop = ns_per_flop * (gpu.compute_flops_per_s / fast) if fast else ns_per_flop
        self._layer_flop_ns_per_token = 2 * layer_parameters * layer_ns_per_flop
        self._head_flop_ns_per_token = 2 * model.num_head_parameters * ns_per_flop
        self._kv_ns_per_token = model.kv_bytes_per_token * model.kv_share(tensor_parallel_size) * ns_per_byte
        self._pair_flop_ns = model.attention_flops_per_token_pair * ns_per_flop
        factor = max(attention.read_factor(block_size), gpu.bandwidth_efficiency_fraction)  # of the datasheet
        self._read_ns = self._kv_ns_per_token * factor
        self._ns_per_context_token = max(self._read_ns, self._pair_flop_ns)
        self._fixed_ns = float(max(gpu.step_overhead_ns, 1))
        self._all_reduce_ns_per_token = 0.0
        if tensor_parallel_size > 1:
            ring = 2 * (tensor_parallel_size - 1) / tensor_parallel_size
            reduced_bytes = 2 * num_layers * model.hidden_size * BYTES_PER_WEIGHT * ring
            self._all_reduce_ns_per_token = reduced_bytes * _NS_PER_S / gpu.peer_bandwidth_bytes_per_s
            self._fixed_ns += 2 * num_layers * gpu.link_latency_ns
        self._decode_bases_ns: dict[int, float] = {}

    def step_ends_ns(self, plan: StepPlan) -> list[int]:  # [horizon]
        """End of each step of a plan, counted from its start."""
        num_decodes, context, horizon = plan.num_decode_seqs, plan.decode_context_tokens, plan.horizon
        if plan.chunks:
            base = self._base_with_chunks_ns(num_decodes, plan.chunks)
        else:
            found = self._decode_bases_ns.get(num_decodes)
            base = self._remember_base_ns(num_decodes) if found is None else found
        slope = self._ns_per_context_token
        if horizon == 1:
            return [int(slope * context + base + 0.5)]
        if horizon < _LONG_HORIZON:
            contexts = range(context, context + num_decodes * horizon, num_decodes) if num_decodes else ()
            steps = [int(slope * tokens + base + 0.5) for tokens in contexts or (context,) * horizon]
            return list(accumulate(steps))
        return self._long_horizon_ends_ns(plan, base)

    def _long_horizon_ends_ns(self, plan: StepPlan, base: float) -> list[int]:  # [horizon]
        tokens = np.arange(plan.horizon, dtype=np.int64) * plan.num_decode_seqs + plan.decode_context_tokens
        steps = (self._ns_per_context_token * tokens + base + 0.5).astype(np.int64)
        ends: list[int] = steps.cumsum().tolist()
        return ends

    def _remember_base_ns(self, num_decodes: int) -> float:
        base = self._base_ns(num_decodes, num_decodes)
        self._decode_bases_ns[num_decodes] = base
        return base

    def _base_ns(self, num_tokens: int, num_sampled: int) -> float:
        """Everything but attention."""
        moving = self._weights_ns + num_tokens * self._kv_ns_per_token
        computing = num_tokens * self._layer_flop_ns_per_token + num_sampled * self._head_flop_ns_per_token
        return self._fixed_ns + num_tokens * self._all_reduce_ns_per_token + max(moving, computing)

    def _base_with_chunks_ns(self, num_decodes: int, chunks: tuple[ScheduledSequence, ...]) -> float:
        """Everything but the attention of decoding sequences."""
        num_tokens = num_sampled = num_decodes
        attention = 0.0
        for chunk in chunks:
            computed, count = chunk.num_computed_tokens, chunk.num_tokens
            num_tokens += count
            num_sampled += chunk.yields_token * (1 + chunk.num_draft_tokens)
            num_pairs = count * computed + count * (count + 1) // 2
            paged = computed + 1 if computed else 0  # a prompt from its start has its keys and values at hand
            reading = paged * self._read_ns + (computed + count - paged) * self._kv_ns_per_token
            attention += max(num_pairs * self._pair_flop_ns, reading)
        return self._base_ns(num_tokens, num_sampled) + attention
