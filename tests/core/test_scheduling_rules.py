"""vLLM's V1 rules one by one, on pools small enough to follow by hand."""

from __future__ import annotations

from collections.abc import Sequence as AbstractSequence
from dataclasses import dataclass
from typing import Any

import pytest

from sim.core.block_pool import FreeOrder
from sim.core.engine import EngineConfig, EngineCore, PlanDetail, SubmitStatus
from sim.core.kv_cache import CacheConfig
from sim.core.policy import Dynamic, PolicyKind, Static
from sim.core.request import FinishReason, Request, SeqId
from sim.core.scheduler_config import SchedulerConfig
from sim.core.step import StepPlan, StepResult


@dataclass(frozen=True)
class Text:
    """Content by position: requests with the same text share their prefix."""

    name: str

    def keys(self, sample: int, start: int, stop: int) -> AbstractSequence[Any]:
        return [(self.name, block) for block in range(start, stop)]


def _core(num_blocks: int = 20, block_size: int = 4, *, caching: bool = False, **settings: Any) -> EngineCore:
    free_order = settings.pop("free_order", FreeOrder.UNHASHED_FIRST)
    cache = CacheConfig(num_blocks, block_size, enable_prefix_caching=caching, free_order=free_order)
    scheduler = SchedulerConfig(**{"max_model_len": 64, "max_num_batched_tokens": 64, **settings})
    return EngineCore(EngineConfig(cache, scheduler, max_horizon=1, detail=PlanDetail.SEQUENCES))


def _step(core: EngineCore, result: StepResult | None = None, now_ns: int = 0) -> StepPlan:
    plan = core.begin_step(now_ns)
    assert plan is not None
    core.finish_step(plan, result or StepResult([1]))
    core.check_invariants()
    return plan


def _told(plan: StepPlan) -> list[tuple[int, int, int]]:
    """(request, tokens, computed before) of everyone in a plan."""
    return [(row.seq.request.request_id, row.num_tokens, row.num_computed_tokens) for row in plan.rows]


def _drain(core: EngineCore) -> None:
    for _ in range(500):
        if not core.has_unfinished:
            break
        _step(core)
    assert not core.has_unfinished
    assert core.num_used_blocks == 0
    assert not list(core.running)
    assert not list(core.waiting)


def test_a_sequence_wastes_less_than_one_block_at_every_step() -> None:
    core = _core()
    core.submit(Request(0, 0, 5, 20))
    while core.has_unfinished:
        plan = _step(core)
        for seq in core.running:
            computed = plan.rows[0].num_computed_tokens + plan.rows[0].num_tokens
            assert 0 <= len(seq.table) * 4 - computed < 4


def test_a_prompt_of_exactly_one_block_gets_its_second_at_the_first_decode() -> None:
    core = _core()
    core.submit(Request(0, 0, 4, 5))
    assert len(_step(core).rows[0].new_blocks) == 1
    assert len(_step(core).rows[0].new_blocks) == 1


def test_prompt_and_output_less_one_tokens_are_computed() -> None:
    core = _core()
    core.submit(Request(0, 0, 5, 7))
    num_tokens = 0
    while core.has_unfinished:
        num_tokens += _step(core).num_tokens
    assert num_tokens == 5 + 7 - 1


def test_the_budget_cuts_the_last_prompt_into_a_chunk_and_running_ones_go_first() -> None:
    core = _core(max_num_batched_tokens=10)
    core.submit(Request(0, 0, 6, 4))
    core.submit(Request(1, 0, 9, 4))
    assert _told(_step(core)) == [(0, 6, 0), (1, 4, 0)]
    assert _told(_step(core)) == [(0, 1, 6), (1, 5, 4)]
    _drain(core)


@pytest.mark.parametrize(("exempt", "first_chunk"), [(True, 20), (False, 8)])
def test_a_lone_prompt_is_exempt_from_the_threshold_by_setting(exempt: bool, first_chunk: int) -> None:
    core = _core(long_prefill_token_threshold=8, exempt_lone_prompt=exempt)
    core.submit(Request(0, 0, 20, 2))
    assert _told(_step(core)) == [(0, first_chunk, 0)]


