"""The kernel list: what one step launches, and the FLOPs and bytes each kernel takes.

Owns which kernels there are at each level of fusion. Refuses to know how long they take
(`sim.cost.step_time`) and which GPU they run on; all sizes are those of one of the GPUs that share a model.

    none    every elementwise operation is a kernel: a launch, and a round trip to memory, each; attention
            keeps its score matrix in memory: product, scale, mask, softmax, product
    fused   paged attention, add + norm, rotary + cache write, gate x up, sampling are one kernel each
    graph   the kernels of `fused`, replayed as one CUDA graph

Sizes may be numpy arrays over the number of tokens: all batches of a table at once.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from sim.cost.curves import AttentionShape
from sim.cost.kernel import (
    ACTIVATION_BYTES,
    Batch,
    Fusion,
    Kernel,
    KernelKind,
    Sizes,
    passes,
    unfused_norm,
    unfused_rotary,
)
from sim.cost.model import BYTES_PER_WEIGHT, ModelShape

__all__ = ["Batch", "Fusion", "Kernel", "KernelKind", "KernelList", "Sizes", "expected_experts"]


@dataclass(frozen=True, slots=True)
class KernelList:
    """The kernels of one model on one of `tensor_parallel_size` GPUs, at one level of fusion.

    Attributes:
        pipeline_parallel_size: Stages that the layers are cut into; a step passes all of them.
        packs_query_heads: Whether attention reads a KV head once for all of its query heads; kernels before
            2024 read it once for each (vLLM's first paged attention has a thread block a query head).
    """

    model: ModelShape
    fusion: Fusion = Fusion.GRAPH
    tensor_parallel_size: int = 1
    pipeline_parallel_size: int = 1
    packs_query_heads: bool = True

    @property
    def attention(self) -> AttentionShape:
        """Of one layer, on one GPU, as its kernel reads it."""
        model, size = self.model, self.tensor_parallel_size
        layers = model.num_hidden_layers
        num_kv_heads = 1 if model.kv_lora_rank else max(1, model.num_key_value_heads // size)
        reads = 1.0
        if not self.packs_query_heads:
            reads = model.num_attention_heads / size / num_kv_heads
        return AttentionShape(
            num_kv_heads=num_kv_heads * reads,
            kv_bytes_per_token=self.kv_bytes_per_token * reads,
            flops_per_pair=model.attention_flops_per_token_pair / layers / size,
        )

    @property
    def kv_bytes_per_token(self) -> float:
        """What one layer keeps of a token on one GPU."""
        model = self.model
        return model.kv_bytes_per_token * model.kv_share(self.tensor_parallel_size) / model.num_hidden_layers

    def of(self, batch: Batch) -> list[Kernel]:
        """All kernels of one step: layers without attention, attention, sampling."""
        return [
            *self.per_token(batch.num_tokens),
            *self.decode_attention(batch.num_decode_seqs, batch.decode_context_tokens),
            *self.prompt_attention(batch.chunks),
            *self.sampling(batch.num_sampled),
        ]

    def per_token(self, num_tokens: Sizes) -> list[Kernel]:
        """What depends on nothing but the number of tokens: embedding and layers without attention."""
        layers = self.model.num_hidden_layers
        row = num_tokens * self.model.hidden_size * ACTIVATION_BYTES
        embedding = Kernel("embedding", KernelKind.ELEMENTWISE, 0, row, row)
        in_layers = [*self._norm("attention", row), *self._projections(num_tokens)]
        in_layers += [*self._output(num_tokens, row), *self._norm("mlp", row)]
        return [
            embedding,
            *(replace(kernel, num_launches=layers) for kernel in in_layers),
            *self._mlps(num_tokens, row),
            *self._sends(row),
        ]

    def _sends(self, row: Sizes) -> Iterator[Kernel]:
        """Hidden states and residual go from each stage to the next; each GPU sends its share."""
        if self.pipeline_parallel_size > 1:
            sent = 2 * row / self.tensor_parallel_size
            yield Kernel(
                "send to next stage", KernelKind.SEND, 0, sent, sent, self.pipeline_parallel_size - 1
            )

    def sampling(self, num_sampled: Sizes) -> list[Kernel]:
        """Final norm, output projection and the choice of tokens; nothing where none are sampled."""
        if np.ndim(num_sampled) == 0 and not num_sampled:
            return []
        model, size = self.model, self.tensor_parallel_size
        row = num_sampled * model.hidden_size * ACTIVATION_BYTES
        logits = num_sampled * model.vocab_size * ACTIVATION_BYTES
        kernels = self._norm("final", row)
        head = self._product("output projection", num_sampled, model.vocab_size / size, model.hidden_size)
        kernels.append(replace(head, bytes_read=row + model.num_head_parameters * BYTES_PER_WEIGHT / size))
        kernels[-1] = replace(kernels[-1], quantised=False)
        if size > 1:
            kernels.append(Kernel("gather logits", KernelKind.ALL_REDUCE, 0, logits / size, logits / size))
        if self.fusion is Fusion.NONE:
            return [*kernels, *passes(("temperature", "softmax", "cumulative sum", "choose"), logits)]
        return [*kernels, Kernel("sample", KernelKind.ELEMENTWISE, 0, logits, num_sampled * 4)]

    def decode_attention(self, num_seqs: int, context_tokens: int) -> list[Kernel]:
        """Attention of one new token a sequence, over all layers."""
        if not num_seqs:
            return []
        query = num_seqs * self.model.attention_size / self.tensor_parallel_size * ACTIVATION_BYTES
        kv_bytes = context_tokens * self.attention.kv_bytes_per_token
        return self._attention(KernelKind.DECODE_ATTENTION, context_tokens, kv_bytes, query)

    def prompt_attention(self, chunks: tuple[tuple[int, int, int], ...]) -> list[Kernel]:
        """Attention of all chunks, over all layers."""
        if not chunks:
            return []
        tokens = sum(new for new, _, _ in chunks)
        pairs = sum(new * computed + new * (new + 1) / 2 for new, computed, _ in chunks)
        if self.fusion is Fusion.NONE:  # masked pairs are computed as well
            pairs = sum(new * (computed + new) for new, computed, _ in chunks)
        kv_bytes = sum(new + computed for new, computed, _ in chunks) * self.attention.kv_bytes_per_token
        query = tokens * self.model.attention_size / self.tensor_parallel_size * ACTIVATION_BYTES
        return self._attention(KernelKind.PROMPT_ATTENTION, pairs, kv_bytes, query)

    def _attention(self, kind: KernelKind, pairs: float, kv_bytes: Sizes, query: Sizes) -> list[Kernel]:
        layers, flops = self.model.num_hidden_layers, pairs * self.attention.flops_per_pair
        if self.fusion is not Fusion.NONE:
            return [Kernel(kind.value, kind, flops, query + kv_bytes, query, layers)]
        heads = self.model.num_attention_heads / self.tensor_parallel_size
        scores = pairs * heads * ACTIVATION_BYTES
        name = kind.value
        return [
            Kernel(f"{name}: scores", kind, flops / 2, query + kv_bytes / 2, scores, layers, share=0.5),
            *(
                Kernel(f"{name}: {part}", KernelKind.ELEMENTWISE, pairs * heads, scores, scores, layers)
                for part in ("scale", "mask", "softmax")
            ),
            Kernel(f"{name}: values", kind, flops / 2, scores + kv_bytes / 2, query, layers, share=0.5),
        ]

    def _norm(self, name: str, row: Sizes) -> list[Kernel]:
        if self.fusion is Fusion.NONE:
            return unfused_norm(name, row, self.model.hidden_size)
        return [Kernel(f"{name}: add + norm", KernelKind.ELEMENTWISE, 0, 2 * row, 2 * row)]

    def _projections(self, num_tokens: Sizes) -> Iterator[Kernel]:
        if self.model.kv_lora_rank:
            yield from self._latent_projections(num_tokens)
            return
        model, size = self.model, self.tensor_parallel_size
        query, kv = model.attention_size / size, model.kv_size * model.kv_share(size)
        written = num_tokens * self.kv_bytes_per_token
        queries = num_tokens * query * ACTIVATION_BYTES
        keys_values = 2 * num_tokens * kv * ACTIVATION_BYTES
        if self.fusion is not Fusion.NONE:
            yield self._product("qkv projection", num_tokens, query + 2 * kv, model.hidden_size)
            yield Kernel(
                "rotary + cache write", KernelKind.ELEMENTWISE, 0, queries + keys_values, queries + written
            )
            return
        for name, width in (("query", query), ("key", kv), ("value", kv)):
            yield self._product(f"{name} projection", num_tokens, width, model.hidden_size)
        if not model.learned_positions:
            yield from unfused_rotary("query", queries)
            yield from unfused_rotary("key", keys_values / 2)
        for name in ("key", "value"):
            yield Kernel(f"cache write: {name}", KernelKind.ELEMENTWISE, 0, keys_values / 2, written / 2)

    def _latent_projections(self, num_tokens: Sizes) -> Iterator[Kernel]:
        """Queries meet the latent itself: the matrices that would unfold it are multiplied into them."""
        model, heads = self.model, self.model.num_attention_heads / self.tensor_parallel_size
        width = heads * (model.qk_nope_head_dim + model.qk_rope_head_dim)
        squeezed = model.q_lora_rank or model.hidden_size
        into = model.latent_size + model.q_lora_rank
        yield self._product("latent projection", num_tokens, into, model.hidden_size)
        yield self._product("query projection", num_tokens, width, squeezed)
        yield self._product("absorb keys", num_tokens, heads * model.kv_lora_rank, model.qk_nope_head_dim)
        moved = num_tokens * (into + width) * ACTIVATION_BYTES
        names = ("norm", "rotary", "cache write") if self.fusion is Fusion.NONE else ("rotary + cache write",)
        yield from passes(names, moved)
        yield self._product("absorb values", num_tokens, heads * model.v_head_dim, model.kv_lora_rank)

    def _output(self, num_tokens: Sizes, row: Sizes) -> Iterator[Kernel]:
        model, size = self.model, self.tensor_parallel_size
        width = model.num_attention_heads * model.v_head_dim if model.kv_lora_rank else model.attention_size
        yield self._product("attention output", num_tokens, model.hidden_size, width / size)
        yield from self._all_reduce("attention", row)

    def _mlps(self, num_tokens: Sizes, row: Sizes) -> Iterator[Kernel]:
        model = self.model
        num_dense = model.num_hidden_layers - model.num_expert_layers
        if num_dense:
            for kernel in self._mlp("mlp", num_tokens, model.intermediate_size):
                yield replace(kernel, num_launches=num_dense)
        if model.num_expert_layers:
            for kernel in self._experts(num_tokens):
                yield replace(kernel, num_launches=model.num_expert_layers)
        for kernel in self._all_reduce("mlp", row):
            yield replace(kernel, num_launches=model.num_hidden_layers)

    def _mlp(self, name: str, num_tokens: Sizes, full_width: int) -> Iterator[Kernel]:
        model, width = self.model, full_width / self.tensor_parallel_size
        inner, gates = num_tokens * width * ACTIVATION_BYTES, 2 if model.gated_mlp else 1
        if self.fusion is Fusion.NONE and model.gated_mlp:
            yield self._product(f"{name} gate", num_tokens, width, model.hidden_size)
            yield self._product(f"{name} up", num_tokens, width, model.hidden_size)
            yield Kernel(f"{name} activation", KernelKind.ELEMENTWISE, 0, inner, inner)
            yield Kernel(f"{name} gate x up", KernelKind.ELEMENTWISE, 0, 2 * inner, inner)
        else:
            yield self._product(f"{name} up", num_tokens, gates * width, model.hidden_size)
            yield Kernel(f"{name} activation", KernelKind.ELEMENTWISE, 0, gates * inner, inner)
        yield self._product(f"{name} down", num_tokens, model.hidden_size, width)

    def _experts(self, num_tokens: Sizes) -> Iterator[Kernel]:
        """Routed experts; each token visits some, so how many weights are read is an expectation."""
        model, width = self.model, self.model.moe_intermediate_size / self.tensor_parallel_size
        count, visits = model.num_experts, model.num_experts_per_tok
        yield self._product("router", num_tokens, count, model.hidden_size)
        yield Kernel(
            "choose experts", KernelKind.ELEMENTWISE, 0, num_tokens * count * 2, num_tokens * visits * 8
        )
        touched = expected_experts(num_tokens, count, visits)
        visiting = num_tokens * visits
        gates = 2 if model.gated_mlp else 1
        inner = visiting * width * ACTIVATION_BYTES
        up = self._product("experts up", visiting, gates * width, model.hidden_size, copies=touched)
        down = self._product("experts down", visiting, model.hidden_size, width, copies=touched)
        yield from (up, Kernel("experts activation", KernelKind.ELEMENTWISE, 0, gates * inner, inner), down)
        if model.num_shared_experts:
            shared = model.num_shared_experts * model.moe_intermediate_size
            yield from self._mlp("shared experts", num_tokens, shared)

    def _all_reduce(self, name: str, row: Sizes) -> Iterator[Kernel]:
        if self.tensor_parallel_size > 1:
            yield Kernel(f"{name}: all-reduce", KernelKind.ALL_REDUCE, 0, row, row)

    def _product(self, name: str, m: Sizes, n: float, k: float, *, copies: Sizes = 1) -> Kernel:
        """[m, k] x [k, n]; `copies` matrices of weights, each for a part of the rows."""
        weights = copies * n * k * self.model.bytes_per_weight
        read = weights + m * k * ACTIVATION_BYTES
        written = m * n * ACTIVATION_BYTES
        return Kernel(name, KernelKind.PRODUCT, 2 * m * n * k, read, written, depth=int(k), quantised=True)


def expected_experts(num_tokens: Sizes, num_experts: int, num_experts_per_tok: int) -> Sizes:
    """Distinct experts that tokens visit together, if each chooses independently and evenly."""
    untouched: Sizes = (1 - num_experts_per_tok / num_experts) ** num_tokens
    return num_experts * (1 - untouched)
