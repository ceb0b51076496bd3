"""What it costs to read a KV cache in blocks: each block begins anew, so small ones are slow.

PagedAttention's kernel takes 20 to 26 % longer than one on contiguous memory at a block size of 16 (arXiv
2309.06180, Fig. 18a): as if each block were 3.7 tokens longer. Measured bandwidths of today's kernels are
those of blocks of 16, so that is where the factor is 1.
"""

from __future__ import annotations

TOKENS_TO_BEGIN_A_BLOCK = 0.23 * 16
MEASURED_BLOCK_SIZE = 16


def block_read_factor(block_size: int | None) -> float:
    """Time to read a context in blocks of so many tokens, over that in blocks of 16; None: contiguous."""
    measured = 1 + TOKENS_TO_BEGIN_A_BLOCK / MEASURED_BLOCK_SIZE
    if block_size is None:
        return 1 / measured
    return (1 + TOKENS_TO_BEGIN_A_BLOCK / block_size) / measured