def test_the_threshold_gives_three_long_prompts_equal_shares() -> None:
    core = _core(long_prefill_token_threshold=8)
    for number in range(3):
        core.submit(Request(number, 0, 20, 2))
    for computed, tokens in ((0, 8), (8, 8), (16, 4)):
        assert _told(_step(core)) == [(number, tokens, computed) for number in range(3)]


def test_a_shortage_evicts_the_latest_and_nobody_is_let_in_that_step() -> None:
    core = _core(num_blocks=6)
    core.submit(Request(0, 0, 12, 10))
    core.submit(Request(1, 0, 8, 10))
    core.submit(Request(2, 0, 1, 1))
    _step(core)
    plan = _step(core)
    while not plan.preempted:
        plan = _step(core)
    assert [seq.request.request_id for seq in plan.preempted] == [1]
    assert [row.seq.request.request_id for row in plan.rows] == [0]
    victim = next(iter(core.waiting))
    assert victim.num_known > 8, "settled output is kept"
    assert not victim.table
    _drain(core)


def test_priority_evicts_by_number_then_arrival() -> None:
    core = _core(num_blocks=6, policy=PolicyKind.PRIORITY)
    for number, priority in ((0, 1), (1, 0), (2, 1)):
        core.submit(Request(number, number, 8, 10, priority=priority))
    preempted: list[int] = []
    while core.has_unfinished:
        preempted += [seq.request.request_id for seq in _step(core).preempted]
    assert preempted[0] == 2
    assert 1 not in preempted


@pytest.mark.parametrize(("gate", "admitted"), [(True, [0]), (False, [0, 1])])
def test_the_full_sequence_gate_looks_at_the_whole_prompt(gate: bool, admitted: list[int]) -> None:
    core = _core(num_blocks=6, max_num_batched_tokens=12, full_sequence_gate=gate)
    core.submit(Request(0, 0, 8, 2))
    core.submit(Request(1, 0, 20, 2))
    assert [row.seq.request.request_id for row in _step(core).rows] == admitted


def test_the_watermark_holds_back_newcomers_but_not_the_first() -> None:
    core = _core(num_blocks=9, watermark_fraction=0.5)
    core.submit(Request(0, 0, 28, 2))
    core.submit(Request(1, 0, 4, 2))
    assert [row.seq.request.request_id for row in _step(core).rows] == [0]


def test_an_equal_prompt_is_shared_within_the_step_but_for_its_last_token() -> None:
    core = _core(caching=True)
    for number in range(2):
        core.submit(Request(number, 0, 8, 3, content=Text("same")))
    plan = _step(core)
    assert _told(plan) == [(0, 8, 0), (1, 4, 4)]
    assert plan.rows[0].new_blocks[0] == plan.rows[1].new_blocks[0]
    assert core.prefix_stats.queries == 16
    assert core.prefix_stats.hits == 4
    _drain(core)


def test_a_refusal_touches_nothing_not_even_the_blocks_it_would_hit() -> None:
    core = _core(num_blocks=6, caching=True)
    core.submit(Request(0, 0, 9, 1, content=Text("a")))
    _step(core)
    core.submit(Request(1, 0, 13, 8, content=Text("b")))
    _step(core)
    core.submit(Request(2, 0, 13, 8, content=Text("a")))
    before = (core.free_head(9), core.num_cached_blocks, core.prefix_stats.queries)
    plan = core.begin_step(0)
    assert plan is not None
    assert [row.seq.request.request_id for row in plan.rows] == [1]
    assert (core.free_head(9), core.num_cached_blocks, core.prefix_stats.queries) == before


@pytest.mark.parametrize(
    ("order", "expected"),
    [(FreeOrder.UNHASHED_FIRST, [3, 4, 5, 6, 2, 1]), (FreeOrder.TAIL, [4, 5, 6, 3, 2, 1])],
)
def test_freed_blocks_go_where_the_release_puts_them(order: FreeOrder, expected: list[int]) -> None:
    core = _core(num_blocks=6, caching=True, free_order=order)
    core.submit(Request(0, 0, 10, 1, content=Text("a")))
    _step(core)
    assert core.free_head(9) == expected


