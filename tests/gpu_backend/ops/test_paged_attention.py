"""Decode and prefill attention: twins against the definition, kernels against the twins in float64."""

from __future__ import annotations

import math
from typing import Any

import pytest

pytest.importorskip("torch", reason="the engine needs torch")
pytest.importorskip("triton", reason="Triton is not installed")

import torch

from gpu_backend.ops.implementation import Implementation, OpInputError
from gpu_backend.ops.paged_context import PagedContext
from gpu_backend.ops.paged_decode_attention import paged_decode_attention
from gpu_backend.ops.paged_prefill_attention import paged_prefill_attention
from tests.gpu_backend.ops.paged_inputs import (
    attention_word_by_word,
    exact,
    poisoned_context,
    starts_of,
)
from tests.gpu_backend.ops.ways import (
    WAYS,
    WAYS_OF_FLOAT32,
    assert_close,
    device_of,
    running,
)

ONE_TOKEN, ONE_BLOCK, BOUNDARY, LAST_SLOT = [1], [16], [32, 31, 33], [17, 49]
ODD_LENGTHS = [ONE_TOKEN, ONE_BLOCK, BOUNDARY, LAST_SLOT]
SHAPES = [  # context lengths, query heads, key heads, head size, block size
    *[(lengths, 8, 2, 64, 16) for lengths in ODD_LENGTHS],
    ([5, 70], 1, 1, 64, 8),
    ([7], 6, 2, 8, 16),
    ([5, 70], 4, 2, 80, 16),
    ([5, 40], 32, 8, 128, 32),
    ([1 + index % 20 for index in range(33)], 2, 1, 64, 8),
]
SPLIT_NAMES = ("num_splits", "lengths", "heads", "kv_heads", "head_dim", "block_size")
SPLIT_SHAPES = [(1, *shape) for shape in SHAPES] + [
    (3, [17, 70, 200], 8, 2, 64, 16),
    (5, [1, 64], 4, 2, 80, 8),
    (2, [130], 1, 1, 128, 32),
]  # number of splits, and as above; some splits hold no token
CHUNKS = [  # new tokens of each sequence, all its tokens, heads, key heads, head size, block size
    ([1], [1], 8, 2, 64, 16),
    ([16, 1], [16, 40], 8, 2, 64, 16),
    ([5, 5, 5], [5, 17, 33], 4, 1, 64, 8),
    ([20, 3, 0, 1], [33, 3, 7, 64], 4, 2, 80, 16),
    ([40, 7], [70, 7], 4, 4, 128, 32),
]
HALVES = [torch.float16, torch.bfloat16]


def _ways_and_dtypes() -> list[Any]:
    pairs = [(way, dtype) for way in WAYS for dtype in HALVES] + [
        (way, torch.float32) for way in WAYS_OF_FLOAT32
    ]
    return [
        pytest.param(*getattr(way, "values", (way,)), dtype, marks=getattr(way, "marks", ()))
        for way, dtype in pairs
    ]


def _query(num_tokens: int, heads: int, head_dim: int, dtype: torch.dtype, device: str) -> torch.Tensor:
    generator = torch.Generator().manual_seed(num_tokens)
    wide = torch.randn((num_tokens, heads + 3, head_dim), generator=generator)
    return wide.to(device, dtype)[:, :heads]  # a view, as queries cut out of a fused projection are


@pytest.mark.parametrize(("lengths", "heads", "kv_heads", "head_dim", "block_size"), SHAPES)
@pytest.mark.parametrize("implementation", [Implementation.TWIN, Implementation.UNFUSED])
def test_decode_attention_in_torch_is_the_definition(
    lengths: list[int],
    heads: int,
    kv_heads: int,
    head_dim: int,
    block_size: int,
    implementation: Implementation,
) -> None:
    context = poisoned_context(
        lengths, num_kv_heads=kv_heads, head_dim=head_dim, block_size=block_size, dtype=torch.float64
    )
    query = _query(len(lengths), heads, head_dim, torch.float64, "cpu")
    out = paged_decode_attention(query, context, 0.1, implementation)
    expected = attention_word_by_word(query, context, range(len(lengths) + 1), 0.1)
    assert (out - expected).abs().max() < 1e-12


@pytest.mark.parametrize(("num_new", "lengths", "heads", "kv_heads", "head_dim", "block_size"), CHUNKS)
@pytest.mark.parametrize("implementation", [Implementation.TWIN, Implementation.UNFUSED])
def test_prefill_attention_in_torch_is_the_definition(
    num_new: list[int],
    lengths: list[int],
    heads: int,
    kv_heads: int,
    head_dim: int,
    block_size: int,
    implementation: Implementation,
) -> None:
    context = poisoned_context(
        lengths, num_kv_heads=kv_heads, head_dim=head_dim, block_size=block_size, dtype=torch.float64
    )
    query = _query(sum(num_new), heads, head_dim, torch.float64, "cpu")
    out = paged_prefill_attention(query, context, starts_of(num_new), 0.1, implementation)
    expected = attention_word_by_word(query, context, starts_of(num_new).tolist(), 0.1)
    assert (out - expected).abs().max() < 1e-12


