"""Ending a request wherever it stands, under the paper's scheduler: all counts go back to zero."""

from __future__ import annotations

import pytest

from sim.core.engine import EngineConfig, EngineCore
from sim.core.group import GroupSchedulerConfig, PreemptionMode
from sim.core.kv_cache import CacheConfig
from sim.core.request import FinishReason, Request, Sequence, SequenceStatus
from sim.core.step import StepPlan, StepResult


def core(num_blocks: int = 16, num_host_blocks: int = 40) -> EngineCore:
    cache = CacheConfig(num_blocks, 4, enable_prefix_caching=False, has_null_block=False)
    scheduler = GroupSchedulerConfig(
        64, watermark_fraction=0.0, num_host_blocks=num_host_blocks, preemption=PreemptionMode.SWAP
    )
    return EngineCore(EngineConfig(cache, scheduler))


def step(engine: EngineCore) -> StepPlan | None:
    plan = engine.begin_step(0)
    if plan is not None:
        engine.finish_step(plan, StepResult([1]))
        engine.check_invariants()
    return plan


def swapped_out(engine: EngineCore) -> StepPlan:
    """Step until somebody's blocks leave for the host; the plan that says so, settled."""
    engine.submit(Request(0, 0, 15, 12, 2))
    engine.submit(Request(1, 1, 13, 12, 2))
    for _ in range(40):
        plan = step(engine)
        assert plan is not None
        if plan.blocks_to_swap_out:
            return plan
    raise AssertionError("nobody was swapped")


def assert_nothing_is_held(engine: EngineCore) -> None:
    engine.check_invariants()
    assert not engine.has_unfinished
    assert (engine.num_used_blocks, engine.num_used_host_blocks) == (0, 0)
    assert (engine.num_running, engine.num_waiting) == (0, 0)
    assert engine.begin_step(0) is None


def end_all(engine: EngineCore) -> list[Sequence]:
    ended = engine.abort(0) + engine.abort(1)
    assert all(seq.finish_reason is FinishReason.ABORT and not seq.table for seq in ended)
    return ended


def test_while_it_waits() -> None:
    engine = core()
    engine.submit(Request(0, 0, 15, 12, 2))
    assert len(end_all(engine)) == 2
    assert_nothing_is_held(engine)


@pytest.mark.parametrize("num_steps", [1, 2, 3])
def test_while_it_runs_and_shares(num_steps: int) -> None:
    engine = core(20)
    engine.submit(Request(0, 0, 14, 12, 3))
    for _ in range(num_steps):
        step(engine)
    assert engine.num_used_blocks > 0
    assert len(end_all(engine)) == 3
    assert_nothing_is_held(engine)


def test_while_it_is_swapped() -> None:
    engine = core()
    swapped_out(engine)
    assert engine.num_used_host_blocks > 0
    (victim,) = {seq.request.request_id for seq in engine.waiting}
    ended = engine.abort(victim)
    assert {seq.status for seq in ended} == {SequenceStatus.FINISHED}
    engine.check_invariants()
    assert engine.num_used_host_blocks == 0
    end_all(engine)
    assert_nothing_is_held(engine)


def test_right_after_it_came_back_from_the_host() -> None:
    engine = core()
    swapped_out(engine)
    plan = None
    while plan is None or not plan.blocks_to_swap_in:
        plan = step(engine)
        assert plan is not None
    end_all(engine)
    assert_nothing_is_held(engine)


def test_between_the_plan_that_swaps_it_and_its_settling() -> None:
    engine = core()
    engine.submit(Request(0, 0, 15, 12, 2))
    engine.submit(Request(1, 1, 13, 12, 2))
    plan = None
    while True:
        plan = engine.begin_step(0)
        assert plan is not None
        if plan.blocks_to_swap_out:
            break
        engine.finish_step(plan, StepResult([1]))
    end_all(engine)
    engine.finish_step(plan, StepResult([1]))
    assert_nothing_is_held(engine)


def test_one_sample_after_the_other() -> None:
    engine = core(30)
    engine.submit(Request(0, 0, 14, 12, 3, sample_tokens=(2, 5, 9)))
    while engine.has_unfinished:
        step(engine)
    assert_nothing_is_held(engine)
