"""Workloads made from laws: arrivals, lengths, and perhaps a shared beginning of the prompts."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from workloads.arrivals import Arrivals, ClosedLoop, draw_arrivals
from workloads.errors import WorkloadError
from workloads.lengths import Lengths, draw_lengths
from workloads.spec import MAX_REQUESTS, Ints, Workload
from workloads.streams import stream


@dataclass(frozen=True, slots=True)
class SharedPrefix:
    """Every prompt begins with one of `groups` system prompts of `tokens` tokens, chosen evenly at random.

    The prefix is part of the prompt's length; a shorter prompt begins with a part of it.
    """

    groups: int
    tokens: int

    def __post_init__(self) -> None:
        if self.groups < 1 or self.tokens < 1:
            raise WorkloadError(
                f"shared_prefix: groups ({self.groups}) and tokens ({self.tokens}) must be at least 1"
            )


@dataclass(frozen=True, slots=True)
class SyntheticWorkload:
    """A workload described by laws.

    Attributes:
        num_samples: Outputs per request (n).
        beam_width: Beams of each request, which searches; 0: it samples.
        max_total_tokens: Outputs are cut so that prompt and output together are at most this long.
        priorities: Each request gets one of these, evenly at random; lower is more urgent.
        cancel_after_ns: How long after its arrival a client gives up.
    """

    num_requests: int
    arrivals: Arrivals
    prompt_tokens: Lengths
    output_tokens: Lengths
    num_samples: int = 1
    beam_width: int = 0
    max_total_tokens: int | None = None
    shared_prefix: SharedPrefix | None = None
    priorities: tuple[int, ...] = ()
    cancel_after_ns: int | None = None

    def __post_init__(self) -> None:
        if not 1 <= self.num_requests <= MAX_REQUESTS:
            raise WorkloadError(f"num_requests must be from 1 to {MAX_REQUESTS:,}, not {self.num_requests}")
        if self.num_samples < 1:
            raise WorkloadError(f"num_samples must be at least 1, not {self.num_samples}")
        if self.beam_width < 0 or (self.beam_width and self.num_samples > 1):
            raise WorkloadError(
                f"beam_width ({self.beam_width}) must not be negative, and with it num_samples "
                f"({self.num_samples}) must be 1: the beams are the outputs"
            )
        if self.max_total_tokens is not None and self.max_total_tokens < 2:
            raise WorkloadError(f"max_total_tokens must be at least 2, not {self.max_total_tokens}")
        if self.cancel_after_ns is not None and self.cancel_after_ns < 0:
            raise WorkloadError(f"cancel_after must not be negative, not {self.cancel_after_ns} ns")


def make_synthetic(config: SyntheticWorkload, seed: int) -> Workload:
    """Draw every request; each property has a random stream of its own."""
    count = config.num_requests
    prompt = draw_lengths(config.prompt_tokens, count, stream(seed, "workload.prompt_tokens"))
    output = draw_lengths(config.output_tokens, count, stream(seed, "workload.output_tokens"))
    if config.max_total_tokens is not None:
        prompt = np.minimum(prompt, config.max_total_tokens - 1)
        output = np.minimum(output, config.max_total_tokens - prompt)
    closed = config.arrivals if isinstance(config.arrivals, ClosedLoop) else None
    prefix = config.shared_prefix
    return Workload(
        name="synthetic",
        arrival_ns=draw_arrivals(config.arrivals, count, stream(seed, "workload.arrivals")),
        prompt_tokens=prompt,
        output_tokens=output,
        num_samples=config.num_samples,
        beam_width=config.beam_width,
        priority=_draw_priorities(config, seed),
        hash_ids=_draw_groups(prefix, prompt, seed) if prefix is not None else None,
        hash_block_tokens=prefix.tokens if prefix is not None else 0,
        concurrency=closed.concurrency if closed is not None else None,
        think_time_ns=closed.think_time_ns if closed is not None else 0,
        cancel_after_ns=config.cancel_after_ns,
    )


def _draw_priorities(config: SyntheticWorkload, seed: int) -> Ints | None:
    if not config.priorities:
        return None
    rng = stream(seed, "workload.priority")
    return rng.choice(np.array(config.priorities, dtype=np.int64), config.num_requests)


def _draw_groups(prefix: SharedPrefix, prompt: Ints, seed: int) -> tuple[tuple[int, ...], ...]:
    groups = stream(seed, "workload.shared_prefix").integers(0, prefix.groups, len(prompt))
    return tuple((group,) for group in groups.tolist())
