"""Writes down what happens during a run, cheaply, and makes a `RunRecord` of it afterwards.

The core speaks of engine steps, not of time, and so do these logs: a plan is one row however many steps
it stood for, a sequence's tokens are runs of steps. `build_record` turns steps into times and expands
everything, in numpy, when the run is over. Logs are flat arrays of integers: no object is kept per
request.
"""

from __future__ import annotations

from array import array
from dataclasses import dataclass

from sim.core.compiling import mypyc_attr
from sim.core.request import FinishReason, Request, Sequence
from sim.core.step import StepOutcome, StepPlan

PLAN_FIELDS = (
    "start_ns",
    "num_steps",
    "num_decode_seqs",
    "decode_context_tokens",
    "num_prefill_seqs",
    "num_prefill_tokens",
    "num_running",
    "num_preempted",
    "filled_slots",
    "filled_slots_per_step",
    "promised_slots",
    "saved_blocks",
    "draft_ns",
    "num_swapped_out_blocks",
    "num_swapped_in_blocks",
    "num_copied_blocks",
)
SEQUENCE_FIELDS = (
    "request_id",
    "sample",
    "replica",
    "arrival_ns",
    "num_samples",
    "priority",
    "prompt_tokens",
    "output_tokens",
    "finish_ns",
    "finish_reason",
    "was_scheduled",
    "first_scheduled_step",
    "prefix_hit_tokens",
    "num_runs",
)
FINISH_REASONS = (
    FinishReason.LENGTH,
    FinishReason.STOP,
    FinishReason.LENGTH_CAPPED,
    FinishReason.ABORT,
    FinishReason.REJECTED,
)
"""Logged by their place here; a request's is the last of these that one of its samples has."""
_REASON_CODE = {reason.value: place for place, reason in enumerate(FINISH_REASONS)}
PREEMPTION_FIELDS = ("sequence_row", "preempted_step", "was_resumed", "resumed_step")


@mypyc_attr(native_class=False)
@dataclass(slots=True)
class ReplicaLog:
    """Plans and steps of one replica, in order."""

    plans: array[int]
    """Rows of `PLAN_FIELDS`."""
    step_ends_ns: array[int]
    """End of each step, from its plan's start."""
    used_blocks: array[int]
    """Blocks held during each step."""

    @classmethod
    def empty(cls) -> ReplicaLog:
        """A log of a replica that has not run."""
        return cls(array("q"), array("q"), array("i"))

    def note_plan(
        self, plan: StepPlan, start_ns: int, ends_ns: list[int], outcome: StepOutcome, draft_ns: int = 0
    ) -> None:
        """Add a plan of which `len(ends_ns)` steps happened."""
        chunks = plan.chunks
        self.plans.extend(
            (
                start_ns,
                len(ends_ns),
                plan.num_decode_seqs,
                plan.decode_context_tokens,
                len(chunks),
                plan.num_prefill_tokens if chunks else 0,
                plan.num_running,
                len(plan.preempted),
                outcome.filled_slots,
                outcome.filled_slots_per_step,
                outcome.promised_slots,
                outcome.saved_blocks,
                draft_ns,
                len(plan.blocks_to_swap_out),
                len(plan.blocks_to_swap_in),
                len(plan.blocks_to_copy),
            )
        )
        self.step_ends_ns.fromlist(ends_ns)
        self.used_blocks.fromlist(outcome.used_blocks)


@mypyc_attr(allow_interpreted_subclasses=True)
class Recorder:
    """Logs of all replicas, and one row for each sequence that has ended."""

    __slots__ = ("num_sequences", "preemptions", "replicas", "runs", "sequences")

    def __init__(self, num_replicas: int) -> None:
        self.replicas = [ReplicaLog.empty() for _ in range(num_replicas)]
        self.sequences = array("q")
        """Rows of `SEQUENCE_FIELDS`."""
        self.runs = array("q")
        """(first step, steps, tokens a step) of each run of each sequence."""
        self.preemptions = array("q")
        """Rows of `PREEMPTION_FIELDS`."""
        self.num_sequences = 0

    def note_end(self, seq: Sequence, replica: int, now_ns: int) -> None:
        """Add a sequence that has ended."""
        request, reason, first_step, runs = seq.request, seq.finish_reason, seq.first_scheduled_step, seq.runs
        assert reason is not None, f"{seq!r} has not ended"
        self.sequences.extend(
            (
                request.request_id,
                seq.sample,
                replica,
                request.arrival_ns,
                request.num_samples,
                request.priority,
                request.num_prompt_tokens,
                seq.num_known - request.num_prompt_tokens,
                now_ns,
                _REASON_CODE[reason.value],
                first_step is not None,
                first_step or 0,
                seq.num_prefix_hit_tokens,
                len(runs),
            )
        )
        for run in runs:
            self.runs.extend(run)
        for preempted, resumed in seq.preemptions:
            self.preemptions.extend((self.num_sequences, preempted, resumed is not None, resumed or 0))
        self.num_sequences += 1

    def note_refused(self, request: Request, replica: int, now_ns: int) -> None:
        """Add the samples of a request that was refused at once."""
        code, prompt_tokens = _REASON_CODE[FinishReason.REJECTED.value], request.num_prompt_tokens
        who = (replica, request.arrival_ns, request.num_samples, request.priority, prompt_tokens)
        for sample in range(request.num_samples):
            self.sequences.extend((request.request_id, sample, *who, 0, now_ns, code, 0, 0, 0, 0))
            self.num_sequences += 1
