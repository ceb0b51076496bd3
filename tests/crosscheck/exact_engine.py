"""An engine whose steps take exactly what a cost model says: what a cross-check finds of it is no noise.

The truth is a plain formula, part by part, so that each part can be lied about:

    model    6 ms a step + 100 us a token + 1 us a token attended to
    move     1 ms a block swapped, 5 us a block copied         schedule    50 us a step
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import simpy

from sim.config import load_experiment
from sim.core.engine import EngineConfig, EngineCore, PlanDetail
from sim.core.step import Executor, StepPlan, StepResult
from sim.cost.fixed import FixedCost
from sim.crosscheck.parts import PartCosts, StepParts
from sim.crosscheck.run import Replayed, Times
from sim.experiment import Experiment
from sim.fleet.cluster import Cluster
from sim.fleet.driver import Timeline
from sim.record.builder import build_record
from sim.record.plan_log import PlanFacts, PlanLog
from sim.simulation import experiment_cost, experiment_draft_cost
from sim.speculation.acceptance import Constant
from sim.speculation.speculator import DraftCounter, SpeculationCost, Speculator
from workloads.spec import Workload

US = 1_000


@dataclass(frozen=True, slots=True)
class Formula:
    """Step times; a `CalibratedTimes`."""

    per_step_ns: int = 6_000 * US
    per_token_ns: int = 100 * US
    per_attended_ns: float = 1.0 * US
    decide_ns: int = 50 * US

    def schedule_ns(self, plan: StepPlan) -> int:
        del plan
        return self.decide_ns

    def model_ends_ns(self, plan: StepPlan) -> list[int]:
        attended = sum(
            row.num_tokens * (row.num_computed_tokens + (row.num_tokens + 1) / 2) for row in plan.rows
        )
        tokens = sum(row.num_tokens for row in plan.rows)
        return [round(self.per_step_ns + self.per_token_ns * tokens + self.per_attended_ns * attended)]

    def step_ends_ns(self, plan: StepPlan) -> list[int]:
        return [end + self.decide_ns for end in self.model_ends_ns(plan)]


@dataclass(frozen=True, slots=True)
class Moves:
    """Times of moving blocks; a `MoveTimes`."""

    per_swapped_ns: int = 1_000 * US
    per_copied_ns: int = 5 * US

    def host_ns(self, num_blocks: int) -> int:
        return self.per_swapped_ns * num_blocks

    def device_ns(self, num_blocks: int) -> int:
        return self.per_copied_ns * num_blocks


TRUTH, MOVES, DRAFT = Formula(), Moves(), FixedCost(200 * US)


class ExactEngine:
    """Replays in simulated time, by the truth; a `sim.crosscheck.run.Engine`.

    `core_of` makes its brain, `times` is what the simulation is told.
    """

    def __init__(
        self,
        experiment: Experiment,
        times: Times,
        core_of: Callable[[EngineConfig], EngineCore] = EngineCore,
    ) -> None:
        self.experiment = experiment
        self.times = times
        self.core_of = core_of

    def __call__(self, workload: Workload) -> Replayed:
        body = _ExactBody(self)
        config = device_config(self.experiment)
        cluster = Cluster(workload, config, body, self.experiment.cluster)
        cluster.run()
        return Replayed(
            build_record(cluster.recorder, cluster.cores, 0.0),
            body.plans,
            body.parts,
            {name: tuple(kept) for name, kept in body.accepted.items()},
            self.times,
            {"replay": {"device": "a formula"}},
        )


class _ExactBody:
    def __init__(self, engine: ExactEngine) -> None:
        self._engine = engine
        self._num_replicas = 0
        self.plans: list[PlanFacts] = []
        self.parts: list[StepParts] = []
        self.accepted: dict[tuple[int, int], list[int]] = {}

    @property
    def traffic(self) -> None:
        return None

    def clock(self) -> simpy.Environment:
        return simpy.Environment()

    def core(self, config: EngineConfig) -> EngineCore:
        return self._engine.core_of(config)

    def executor(self, core: EngineCore, timeline: Timeline) -> Executor:
        number, self._num_replicas = self._num_replicas, self._num_replicas + 1
        return PlanLog(_ExactExecutor(self, self._engine.experiment), self.plans, number)


class _ExactExecutor:
    def __init__(self, body: _ExactBody, experiment: Experiment) -> None:
        self._body = body
        speculation = experiment.speculation
        self._speculator: Speculator | None = None
        drafting = None
        if speculation is not None:
            law = replace(speculation, acceptance=Constant(0.6))
            by = SpeculationCost(speculation, experiment_cost(experiment), experiment_draft_cost(experiment))
            self._speculator = Speculator(law, TRUTH, DRAFT, DraftCounter(speculation, by))
            drafting = SpeculationCost(law, TRUTH, DRAFT)
        self._costs = PartCosts(TRUTH, MOVES, drafting)

    def execute(self, plan: StepPlan) -> StepResult:
        result, num_drafts = StepResult([1]), 0
        if self._speculator is not None:
            speculated = self._speculator.speculate(plan)
            num_drafts = max(speculated.num_drafts.values(), default=0)
            result = result._replace(num_accepted=speculated.num_accepted, num_drafts=speculated.num_drafts)
            for row in plan.rows:
                if row.num_draft_tokens and row.kind.value == "running":
                    name = int(row.seq.request.request_id), row.seq.sample
                    self._body.accepted.setdefault(name, []).append(speculated.num_accepted[row.seq.seq_id])
        parts = self._costs.parts(plan, result, num_drafts)
        self._body.parts.append(parts)
        return result._replace(ends_ns=[parts.total_ns], draft_ns=parts.draft_ns)


def device_config(experiment: Experiment) -> EngineConfig:
    """The experiment's engine, a step a plan, all sequences named."""
    return replace(experiment.engine, max_horizon=1, detail=PlanDetail.SEQUENCES)


def load(name: str, *overrides: str) -> Experiment:
    """One of the committed cross-checks, with a single repeat."""
    from pathlib import Path

    path = Path(__file__).parents[2] / "configs" / "crosscheck" / f"{name}.yaml"
    return load_experiment(path, ["crosscheck.repeats=1", *overrides])


def truthful(experiment: Experiment) -> Times:
    """What an honest calibration would say."""
    return Times(TRUTH, DRAFT if experiment.speculation is not None else None, MOVES)


def as_json(found: Any) -> Any:
    """Through JSON and back."""
    import json

    return json.loads(json.dumps(found))
