"""Traffic of attention forward and backward, against what the FlashAttention paper measured."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sim.cost.attention_traffic import TrainedAttention
from sim.cost.kernel import Kernel

GPT2_MEDIUM = TrainedAttention(num_seqs=64, num_heads=16, length=1024, head_dim=64)
A100_ON_CHIP_BYTES = 192 * 1024
SHAPES = st.builds(
    TrainedAttention,
    st.integers(1, 8),
    st.integers(1, 16),
    st.integers(128, 8192),
    st.sampled_from([64, 128]),
)


def gigabytes(kernels: list[Kernel]) -> float:
    """Read and written."""
    return sum(float(kernel.num_bytes) for kernel in kernels) / 1e9


def test_the_paper_s_measured_traffic_is_counted() -> None:
    assert gigabytes(GPT2_MEDIUM.unfused()) == pytest.approx(40.3, rel=0.1)
    assert gigabytes(GPT2_MEDIUM.flash(A100_ON_CHIP_BYTES)) == pytest.approx(4.4, rel=0.1)


def test_recomputing_scores_costs_one_product_more() -> None:
    unfused, flash = (
        sum(float(kernel.flops) for kernel in kernels)
        for kernels in (GPT2_MEDIUM.unfused(), GPT2_MEDIUM.flash(A100_ON_CHIP_BYTES))
    )
    assert flash / unfused == pytest.approx(75.2 / 66.6, rel=0.1)


@given(SHAPES)
def test_unfused_traffic_grows_with_the_square_of_the_length_and_fused_with_its_blocks(
    attention: TrainedAttention,
) -> None:
    scores = gigabytes(attention.unfused()) - 12 * attention.values_bytes / 1e9
    assert scores == pytest.approx(18 * attention.scores_bytes / 1e9)
    assert len(attention.flash(A100_ON_CHIP_BYTES)) == 2 < len(attention.unfused())


@given(SHAPES)
def test_more_memory_on_chip_never_means_more_traffic(attention: TrainedAttention) -> None:
    moved = [gigabytes(attention.flash(size * 1024)) for size in (48, 96, 192, 384)]
    assert all(a >= b for a, b in pairwise(moved))
    least = 12 * attention.values_bytes / 1e9  # each input and output once, forward and backward
    assert moved[-1] >= least
