"""The prefix cache's host tier: what leaves, what comes back, in which order, and what must not go."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import FrameType
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from sim.core import host_tier
from sim.core.engine import EngineConfig, EngineCore
from sim.core.host_tier import HostTier
from sim.core.kv_cache import CacheConfig
from sim.core.request import Request
from sim.core.scheduler_config import SchedulerConfig
from sim.core.step import BlockCopy, StepPlan, StepResult
from tests.core.plain_host_tier import PlainHostTier
from tests.core.stepping import Text
from tests.strategies import examples


def test_the_least_recently_used_content_makes_room() -> None:
    tier = HostTier(2)
    tier.keep("a", 7)
    tier.keep("b", 8)
    tier.keep("a", 9)
    tier.keep("c", 5)
    assert tier.find(["a"]) == ["a"]
    assert tier.find(["b"]) == []
    assert tier.take_moves() == ((BlockCopy(7, 0), BlockCopy(5, 1)), ()), "b came and went in one step"
    tier.check_invariants()


def test_what_a_step_loads_is_not_overwritten_in_that_step() -> None:
    tier = HostTier(1)
    tier.keep("a", 7)
    tier.take_moves()
    tier.hold(["a"])
    tier.keep("b", 8)
    tier.load("a", 3)
    assert tier.take_moves() == ((), (BlockCopy(0, 3),))
    assert tier.find(["b"]) == [], "there was no room for it"
    tier.keep("b", 8)
    assert tier.find(["b"]) == ["b"], "in the next step there is"


ACTS = st.lists(
    st.tuples(st.sampled_from(["keep", "keep", "keep", "load", "step"]), st.integers(0, 9)), max_size=60
)


@examples(300)
@given(st.integers(1, 6), ACTS)
def test_every_copy_and_every_order_is_the_plain_tiers(num_blocks: int, acts: list[tuple[str, int]]) -> None:
    tier, plain = HostTier(num_blocks), PlainHostTier(num_blocks)
    for number, (act, key) in enumerate([*acts, ("step", 0)]):
        if act == "keep":
            for each in (tier, plain):
                each.keep(key, number)
        elif act == "load" and tier.find([key]):
            for each in (tier, plain):
                each.hold([key])
                each.load(key, number)
        elif act == "step":
            assert tier.take_moves() == plain.take_moves()
            assert list(tier._untouched) == plain.contents()
        tier.check_invariants()
        assert [key for key in range(10) if tier.find([key])] == sorted(plain.contents())  # type: ignore[type-var]


def test_a_step_that_evicts_much_costs_a_look_for_each_block() -> None:
    """Counted, not timed: a look through the step's other copies for each would be millions."""
    tier = HostTier(3000)
    for number in range(3000):
        tier.keep(number, number)
    tier.take_moves()
    tier.hold(range(1500))
    looks = 0

    def count(frame: FrameType, event: str, _: object) -> Callable[..., Any]:
        nonlocal looks
        looks += event == "line" and frame.f_code.co_filename == host_tier.__file__
        return count

    before = sys.gettrace()
    sys.settrace(count)
    try:
        for number in range(3000, 6000):
            tier.keep(number, number)
    finally:
        sys.settrace(before)
    assert looks < 30 * 3000
    assert len(tier.take_moves()[0]) == 1500


def core(num_offload_blocks: int) -> EngineCore:
    cache = CacheConfig(6, 4, num_offload_blocks=num_offload_blocks)
    return EngineCore(EngineConfig(cache, SchedulerConfig(64, max_num_batched_tokens=256)))


def serve(engine: EngineCore, number: int, name: str, prompt: int) -> list[StepPlan]:
    engine.submit(Request(number, 0, prompt, 2, content=Text(name)))
    plans = []
    while engine.has_unfinished:
        plan = engine.begin_step(0)
        assert plan is not None
        engine.finish_step(plan, StepResult(list(range(1, plan.horizon + 1))), plan.horizon)
        engine.check_invariants()
        plans.append(plan)
    return plans


def test_an_evicted_prefix_comes_back_from_the_host() -> None:
    engine = core(20)
    serve(engine, 0, "one", 17)
    others = serve(engine, 1, "other", 20)
    assert any(plan.blocks_to_swap_out for plan in others)
    plans = serve(engine, 2, "one", 17)
    assert len(plans[0].blocks_to_swap_in) > 0
    (row,) = plans[0].rows
    assert row.num_computed_tokens == 16
    assert row.num_tokens == 1
    assert engine.prefix_stats.host_hits > 0


def test_without_a_host_tier_an_evicted_prefix_is_lost() -> None:
    engine = core(0)
    serve(engine, 0, "one", 17)
    serve(engine, 1, "other", 20)
    plans = serve(engine, 2, "one", 17)
    (row,) = plans[0].rows
    assert row.num_computed_tokens < 16
    assert not any(plan.blocks_to_swap_in or plan.blocks_to_swap_out for plan in plans)


def test_a_content_that_another_block_holds_does_not_leave() -> None:
    engine = core(20)
    cache = engine._kv._cache  # type: ignore[union-attr]
    assert cache is not None
    cache.register([1, 2], ["same", "same"])
    engine._kv._forget([1])  # type: ignore[union-attr]
    assert engine._kv.take_moves() == ((), ())
    engine._kv._forget([2])  # type: ignore[union-attr]
    assert len(engine._kv.take_moves()[0]) == 1
