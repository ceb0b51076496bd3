"""`Workload`: what a serving system will be asked to do, column by column, and `RequestSpec`, one row of it.

Lengths are exact: a request generates just `output_tokens` tokens per sample. Times are integer
nanoseconds from the start of the run. Text is never seen; equal leading `hash_ids` mean an equal prefix.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from workloads.errors import WorkloadError

Ints = NDArray[np.int64]
MAX_REQUESTS = 10_000_000


class RequestSpec(NamedTuple):
    """One request."""

    request_id: int
    """Its place in the workload, and its id in the simulator."""
    arrival_ns: int
    """When it is due; without meaning for a request that waits for others."""
    prompt_tokens: int
    output_tokens: int
    """Tokens each sample will generate."""
    num_samples: int = 1
    priority: int = 0
    """Lower is more urgent."""
    hash_ids: tuple[int, ...] = ()
    """Content of the prompt's leading blocks; an id stands for its block and all before it."""
    hash_block_tokens: int = 0
    """Tokens an id stands for; the last one may be partial."""
    session: str | None = None
    cancel_after_ns: int | None = None
    """How long after its arrival the client gives up."""


@dataclass(frozen=True, slots=True)
class Turn:
    """What a request waits for: all of `after` (rows of the workload) to end, then `delay_ns` more."""

    after: tuple[int, ...]
    delay_ns: int = 0


@dataclass(frozen=True, slots=True)
class Workload:
    """All requests of a run, in the order in which they are to be sent.

    Attributes:
        name: For people.
        arrival_ns: When each is due; ascending, apart from rows that wait for others.
        waits_for: Rows that are sent only after others have ended.
        concurrency: If set, the loop is closed: that many users each send the next row `think_time_ns`
            after their last one ended, and arrival times mean nothing.
        notes: What a reader had to drop or to assume, for the report.
        beam_width: Beams of each request, which searches instead of sampling; 0: it samples.
        left_out: Rows of a trace that are not here, by the reason; with those that are here they are all.
    """

    name: str
    arrival_ns: Ints  # [num_requests]
    prompt_tokens: Ints  # [num_requests]
    output_tokens: Ints  # [num_requests]
    num_samples: int = 1
    priority: Ints | None = None  # [num_requests]
    hash_ids: tuple[tuple[int, ...], ...] | None = None
    hash_block_tokens: int = 0
    sessions: tuple[str | None, ...] | None = None
    waits_for: Mapping[int, Turn] = field(default_factory=dict)
    concurrency: int | None = None
    think_time_ns: int = 0
    cancel_after_ns: int | None = None
    notes: tuple[str, ...] = ()
    beam_width: int = 0
    left_out: Mapping[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not len(self):
            raise WorkloadError(f"{self.name}: the workload is empty: no request is left to simulate")
        for name in ("prompt_tokens", "output_tokens"):
            column: Ints = getattr(self, name)
            if len(column) != len(self) or column.min() < 1:
                raise WorkloadError(
                    f"{self.name}: {name} must be at least 1 for each of {len(self)} requests"
                )
        roots = self.arrival_ns
        if self.waits_for:
            roots = np.delete(self.arrival_ns, list(self.waits_for))
        if len(roots) and (roots[0] < 0 or bool((np.diff(roots) < 0).any())):
            raise WorkloadError(f"{self.name}: arrival times must ascend from 0")

    def __len__(self) -> int:
        return len(self.arrival_ns)

    def first(self, count: int) -> Workload:
        """Its first requests alone, without turns that wait for others."""
        count = min(count, len(self))
        return replace(
            self,
            arrival_ns=np.maximum.accumulate(self.arrival_ns[:count].clip(min=0)),
            prompt_tokens=self.prompt_tokens[:count],
            output_tokens=self.output_tokens[:count],
            priority=None if self.priority is None else self.priority[:count],
            hash_ids=None if self.hash_ids is None else self.hash_ids[:count],
            sessions=None if self.sessions is None else self.sessions[:count],
            waits_for={},
        )

    @property
    def total_prompt_tokens(self) -> int:
        """Sum of all prompts."""
        return int(self.prompt_tokens.sum())

    @property
    def total_output_tokens(self) -> int:
        """Sum of all outputs, of all samples."""
        return int(self.output_tokens.sum()) * (self.beam_width or self.num_samples)

    def requests(self) -> list[RequestSpec]:
        """All rows."""
        count = len(self)
        return [
            RequestSpec(*row)
            for row in zip(
                range(count),
                self.arrival_ns.tolist(),
                self.prompt_tokens.tolist(),
                self.output_tokens.tolist(),
                [self.num_samples] * count,
                self.priority.tolist() if self.priority is not None else [0] * count,
                self.hash_ids if self.hash_ids is not None else [()] * count,
                [self.hash_block_tokens] * count,
                self.sessions if self.sessions is not None else [None] * count,
                [self.cancel_after_ns] * count,
                strict=True,
            )
        ]
