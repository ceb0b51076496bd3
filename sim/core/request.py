"""What a user asked for (`Request`) and the streams of tokens it becomes (`Sequence`).

A request has `num_samples` >= 1 sequences of one prompt. Under vLLM's V1 rules each of them is scheduled
by itself, as the engine's front end makes them separate requests; under the rules of the PagedAttention
paper they move as one group.

A sequence knows counts only, never token text:

    0                    num_computed           num_known
    |<- KV is stored ---->|<- still to compute ->|<- drafts ->|

Invariant between steps: `0 <= num_computed <= num_known`, and a finished or waiting sequence holds no
block. While a sequence decodes steadily its counts are not updated token by token; `steady_batch.py`
says where they are then.
"""

from __future__ import annotations

from collections.abc import Hashable
from collections.abc import Sequence as AbstractSequence
from enum import Enum
from typing import NewType, Protocol

from sim.core.compiling import mypyc_attr

RequestId = NewType("RequestId", int)
SeqId = NewType("SeqId", int)
BlockId = NewType("BlockId", int)


class FinishReason(Enum):
    """Why a sequence ended."""

    LENGTH = "length"
    LENGTH_CAPPED = "length_capped"
    STOP = "stop"
    ABORT = "abort"
    REJECTED = "rejected"


class SequenceStatus(Enum):
    """Where a sequence is."""

    WAITING = "waiting"
    RUNNING = "running"
    PREEMPTED = "preempted"
    FINISHED = "finished"


class ContentKeys(Protocol):
    """Names the content of a request's full blocks, so that equal prefixes can be found again.

    A key stands for a block's tokens and all tokens before it: equal keys mean equal whole prefixes.
    Plans for several steps take it that no other sequence finds a block of output while it is made: one
    that waits for room is not looked at again before the plan ends. Where it might, let the horizon be 1.
    """

    def keys(self, sample: int, start: int, stop: int) -> AbstractSequence[Hashable]:
        """The keys of logical blocks `start` to `stop - 1` of one sample; each of these blocks is full."""
        ...


@mypyc_attr(allow_interpreted_subclasses=True)
class Request:
    """One call of a user: a prompt, `num_samples` outputs of at most `max_tokens` tokens each."""

    __slots__ = (
        "arrival_ns",
        "beam_width",
        "content",
        "max_tokens",
        "num_prompt_tokens",
        "num_samples",
        "num_unfinished",
        "priority",
        "request_id",
        "sample_tokens",
    )

    def __init__(
        self,
        request_id: int,
        arrival_ns: int,
        num_prompt_tokens: int,
        max_tokens: int,
        num_samples: int = 1,
        priority: int = 0,
        content: ContentKeys | None = None,
        *,
        sample_tokens: tuple[int, ...] = (),
        beam_width: int = 0,
    ) -> None:
        if num_prompt_tokens < 1 or max_tokens < 1 or num_samples < 1:
            raise ValueError(
                f"request {request_id}: prompt ({num_prompt_tokens}), output ({max_tokens}) and samples "
                f"({num_samples}) must each be at least 1"
            )
        self.request_id = RequestId(request_id)
        self.arrival_ns = arrival_ns
        self.num_prompt_tokens = num_prompt_tokens
        self.max_tokens = max_tokens
        self.num_samples = num_samples
        self.priority = priority
        """Lower numbers go first, as in vLLM."""
        self.content = content
        """None opts out of prefix caching."""
        self.num_unfinished = num_samples
        self.sample_tokens = sample_tokens
        """Output tokens of each sample, where they differ; empty: `max_tokens` each."""
        self.beam_width = beam_width
        """Beams of a beam search; 0: sampling."""

    @property
    def is_finished(self) -> bool:
        """Whether every sample has ended."""
        return self.num_unfinished == 0

    def __repr__(self) -> str:
        return f"Request({self.request_id}, {self.num_prompt_tokens}+{self.max_tokens})"


