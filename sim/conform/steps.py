"""`StepReplay`: a recorded run of vLLM's V1 scheduler, replayed step by step and told in its own words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sim.conform.front import Front
from sim.conform.recorded_trace import Fields, RecordedTrace
from sim.core.request import FinishReason, SeqId
from sim.core.step import StepPlan, StepResult

FREE_HEAD_LENGTH = 16
RECORDED_REASONS = {
    FinishReason.LENGTH: "FINISHED_LENGTH_CAPPED",
    FinishReason.LENGTH_CAPPED: "FINISHED_LENGTH_CAPPED",
    FinishReason.STOP: "FINISHED_STOPPED",
    FinishReason.ABORT: "FINISHED_ABORTED",
}


class StepReplay:
    """Feeds a trace's inputs to a core and reports what the core did in the trace's own words."""

    def __init__(self, trace: RecordedTrace) -> None:
        self._trace = trace
        self._front = front = Front(trace, plans_ahead=False)
        self._core = front.core
        self._name = front.name
        self._plans: dict[int, StepPlan | None] = {}

    def apply(self, event: Mapping[str, Any]) -> Fields:
        """Make the core do what the event says happened."""
        if event["ev"] == "schedule":
            return self._schedule(event)
        return self._update(event["step"])

    def _schedule(self, event: Mapping[str, Any]) -> Fields:
        self._front.submit(event)
        self._front.abort(event)
        plan = self._core.begin_step(event["step"])
        self._plans[event["step"]] = plan
        rows = plan.rows if plan is not None else ()
        named = [(self._name(row.seq), row) for row in rows]
        return {
            "sched": [[name, row.kind.value, row.num_tokens] for name, row in named],
            "prefix_hits": [row.num_computed_tokens for row in rows],
            "blocks": [row.new_blocks for row in rows],
            "tokens": sum(row.num_tokens for row in rows),
            "spec": {name: row.num_draft_tokens for name, row in named if row.num_draft_tokens},
            "preempted": [self._name(seq) for seq in (plan.preempted if plan is not None else ())],
            "running": [self._name(seq) for seq in self._core.running],
            "waiting": [self._name(seq) for seq in self._core.waiting],
            "free": self._core.num_free_blocks,
        }

    def _update(self, step: int) -> Fields:
        plan = self._plans.pop(step)
        out: dict[str, int] = {}
        finished: list[list[str]] = []
        if plan is not None and plan.rows:
            before = {row.seq: row.seq.num_known for row in plan.rows}
            outcome = self._core.finish_step(plan, self._result(plan, step))
            out = {self._name(seq): seq.num_known - known for seq, known in before.items()}
            out = {name: count for name, count in out.items() if count}
            finished = [
                [self._name(seq), RECORDED_REASONS[seq.finish_reason]]
                for seq in outcome.finished
                if seq.finish_reason is not None
            ]
        return {
            "out": out,
            "num_out": len(out),
            "finished": finished,
            "free": self._core.num_free_blocks,
            "cached_blocks": self._core.num_cached_blocks,
            "free_head": self._core.free_head(FREE_HEAD_LENGTH),
        }

    def _result(self, plan: StepPlan, step: int) -> StepResult:
        """What the model gave: an input of the replay, like the drafts that were proposed next."""
        seq_of = {self._name(row.seq): SeqId(row.seq.seq_id) for row in plan.rows}
        accepted = {
            seq_id: self._trace.accepted[name, step]
            for name, seq_id in seq_of.items()
            if (name, step) in self._trace.accepted
        }
        proposed = self._trace.drafts.get(step, {})
        drafts = {seq_of[name]: count for name, count in proposed.items() if name in seq_of}
        return StepResult([1], num_accepted=accepted, num_drafts=drafts)
