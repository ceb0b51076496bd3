"""What an engine decided, plan by plan, in a form that two bodies can be compared by: `plans.jsonl`.

    {"step": 7, "replica": 0, "rows": [[request, sample, kind, tokens, computed, drafts, [new blocks]], ...],
     "preempted": [[request, sample], ...], "swap_out": [[from, to], ...], "swap_in": ..., "copy": ...,
     "beams": [[request, parent's sample, child's sample], ...],
     "accepted": [[request, sample, drafts kept], ...]}

One line for each plan; plans must name every sequence (`PlanDetail.SEQUENCES`). Refuses to judge.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from sim.core.request import Sequence
from sim.core.step import BlockCopy, Executor, StepPlan, StepResult

PlanFacts = dict[str, Any]


class PlanLog:
    """Carries plans out by another executor, and writes down what was decided."""

    __slots__ = ("_executor", "_replica", "plans")

    def __init__(self, executor: Executor, plans: list[PlanFacts], replica: int = 0) -> None:
        self._executor = executor
        self._replica = replica
        self.plans = plans

    def execute(self, plan: StepPlan) -> StepResult:
        """See `sim.core.step.Executor`."""
        result = self._executor.execute(plan)
        self.plans.append(plan_facts(plan, result, self._replica))
        return result


def plan_facts(plan: StepPlan, result: StepResult, replica: int = 0) -> PlanFacts:
    """A plan and what was kept of its drafts, as plain data."""
    return {
        "step": plan.step,
        "replica": replica,
        "rows": [
            [
                *_name(row.seq),
                row.kind.value,
                row.num_tokens,
                row.num_computed_tokens,
                row.num_draft_tokens,
                list(row.new_blocks),
            ]
            for row in plan.rows
        ],
        "preempted": [_name(seq) for seq in plan.preempted],
        "swap_out": _moves(plan.blocks_to_swap_out),
        "swap_in": _moves(plan.blocks_to_swap_in),
        "copy": _moves(plan.blocks_to_copy),
        "beams": [
            [int(request), fork.parent.sample, fork.child.sample]
            for request, forks in sorted(result.beams.items())
            for fork in forks
        ],
        "accepted": [
            [*_name(row.seq), result.num_accepted[row.seq.seq_id]]
            for row in plan.rows
            if row.seq.seq_id in result.num_accepted
        ],
    }


def dump_plans(plans: Iterable[PlanFacts]) -> str:
    """Plans as text, one a line."""
    return "".join(json.dumps(plan, separators=(",", ":")) + "\n" for plan in plans)


def _name(seq: Sequence) -> list[int]:
    return [int(seq.request.request_id), seq.sample]


def _moves(moves: Iterable[BlockCopy]) -> list[list[int]]:
    return [[move.src, move.dst] for move in moves]