@pytest.mark.parametrize(SPLIT_NAMES, SPLIT_SHAPES)
@pytest.mark.parametrize(("way", "dtype"), _ways_and_dtypes())
def test_decode_kernel_reads_its_context_and_nothing_else(
    way: str,
    dtype: torch.dtype,
    lengths: list[int],
    heads: int,
    kv_heads: int,
    head_dim: int,
    block_size: int,
    num_splits: int,
) -> None:
    device = device_of(way)
    context = poisoned_context(
        lengths, num_kv_heads=kv_heads, head_dim=head_dim, block_size=block_size, dtype=dtype, device=device
    )
    query = _query(len(lengths), heads, head_dim, dtype, device)
    with running(way) as execution:
        out = paged_decode_attention(query, context, 0.1, Implementation.KERNEL, num_splits)
    assert_close(out.cpu(), paged_decode_attention(query.double().cpu(), exact(context), 0.1))
    if execution is not None:
        for cache in (context.key_cache, context.value_cache):
            read = execution.was_read(cache).view(-1, cache.element_size()).any(1).view(cache.shape)
            assert torch.equal(read, cache.isfinite())  # all of the context, and no other slot


@pytest.mark.parametrize(("num_new", "lengths", "heads", "kv_heads", "head_dim", "block_size"), CHUNKS)
@pytest.mark.parametrize(("way", "dtype"), _ways_and_dtypes())
def test_prefill_kernel_is_causal_over_the_paged_keys(
    way: str,
    dtype: torch.dtype,
    num_new: list[int],
    lengths: list[int],
    heads: int,
    kv_heads: int,
    head_dim: int,
    block_size: int,
) -> None:
    device = device_of(way)
    context = poisoned_context(
        lengths, num_kv_heads=kv_heads, head_dim=head_dim, block_size=block_size, dtype=dtype, device=device
    )
    query = _query(sum(num_new), heads, head_dim, dtype, device)
    starts = starts_of(num_new)
    with running(way) as execution:
        out = paged_prefill_attention(query, context, starts.to(device), 0.1, Implementation.KERNEL)
    assert_close(out.cpu(), paged_prefill_attention(query.double().cpu(), exact(context), starts, 0.1))
    if execution is not None:
        read = execution.was_read(context.key_cache).view(-1, 2).any(1).view(context.key_cache.shape)
        assert not bool((read & ~context.key_cache.isfinite()).any())


@pytest.mark.parametrize("way", WAYS)
def test_a_padded_sequence_gives_zeros(way: str) -> None:
    device = device_of(way)
    context = poisoned_context(
        [3, 0], num_kv_heads=1, head_dim=64, block_size=16, dtype=torch.float16, device=device
    )
    query = _query(2, 2, 64, torch.float16, device)
    for num_splits in (1, 2):
        with running(way):
            out = paged_decode_attention(query, context, 0.1, Implementation.KERNEL, num_splits)
        assert bool(out[0].isfinite().all())
        assert not bool(out[1].any())
    assert not bool(paged_decode_attention(query.cpu().float(), _float(context), 0.1)[1].any())


def test_scores_far_apart_do_not_overflow() -> None:
    context = poisoned_context([20], num_kv_heads=1, head_dim=64, block_size=16, dtype=torch.float32)
    query = 1e4 * _query(1, 2, 64, torch.float32, "cpu")
    assert bool(paged_decode_attention(query, context, 1.0).isfinite().all())


def test_what_does_not_fit_is_refused_by_name() -> None:
    context = poisoned_context([3], num_kv_heads=2, head_dim=64, block_size=16, dtype=torch.float32)
    with pytest.raises(OpInputError, match="3 query heads cannot share 2"):
        paged_decode_attention(torch.zeros(1, 3, 64), context, 1.0)
    with pytest.raises(OpInputError, match="head_dim 32"):
        paged_decode_attention(torch.zeros(1, 2, 32), context, 1.0)
    with pytest.raises(OpInputError, match="differ in dtype"):
        paged_decode_attention(torch.zeros(1, 2, 64, dtype=torch.float16), context, 1.0)
    with pytest.raises(OpInputError, match="stride 2"):
        paged_decode_attention(torch.zeros(1, 2, 128)[..., ::2], context, 1.0)
    with pytest.raises(OpInputError, match=r"query_starts has shape \[5\]"):
        paged_prefill_attention(torch.zeros(1, 2, 64), context, torch.zeros(5, dtype=torch.int32), 1.0)


def _float(context: PagedContext) -> PagedContext:
    doubles = exact(context)
    return PagedContext(
        doubles.key_cache.float(), doubles.value_cache.float(), doubles.block_tables, doubles.context_lens
    )


def test_the_scale_is_applied_once() -> None:
    context = poisoned_context([9], num_kv_heads=1, head_dim=64, block_size=8, dtype=torch.float64)
    query = _query(1, 1, 64, torch.float64, "cpu")
    scaled = paged_decode_attention(query * math.sqrt(2), context, 0.1)
    assert (scaled - paged_decode_attention(query, context, 0.1 * math.sqrt(2))).abs().max() < 1e-12
