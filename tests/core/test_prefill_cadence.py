"""Prompts that wait for their turn among steps: vLLM 0.33's `prefill_schedule_interval`."""

from __future__ import annotations

import pytest

from sim.core.engine import EngineConfig, EngineCore, PlanDetail
from sim.core.kv_cache import CacheConfig
from sim.core.prefill_cadence import PrefillCadence
from sim.core.request import Request
from sim.core.scheduler_config import SchedulerConfig
from sim.core.step import StepResult


def first_steps(interval: int, arrivals: dict[int, int], max_num_seqs: int = 8) -> dict[int, int]:
    """The step that first computes each request; `arrivals`: the step before which each comes."""
    scheduler = SchedulerConfig(64, max_num_seqs, 64, prefill_schedule_interval=interval)
    core = EngineCore(EngineConfig(CacheConfig(64, 4), scheduler, 1, PlanDetail.SEQUENCES))
    found: dict[int, int] = {}
    for step in range(1, 40):
        for number in (number for number, before in arrivals.items() if before == step):
            core.submit(Request(number, step, 8, 20))
        plan = core.begin_step(step)
        if plan is None:
            continue
        for row in plan.rows:
            found.setdefault(int(row.seq.request.request_id), step)
        core.finish_step(plan, StepResult([1]))
    return found


def test_a_prompt_waits_until_the_interval_has_passed_while_others_decode() -> None:
    assert first_steps(1, {0: 1, 1: 2, 2: 3}) == {0: 1, 1: 2, 2: 3}
    assert first_steps(3, {0: 1, 1: 2, 2: 5}) == {0: 1, 1: 4, 2: 7}


def test_nothing_is_held_while_nobody_decodes() -> None:
    assert first_steps(9, {0: 1, 1: 35}) == {0: 1, 1: 35}


def test_an_engine_that_is_behind_holds_nothing() -> None:
    held = first_steps(5, {0: 1, 1: 1, 2: 2}, max_num_seqs=8)
    assert held == {0: 1, 1: 1, 2: 6}
    behind = first_steps(5, {0: 1, 1: 1, 2: 1}, max_num_seqs=2)  # one had to stay outside
    assert behind[2] == first_steps(1, {0: 1, 1: 1, 2: 1}, max_num_seqs=2)[2]


def test_steps_are_counted_from_the_last_one_with_a_prompt() -> None:
    cadence = PrefillCadence(3)
    seen = []
    for _ in range(9):
        holds = cadence.holds(decodes=True)
        seen.append(not holds)
        cadence.note_step(has_prompt=not holds)
    assert seen == [True, False, False] * 3


def test_an_interval_of_one_is_none_and_of_less_is_refused() -> None:
    assert not PrefillCadence(1).is_on
    with pytest.raises(ValueError, match="prefill_schedule_interval must be at least 1"):
        SchedulerConfig(64, prefill_schedule_interval=0)