@mypyc_attr(allow_interpreted_subclasses=True)
class Sequence:
    """One stream of tokens of a request, its place in the queues and its block table."""

    __slots__ = (
        "base_step",
        "finish_at_step",
        "finish_reason",
        "finish_step",
        "first_scheduled_step",
        "in_steady_batch",
        "is_in_prompt",
        "max_known",
        "num_computed",
        "num_drafts",
        "num_in_flight",
        "num_keyed_blocks",
        "num_known",
        "num_lost_tokens",
        "num_prefix_hit_tokens",
        "num_prompt_tokens",
        "order",
        "preemptions",
        "request",
        "run_start",
        "runs",
        "sample",
        "seq_id",
        "status",
        "table",
    )

    def __init__(self, seq_id: int, request: Request, sample: int, max_known: int) -> None:
        self.seq_id = SeqId(seq_id)
        self.request = request
        self.sample = sample
        self.status = SequenceStatus.WAITING
        self.num_prompt_tokens = request.num_prompt_tokens
        self.num_known = request.num_prompt_tokens
        """Prompt and settled output tokens."""
        num_tokens = request.sample_tokens[sample] if request.sample_tokens else request.max_tokens
        self.max_known = min(request.num_prompt_tokens + num_tokens, max_known)
        """It ends when `num_known` gets here."""
        self.num_computed = 0
        """Tokens whose KV is stored (or is being stored by the step under way)."""
        self.num_drafts = 0
        """Draft tokens proposed for the next step."""
        self.num_in_flight = 0
        """Tokens that scheduled, unsettled steps will yield (asynchronous scheduling)."""
        self.table: list[int] = []
        """Logical to physical: block `i` holds tokens `i * block_size` and on."""
        self.num_keyed_blocks = 0
        """How many leading blocks of the table are registered in the prefix cache."""
        self.is_in_prompt = False
        """Whether its last step was a prompt chunk that left known tokens to compute."""
        self.order = 0
        """Its place in the running list: grows with each admission."""
        self.first_scheduled_step: int | None = None
        self.num_prefix_hit_tokens = 0
        self.preemptions: list[tuple[int, int | None]] = []
        """(step that preempted it, step that let it in again)."""
        self.runs: list[tuple[int, int, int]] = []
        """(first step, steps, tokens per step): when its tokens came out; each comes at its step's end."""
        self.num_lost_tokens = 0
        """Token states its last preemption threw away."""
        self.finish_reason: FinishReason | None = None
        self.finish_step: int | None = None
        """The step at whose end it finished or before whose end it was aborted; None if it never ran."""
        self.in_steady_batch = False
        self.base_step = 0
        self.run_start = 0
        self.finish_at_step = 0

    @property
    def num_output_tokens(self) -> int:
        """Settled output tokens."""
        return self.num_known - self.num_prompt_tokens

    @property
    def is_finished(self) -> bool:
        """Whether it has ended, for whatever reason."""
        return self.finish_reason is not None

    def end(self, reason: FinishReason, step: int) -> None:
        """It is over, at the end of `step` or, if aborted, before it; whoever calls has freed its blocks."""
        self.finish_reason = reason
        self.status = SequenceStatus.FINISHED
        if self.first_scheduled_step is not None:
            self.finish_step = step

    def length_reason(self) -> FinishReason | None:
        """Why its length ends it, if it does."""
        if self.num_known < self.max_known:
            return None
        asked = (
            self.request.sample_tokens[self.sample] if self.request.sample_tokens else self.request.max_tokens
        )
        return FinishReason.LENGTH if self.num_output_tokens >= asked else FinishReason.LENGTH_CAPPED

    def emit(self, step: int, num_tokens: int) -> None:
        """Note that `num_tokens` tokens came out at the end of `step`."""
        if self.runs:
            first, num_steps, per_step = self.runs[-1]
            if per_step == num_tokens and first + num_steps == step:
                self.runs[-1] = (first, num_steps + 1, per_step)
                return
        self.runs.append((step, 1, num_tokens))

    def __repr__(self) -> str:
        return (
            f"Sequence({self.seq_id}, {self.status.value}, computed {self.num_computed} of "
            f"{self.num_known}, {len(self.table)} blocks)"
        )
