"""SimPy: the order of events (`Timeline`) and the process that lets time pass around an engine (`Replica`).

    plan = begin_step  ->  result = execute  ->  one wait for all the plan's steps  ->  finish_step  ->  again

A plan may stand for many steps. A submission that could join the next one, or a client that gives up,
cuts the wait: the step under way still completes, the rest never happen.

At one instant things happen in this order, each kind in the order of the workload or of the replicas:

    1. requests whose own time has come     2. requests that waited for others to end
    3. clients that give up                 4. replicas: end a step, begin the next one

So an arrival at the very end of a step is in time for the next one, whatever number of steps a plan
stood for. What a replica's step end sets off at once (a next turn without delay) comes before the
replicas behind it, and after those before it: they have begun their next steps by then.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Any

import simpy
from simpy.events import EventPriority

from sim.core.engine import EngineCore, SubmitStatus
from sim.core.request import Request, Sequence
from sim.core.step import Executor, StepPlan, StepResult
from sim.cost.host_traffic import HostTraffic
from sim.fleet.links import HostLink
from sim.record.recorder import ReplicaLog
from workloads.errors import WorkloadError

Wait = Generator[simpy.Event, Any, None]
LAST_NS = 2**62
"""Times are 64-bit numbers; a bit is left for sums of two."""
_YEAR_NS = 365 * 86_400 * 10**9
_FIRST_PRIORITY = 2
"""SimPy's own are 0 (urgent) and 1 (normal: that of a timeout, which is what arrivals wait for)."""


class SimulationError(RuntimeError):
    """The simulation broke one of its own rules; a bug here or in a cost model, not bad input."""


class SimulationTooLongError(WorkloadError):
    """More time passes than 64 bits tell in nanoseconds: waiting, delays or step times are far too long."""


class Occurrence(simpy.Event):
    """An event that is sure to happen once it is scheduled."""

    def __init__(self, env: simpy.Environment) -> None:
        super().__init__(env)
        self._ok = True
        self._value = None


class Timeline:
    """Time in nanoseconds, simulated or real, and the order of what happens at one instant."""

    __slots__ = ("_num_requests", "_turn_instant_ns", "_turn_replica", "env")

    def __init__(self, num_requests: int, env: simpy.Environment | None = None) -> None:
        self.env = env or simpy.Environment()
        self._num_requests = num_requests
        self._turn_instant_ns = 0
        self._turn_replica = 0

    @property
    def now_ns(self) -> int:
        """Nanoseconds since the start."""
        return self.env.now  # type: ignore[return-value]  # whole numbers are all that is ever added

    def follow_up_priority(self, index: int) -> EventPriority:
        """Of a request that waited for others."""
        return EventPriority(_FIRST_PRIORITY + index)

    def give_up_priority(self, index: int) -> EventPriority:
        """Of a client that gives up."""
        return EventPriority(_FIRST_PRIORITY + self._num_requests + index)

    def turn_priority(self, replica: int) -> EventPriority:
        """Of a replica's turn."""
        return EventPriority(_FIRST_PRIORITY + 2 * self._num_requests + replica)

    def call(self, act: Callable[[], object], delay_ns: int, priority: EventPriority) -> None:
        """Do something later."""

        def happen(_: simpy.Event) -> None:
            act()

        occurrence = Occurrence(self.env)
        occurrence.callbacks = [happen]
        self.env.schedule(occurrence, priority, delay_ns)

    def refuse_late(self) -> None:
        """Nothing may happen when it cannot be told any more.

        Raises:
            SimulationTooLongError: It is too late.
        """
        if self.now_ns > LAST_NS:
            raise SimulationTooLongError(
                f"more than {LAST_NS // _YEAR_NS} years pass: waiting, delays or step times are far too long"
            )

    def take_turn(self, replica: int) -> None:
        """A replica has its turn now."""
        self.refuse_late()
        self._turn_instant_ns = self.now_ns
        self._turn_replica = replica

    def has_had_turn(self, replica: int) -> bool:
        """Whether a replica whose turn was due now has had it."""
        return self._turn_instant_ns == self.now_ns and replica <= self._turn_replica


@dataclass(frozen=True, slots=True)
class Engine:
    """What a replica drives, and where it writes what happened."""

    core: EngineCore
    executor: Executor
    log: ReplicaLog
    traffic: HostTraffic | None = None
    """How blocks travel to the host and back; None: in no time."""
    link: HostLink | None = None
    """What they travel over."""


