"""`AttentionKernel`: what it costs one to read a KV cache in blocks, where each block begins anew.

A kernel for which that was measured takes as long as if each block were so many tokens longer; for others it
is taken to be nothing. Bandwidths of hardware files are those of blocks of 16, so that is where the factor is
1. Refuses to know which engine has which kernel, and what a kernel computes.
"""

from __future__ import annotations

from dataclasses import dataclass

from sim.cost.hardware import Figure, Source

MEASURED_BLOCK_SIZE = 16


@dataclass(frozen=True, slots=True)
class AttentionKernel:
    """An attention kernel of the catalogue.

    Attributes:
        block_begin_tokens: How many tokens longer each block seems to be.
        source: Where that comes from; `note` says what a reader should know of it.
    """

    name: str = "flash_attn"
    block_begin_tokens: float = 0.0
    source: Source = Source.ASSUMED
    note: str = ""

    def read_factor(self, block_size: int | None) -> float:
        """Time to read a context in blocks of so many tokens, over that in blocks of 16; None: contiguous."""
        measured = 1 + self.block_begin_tokens / MEASURED_BLOCK_SIZE
        if block_size is None:
            return 1 / measured
        return (1 + self.block_begin_tokens / block_size) / measured

    @property
    def figure(self) -> Figure:
        """What reports say of it."""
        quantity = f"{self.block_begin_tokens:g} tokens a block"
        return Figure(f"attention.block_begin ({self.name})", quantity, self.source, self.note)


NOTHING_MEASURED = AttentionKernel()
"""Blocks of any size are read alike."""
