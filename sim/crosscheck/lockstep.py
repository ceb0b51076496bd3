"""Simulating a replay step by step: each step ends when the replay's did, so both see the same arrivals.

What is left to differ is what was decided. What the engine alone could know is taken from its record:
how long each step took, how many drafts were kept, which beams changed parents. On the way a cost model
is asked about every step, part by part: that is where the error of a simulation in time comes from.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from sim.core.engine import EngineConfig, EngineCore
from sim.core.group import VictimCost
from sim.core.request import RequestId
from sim.core.request import Sequence as EngineSequence
from sim.core.step import BeamFork, StepPlan, StepResult
from sim.cost.host_traffic import HostTraffic
from sim.crosscheck.parts import PartCosts, StepParts
from sim.fleet.clocks import Time, simulated_time
from sim.fleet.driver import Timeline
from sim.record.plan_log import PlanFacts, plan_facts
from sim.speculation.speculator import Speculator


class ReplayEndedError(RuntimeError):
    """The simulator wants a step that the replay never did."""


class ReplayedStep(NamedTuple):
    """What the replay recorded of one step."""

    parts: StepParts
    facts: PlanFacts


@dataclass(slots=True)
class Lockstep:
    """The body of a simulation in lockstep; implements `sim.fleet.cluster.Body`.

    Attributes:
        steps: Of each replica, in order.
        make_speculator: Makes one for each replica, which answers with what was recorded; its own times are
            not used.
        costs: Asked for its opinion of every step; None: nobody is asked.
        plans: What was decided, in the order in which it was.
        predicted: What `costs` said of each of these.
    """

    steps: Sequence[Sequence[ReplayedStep]]
    victim_cost: VictimCost | None = None
    make_speculator: Callable[[], Speculator] | None = None
    costs: PartCosts | None = None
    plans: list[PlanFacts] = field(default_factory=list)
    predicted: list[StepParts] = field(default_factory=list)
    kinds: list[str] = field(default_factory=list)
    _num_replicas: int = 0

    @property
    def traffic(self) -> HostTraffic | None:
        """None: moves are part of the recorded steps."""
        return None

    def clock(self) -> Time:
        """Simulated time."""
        return simulated_time()

    def core(self, config: EngineConfig) -> EngineCore:
        """A brain as the replay's was."""
        return EngineCore(config, self.victim_cost)

    def executor(self, core: EngineCore, timeline: Timeline) -> LockstepExecutor:
        """Answers with the next replica's record."""
        number, self._num_replicas = self._num_replicas, self._num_replicas + 1
        return LockstepExecutor(self, self.steps[number], number)


class LockstepExecutor:
    """One replica in lockstep."""

    def __init__(self, body: Lockstep, steps: Sequence[ReplayedStep], replica: int) -> None:
        self._body = body
        self._steps = steps
        self._replica = replica
        self._next = 0
        self._speculator = body.make_speculator() if body.make_speculator is not None else None

    def execute(self, plan: StepPlan) -> StepResult:
        """See `sim.core.step.Executor`.

        Raises:
            ReplayEndedError: The replay has no further step.
        """
        body = self._body
        if self._next >= len(self._steps):
            raise ReplayEndedError
        step = self._steps[self._next]
        self._next += 1
        result = StepResult([step.parts.total_ns], draft_ns=step.parts.draft_ns)
        num_drafts = 0
        if self._speculator is not None:
            speculated = self._speculator.speculate(plan)
            num_drafts = max(speculated.num_drafts.values(), default=0)
            result = result._replace(num_accepted=speculated.num_accepted, num_drafts=speculated.num_drafts)
        if step.facts["beams"]:
            result = result._replace(beams=_forks(plan, step.facts["beams"]))
        body.plans.append(plan_facts(plan, result, self._replica))
        if body.costs is not None:
            body.predicted.append(body.costs.parts(plan, result, num_drafts))
            body.kinds.append(step_kind(plan))
        return result


def step_kind(plan: StepPlan) -> str:
    """What a step is: `prefill` if it computes prompts, else `verify` if drafts, else `decode`."""
    if any(not row.num_draft_tokens for row in plan.chunks):
        return "prefill"
    return "verify" if plan.chunks else "decode"


def _forks(plan: StepPlan, recorded: Sequence[Sequence[int]]) -> dict[RequestId, tuple[BeamFork, ...]]:
    """Recorded changes of parents, of the sequences of this plan; those that are not in it are left out."""
    seqs: dict[tuple[int, int], EngineSequence] = {
        (int(row.seq.request.request_id), row.seq.sample): row.seq for row in plan.rows
    }
    forks: dict[RequestId, tuple[BeamFork, ...]] = {}
    for request, parent, child in recorded:
        if (request, parent) in seqs and (request, child) in seqs:
            key = RequestId(request)
            fork = BeamFork(seqs[request, parent], seqs[request, child])
            forks[key] = (*forks.get(key, ()), fork)
    return forks