class Replica:
    """One engine and the process that steps it."""

    __slots__ = (
        "_ends_ns",
        "_engine",
        "_giving_up",
        "_is_asleep",
        "_moved_ns",
        "_number",
        "_on_end",
        "_priority",
        "_start_ns",
        "_timeline",
        "_turn",
    )

    def __init__(
        self, number: int, engine: Engine, timeline: Timeline, on_end: Callable[[list[Sequence], int], None]
    ) -> None:
        self._number = number
        self._engine = engine
        self._timeline = timeline
        self._on_end = on_end
        """Called with sequences that have ended, and this replica's number."""
        self._priority = timeline.turn_priority(number)
        self._turn = Occurrence(timeline.env)
        """What the process waits for."""
        self._is_asleep = False
        self._start_ns = 0
        self._ends_ns: list[int] = []
        """Ends of the steps under way, from their start; those that a call has cut off are gone."""
        self._moved_ns = 0
        """How much of the step under way has passed while its blocks were moved."""
        self._giving_up: list[int] = []
        overlaps = engine.core.config.scheduler.async_scheduling
        timeline.env.process(self.overlapped_steps() if overlaps else self.steps())

    def submit(self, request: Request) -> bool:
        """Queue a request that arrives now; False if it can never fit and is refused."""
        status = self._engine.core.submit(request)
        if status is SubmitStatus.NEXT_STEP or (status is SubmitStatus.QUEUED and self._is_asleep):
            self._call()
        return status is not SubmitStatus.REJECTED

    def give_up(self, request_id: int) -> None:
        """The client no longer wants this request: it leaves when the step under way ends."""
        self._giving_up.append(request_id)
        self._call()

    def steps(self) -> Wait:
        """Step for ever; sleep while there is nothing to compute."""
        execute = self._engine.executor.execute
        while True:
            plan = self._plan()
            if plan is None:
                yield self._until_called()
                self._wake_up()
            else:
                result = execute(plan)
                if plan.blocks_to_swap_out or plan.blocks_to_swap_in:
                    yield from self._move_blocks(plan, result.ends_ns)
                yield self._until_done(plan, result.ends_ns)
                self._finish(plan, result)

    def overlapped_steps(self) -> Wait:
        """The same with asynchronous scheduling: a step is planned when the one before it begins."""
        execute = self._engine.executor.execute
        plan = None
        while True:
            if plan is None:
                plan = self._plan()
            if plan is None:
                yield self._until_called()
                self._wake_up()
            else:
                result = execute(plan)
                upcoming = self._plan()
                if plan.blocks_to_swap_out or plan.blocks_to_swap_in:
                    yield from self._move_blocks(plan, result.ends_ns)
                yield self._until_done(plan, result.ends_ns)
                self._finish(plan, result)
                plan = upcoming

    def _plan(self) -> StepPlan | None:
        """The next step; none where it would only be one more round of a circle that leads nowhere."""
        core = self._engine.core
        return None if core.is_circling else core.begin_step(self._timeline.now_ns)

    def _finish(self, plan: StepPlan, result: StepResult) -> None:
        """The steps that were waited for have ended."""
        number, engine = self._number, self._engine
        self._timeline.take_turn(number)
        ends_ns, self._ends_ns = self._ends_ns, []
        outcome = engine.core.finish_step(plan, result, len(ends_ns))
        engine.log.note_plan(plan, self._start_ns, ends_ns, outcome, result.draft_ns)
        if outcome.finished:
            self._on_end(outcome.finished, number)
        if self._giving_up:
            self._let_go()

    def _move_blocks(self, plan: StepPlan, ends_ns: list[int]) -> Wait:
        """Let the plan's blocks travel over the link; its one step ends later for it."""
        traffic, link, start_ns = self._engine.traffic, self._engine.link, self._timeline.now_ns
        if traffic is None or link is None:
            return
        num_blocks = len(plan.blocks_to_swap_out) + len(plan.blocks_to_swap_in)
        yield from link.transfer(traffic.moves.host_ns(num_blocks))
        self._moved_ns = moved_ns = self._timeline.now_ns - start_ns
        (end_ns,) = ends_ns
        ends_ns[0] = max(end_ns, moved_ns) if traffic.overlaps else end_ns + moved_ns

    def _wake_up(self) -> None:
        self._is_asleep = False
        self._timeline.take_turn(self._number)
        if self._giving_up:
            self._let_go()

    def _until_done(self, plan: StepPlan, ends_ns: list[int]) -> simpy.Event:
        """The end of all steps of a plan, or of fewer if somebody calls."""
        if len(ends_ns) != plan.horizon or not 0 < ends_ns[0] <= ends_ns[-1]:
            raise SimulationError(
                f"the cost model gave {len(ends_ns)} step ends (first {ends_ns[:1]}, last {ends_ns[-1:]}) "
                f"for {plan.horizon} steps; each must be a positive, ascending number of nanoseconds"
            )
        moved_ns, self._moved_ns = self._moved_ns, 0
        self._ends_ns = ends_ns
        self._start_ns = self._timeline.now_ns - moved_ns
        return self._arm(ends_ns[-1] - moved_ns)

    def _until_called(self) -> simpy.Event:
        """The moment when somebody calls, or when time alone allows a step."""
        self._is_asleep = True
        wake_ns = self._engine.core.next_wake_ns
        if wake_ns is None:
            self._turn = Occurrence(self._timeline.env)
            return self._turn
        delay_ns = wake_ns - self._timeline.now_ns
        if delay_ns <= 0:
            raise SimulationError(f"replica {self._number} should have begun a batch at {wake_ns} ns")
        return self._arm(delay_ns)

    def _arm(self, delay_ns: int) -> simpy.Event:
        """This replica's turn, some time from now."""
        env = self._timeline.env
        self._turn = turn = Occurrence(env)
        env.schedule(turn, self._priority, delay_ns)
        return turn

    def _call(self) -> None:
        """Have the process look around after the step under way, or at this instant if it sleeps."""
        if self._is_asleep:
            self._is_asleep = False
            self._hasten(0)
        elif len(self._ends_ns) > 1:
            passed_ns = self._timeline.now_ns - self._start_ns
            # A step that ends now is still under way until the replica has had its turn.
            search = bisect_right if self._timeline.has_had_turn(self._number) else bisect_left
            num_steps = search(self._ends_ns, passed_ns) + 1
            if num_steps < len(self._ends_ns):
                self._ends_ns = self._ends_ns[:num_steps]
                self._hasten(self._ends_ns[-1] - passed_ns)

    def _hasten(self, delay_ns: int) -> None:
        """Let what the process waits for happen earlier; the old occurrence will find nobody waiting."""
        waiting, self._turn.callbacks = self._turn.callbacks, []
        self._arm(delay_ns).callbacks = waiting

    def _let_go(self) -> None:
        """Clients gave up during the step: end their requests."""
        giving_up, self._giving_up = self._giving_up, []
        for request_id in giving_up:
            self._on_end(self._engine.core.abort(request_id), self._number)
