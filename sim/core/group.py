"""`Group`: one request with all its samples or beams, as the PagedAttention paper schedules them; the limits.

Refuses to know queues and pools.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Protocol

from sim.core.compiling import mypyc_attr
from sim.core.request import Request, Sequence


class PreemptionMode(Enum):
    """What a victim loses."""

    BY_WIDTH = "by_width"
    """Recompute groups that can have one sequence only from now on, swap all others: vLLM 0.2.7."""
    RECOMPUTE = "recompute"
    SWAP = "swap"
    AUTO = "auto"
    """Whichever is cheaper for this victim, by a `VictimCost`."""


class VictimCost(Protocol):
    """What it takes to bring a victim back."""

    def swap_ns(self, num_blocks: int) -> int:
        """Moving so many blocks to the host and back."""
        ...

    def recompute_ns(self, num_tokens: int) -> int:
        """Computing so many tokens once more."""
        ...


@mypyc_attr(native_class=False)
@dataclass(frozen=True, slots=True)
class GroupSchedulerConfig:
    """Limits of the paper's scheduler; names are vLLM's.

    Attributes:
        max_model_len: Longest sequence, prompt and output together.
        max_num_seqs: Most running sequences.
        max_num_batched_tokens: Most tokens of a prompt step, each prompt counted as long as the longest.
        max_paddings: Most tokens of a prompt step that may be padding.
        watermark_fraction: Part of the pool that an admission or a swap-in must leave free.
        num_host_blocks: Size of the host pool.
        preemption: What a victim loses.
    """

    max_model_len: int
    max_num_seqs: int = 256
    max_num_batched_tokens: int = 2560
    max_paddings: int = 256
    watermark_fraction: float = 0.01
    num_host_blocks: int = 0
    preemption: PreemptionMode = PreemptionMode.BY_WIDTH

    def __post_init__(self) -> None:
        for name in ("max_model_len", "max_num_seqs", "max_num_batched_tokens"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}")
        for name in ("max_paddings", "num_host_blocks"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be negative, not {getattr(self, name)}")
        if not 0 <= self.watermark_fraction < 1:
            raise ValueError(f"watermark must be in [0, 1), not {self.watermark_fraction}")

    @property
    def max_known(self) -> int:
        """Tokens at which the longest sequence ends: when it is longer than `max_model_len`."""
        return self.max_model_len + 1

    @property
    def num_lookahead_slots(self) -> int:
        """Slots kept for drafts: none, this scheduler knows no speculation."""
        return 0

    @property
    def async_scheduling(self) -> bool:
        """Whether a step is scheduled before the one before it has settled: never."""
        return False


@mypyc_attr(allow_interpreted_subclasses=True)
class Group:
    """A request's sequences; they share blocks and fate."""

    __slots__ = ("beam_width", "request", "seqs", "unborn")

    def __init__(self, request: Request, seqs: list[Sequence]) -> None:
        self.request = request
        self.seqs = seqs[:1]
        """Live sequences, in order of their making."""
        self.unborn = seqs[1:]
        """Samples that will be forked off the first when its prompt is done."""
        self.beam_width = request.beam_width
        """0: no beam search."""

    @property
    def max_num_running_seqs(self) -> int:
        """Sequences it can have running from now on."""
        return max(self.num_live_seqs, self.beam_width)

    @property
    def num_live_seqs(self) -> int:
        """Sequences that have not ended, those yet to be forked included."""
        return len(self.seqs) + len(self.unborn)
