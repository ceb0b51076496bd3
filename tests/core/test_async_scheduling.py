"""A step is scheduled before the one before it has settled: every token still comes once and in order."""

from __future__ import annotations

from collections import deque

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sim.core.engine import EngineCore, PlanDetail
from sim.core.policy import PolicyKind
from sim.core.request import FinishReason, Request, SeqId, Sequence
from sim.core.step import StepPlan, StepResult
from tests.core.stepping import Text, assert_empty, begin, finish, make_core, members, preempted, told
from tests.strategies import examples


def _run(core: EngineCore, aborts: dict[int, int] | None = None) -> tuple[list[Sequence], list[StepPlan]]:
    """Always one step ahead; `aborts` names requests given up before the plan of that number."""
    plans = []
    ended = []
    in_flight: deque[StepPlan] = deque()
    for turn in range(3000):
        if not core.has_unfinished:
            break
        if aborts and turn in aborts:
            ended += core.abort(aborts[turn])
        plan = core.begin_step(0)
        if plan is not None:
            plans.append(plan)
            in_flight.append(plan)
        if len(in_flight) > 1 or (plan is None and in_flight):
            ended += finish(core, in_flight.popleft()).finished
    for plan in in_flight:
        ended += finish(core, plan).finished
    assert_empty(core)
    return ended, plans


@pytest.mark.parametrize("detail", PlanDetail)
def test_asynchronous_steps_deliver_every_token_once_and_none_too_many(detail: PlanDetail) -> None:
    core = make_core(async_scheduling=True, detail=detail)
    core.submit(Request(0, 0, 5, 4))
    (ended,), plans = _run(core)
    assert sum(plan.num_tokens for plan in plans) == 5 + 4 - 1
    assert ended.runs == [(0, 4, 1)]


def test_no_step_too_many_is_scheduled_at_the_longest_sequence_of_the_model() -> None:
    core = make_core(async_scheduling=True, max_model_len=16)
    core.submit(Request(0, 0, 10, 99))
    (ended,), plans = _run(core)
    assert ended.finish_reason is FinishReason.LENGTH_CAPPED
    assert sum(plan.num_tokens for plan in plans) == 15


def test_the_last_step_is_scheduled_while_the_one_before_is_under_way_and_none_after_it() -> None:
    core = make_core(async_scheduling=True)
    core.submit(Request(0, 0, 5, 2))
    first, second = begin(core), begin(core)
    finish(core, first)
    assert core.begin_step(0) is None
    finish(core, second)
    assert_empty(core)


@pytest.mark.parametrize(("max_tokens", "max_model_len"), [(2, 64), (9, 7)])
def test_a_sequence_whose_last_token_is_under_way_does_not_run_in_the_next_step(
    max_tokens: int, max_model_len: int
) -> None:
    core = make_core(async_scheduling=True, max_model_len=max_model_len)
    core.submit(Request(0, 0, 5, max_tokens))
    core.submit(Request(1, 0, 2, 5))
    _, plans = _run(core)
    assert [plan.num_running for plan in plans] == [2, 2, 1, 1, 1]
    assert [len(members(plan)) for plan in plans] == [2, 2, 1, 1, 1]


def test_the_running_pass_goes_on_past_one_that_gets_nothing() -> None:
    """The last token that fits the model is under way for request 0; request 1 must not wait for it."""
    core = make_core(async_scheduling=True, max_model_len=16)
    core.submit(Request(0, 0, 15, 99))
    core.submit(Request(1, 0, 4, 9))
    first, second = begin(core), begin(core)
    assert (members(first), members(second)) == ([0, 1], [1])
    finish(core, first)
    finish(core, second)
    _run(core)


def test_a_step_has_room_for_the_drafts_that_the_step_under_way_will_propose() -> None:
    core = make_core(async_scheduling=True, num_speculative_tokens=2)
    core.submit(Request(0, 0, 5, 20))
    finish(core, begin(core), StepResult([1], num_drafts={SeqId(0): 2}))
    first, second = begin(core), begin(core)
    assert (told(first), told(second)) == ([(0, 3, 5)], [(0, 3, 8)])
    finish(core, first)
    finish(core, second)
    (seq,) = core.running
    assert (seq.num_known, seq.num_computed, seq.num_in_flight) == (8, 7, 0)