def test_a_reused_block_loses_its_content() -> None:
    core = _core(num_blocks=3, caching=True)
    core.submit(Request(0, 0, 9, 1, content=Text("a")))
    _step(core)
    assert core.num_cached_blocks == 2
    core.submit(Request(1, 0, 12, 1))
    _step(core)
    assert core.num_cached_blocks == 0


def test_what_can_never_fit_is_refused_at_once() -> None:
    core = _core(num_blocks=4)
    assert core.submit(Request(0, 0, 10, 8)) is SubmitStatus.REJECTED
    assert core.submit(Request(1, 0, 64, 1)) is SubmitStatus.REJECTED
    assert core.submit(Request(2, 0, 10, 7)) is SubmitStatus.NEXT_STEP
    _drain(core)


def test_output_is_capped_by_the_longest_sequence_of_the_model() -> None:
    core = _core(max_model_len=16)
    core.submit(Request(0, 0, 10, 99))
    outcome = None
    while core.has_unfinished:
        plan = core.begin_step(0)
        assert plan is not None
        outcome = core.finish_step(plan, StepResult([1]))
    assert outcome is not None
    assert outcome.finished[0].finish_reason is FinishReason.LENGTH_CAPPED
    assert outcome.finished[0].num_output_tokens == 6


def test_accepted_drafts_are_settled_rejected_ones_given_back_and_what_follows_a_stop_dropped() -> None:
    core = _core(num_speculative_tokens=3)
    core.submit(Request(0, 0, 5, 6))
    seq = SeqId(0)
    _step(core, StepResult([1], num_drafts={seq: 3}))
    drafted = _step(core, StepResult([1], num_accepted={seq: 2}, num_drafts={seq: 3}))
    assert drafted.rows[0].num_tokens == 4
    (running,) = core.running
    assert (running.num_output_tokens, running.num_computed) == (4, 8)
    plan = core.begin_step(0)
    assert plan is not None
    outcome = core.finish_step(plan, StepResult([1], num_accepted={seq: 3}))
    assert outcome.finished[0].num_output_tokens == 6
    assert outcome.finished[0].runs == [(0, 1, 1), (1, 1, 3), (2, 1, 2)]
    assert core.num_used_blocks == 0


@pytest.mark.parametrize(("pads", "tokens"), [(True, 4), (False, 1)])
def test_an_admission_of_one_token_is_padded_to_look_like_a_decode(pads: bool, tokens: int) -> None:
    core = _core(num_speculative_tokens=3, pad_single_token_admissions=pads)
    core.submit(Request(0, 0, 5, 9))
    _step(core)
    core.submit(Request(1, 0, 1, 9))
    plan = _step(core)
    assert plan.rows[1].num_tokens == tokens
    assert [seq.num_output_tokens for seq in core.running] == [2, 1]


def test_asynchronous_steps_deliver_every_token_once_and_none_too_many() -> None:
    core = _core(async_scheduling=True)
    core.submit(Request(0, 0, 5, 4))
    plans, tokens = [core.begin_step(0)], 0
    while core.has_unfinished:
        plans.append(core.begin_step(0))
        plan = plans.pop(0)
        if plan is not None:
            tokens += plan.num_tokens
            core.finish_step(plan, StepResult([1]))
    assert tokens == 5 + 4 - 1
    assert core.num_used_blocks == 0


def test_a_static_batch_takes_nobody_in_until_its_last_member_ends() -> None:
    core = _core(batching=Static(2))
    for number, length in enumerate((2, 5, 2)):
        core.submit(Request(number, 0, 4, length))
    members = [[row.seq.request.request_id for row in _step(core).rows] for _ in range(6)]
    assert members == [[0, 1], [0, 1], [1], [1], [1], [2]]


