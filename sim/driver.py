"""`Replica`: lets simulated time pass around one `EngineCore`.

    plan = begin_step  ->  result = execute  ->  one wait for all the plan's steps  ->  finish_step  ->  again

A plan may stand for many steps. A submission that could join the next one, or a client that gives up,
cuts the wait: the step under way still completes, the rest never happen.

Order of events at one instant: first whatever arrives or gives up, in the order in which it was
scheduled; then the replicas, by their number, each ending its step and beginning the next. So an arrival
at the very end of a step is in time for the next step, and results do not depend on how many steps a
plan stood for.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Generator
from typing import Any

import simpy

from sim.core.engine import EngineCore, SubmitStatus
from sim.core.request import Request, Sequence
from sim.core.step import Executor, StepPlan
from sim.recorder import ReplicaLog

Wait = Generator[simpy.Event, Any, None]
_AFTER_ALL_ARRIVALS = 2
"""Priority of replica 0's events: SimPy's own are 0 (urgent) and 1 (normal)."""


class SimulationError(RuntimeError):
    """The simulation broke one of its own rules; a bug here or in a cost model, not bad input."""


class _Turn(simpy.Event):
    """A replica's turn at some later instant, after all arrivals of that instant."""

    def __init__(self, env: simpy.Environment, delay_ns: int, priority: int) -> None:
        super().__init__(env)
        self._ok = True
        self._value = None
        env.schedule(self, priority=priority, delay=delay_ns)  # type: ignore[arg-type]


class Replica:
    """One engine core, its executor, and the process that steps it."""

    def __init__(
        self,
        env: simpy.Environment,
        number: int,
        core: EngineCore,
        executor: Executor,
        log: ReplicaLog,
        on_end: Callable[[Sequence, int], None],
    ) -> None:
        self.core = core
        self.number = number
        self._env = env
        self._executor = executor
        self._log = log
        self._on_end = on_end
        """Called with each sequence that has ended, and this replica's number."""
        self._priority = _AFTER_ALL_ARRIVALS + number
        self._plan_start_ns = 0
        self._ends_ns: list[int] = []
        """Ends of the steps of the plan under way that will happen; empty while there is none."""
        self._idle: simpy.Event | None = None
        self._has_alarm = False
        self._giving_up: list[int] = []
        self._process = env.process(self.steps())

    def submit(self, request: Request) -> bool:
        """Queue a request that arrives now; False if it can never fit and is refused."""
        status = self.core.submit(request)
        if status is SubmitStatus.NEXT_STEP:
            self._call()
        return status is not SubmitStatus.REJECTED

    def give_up(self, request_id: int) -> None:
        """The client no longer wants this request: it leaves when the step under way ends."""
        self._giving_up.append(request_id)
        self._call()

    def steps(self) -> Wait:
        """Step for ever; sleep while there is nothing to compute."""
        env, core, execute = self._env, self.core, self._executor.execute
        while True:
            self._apply_give_ups()
            plan = core.begin_step(env.now)  # type: ignore[arg-type]
            if plan is None:
                yield from self._sleep()
                continue
            result = execute(plan)
            yield from self._let_pass(plan, result.ends_ns)
            ends_ns, self._ends_ns = self._ends_ns, []
            outcome = core.finish_step(plan, result, len(ends_ns))
            self._log.note_plan(plan, self._plan_start_ns, ends_ns, outcome)
            for seq in outcome.finished:
                self._on_end(seq, self.number)

    def _let_pass(self, plan: StepPlan, ends_ns: list[int]) -> Wait:
        """Wait for the plan's steps, or for those that are left once somebody calls."""
        _check_ends(plan, ends_ns)
        self._ends_ns = ends_ns
        self._plan_start_ns = start_ns = self._env.now  # type: ignore[assignment]
        try:
            yield _Turn(self._env, ends_ns[-1], self._priority)
        except simpy.Interrupt:
            rest_ns = start_ns + self._ends_ns[-1] - self._env.now
            yield _Turn(self._env, rest_ns, self._priority)  # type: ignore[arg-type]

    def _sleep(self) -> Wait:
        """Wait until somebody calls, or until time alone allows a step."""
        wake_ns = self.core.next_wake_ns
        self._has_alarm = wake_ns is not None
        if wake_ns is None:
            self._idle = simpy.Event(self._env)
        else:
            self._idle = _Turn(self._env, wake_ns - self._env.now, self._priority)  # type: ignore[arg-type]
        try:
            yield self._idle
        except simpy.Interrupt:
            yield _Turn(self._env, 0, self._priority)
        self._idle = None

    def _call(self) -> None:
        """Have the process look at its queue after the step under way, or at this instant's end if it sleeps."""
        if self._ends_ns:
            passed_ns = self._env.now - self._plan_start_ns
            num_steps = bisect_left(self._ends_ns, passed_ns) + 1
            if num_steps < len(self._ends_ns):
                self._ends_ns = self._ends_ns[:num_steps]
                self._process.interrupt()
        elif self._idle is not None:
            idle, self._idle = self._idle, None
            if self._has_alarm:
                self._process.interrupt()
            else:
                idle._ok, idle._value = True, None
                self._env.schedule(idle, priority=self._priority)  # type: ignore[arg-type]

    def _apply_give_ups(self) -> None:
        while self._giving_up:
            for seq in self.core.abort(self._giving_up.pop(0)):
                self._on_end(seq, self.number)


def _check_ends(plan: StepPlan, ends_ns: list[int]) -> None:
    """A step that takes no time, or a NaN, would stop the clock for everybody."""
    if len(ends_ns) != plan.horizon or not 0 < ends_ns[0] <= ends_ns[-1]:
        raise SimulationError(
            f"the cost model gave {len(ends_ns)} step ends (first {ends_ns[:1]}, last {ends_ns[-1:]}) "
            f"for a plan of {plan.horizon} steps; each must be a positive, ascending number of nanoseconds"
        )
