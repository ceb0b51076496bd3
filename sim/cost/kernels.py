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
from enum import Enum

import numpy as np
from numpy.typing import NDArray

from sim.core.step import StepPlan
from sim.cost.curves import AttentionShape
from sim.cost.model import BYTES_PER_WEIGHT, ModelShape

Sizes = float | NDArray[np.float64]
_ACTIVATION_BYTES = 2


class Fusion(Enum):
    """How much of a step is one kernel."""

    NONE = "none"
    FUSED = "fused"
    GRAPH = "graph"


class KernelKind(Enum):
    """Which curve gives its time."""

    PRODUCT = "product"
    DECODE_ATTENTION = "decode attention"
    PROMPT_ATTENTION = "prompt attention"
    ELEMENTWISE = "elementwise"
    ALL_REDUCE = "all-reduce"


@dataclass(frozen=True, slots=True)
class Batch:
    """What the cost of a step depends on.

    Attributes:
        decode_context_tokens: What decoding sequences attend to, together, themselves included.
        chunks: Of each: tokens computed now, tokens computed before, tokens sampled.
    """

    num_decode_seqs: int
    decode_context_tokens: int
    chunks: tuple[tuple[int, int, int], ...] = ()

    @classmethod
    def of(cls, plan: StepPlan) -> Batch:
        """The first step of a plan; drafts to verify are sampled one and all."""
        chunks = tuple(
            (chunk.num_tokens, chunk.num_computed_tokens, chunk.yields_token * (1 + chunk.num_draft_tokens))
            for chunk in plan.chunks
        )
        return cls(plan.num_decode_seqs, plan.decode_context_tokens, chunks)

    @property
    def num_tokens(self) -> int:
        """Tokens computed."""
        return self.num_decode_seqs + sum(chunk[0] for chunk in self.chunks)

    @property
    def num_sampled(self) -> int:
        """Tokens that are sampled."""
        return self.num_decode_seqs + sum(chunk[2] for chunk in self.chunks)


@dataclass(frozen=True, slots=True)
class Kernel:
    """One kernel, or several alike.

    Attributes:
        num_launches: In one step, over all layers; `flops` and bytes are those of one launch.
        depth: Inner dimension of a product. share: Part of a fused attention that it stands for.
    """

    name: str
    kind: KernelKind
    flops: Sizes
    bytes_read: Sizes
    bytes_written: Sizes
    num_launches: int = 1
    depth: int = 0
    share: float = 1.0
    quantised: bool = False

    @property
    def num_bytes(self) -> Sizes:
        """Read and written by one launch."""
        return self.bytes_read + self.bytes_written


