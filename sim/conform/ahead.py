"""`AheadReplay`: a recorded run, replayed as a simulation runs: decoding sequences as one, many steps ahead.

The plain replay looks at each sequence in each step. Here the core plans with its steady batch, and a plan
stands for as many steps as it says, unless the recording lets somebody in who may join, or gives somebody up.
Then each of these steps is told in the trace's words, from the plan, the block tables and the outcome; the
free queue and the number of blocks with content are known where a plan ends, and not before.

Refuses recordings whose scheduler knows no steady batch: there the plain way is the only one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sim.conform.front import Front
from sim.conform.recorded_trace import Fields, RecordedTrace
from sim.conform.steps import FREE_HEAD_LENGTH, RECORDED_REASONS
from sim.core.request import Sequence
from sim.core.step import StepOutcome, StepPlan, StepResult

_ONE_STEP = StepResult([1])


def can_plan_ahead(trace: RecordedTrace) -> bool:
    """Whether this recording's scheduler may decode steadily."""
    config = trace.config
    return not (trace.is_v0 or config["async_scheduling"] or config["num_spec_tokens"])


@dataclass(frozen=True, slots=True)
class _Member:
    """A sequence that decodes steadily: what it computes in which step follows from this."""

    name: str
    base_step: int
    table: list[int]

    def num_computed(self, step: int) -> int:
        """Tokens computed before a step."""
        return step - self.base_step


class AheadReplay:
    """Feeds a trace's inputs to a core that plans ahead, and tells each step of each plan."""

    def __init__(self, trace: RecordedTrace) -> None:
        self._front = Front(trace, plans_ahead=True)
        self._core = self._front.core
        self._schedules = [event for event in trace.events if event["ev"] == "schedule"]
        self._place_of = {event["step"]: place for place, event in enumerate(self._schedules)}
        self._num_met = 0
        """Schedules whose arrivals have been submitted."""
        self._told: dict[tuple[str, int], Fields] = {}
        self.longest_plan = 0
        """Most steps that one plan stood for."""

    def apply(self, event: Mapping[str, Any]) -> Fields:
        """What the core did in this step; a step that no plan has reached yet begins one."""
        key = event["ev"], event["step"]
        if event["ev"] == "schedule" and key not in self._told:
            self._plan_from(self._place_of[event["step"]])
        return self._told.pop(key)

    def _plan_from(self, place: int) -> None:
        self._meet(place)
        self._front.abort(self._schedules[place])
        plan = self._core.begin_step(self._schedules[place]["step"])
        running = [self._front.name(seq) for seq in self._core.running]
        waiting = [self._waiting()]
        if plan is None:
            self._tell_idle(self._schedules[place]["step"], running, waiting[0])
            return
        steady = [
            _Member(self._front.name(seq), seq.base_step, seq.table)
            for seq in self._core.running
            if seq.in_steady_batch
        ]
        known = {row.seq: row.seq.num_known for row in plan.rows}
        while len(waiting) < plan.horizon and not self._is_cut(place + len(waiting)):
            waiting.append(self._waiting())
        outcome = self._core.finish_step(plan, _ONE_STEP, len(waiting))
        self.longest_plan = max(self.longest_plan, len(waiting))
        for ahead, those in enumerate(waiting):
            step = self._schedules[place + ahead]["step"]
            self._told["schedule", step] = self._schedule(plan, ahead, steady, outcome) | {
                "running": running,
                "waiting": those,
            }
            self._told["update", step] = self._update(plan, ahead, steady, outcome, known)
        self._told["update", step] |= self._end(outcome)

    def _meet(self, place: int) -> bool:
        """Submit who arrives before a schedule, once; True if any of them may join it."""
        if place < self._num_met:
            return False
        self._num_met = place + 1
        return self._front.submit(self._schedules[place])

    def _is_cut(self, place: int) -> bool:
        """Whether the plan under way ends before this schedule."""
        if place == len(self._schedules) or self._schedules[place].get("aborted"):
            return True
        return self._meet(place)

    def _waiting(self) -> list[str]:
        return [self._front.name(seq) for seq in self._core.waiting]

    def _schedule(self, plan: StepPlan, ahead: int, steady: list[_Member], outcome: StepOutcome) -> Fields:
        step, size = plan.step + ahead, self._core.config.cache.block_size
        computed = [member.num_computed(step) for member in steady]
        rows = plan.rows if ahead == 0 else ()
        return {
            "sched": [[member.name, "running", 1] for member in steady]
            + [[self._front.name(row.seq), row.kind.value, row.num_tokens] for row in rows],
            "prefix_hits": computed + [row.num_computed_tokens for row in rows],
            "blocks": [
                [] if count % size else [member.table[count // size]]
                for member, count in zip(steady, computed, strict=True)
            ]
            + [row.new_blocks for row in rows],
            "tokens": len(steady) + sum(row.num_tokens for row in rows),
            "spec": {},
            "preempted": [self._front.name(seq) for seq in plan.preempted] if ahead == 0 else [],
            "free": self._core.num_blocks - outcome.used_blocks[ahead],
        }

    def _update(
        self,
        plan: StepPlan,
        ahead: int,
        steady: list[_Member],
        outcome: StepOutcome,
        known: Mapping[Sequence, int],
    ) -> Fields:
        out = {member.name: 1 for member in steady}
        if ahead == 0:
            new = {self._front.name(seq): seq.num_known - before for seq, before in known.items()}
            out |= {name: count for name, count in new.items() if count}
        free = self._core.num_blocks - outcome.used_blocks[ahead]
        return {"out": out, "num_out": len(out), "finished": [], "free": free}

    def _end(self, outcome: StepOutcome | None) -> Fields:
        """What is known where a plan ends."""
        finished = outcome.finished if outcome is not None else []
        return {
            "finished": [
                [self._front.name(seq), RECORDED_REASONS[seq.finish_reason]]
                for seq in finished
                if seq.finish_reason is not None
            ],
            "free": self._core.num_free_blocks,
            "cached_blocks": self._core.num_cached_blocks,
            "free_head": self._core.free_head(FREE_HEAD_LENGTH),
        }

    def _tell_idle(self, step: int, running: list[str], waiting: list[str]) -> None:
        nothing: Fields = {"sched": [], "prefix_hits": [], "blocks": [], "tokens": 0, "spec": {}}
        queues = {"preempted": [], "running": running, "waiting": waiting}
        self._told["schedule", step] = nothing | queues | {"free": self._core.num_free_blocks}
        self._told["update", step] = {"out": {}, "num_out": 0} | self._end(None)
