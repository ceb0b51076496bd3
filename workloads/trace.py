"""Workloads of public traces, as they are described: which file, which part of it, how dense.

Refuses to know how a trace is read and cut (`workloads/selection.py`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from workloads.arrivals import AllAtOnce, Arrivals, ClosedLoop
from workloads.errors import WorkloadError


class TraceFormat(Enum):
    """Public formats that can be read."""

    AZURE = "azure"
    MOONCAKE = "mooncake"
    VIDUR = "vidur"
    BURSTGPT = "burstgpt"
    BAILIAN = "bailian"
    LLMSERVINGSIM = "llmservingsim"
    SPLITWISE = "splitwise"


class TurnRule(Enum):
    """What starts a session's next turn, where a format gives both order and time."""

    AS_FORMAT = "as_format"
    """Whatever the format means by itself."""
    WAIT = "wait"
    """The end of the turn before, and the difference of the stamps."""
    TIMESTAMPS = "timestamps"
    """Its own stamp."""


@dataclass(frozen=True, slots=True)
class TraceWorkload:
    """A trace and the part of it that is wanted.

    Attributes:
        limit: First so many rows of what the window leaves.
        window_start_ns: Where the window starts, from the first stamp.
        window_end_ns: Where it ends (not included).
        rate_scale: How many times as dense the arrivals should be, be they the stamps or drawn instead.
        hash_block_tokens: Tokens a hash id stands for; None: the format's usual number.
        sort: Whether to sort rows that are out of order, instead of refusing them.
        keep_empty: Whether rows without output are kept, with one token each.
        turns: What starts a session's next turn.
        arrivals: Replaces the stamps, once the window is chosen by them; must be given for traces that have
            none.
        num_samples: Outputs per request (n).
        beam_width: Beams of each request, which searches; 0: it samples.
        cancel_after_ns: How long after its arrival a client gives up.
    """

    path: Path
    format: TraceFormat
    limit: int | None = None
    window_start_ns: int = 0
    window_end_ns: int | None = None
    rate_scale: float = 1.0
    hash_block_tokens: int | None = None
    sort: bool = False
    keep_empty: bool = False
    turns: TurnRule = TurnRule.AS_FORMAT
    arrivals: Arrivals | None = None
    num_samples: int = 1
    beam_width: int = 0
    cancel_after_ns: int | None = None

    def __post_init__(self) -> None:
        if self.limit is not None and self.limit < 1:
            raise WorkloadError(f"limit must be at least 1, not {self.limit}")
        if not (math.isfinite(self.rate_scale) and self.rate_scale > 0):
            raise WorkloadError(f"rate_scale must be a positive number, not {self.rate_scale}")
        if self.rate_scale != 1 and isinstance(self.arrivals, AllAtOnce | ClosedLoop):
            raise WorkloadError(
                "rate_scale has no times to bring together: these arrivals have no rate; leave it out"
            )
        if self.window_end_ns is not None and not 0 <= self.window_start_ns < self.window_end_ns:
            raise WorkloadError("window: its end must come after its start, and its start not before 0")
        if self.hash_block_tokens is not None and self.hash_block_tokens < 1:
            raise WorkloadError(f"hash_block_tokens must be at least 1, not {self.hash_block_tokens}")
        if self.num_samples < 1:
            raise WorkloadError(f"num_samples must be at least 1, not {self.num_samples}")
        if self.beam_width < 0 or (self.beam_width and self.num_samples > 1):
            raise WorkloadError(
                f"beam_width ({self.beam_width}) must not be negative, and with it num_samples "
                f"({self.num_samples}) must be 1: the beams are the outputs"
            )
