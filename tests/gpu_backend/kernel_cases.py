"""Each kernel once, at the shapes of Llama-3 8B in fp16: compiled everywhere, executed, counted."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from gpu_backend.ops.add_rms_norm import add_rms_norm, rms_norm
from gpu_backend.ops.copy_blocks import copy_blocks
from gpu_backend.ops.gather_blocks import gather_blocks
from gpu_backend.ops.implementation import Implementation
from gpu_backend.ops.paged_context import PagedContext
from gpu_backend.ops.paged_decode_attention import paged_decode_attention
from gpu_backend.ops.paged_prefill_attention import paged_prefill_attention
from gpu_backend.ops.rejection_sample import Drafts, rejection_sample
from gpu_backend.ops.rotary_and_cache import NewTokens, rotary_and_cache
from gpu_backend.ops.scatter_blocks import scatter_blocks
from gpu_backend.ops.silu_and_mul import silu_and_mul
from gpu_backend.ops.softmax_and_sample import softmax_and_sample
from tests.gpu_backend.ops.paged_inputs import poisoned_context, starts_of

HEADS, KV_HEADS, HEAD_DIM, BLOCK_SIZE = 32, 8, 128, 16
HIDDEN, FEED_FORWARD, VOCAB = 4096, 14336, 8192
"""The vocabulary is cut to a sixteenth: its tiles repeat."""


@dataclass(frozen=True, slots=True, eq=False)
class KernelCase:
    """One op at one shape."""

    name: str
    run: Callable[[Implementation], object]
    is_attention: bool = False
    num_flops: int = 0
    caches: Sequence[torch.Tensor] = ()


def _random(*shape: int, dtype: torch.dtype = torch.float16) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(1)).to(dtype)


def _context(lengths: Sequence[int]) -> PagedContext:
    return poisoned_context(
        lengths, num_kv_heads=KV_HEADS, head_dim=HEAD_DIM, block_size=BLOCK_SIZE, dtype=torch.float16
    )


def _decode_case(name: str, lengths: Sequence[int], num_splits: int) -> KernelCase:
    context, query = _context(lengths), _random(len(lengths), HEADS, HEAD_DIM)
    flops = 4 * HEADS * HEAD_DIM * sum(lengths)
    run = lambda form: paged_decode_attention(query, context, 0.09, form, num_splits)  # noqa: E731
    return KernelCase(name, run, True, flops)


def _prefill_case(name: str, num_new: Sequence[int], lengths: Sequence[int]) -> KernelCase:
    context, query, starts = _context(lengths), _random(sum(num_new), HEADS, HEAD_DIM), starts_of(num_new)
    seen = sum(new * length - new * (new - 1) // 2 for new, length in zip(num_new, lengths, strict=True))
    run = lambda form: paged_prefill_attention(query, context, starts, 0.09, form)  # noqa: E731
    return KernelCase(name, run, True, 4 * HEADS * HEAD_DIM * seen)


def _rotary_case() -> KernelCase:
    fused = _random(8, HEADS + 2 * KV_HEADS, HEAD_DIM)
    query, key, value = torch.split(fused, [HEADS, KV_HEADS, KV_HEADS], 1)
    new = NewTokens(query, key, value, torch.arange(8), torch.arange(8))
    cos_sin, context = _random(8, HEAD_DIM, dtype=torch.float32), _context([8])
    run = lambda form: rotary_and_cache(new, cos_sin, context.key_cache, context.value_cache, form)  # noqa: E731
    return KernelCase("rotary_and_cache", run)


def _rejection_case() -> KernelCase:
    target = _random(4, 5, VOCAB, dtype=torch.float32).softmax(-1)
    drafts = Drafts(
        target[:, :4].argmax(-1), torch.full((4,), 4, dtype=torch.int32), target[:, :4].clone(), target
    )
    uniforms = torch.full((4, 5), 0.5)
    return KernelCase("rejection_sample", lambda form: rejection_sample(drafts, uniforms, form))


def _sample_case(name: str, probs: torch.Tensor | None) -> KernelCase:
    logits, ones, halves = _random(4, VOCAB), torch.ones(4), torch.full((4,), 0.5)
    return KernelCase(name, lambda form: softmax_and_sample(logits, ones, halves, probs, form))


def _block_cases() -> list[KernelCase]:
    caches = [_random(8, BLOCK_SIZE, KV_HEADS, HEAD_DIM) for _ in range(2)]
    packed = _random(3, 2, BLOCK_SIZE, KV_HEADS, HEAD_DIM)
    src, dst = torch.tensor([0, 1, 2]), torch.tensor([5, 6, 7])
    return [
        KernelCase("copy_blocks", lambda form: copy_blocks(caches, src, dst, form), caches=caches),
        KernelCase("gather_blocks", lambda form: gather_blocks(caches, src, form), caches=caches),
        KernelCase("scatter_blocks", lambda form: scatter_blocks(caches, dst, packed, form), caches=caches),
    ]


def kernel_cases() -> list[KernelCase]:
    """All kernels, attention first."""
    x, residual, weight = _random(8, HIDDEN), _random(8, HIDDEN), _random(HIDDEN)
    gate_up = _random(8, 2 * FEED_FORWARD)
    return [
        _decode_case("decode", [100, 64, 33], 1),
        _decode_case("decode, 4 splits", [256, 200], 4),
        _prefill_case("prefill", [40, 20], [40, 70]),
        _prefill_case("verify 5 tokens", [5, 5, 5], [100, 40, 64]),
        _rotary_case(),
        KernelCase("add_rms_norm", lambda form: add_rms_norm(x, residual, weight, 1e-5, form)),
        KernelCase("rms_norm", lambda form: rms_norm(x, weight, 1e-5, form)),
        KernelCase("silu_and_mul", lambda form: silu_and_mul(gate_up, form)),
        *_block_cases(),
        _sample_case("softmax_and_sample", None),
        _sample_case("softmax_and_sample, probs", torch.empty(4, VOCAB)),
        _rejection_case(),
    ]