def test_a_dynamic_batch_waits_until_it_is_full_or_its_oldest_has_waited_enough() -> None:
    core = _core(batching=Dynamic(2, max_wait_ns=100))
    core.submit(Request(0, 50, 4, 2))
    assert core.begin_step(149) is None
    assert core.next_wake_ns == 150
    core.submit(Request(1, 60, 4, 2))
    assert len(_step(core, now_ns=61).rows) == 2
    _drain(core)
    core.submit(Request(2, 200, 4, 2))
    assert len(_step(core, now_ns=300).rows) == 1


def _prepare(state: str) -> tuple[EngineCore, int]:
    """A core with a request in the given state, and its id."""
    if state == "mid-chunk":
        core = _core(max_num_batched_tokens=8)
        core.submit(Request(0, 0, 20, 4))
        _step(core)
        return core, 0
    core = _core(num_blocks=6)
    core.submit(Request(0, 0, 12, 10))
    core.submit(Request(1, 0, 8, 10))
    if state == "waiting":
        core.submit(Request(2, 0, 12, 4))
        _step(core)
        return core, 2
    plan = _step(core)
    while state == "preempted" and not plan.preempted:
        plan = _step(core)
    return core, 1


@pytest.mark.parametrize("state", ["waiting", "running", "mid-chunk", "preempted"])
def test_a_request_that_is_given_up_leaves_nothing_behind(state: str) -> None:
    core, number = _prepare(state)
    (ended,) = core.abort(number)
    assert ended.finish_reason is FinishReason.ABORT
    assert not ended.table
    core.check_invariants()
    assert core.abort(number) == []
    _drain(core)


def test_a_request_given_up_with_a_step_in_flight_gets_no_more_tokens() -> None:
    core = _core(async_scheduling=True)
    core.submit(Request(0, 0, 5, 4))
    first = core.begin_step(0)
    second = core.begin_step(0)
    assert first is not None
    assert second is not None
    (ended,) = core.abort(0)
    core.finish_step(first, StepResult([1]))
    core.finish_step(second, StepResult([1]))
    assert ended.num_output_tokens == 0
    assert core.num_used_blocks == 0


def test_misuse_is_an_exception() -> None:
    core = _core()
    core.submit(Request(0, 0, 5, 4))
    with pytest.raises(ValueError, match="request 0 is here already"):
        core.submit(Request(0, 0, 5, 4))
    plan = core.begin_step(0)
    assert plan is not None
    with pytest.raises(ValueError, match="2 steps settled of a plan for 1"):
        core.finish_step(plan, StepResult([1, 2]), 2)
    with pytest.raises(ValueError, match="at least 1"):
        Request(1, 0, 0, 4)
    with pytest.raises(ValueError, match="without chunked prefill"):
        SchedulerConfig(max_model_len=64, max_num_batched_tokens=32, enable_chunked_prefill=False)


def test_a_preempted_sequence_goes_to_the_front_of_the_queue() -> None:
    core = _core(num_blocks=6)
    core.submit(Request(0, 0, 12, 10))
    core.submit(Request(1, 0, 8, 10))
    core.submit(Request(2, 0, 20, 2))
    while not _step(core).preempted:
        pass
    assert [seq.request.request_id for seq in core.waiting] == [1, 2]


def test_not_even_the_most_urgent_is_let_in_where_somebody_was_preempted() -> None:
    core = _core(num_blocks=6, policy=PolicyKind.PRIORITY)
    core.submit(Request(0, 0, 12, 10, priority=1))
    core.submit(Request(1, 0, 8, 10, priority=2))
    _step(core)
    core.submit(Request(2, 0, 1, 2, priority=0))
    plan = _step(core)
    assert plan.preempted
    assert 2 not in [row.seq.request.request_id for row in plan.rows]
    assert 2 in [row.seq.request.request_id for row in _step(core).rows]


def test_drafts_leave_one_slot_of_the_longest_sequence_for_the_sampled_token() -> None:
    core = _core(max_model_len=16, num_speculative_tokens=3)
    core.submit(Request(0, 0, 12, 9))
    _step(core, StepResult([1], num_drafts={SeqId(0): 3}))
    _step(core, StepResult([1], num_drafts={SeqId(0): 3}))
    plan = _step(core)
    assert (plan.rows[0].num_computed_tokens, plan.rows[0].num_tokens) == (13, 2)
