"""What training attention moves through memory, forward and backward: unfused, and as FlashAttention.

Owns the two algorithms of Dao et al., FlashAttention (arXiv 2205.14135), for whole sequences of one length.
Serving has no backward pass, so no cost model uses this: it holds the counting of `sim.cost.kernels` (fused
is one round trip) against traffic that was measured. Only products count as FLOPs.

    S: one score matrix a head [length, length]    D: one matrix of values a head [length, head_dim]

Unfused, as PyTorch runs it with a causal mask and dropout; scale is part of the first product, and adding a
constant mask has no backward kernel:

    forward    scores (2D -> S)  mask (S -> S)  softmax (S -> S)  dropout (S -> S + S/2)  values (S + D -> D)
    backward   dV, dP (products)  dropout (S + S/2 -> S)  softmax (2S -> S)  dQ, dK (products)

FlashAttention walks over blocks of keys and values (outer loop) and of queries (inner loop); what stands in
on-chip memory of M values decides how many: B_c = ceil(M / 4d) keys and values at a time. Algorithm 1 reads
queries and reads and writes outputs once an outer block; Algorithm 4 does so with queries, outputs and their
gradients. That is Theorem 2: of the order of N^2 d^2 / M.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil

from sim.cost.kernel import ACTIVATION_BYTES, Kernel, KernelKind

_STATISTIC_BYTES = 4
_DROPOUT_MASK_BYTES = 1


@dataclass(frozen=True, slots=True)
class TrainedAttention:
    """Attention of one layer over a batch of whole sequences, 16 bits a value."""

    num_seqs: int
    num_heads: int
    length: int
    head_dim: int

    @property
    def scores_bytes(self) -> int:
        """All score matrices, once."""
        return self.num_seqs * self.num_heads * self.length**2 * ACTIVATION_BYTES

    @property
    def values_bytes(self) -> int:
        """All queries, or keys, or values, once."""
        return self.num_seqs * self.num_heads * self.length * self.head_dim * ACTIVATION_BYTES

    @property
    def statistics_bytes(self) -> int:
        """One number a query and head: a row's maximum, or its sum."""
        return self.num_seqs * self.num_heads * self.length * _STATISTIC_BYTES

    @property
    def product_flops(self) -> int:
        """One product of two matrices a head, one of which is a score matrix."""
        return 2 * self.num_seqs * self.num_heads * self.length**2 * self.head_dim

    def unfused(self) -> list[Kernel]:
        """Forward, then backward; every step a kernel with its score matrix in memory."""
        scores, values = self.scores_bytes, self.values_bytes
        mask = scores // ACTIVATION_BYTES * _DROPOUT_MASK_BYTES
        return [
            self._product("scores", 2 * values, scores),
            _pass("mask", scores, scores),
            _pass("softmax", scores, scores),
            _pass("dropout", scores, scores + mask),
            self._product("values", scores + values, values),
            self._product("gradient of values", scores + values, values),
            self._product("gradient of dropped scores", 2 * values, scores),
            _pass("gradient through dropout", scores + mask, scores),
            _pass("gradient through softmax", 2 * scores, scores),
            self._product("gradient of queries", scores + values, values),
            self._product("gradient of keys", scores + values, values),
        ]

    def flash(self, on_chip_bytes: int) -> list[Kernel]:
        """One kernel forward and one backward, with what begins as zero written first."""
        values, statistics = self.values_bytes, self.statistics_bytes
        outer = self.num_outer_blocks(on_chip_bytes)
        forward_read = 2 * values + outer * (2 * values + 2 * statistics)
        forward_written = values + 2 * statistics + outer * (values + 2 * statistics)
        backward_read = 2 * values + outer * (4 * values + 2 * statistics)
        backward_written = 3 * values + 2 * values + outer * values
        forward, backward = 2 * self.product_flops, 5 * self.product_flops  # scores are computed again
        kind = KernelKind.PROMPT_ATTENTION
        return [
            Kernel("forward", kind, forward, forward_read, forward_written),
            Kernel("backward", kind, backward, backward_read, backward_written),
        ]

    def num_outer_blocks(self, on_chip_bytes: int) -> int:
        """How often queries and outputs cross the memory bus."""
        keys_at_once = ceil(on_chip_bytes / ACTIVATION_BYTES / (4 * self.head_dim))
        return ceil(self.length / keys_at_once)

    def _product(self, name: str, read: int, written: int) -> Kernel:
        return Kernel(name, KernelKind.PRODUCT, self.product_flops, read, written, depth=self.head_dim)


def _pass(name: str, read: int, written: int) -> Kernel:
    return Kernel(name, KernelKind.ELEMENTWISE, 0, read, written)
