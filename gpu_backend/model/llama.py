"""The Llama-family forward pass over a paged batch: tokens and where they lie, to logits.

Owns the order of operations; each is an op of `ops/`, fused or not by one switch, or a plain product. Draft
and target are the same class with another config. Refuses to know sequences, schedulers and sampling: it
sees rows.

    sequences   | decode: one token each        | several tokens each (a prompt, a chunk, drafts to verify) |
    tokens      0 .................. num_decode_seqs ............................................. num_tokens
    attention   paged_decode_attention            paged_prefill_attention, causal over the paged keys

Invariants: keys and values of the batch's tokens are written to their slots before they are attended to, and
nothing else of the caches changes; a row's logits depend on its own sequence alone. Where we differ from
Hugging Face: a norm is rounded once, after its weight, instead of twice; in float32 there is no difference.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from gpu_backend.model.model_config import ModelConfig
from gpu_backend.model.rotary import rotary_table
from gpu_backend.model.weights import LayerWeights, ModelWeights
from gpu_backend.ops.add_rms_norm import add_rms_norm, rms_norm
from gpu_backend.ops.implementation import Implementation
from gpu_backend.ops.launches import count_launch
from gpu_backend.ops.paged_context import PagedContext
from gpu_backend.ops.paged_decode_attention import paged_decode_attention
from gpu_backend.ops.paged_prefill_attention import paged_prefill_attention
from gpu_backend.ops.rotary_and_cache import NewTokens, rotary_and_cache
from gpu_backend.ops.silu_and_mul import silu_and_mul


@dataclass(frozen=True, slots=True)
class PagedBatch:
    """The tokens of one step, sequence after sequence, those with a single token first.

    Attributes:
        query_starts: Where each sequence's tokens begin, and where the last ones end.
        context_lens: Tokens each sequence attends to in all, those of this step included.
        logits_rows: Which of the tokens are wanted logits of.
        num_decode_seqs: How many sequences, from the first, are handled as decodes: one token each.
    """

    token_ids: Tensor  # [num_tokens] int64
    positions: Tensor  # [num_tokens] int64
    slot_mapping: Tensor  # [num_tokens] int64, below zero for none
    block_tables: Tensor  # [num_seqs, max_blocks] int32
    query_starts: Tensor  # [num_seqs + 1] int32
    context_lens: Tensor  # [num_seqs] int32
    logits_rows: Tensor  # [num_logits] int64
    num_decode_seqs: int


class LayerCache(NamedTuple):
    """Keys and values of one layer, in blocks."""

    key: Tensor  # [num_blocks, block_size, num_kv_heads, head_dim]
    value: Tensor  # [num_blocks, block_size, num_kv_heads, head_dim]


class LlamaModel:
    """A model ready to run: its config, its packed weights, its rotary angles, and which form of the ops."""

    def __init__(
        self,
        config: ModelConfig,
        weights: ModelWeights,
        implementation: Implementation = Implementation.TWIN,
    ) -> None:
        self.config = config
        self.implementation = implementation
        self._weights = weights
        self._cos_sin = rotary_table(config, weights.embedding.device)  # [max_positions, head_dim]
        self._scale = config.head_dim**-0.5

    @property
    def dtype(self) -> torch.dtype:
        """Of weights, activations and caches."""
        return self._weights.embedding.dtype

    @property
    def device(self) -> torch.device:
        """Where the weights lie, and all a batch has to lie."""
        return self._weights.embedding.device

    @torch.inference_mode()
    def forward(self, batch: PagedBatch, caches: Sequence[LayerCache]) -> Tensor:
        """Run the batch, write its keys and values, return the logits wanted.

        Args:
            batch: Rows of the step; positions below `max_position_embeddings`.
            caches: One per layer, of the model's dtype and device.

        Returns:
            Logits in the order of `logits_rows`.  # [num_logits, vocab]
        """
        update, residual = self._embed(batch.token_ids), None
        for layer, cache in zip(self._weights.layers, caches, strict=True):
            normed, residual = self._normalize(update, residual, layer.input_norm)
            update = self._attend(layer, normed, batch, cache)
            normed, residual = self._normalize(update, residual, layer.mlp_norm)
            update = self._feed_forward(layer, normed)
        assert residual is not None
        rows = batch.logits_rows  # the last norm and the head are for these alone
        wanted, _ = self._normalize(update[rows], residual[rows], self._weights.final_norm)
        return _linear(wanted, self._weights.head)  # [num_logits, vocab]

    def _embed(self, token_ids: Tensor) -> Tensor:
        hidden = functional.embedding(token_ids, self._weights.embedding)  # [num_tokens, hidden]
        count_launch("embedding", (token_ids, hidden), (hidden,))
        return hidden

    def _normalize(self, update: Tensor, residual: Tensor | None, weight: Tensor) -> tuple[Tensor, Tensor]:
        """Add what the last block computed to the residual stream; both are [num_tokens, hidden]."""
        eps = self.config.rms_norm_eps
        if residual is None:
            return rms_norm(update, weight, eps, self.implementation), update
        return add_rms_norm(update, residual, weight, eps, self.implementation)

    def _attend(self, layer: LayerWeights, hidden: Tensor, batch: PagedBatch, cache: LayerCache) -> Tensor:
        new = self._project(layer, hidden, batch)
        query = rotary_and_cache(new, self._cos_sin, cache.key, cache.value, self.implementation)
        mixed = self._mix(query, batch, cache)  # [num_tokens, num_heads, head_dim]
        return _linear(mixed.flatten(1), layer.output)  # [num_tokens, hidden]

    def _project(self, layer: LayerWeights, hidden: Tensor, batch: PagedBatch) -> NewTokens:
        config = self.config
        projected = _linear(hidden, layer.qkv, layer.qkv_bias)  # [num_tokens, all heads x head_dim]
        kv_heads = config.num_key_value_heads
        num_heads = config.num_attention_heads + 2 * kv_heads
        heads = projected.view(len(hidden), num_heads, config.head_dim)  # [num_tokens, num_heads, head_dim]
        query, key, value = torch.split(heads, [config.num_attention_heads, kv_heads, kv_heads], dim=1)
        if layer.qk_norm is not None:
            query = rms_norm(query, layer.qk_norm.query, config.rms_norm_eps, self.implementation)
            key = rms_norm(key, layer.qk_norm.key, config.rms_norm_eps, self.implementation)
        return NewTokens(query, key, value, batch.positions, batch.slot_mapping)

    def _mix(self, query: Tensor, batch: PagedBatch, cache: LayerCache) -> Tensor:
        """Attention of all tokens; decodes by their own kernel.  # [num_tokens, num_heads, head_dim]."""
        split, num_seqs = batch.num_decode_seqs, len(batch.context_lens)
        context = PagedContext(cache.key, cache.value, batch.block_tables, batch.context_lens)
        if split == num_seqs:
            return paged_decode_attention(query, context, self._scale, self.implementation)
        if split == 0:
            starts = batch.query_starts
            return paged_prefill_attention(query, context, starts, self._scale, self.implementation)
        first, rest = (
            PagedContext(cache.key, cache.value, batch.block_tables[rows], batch.context_lens[rows])
            for rows in (slice(split), slice(split, None))
        )
        starts = batch.query_starts[split:] - split  # [num_seqs - split + 1]
        decoded = paged_decode_attention(query[:split], first, self._scale, self.implementation)
        others = paged_prefill_attention(query[split:], rest, starts, self._scale, self.implementation)
        return torch.cat((decoded, others))

    def _feed_forward(self, layer: LayerWeights, hidden: Tensor) -> Tensor:
        gate_up = _linear(hidden, layer.gate_up)  # [num_tokens, 2 intermediate]
        return _linear(silu_and_mul(gate_up, self.implementation), layer.down)  # [num_tokens, hidden]


def _linear(rows: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    product = functional.linear(rows, weight, bias)
    count_launch("linear", (rows, weight) if bias is None else (rows, weight, bias), (product,))
    return product
