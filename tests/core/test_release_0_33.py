"""What vLLM 0.33 decides otherwise than 0.32, each a setting."""

from __future__ import annotations

import pytest

from sim.core.engine import EngineConfig, EngineCore
from sim.core.kv_cache import CacheConfig
from sim.core.policy import PolicyKind
from sim.core.request import Request, SeqId
from sim.core.scheduler_config import SchedulerConfig
from sim.core.step import StepResult
from tests.core.stepping import Text, begin, finish, make_core, members, preempted, step


@pytest.mark.parametrize(("at_update", "num_cached"), [(False, 1), (True, 2)])
def test_blocks_that_drafts_helped_to_fill_are_registered_at_the_update_even_of_one_that_ends(
    at_update: bool, num_cached: int
) -> None:
    """Five tokens, then three drafts of which two count: eight are computed, two blocks."""
    core = make_core(caching=True, num_speculative_tokens=3, registers_at_update=at_update)
    core.submit(Request(0, 0, 5, 4, content=Text("a")))
    step(core, StepResult([1], num_drafts={SeqId(0): 3}))
    finish(core, begin(core), StepResult([1], num_accepted={SeqId(0): 3}))
    assert not core.has_unfinished
    assert core.num_cached_blocks == num_cached


@pytest.mark.parametrize(("goes_on", "served"), [(False, [0]), (True, [0, 2])])
def test_after_a_sequence_was_its_own_victim_those_behind_it_may_have_their_turn(
    goes_on: bool, served: list[int]
) -> None:
    core = make_core(num_blocks=5, policy=PolicyKind.PRIORITY, goes_on_after_self_preemption=goes_on)
    core.submit(Request(0, 0, 7, 9, priority=0))
    step(core)
    core.submit(Request(1, 1, 3, 9, priority=9))
    step(core)
    core.submit(Request(2, 2, 2, 9, priority=1))
    step(core)
    plan = step(core)
    assert (members(plan), preempted(plan)) == (served, [1])


@pytest.mark.parametrize(("lookahead", "num_cached"), [(0, 2), (1, 1)])
def test_a_key_that_covers_the_next_token_names_a_block_when_that_token_is_known(
    lookahead: int, num_cached: int
) -> None:
    cache = CacheConfig(20, 4, num_key_lookahead_tokens=lookahead)
    scheduler = SchedulerConfig(64, num_speculative_tokens=1, num_lookahead_slots=1)
    core = EngineCore(EngineConfig(cache, scheduler))
    core.submit(Request(0, 0, 8, 9, content=Text("a")))
    plan = begin(core)
    assert core.num_cached_blocks == num_cached
    finish(core, plan)
    begin(core)
    assert core.num_cached_blocks == 2