@dataclass(frozen=True, slots=True)
class KernelList:
    """The kernels of one model on one of `tensor_parallel_size` GPUs, at one level of fusion."""

    model: ModelShape
    fusion: Fusion = Fusion.GRAPH
    tensor_parallel_size: int = 1

    @property
    def attention(self) -> AttentionShape:
        """Of one layer, on one GPU."""
        model, size = self.model, self.tensor_parallel_size
        layers = model.num_hidden_layers
        return AttentionShape(
            num_kv_heads=1 if model.kv_lora_rank else max(1, model.num_key_value_heads // size),
            kv_bytes_per_token=model.kv_bytes_per_token * model.kv_share(size) / layers,
            flops_per_pair=model.attention_flops_per_token_pair / layers / size,
        )

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
        row = num_tokens * self.model.hidden_size * _ACTIVATION_BYTES
        embedding = Kernel("embedding", KernelKind.ELEMENTWISE, 0, row, row)
        in_layers = [*self._norm("attention", row), *self._projections(num_tokens)]
        in_layers += [*self._output(num_tokens, row), *self._norm("mlp", row)]
        return [
            embedding,
            *(replace(kernel, num_launches=layers) for kernel in in_layers),
            *self._mlps(num_tokens, row),
        ]

    def sampling(self, num_sampled: Sizes) -> list[Kernel]:
        """Final norm, output projection and the choice of tokens; nothing where none are sampled."""
        if np.ndim(num_sampled) == 0 and not num_sampled:
            return []
        model, size = self.model, self.tensor_parallel_size
        row = num_sampled * model.hidden_size * _ACTIVATION_BYTES
        logits = num_sampled * model.vocab_size * _ACTIVATION_BYTES
        kernels = self._norm("final", row)
        head = self._product("output projection", num_sampled, model.vocab_size / size, model.hidden_size)
        kernels.append(replace(head, bytes_read=row + model.num_head_parameters * BYTES_PER_WEIGHT / size))
        kernels[-1] = replace(kernels[-1], quantised=False)
        if size > 1:
            kernels.append(Kernel("gather logits", KernelKind.ALL_REDUCE, 0, logits / size, logits / size))
        if self.fusion is Fusion.NONE:
            return [*kernels, *_passes(("temperature", "softmax", "cumulative sum", "choose"), logits)]
        return [*kernels, Kernel("sample", KernelKind.ELEMENTWISE, 0, logits, num_sampled * 4)]

    def decode_attention(self, num_seqs: int, context_tokens: int) -> list[Kernel]:
        """Attention of one new token a sequence, over all layers."""
        if not num_seqs:
            return []
        query = num_seqs * self.model.attention_size / self.tensor_parallel_size * _ACTIVATION_BYTES
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
        query = tokens * self.model.attention_size / self.tensor_parallel_size * _ACTIVATION_BYTES
        return self._attention(KernelKind.PROMPT_ATTENTION, pairs, kv_bytes, query)

    def _attention(self, kind: KernelKind, pairs: float, kv_bytes: Sizes, query: Sizes) -> list[Kernel]:
        layers, flops = self.model.num_hidden_layers, pairs * self.attention.flops_per_pair
        if self.fusion is not Fusion.NONE:
            return [Kernel(kind.value, kind, flops, query + kv_bytes, query, layers)]
        heads = self.model.num_attention_heads / self.tensor_parallel_size
        scores = pairs * heads * _ACTIVATION_BYTES
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
            add = Kernel(f"{name}: add residual", KernelKind.ELEMENTWISE, 0, 2 * row, row)
            return [add, *_passes((f"{name} norm: square", f"{name} norm: mean", f"{name} norm: scale",
                                   f"{name} norm: weight"), row)]  # fmt: skip
        return [Kernel(f"{name}: add + norm", KernelKind.ELEMENTWISE, 0, 2 * row, 2 * row)]

    def _projections(self, num_tokens: Sizes) -> Iterator[Kernel]:
        if self.model.kv_lora_rank:
            yield from self._latent_projections(num_tokens)
            return
        model, size = self.model, self.tensor_parallel_size
        query, kv = model.attention_size / size, model.kv_size * model.kv_share(size)
        written = num_tokens * self.attention.kv_bytes_per_token
        queries = num_tokens * query * _ACTIVATION_BYTES
        keys_values = 2 * num_tokens * kv * _ACTIVATION_BYTES
        if self.fusion is not Fusion.NONE:
            yield self._product("qkv projection", num_tokens, query + 2 * kv, model.hidden_size)
            yield Kernel(
                "rotary + cache write", KernelKind.ELEMENTWISE, 0, queries + keys_values, queries + written
            )
            return
        for name, width in (("query", query), ("key", kv), ("value", kv)):
            yield self._product(f"{name} projection", num_tokens, width, model.hidden_size)
        if not model.learned_positions:
            parts = ("negate", "join", "cosine", "sine", "add")
            yield from _passes([f"rotary query: {part}" for part in parts], queries)
            yield from _passes([f"rotary key: {part}" for part in parts], keys_values / 2)
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
        moved = num_tokens * (into + width) * _ACTIVATION_BYTES
        names = ("norm", "rotary", "cache write") if self.fusion is Fusion.NONE else ("rotary + cache write",)
        yield from _passes(names, moved)
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
        inner, gates = num_tokens * width * _ACTIVATION_BYTES, 2 if model.gated_mlp else 1
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
        inner = visiting * width * _ACTIVATION_BYTES
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
        read = weights + m * k * _ACTIVATION_BYTES
        written = m * n * _ACTIVATION_BYTES
        return Kernel(name, KernelKind.PRODUCT, 2 * m * n * k, read, written, depth=int(k), quantised=True)


def expected_experts(num_tokens: Sizes, num_experts: int, num_experts_per_tok: int) -> Sizes:
    """Distinct experts that tokens visit together, if each chooses independently and evenly."""
    untouched: Sizes = (1 - num_experts_per_tok / num_experts) ** num_tokens
    return num_experts * (1 - untouched)


def _passes(names: tuple[str, ...] | list[str], num_bytes: Sizes) -> list[Kernel]:
    """A kernel each that reads so much and writes as much."""
    return [Kernel(name, KernelKind.ELEMENTWISE, 0, num_bytes, num_bytes) for name in names]