def test_the_token_in_flight_counts_as_known_in_the_next_plan() -> None:
    core = make_core(async_scheduling=True)
    core.submit(Request(0, 0, 5, 9))
    first, second = begin(core), begin(core)
    assert [(row.num_computed_tokens, row.num_tokens) for row in (*first.rows, *second.rows)] == [
        (0, 5),
        (5, 1),
    ]
    finish(core, first)
    finish(core, second)
    (seq,) = core.running
    assert (seq.num_known, seq.num_computed) == (7, 6)


def test_a_generated_block_is_registered_only_when_its_last_token_has_settled() -> None:
    core = make_core(async_scheduling=True, caching=True)
    core.submit(Request(0, 0, 7, 9, content=Text("a")))
    first, second = begin(core), begin(core)
    assert core.num_cached_blocks == 1
    finish(core, first)
    assert core.num_cached_blocks == 1
    finish(core, second)
    assert core.num_cached_blocks == 2


def test_the_block_that_the_last_step_fills_is_registered_before_it_is_given_back() -> None:
    """Five tokens and four: eight are computed, two whole blocks, and both can be found again."""
    core = make_core(num_blocks=8, async_scheduling=True, caching=True)
    core.submit(Request(0, 0, 5, 4, content=Text("a")))
    _run(core)
    assert (core.num_cached_blocks, core.free_head(9)[-2:]) == (2, [2, 1])
    core.submit(Request(1, 0, 12, 2, content=Text("a")))
    plan = begin(core)
    assert told(plan) == [(1, 4, 8)]
    finish(core, plan)


def test_a_block_that_only_dropped_tokens_would_fill_is_not_registered() -> None:
    """Three drafts are kept, but the second token is the last one: seven tokens of eight count."""
    core = make_core(async_scheduling=True, caching=True, num_speculative_tokens=3)
    core.submit(Request(0, 0, 5, 3, content=Text("a")))
    finish(core, begin(core), StepResult([1], num_drafts={SeqId(0): 3}))
    plan = begin(core)
    assert told(plan) == [(0, 4, 5)]
    (ended,) = finish(core, plan, StepResult([1], num_accepted={SeqId(0): 3})).finished
    assert (ended.num_output_tokens, core.num_cached_blocks) == (3, 1)


def test_output_in_flight_of_a_preempted_sequence_is_still_delivered() -> None:
    """vLLM's own case: ten blocks, two prompts of five; the second is evicted with a token under way."""
    core = make_core(num_blocks=10, async_scheduling=True)
    core.submit(Request(0, 0, 20, 3))
    core.submit(Request(1, 0, 20, 3))
    first, second = begin(core), begin(core)
    assert (members(first), members(second), preempted(second)) == ([0, 1], [0], [1])
    (victim,) = core.waiting
    assert victim.num_known == 20
    finish(core, first)
    assert victim.num_known == 21
    finish(core, second)
    ended, _ = _run(core)
    assert [seq.num_output_tokens for seq in ended] == [3, 3]
    assert victim.runs[0] == (0, 1, 1)


def test_drafts_in_flight_of_a_preempted_sequence_are_delivered_or_dropped_but_not_given_back() -> None:
    core = make_core(num_blocks=10, async_scheduling=True, num_speculative_tokens=2)
    core.submit(Request(0, 0, 17, 9))
    core.submit(Request(1, 0, 13, 9))
    finish(core, begin(core), StepResult([1], num_drafts={SeqId(0): 2, SeqId(1): 2}))
    first, second = begin(core), begin(core)
    assert told(first) == [(0, 3, 17), (1, 3, 13)]
    assert (told(second), preempted(second)) == ([(0, 3, 20)], [1])
    finish(core, first, StepResult([1], num_accepted={SeqId(1): 1}))
    (victim,) = core.waiting
    assert (victim.num_known, victim.num_computed, victim.num_in_flight) == (16, 0, 0)
    finish(core, second)
    _run(core)


