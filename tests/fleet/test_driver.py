"""The process around an engine, with an engine that does as it is told and notes who called it when."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sim.core.engine import EngineCore, SubmitStatus
from sim.core.request import Request, Sequence
from sim.core.step import StepOutcome, StepPlan, StepResult
from sim.fleet.driver import Engine, Replica, SimulationError, Timeline
from sim.record.recorder import ReplicaLog

Entry = tuple[object, ...]


@dataclass
class ScriptedCore:
    """Runs plans of the given horizons one after the other; a submission may join the next step or not."""

    timeline: Timeline
    horizons: list[int] = field(default_factory=list)
    status: SubmitStatus = SubmitStatus.NEXT_STEP
    wakes_ns: list[int] = field(default_factory=list)
    name: int = 0
    log: list[Entry] = field(default_factory=list)
    is_asynchronous: bool = False
    has_work: bool = False
    is_circling: bool = False

    @property
    def config(self) -> SimpleNamespace:
        return SimpleNamespace(scheduler=SimpleNamespace(async_scheduling=self.is_asynchronous))

    @property
    def next_wake_ns(self) -> int | None:
        return self.wakes_ns[0] if self.wakes_ns else None

    def note(self, *what: object) -> None:
        self.log.append((self.timeline.now_ns, self.name, *what))

    def submit(self, request: Request) -> SubmitStatus:
        self.note("submit", request.request_id)
        self.has_work = True
        return self.status

    def abort(self, request_id: int) -> list[Sequence]:
        self.note("abort", request_id)
        return []

    def begin_step(self, now_ns: int) -> StepPlan | None:
        if self.wakes_ns and self.wakes_ns[0] == now_ns:
            self.wakes_ns.pop(0)
            self.has_work = True
        if not (self.has_work and self.horizons):
            self.note("nothing")
            return None
        horizon = self.horizons.pop(0)
        self.note("begin", horizon)
        return StepPlan(len(self.log), horizon, 1, 1, (), (), 1, (), 1)

    def finish_step(self, plan: StepPlan, result: StepResult, num_steps: int) -> StepOutcome:
        self.note("finish", num_steps)
        return StepOutcome([], [1] * num_steps, 1, 1)


@dataclass
class Steady:
    """Every step takes the same time."""

    step_ns: int = 10

    def execute(self, plan: StepPlan) -> StepResult:
        return StepResult([self.step_ns * (step + 1) for step in range(plan.horizon)])


@dataclass
class Listed:
    """Ends of steps as given."""

    ends_ns: list[int]

    def execute(self, plan: StepPlan) -> StepResult:
        return StepResult(self.ends_ns)


def replica_of(core: ScriptedCore, executor: Steady | Listed) -> Replica:
    engine = Engine(cast("EngineCore", core), executor, ReplicaLog.empty())
    return Replica(core.name, engine, core.timeline, lambda seqs, replica: core.note("ended", len(seqs)))


def request(number: int) -> Request:
    return Request(number, 0, 1, 1)


def at(timeline: Timeline, instant_ns: int, act: Callable[[], object]) -> None:
    """Do something as an arrival would."""
    timeout = timeline.env.timeout(instant_ns)
    assert timeout.callbacks is not None

    def callback(_: object) -> None:
        act()

    timeout.callbacks.append(callback)


def run_with_submissions(
    core: ScriptedCore, executor: Steady | Listed, instants_ns: list[int]
) -> list[Entry]:
    """Start at time 0 with one submission, then submit at those instants."""
    replica = replica_of(core, executor)
    for number, instant_ns in enumerate([0, *instants_ns]):
        at(core.timeline, instant_ns, lambda number=number: replica.submit(request(number)))  # type: ignore[misc]
    core.timeline.env.run()
    return core.log


def times_of(log: list[Entry], what: str) -> list[Entry]:
    return [(entry[0], *entry[3:]) for entry in log if entry[2] == what]


def test_a_plan_is_waited_for_once_and_settled_whole() -> None:
    log = run_with_submissions(ScriptedCore(Timeline(1), [4]), Steady(), [])
    assert times_of(log, "begin") == [(0, 4)]
    assert times_of(log, "finish") == [(40, 4)]


@given(
    steps_ns=st.lists(st.integers(1, 5), min_size=1, max_size=8),
    instants_ns=st.lists(st.integers(1, 40), max_size=4).map(sorted),
)
def test_a_submission_ends_the_plan_with_the_step_under_way(
    steps_ns: list[int], instants_ns: list[int]
) -> None:
    ends_ns = [sum(steps_ns[: step + 1]) for step in range(len(steps_ns))]
    log = run_with_submissions(ScriptedCore(Timeline(5), [len(ends_ns)]), Listed(ends_ns), instants_ns)
    first_ns = min(instants_ns, default=1000)
    num_steps = next((step for step, end_ns in enumerate(ends_ns, 1) if end_ns >= first_ns), len(ends_ns))
    assert times_of(log, "finish") == [(ends_ns[num_steps - 1], num_steps)]


def test_a_submission_at_the_very_start_of_a_plan_lets_one_step_happen() -> None:
    core = ScriptedCore(Timeline(2), [2, 5])
    replica = replica_of(core, Steady())
    at(core.timeline, 0, lambda: replica.submit(request(0)))
    # After the replica's turn at 20, at which its second plan begins.
    core.timeline.call(lambda: replica.submit(request(1)), 20, core.timeline.turn_priority(1))
    core.timeline.env.run()
    assert times_of(core.log, "begin") == [(0, 2), (20, 5)]
    assert times_of(core.log, "finish") == [(20, 2), (30, 1)]


def test_a_submission_that_cannot_change_the_plan_does_not_cut_it() -> None:
    core = ScriptedCore(Timeline(2), [4])
    replica = replica_of(core, Steady())
    at(core.timeline, 0, lambda: replica.submit(request(0)))
    at(core.timeline, 5, lambda: setattr(core, "status", SubmitStatus.QUEUED))
    at(core.timeline, 15, lambda: replica.submit(request(1)))
    core.timeline.env.run()
    assert times_of(core.log, "finish") == [(40, 4)]


def test_what_was_cut_off_never_happens() -> None:
    core = ScriptedCore(Timeline(2), [100, 1])
    log = run_with_submissions(core, Steady(), [5])
    assert times_of(log, "begin") == [(0, 100), (10, 1)]
    assert times_of(log, "finish") == [(10, 1), (20, 1)]
    assert times_of(log, "nothing")[-1] == (20,)


def test_a_client_that_gives_up_is_let_go_at_the_end_of_the_step_before_the_next_begins() -> None:
    core = ScriptedCore(Timeline(2), [4, 1])
    replica = replica_of(core, Steady())
    at(core.timeline, 0, lambda: replica.submit(request(0)))
    at(core.timeline, 12, lambda: replica.give_up(7))
    at(core.timeline, 18, lambda: replica.give_up(3))
    core.timeline.env.run()
    after_start = core.log[core.log.index((20, 0, "finish", 2)) :]
    assert [entry[2:] for entry in after_start[1:6]] == [
        ("abort", 7),
        ("ended", 0),
        ("abort", 3),
        ("ended", 0),
        ("begin", 1),
    ]


def test_a_client_of_a_sleeping_replica_is_let_go_at_once() -> None:
    core = ScriptedCore(Timeline(1))
    replica = replica_of(core, Steady())
    at(core.timeline, 5, lambda: replica.give_up(7))
    core.timeline.env.run()
    assert times_of(core.log, "abort") == [(5, 7)]


def test_a_sleeping_replica_wakes_by_itself_when_time_alone_allows_a_step() -> None:
    core = ScriptedCore(Timeline(1), [3], wakes_ns=[70])
    replica_of(core, Steady())
    core.timeline.env.run()
    assert times_of(core.log, "begin") == [(70, 3)]
    assert times_of(core.log, "finish") == [(100, 3)]


def test_an_alarm_that_a_submission_overtook_rings_for_nobody() -> None:
    core = ScriptedCore(Timeline(1), [5], wakes_ns=[70])
    replica = replica_of(core, Steady(100))
    at(core.timeline, 30, core.wakes_ns.clear)
    at(core.timeline, 30, lambda: replica.submit(request(0)))
    core.timeline.env.run()
    assert times_of(core.log, "begin") == [(30, 5)]
    assert times_of(core.log, "finish") == [(530, 5)]


def test_a_call_during_a_batch_that_an_alarm_began_waits_for_the_step() -> None:
    core = ScriptedCore(Timeline(1), [5], wakes_ns=[70])
    replica = replica_of(core, Steady())
    at(core.timeline, 75, lambda: replica.give_up(0))
    core.timeline.env.run()
    assert times_of(core.log, "finish") == [(80, 1)]


def test_at_one_instant_arrivals_come_first_then_follow_ups_then_cancellations_then_replicas() -> None:
    timeline = Timeline(10)
    log: list[Entry] = []
    cores = [ScriptedCore(timeline, [1], name=name, log=log) for name in (1, 0)]
    replicas = {core.name: replica_of(core, Steady(50)) for core in cores}
    for replica in replicas.values():
        at(timeline, 0, lambda replica=replica: replica.submit(request(0)))  # type: ignore[misc]
    first = cores[0]
    # Scheduled in the opposite order.
    timeline.call(lambda: first.note("gives up", 2), 50, timeline.give_up_priority(2))
    timeline.call(lambda: first.note("gives up", 1), 50, timeline.give_up_priority(1))
    timeline.call(lambda: first.note("follows", 9), 50, timeline.follow_up_priority(9))
    timeline.call(lambda: first.note("follows", 3), 50, timeline.follow_up_priority(3))
    at(timeline, 50, lambda: first.note("arrives"))
    timeline.env.run()
    assert [entry[1:] for entry in log if entry[0] == 50] == [
        (1, "arrives"),
        (1, "follows", 3),
        (1, "follows", 9),
        (1, "gives up", 1),
        (1, "gives up", 2),
        (0, "finish", 1),
        (0, "nothing"),
        (1, "finish", 1),
        (1, "nothing"),
    ]


@pytest.mark.parametrize("horizon", [1, 6])
def test_what_a_later_replica_sets_off_at_once_misses_the_step_that_an_earlier_one_has_begun(
    horizon: int,
) -> None:
    """Replica 1 ends a step at 50, and that sends a request to replica 0, which began a step at 50 too."""
    timeline = Timeline(10)
    first = ScriptedCore(timeline, [horizon] * (6 // horizon), name=0)
    replica = replica_of(first, Steady(10))
    at(timeline, 0, lambda: replica.submit(request(0)))
    timeline.call(lambda: timeline.take_turn(1), 50, timeline.turn_priority(1))
    timeline.call(lambda: replica.submit(request(1)), 50, timeline.turn_priority(2))
    timeline.env.run()
    finishes = times_of(first.log, "finish")
    assert finishes[-1][0] == 60
    assert sum(cast("int", num_steps) for _, num_steps in finishes) == 6


@pytest.mark.parametrize("ends_ns", [[0, 1], [-1, 5], [5, 4], [10], [1, 2, 3], [float("nan"), 1]])
def test_step_ends_that_would_stop_the_clock_are_refused(ends_ns: list[int]) -> None:
    core = ScriptedCore(Timeline(1), [2])
    with pytest.raises(SimulationError, match="for 2 steps"):
        run_with_submissions(core, Listed(ends_ns), [])


def test_a_batch_that_is_overdue_but_does_not_begin_is_an_error_and_no_endless_loop() -> None:
    core = ScriptedCore(Timeline(1), wakes_ns=[10, 5])
    replica_of(core, Steady())
    with pytest.raises(SimulationError, match="should have begun a batch at 5 ns"):
        core.timeline.env.run()


def test_with_asynchronous_scheduling_a_step_is_planned_when_the_one_before_it_begins() -> None:
    core = ScriptedCore(Timeline(1), [1, 1, 1], is_asynchronous=True)
    log = run_with_submissions(core, Steady(), [])
    assert times_of(log, "begin") == [(0, 1), (0, 1), (10, 1)]
    assert times_of(log, "finish") == [(10, 1), (20, 1), (30, 1)]
