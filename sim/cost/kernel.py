"""`Kernel`: what one launch moves and computes; and the elementwise kernels that eager code launches.

Owns the words of kernel lists. Refuses to know models, which kernels a step has (`sim.cost.kernels`) and how
long they take (`sim.cost.kernel_clock`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import Enum

import numpy as np
from numpy.typing import NDArray

from sim.core.step import StepPlan

Sizes = float | NDArray[np.float64]
ACTIVATION_BYTES = 2


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
    SEND = "send"


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


def unfused_norm(name: str, row: Sizes, hidden_size: int) -> list[Kernel]:
    """Residual and root-mean-square norm of `row` bytes, in 32 bits as Llama's reference code has it."""
    wide, tiny = 2 * row, row / hidden_size
    parts = [("widen", row, wide), ("square", wide, wide), ("mean", wide, tiny), ("add", tiny, tiny)]
    parts += [("root", tiny, tiny), ("scale", wide, wide), ("narrow", wide, row), ("weight", row, row)]
    add = Kernel(f"{name}: add residual", KernelKind.ELEMENTWISE, 0, 2 * row, row)
    return [
        add,
        *(
            Kernel(f"{name} norm: {part}", KernelKind.ELEMENTWISE, 0, read, written)
            for part, read, written in parts
        ),
    ]


def unfused_rotary(name: str, num_bytes: Sizes) -> Iterator[Kernel]:
    """In 32 bits, as Llama's reference code has it: a pair (a, b) becomes (a c - b s, b c + a s)."""
    wide = 2 * num_bytes
    half = num_bytes  # half of the values, each twice as wide
    parts = [("widen", num_bytes, wide)]
    parts += [(part, half, half) for part in ("a cosine", "b sine", "b cosine", "a sine")]
    parts += [
        ("subtract", wide, half),
        ("add", wide, half),
        ("join", wide, wide),
        ("narrow", wide, num_bytes),
    ]
    for part, read, written in parts:
        yield Kernel(f"rotary {name}: {part}", KernelKind.ELEMENTWISE, 0, read, written)


def passes(names: Sequence[str], num_bytes: Sizes) -> list[Kernel]:
    """A kernel each that reads so much and writes as much."""
    return [Kernel(name, KernelKind.ELEMENTWISE, 0, num_bytes, num_bytes) for name in names]
