"""Decode attention against the copy bandwidth of the card: a table for the reader, and a floor for the test.

Run by `make test-gpu` (with `-s` the table is printed); what it reads and writes is counted as a perfect
kernel would, a copy as its bytes read and written. Long contexts are nothing but memory traffic, so they
should come near the copy; short ones are launches.
"""

from __future__ import annotations

import sys
from collections.abc import Callable

import pytest

pytest.importorskip("torch", reason="the engine needs torch")

import torch

from gpu_backend.ops.implementation import Implementation
from gpu_backend.ops.paged_context import PagedContext
from gpu_backend.ops.paged_decode_attention import paged_decode_attention

BLOCK_SIZE, NUM_HEADS, NUM_KV_HEADS, HEAD_DIM = 16, 32, 8, 128
SHAPES = ((1, 1024), (1, 16384), (8, 1024), (8, 8192), (64, 1024), (64, 4096))
"""(sequences, tokens of each)."""
FLOOR = 0.3
"""Of the copy bandwidth, at the longest contexts; an A100 or H100 should reach twice as much."""


def seconds(run: Callable[[], object], repeats: int = 30) -> float:
    """Median time of one run, by events of the device."""
    for _ in range(5):
        run()
    times = []
    for _ in range(repeats):
        begin, end = _event(), _event()
        begin.record()
        run()
        end.record()
        end.synchronize()
        times.append(begin.elapsed_time(end) / 1e3)
    return float(sorted(times)[repeats // 2])


def _event() -> torch.cuda.Event:
    return torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]  # torch's


def copy_bandwidth() -> float:
    """Bytes a second, read and written, of one large copy."""
    source = torch.empty(1 << 28, dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)
    return 2 * source.numel() / seconds(lambda: target.copy_(source))


def attention_bandwidth(num_seqs: int, num_tokens: int) -> float:
    """Bytes a second that decode attention moves: keys, values, queries and results, each once."""
    blocks = num_tokens // BLOCK_SIZE
    shape = (num_seqs * blocks + 1, BLOCK_SIZE, NUM_KV_HEADS, HEAD_DIM)
    keys, values = (torch.randn(shape, dtype=torch.bfloat16, device="cuda") for _ in range(2))
    tables = (1 + torch.randperm(num_seqs * blocks, device="cuda")).int().view(num_seqs, blocks)
    lens = torch.full((num_seqs,), num_tokens, dtype=torch.int32, device="cuda")
    context = PagedContext(keys, values, tables, lens)
    query = torch.randn(num_seqs, NUM_HEADS, HEAD_DIM, dtype=torch.bfloat16, device="cuda")
    moved = context.bytes_of_contexts() + 2 * query.numel() * query.element_size()
    took_s = seconds(lambda: paged_decode_attention(query, context, HEAD_DIM**-0.5, Implementation.KERNEL))
    return moved / took_s


@pytest.mark.gpu
def test_decode_attention_comes_near_the_copy_bandwidth() -> None:
    copied = copy_bandwidth()
    reached = {shape: attention_bandwidth(*shape) for shape in SHAPES}
    sys.stdout.write(f"\n{torch.cuda.get_device_name()}: a copy moves {copied / 1e9:,.0f} GB/s\n")
    for (num_seqs, num_tokens), bandwidth in reached.items():
        share = f"{bandwidth / 1e9:8,.0f} GB/s {100 * bandwidth / copied:5.1f} %"
        sys.stdout.write(f"{num_seqs:4} sequences of {num_tokens:6,} tokens {share}\n")
    assert reached[64, 4096] > FLOOR * copied