def test_output_in_flight_can_end_a_preempted_sequence_in_the_waiting_queue() -> None:
    core = make_core(num_blocks=10, async_scheduling=True)
    core.submit(Request(0, 0, 20, 3))
    core.submit(Request(1, 0, 20, 1))
    first, second = begin(core), begin(core)
    assert preempted(second) == [1]
    (ended,) = finish(core, first).finished
    assert (ended.request.request_id, ended.finish_reason) == (1, FinishReason.LENGTH)
    assert not list(core.waiting)
    finish(core, second)
    _run(core)


def test_a_request_given_up_with_a_step_in_flight_gets_no_more_tokens() -> None:
    core = make_core(async_scheduling=True)
    core.submit(Request(0, 0, 5, 4))
    first, second = begin(core), begin(core)
    (ended,) = core.abort(0)
    finish(core, first)
    finish(core, second)
    assert (ended.finish_reason, ended.num_output_tokens) == (FinishReason.ABORT, 0)
    assert_empty(core)


def test_a_request_given_up_while_preempted_with_output_in_flight_leaves_nothing() -> None:
    core = make_core(num_blocks=10, async_scheduling=True)
    core.submit(Request(0, 0, 20, 3))
    core.submit(Request(1, 0, 20, 3))
    first, second = begin(core), begin(core)
    assert preempted(second) == [1]
    (ended,) = core.abort(1)
    finish(core, first)
    finish(core, second)
    assert ended.num_output_tokens == 0
    _run(core)


@given(
    asked=st.lists(
        st.tuples(st.integers(1, 24), st.integers(1, 16), st.integers(0, 2)), min_size=1, max_size=10
    ),
    num_blocks=st.integers(10, 20),
    max_num_batched_tokens=st.integers(2, 40),
    policy=st.sampled_from(PolicyKind),
    caching=st.booleans(),
    gate=st.booleans(),
    aborts=st.dictionaries(st.integers(0, 40), st.integers(0, 9), max_size=4),
)
@examples(150)
def test_whatever_is_preempted_or_given_up_each_token_is_delivered_once(
    asked: list[tuple[int, int, int]],
    num_blocks: int,
    max_num_batched_tokens: int,
    policy: PolicyKind,
    caching: bool,
    gate: bool,
    aborts: dict[int, int],
) -> None:
    core = make_core(
        num_blocks=num_blocks,
        caching=caching,
        async_scheduling=True,
        max_num_batched_tokens=max_num_batched_tokens,
        policy=policy,
        full_sequence_gate=gate,
    )
    for number, (prompt, output, priority) in enumerate(asked):
        core.submit(Request(number, number, prompt, output, priority=priority, content=Text(str(number % 2))))
    ended, plans = _run(core, aborts)
    assert sorted(seq.seq_id for seq in ended) == list(range(len(asked)))
    for seq in ended:
        if seq.finish_reason is not FinishReason.ABORT:
            assert seq.num_output_tokens == seq.request.max_tokens
        steps = [first + ahead for first, count, _ in seq.runs for ahead in range(count)]
        assert len(steps) == len(set(steps)) == seq.num_output_tokens
        assert steps == sorted(steps)
        yielding = {plan.step for plan in plans for row in plan.rows if row.seq is seq and row.yields_token}
        assert set(steps) <= yielding
        if not seq.preemptions and seq.finish_reason is not FinishReason.ABORT:
            assert set(steps) == yielding, "a step too many was scheduled"


def test_the_result_of_a_step_without_drafts_needs_no_entry_for_each_sequence() -> None:
    core = make_core(async_scheduling=True)
    core.submit(Request(0, 0, 5, 2))
    plan = begin(core)
    finish(core, plan, StepResult([7]))
    (seq,) = core.running
    assert seq.num_output_tokens == 1
