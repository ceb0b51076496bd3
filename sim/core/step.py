"""What one step does (`StepPlan`), what it gave (`StepResult`), and who carries it out (`Executor`).

A plan covers one step, or `horizon` equal ones: as long as nobody is admitted, finishes, or runs out of
blocks, a decode batch repeats itself, each sequence attending to one token more each time. These are
values on the hot path, hence tuples. vLLM calls the first SchedulerOutput and the second
ModelRunnerOutput.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from typing import NamedTuple, Protocol

from sim.core.request import RequestId, SeqId, Sequence


class ScheduleKind(Enum):
    """How a sequence came into a step."""

    NEW = "new"
    RUNNING = "running"
    RESUMED = "resumed"


class BlockCopy(NamedTuple):
    """One block's content to be copied, within one memory tier or between two."""

    src: int
    dst: int


class ScheduledSequence(NamedTuple):
    """One sequence's share of a step."""

    seq: Sequence
    num_tokens: int
    """Tokens computed, drafts included."""
    num_computed_tokens: int
    """Tokens whose KV was there before; for an admission, the prefix-cache hit."""
    new_blocks: list[int]
    """Blocks given in this step; for an admission the whole table, prefix hits first."""
    num_draft_tokens: int
    kind: ScheduleKind
    yields_token: bool
    """Whether this step computes all it knew, so that a token is sampled; a prompt chunk yields none."""

    @property
    def is_decode(self) -> bool:
        """Whether it costs what a decoding sequence does: one token in, one token out."""
        return self.num_tokens == 1 and self.yields_token


class StepPlan(NamedTuple):
    """What a step computes and for whom; decided by the core, carried out by an `Executor`."""

    step: int
    """Number of its first step; the engine's steps count up by one."""
    horizon: int
    """How many times it may be repeated before any decision could change."""
    num_decode_seqs: int
    """Sequences that compute one token each."""
    decode_context_tokens: int
    """Tokens these attend to in the first step, their own included; grows by `num_decode_seqs` a step."""
    chunks: tuple[ScheduledSequence, ...]
    """All else that is computed: prompt chunks, and drafts to verify. The horizon is 1 if there are any."""
    preempted: tuple[Sequence, ...]
    num_running: int
    rows: tuple[ScheduledSequence, ...]
    """Everyone the scheduler looked at singly, in scheduled order: with `PlanDetail.SEQUENCES`, everyone."""
    num_steady_seqs: int
    """Decoding sequences that have no row of their own."""
    blocks_to_swap_out: tuple[BlockCopy, ...] = ()
    """Device to host; carried out first."""
    blocks_to_swap_in: tuple[BlockCopy, ...] = ()
    """Host to device; carried out second."""
    blocks_to_copy: tuple[BlockCopy, ...] = ()
    """Within the device (copy-on-write); carried out third, before anything is computed."""

    @property
    def num_prefill_tokens(self) -> int:
        """Tokens computed by the chunks."""
        return sum(chunk.num_tokens for chunk in self.chunks)

    @property
    def num_tokens(self) -> int:
        """Tokens computed in one step."""
        return self.num_decode_seqs + self.num_prefill_tokens


class DraftRun(NamedTuple):
    """What became of one sequence's drafts in one step, up to its last token."""

    num_drafts: int
    """Verified."""
    num_tested: int
    """Of these, for places up to the last token: the others could not have been kept."""
    num_kept: int
    """Of these, kept and delivered."""
    num_tokens: int
    """Delivered: one more than was kept, unless a draft was the last token."""


class BeamFork(NamedTuple):
    """One beam takes over from another: `child` gives up its own tokens and goes on as a copy of `parent`."""

    parent: Sequence
    child: Sequence


_NOTHING: Mapping[SeqId, int] = {}
_NO_BEAMS: Mapping[RequestId, tuple[BeamFork, ...]] = {}


class StepResult(NamedTuple):
    """What an executor measured, or predicts."""

    ends_ns: list[int]  # [horizon]
    """End of each step, counted from the plan's start; strictly ascending."""
    num_accepted: Mapping[SeqId, int] = _NOTHING
    """Draft tokens kept, for sequences whose drafts were scheduled."""
    num_drafts: Mapping[SeqId, int] = _NOTHING
    """Draft tokens proposed for the next step; with asynchronous scheduling that one is planned already, with
    room for all there can be."""
    stopped: frozenset[SeqId] = frozenset()
    """Sequences whose last new token was an end token."""
    draft_ns: int = 0
    """Part of the last step's time that went into proposing drafts."""
    beams: Mapping[RequestId, tuple[BeamFork, ...]] = _NO_BEAMS
    """Which beams of each searching request changed parents; no beam is a child twice."""


class StepOutcome(NamedTuple):
    """What changed when a step (or several equal ones) was settled."""

    finished: list[Sequence]
    """Ended at the end of the last step, in scheduled order; they have left their queues and hold nothing."""
    used_blocks: list[int]  # [num_steps]
    """Blocks held during each step."""
    filled_slots: int
    """Token states stored at the end of the first step, shared blocks counted once."""
    filled_slots_per_step: int
    """How many more each further step stores."""
    promised_slots: int = 0
    """Slots that are reserved and hold a token, or will; 0 where nothing is reserved ahead."""
    saved_blocks: int = 0
    """Blocks that would be held besides if none were shared."""


class Executor(Protocol):
    """Carries out plans; everything that takes time is behind it."""

    def execute(self, plan: StepPlan) -> StepResult:
        """Do (or predict) all `plan.horizon` steps of a plan."""
        ...
