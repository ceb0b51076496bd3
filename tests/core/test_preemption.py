"""Who is thrown out when blocks run short, what becomes of it, and when it comes back."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sim.core.engine import PlanDetail
from sim.core.policy import PolicyKind
from sim.core.request import Request
from sim.core.step import ScheduleKind
from tests.core.stepping import (
    begin,
    drain,
    finish,
    in_queue,
    make_core,
    members,
    preempted,
    step,
    step_until_preemption,
    told,
)
from tests.strategies import examples


def test_a_shortage_evicts_the_latest_and_nobody_is_let_in_that_step() -> None:
    core = make_core(num_blocks=6)
    core.submit(Request(0, 0, 12, 10))
    core.submit(Request(1, 0, 8, 10))
    core.submit(Request(2, 0, 1, 1))
    plan = step_until_preemption(core)
    assert preempted(plan) == [1]
    assert members(plan) == [0]
    victim = next(iter(core.waiting))
    assert victim.num_known > 8, "settled output is kept"
    assert not victim.table
    drain(core)


def test_the_first_one_s_decode_evicts_the_second_which_resumes_with_all_its_tokens() -> None:
    """vLLM's own case: ten blocks, two prompts of five blocks each."""
    core = make_core(num_blocks=10)
    core.submit(Request(0, 0, 20, 3))
    core.submit(Request(1, 0, 20, 3))
    assert told(step(core)) == [(0, 20, 0), (1, 20, 0)]
    plan = step(core)
    assert (members(plan), preempted(plan)) == ([0], [1])
    assert told(step(core)) == [(0, 1, 21)]
    plan = step(core)
    assert told(plan) == [(1, 21, 0)]
    assert plan.rows[0].kind is ScheduleKind.RESUMED
    (ended,) = drain(core)
    assert ended.num_output_tokens == 3
    assert ended.preemptions == [(1, 3)]
    assert core.num_recomputed_tokens == 20
    assert core.num_preemptions == 1


def test_a_resumed_sequence_recomputes_prompt_and_output_in_chunks_like_any_prompt() -> None:
    core = make_core(num_blocks=10, max_num_batched_tokens=10)
    core.submit(Request(0, 0, 16, 8))
    core.submit(Request(1, 0, 16, 8))
    step_until_preemption(core)
    (victim,) = core.waiting
    assert victim.num_known == 19
    while 1 not in members(plan := step(core)):
        pass
    assert told(plan) == [(1, 10, 0)]
    assert not plan.rows[0].yields_token
    assert told(step(core)) == [(1, 9, 10)]
    assert victim.num_known == 20
    drain(core)


def test_a_resumed_sequence_joins_the_end_and_is_the_next_victim() -> None:
    core = make_core(num_blocks=8, max_num_seqs=3)
    for number in range(3):
        core.submit(Request(number, number, 8, 13))
    victims = []
    while core.has_unfinished:
        plan = begin(core)
        victims += preempted(plan)
        resumed = [row.seq for row in plan.rows if row.kind is ScheduleKind.RESUMED]
        assert list(core.running)[core.num_running - len(resumed) :] == resumed
        finish(core, plan)
    assert victims[:2] == [2, 1]


def test_a_preempted_sequence_goes_to_the_front_of_the_queue() -> None:
    core = make_core(num_blocks=6)
    core.submit(Request(0, 0, 12, 10))
    core.submit(Request(1, 0, 8, 10))
    core.submit(Request(2, 0, 20, 2))
    step_until_preemption(core)
    assert in_queue(core.waiting) == [1, 2]


def test_several_victims_of_one_step_wait_in_order_of_arrival() -> None:
    """The second chunk of request 0 needs two blocks, which takes both of the others."""
    core = make_core(num_blocks=4, block_size=2, long_prefill_token_threshold=4)
    core.submit(Request(0, 0, 8, 1))
    for number in (1, 2):
        core.submit(Request(number, number, 1, 4))
    assert told(step(core)) == [(0, 4, 0), (1, 1, 0), (2, 1, 0)]
    plan = step(core)
    assert told(plan) == [(0, 4, 4)]
    assert preempted(plan) == [2, 1]
    assert in_queue(core.waiting) == [1, 2]
    drain(core)


def test_a_sequence_that_must_give_itself_up_ends_the_running_pass() -> None:
    core = make_core(num_blocks=5)
    core.submit(Request(0, 0, 11, 9))
    core.submit(Request(1, 0, 8, 9))
    step(core)
    plan = step(core)
    assert (members(plan), preempted(plan)) == ([0], [1])
    assert core.num_free_blocks == 2
    assert in_queue(core.waiting) == [1]


def test_priority_evicts_by_number_then_arrival() -> None:
    core = make_core(num_blocks=6, policy=PolicyKind.PRIORITY)
    for number, priority in ((0, 1), (1, 0), (2, 1)):
        core.submit(Request(number, number, 8, 10, priority=priority))
    victims: list[int] = []
    while core.has_unfinished:
        victims += preempted(step(core))
    assert victims[0] == 2
    assert 1 not in victims


def test_among_equally_urgent_ones_the_latest_arrival_is_evicted_and_the_earliest_resumed() -> None:
    core = make_core(num_blocks=6, policy=PolicyKind.PRIORITY)
    for number, arrival in ((0, 5), (1, 9), (2, 1)):
        core.submit(Request(number, arrival, 8, 10))
    assert members(step(core)) == [2, 0, 1]
    assert preempted(step(core)) == [1]
    assert preempted(step_until_preemption(core)) == [0]
    assert in_queue(core.waiting) == [0, 1]
    drain(core)


def test_nobody_is_evicted_where_there_is_room() -> None:
    core = make_core(num_blocks=30, policy=PolicyKind.PRIORITY)
    for number in range(4):
        core.submit(Request(number, number, 8, 10, priority=4 - number))
    drain(core)
    assert core.num_preemptions == 0


@pytest.mark.parametrize(("num_draft_rows", "max_num_batched_tokens", "before"), [(0, 6, 4), (1, 8, 3)])
def test_a_victim_scheduled_earlier_in_the_step_leaves_it_and_its_tokens_go_to_others(
    num_draft_rows: int, max_num_batched_tokens: int, before: int
) -> None:
    """Request 0 takes its token, 1 needs a block and evicts it, and 2 gets the token it had been given."""
    core = make_core(
        num_blocks=5,
        policy=PolicyKind.PRIORITY,
        max_num_scheduled_tokens=6,
        max_num_batched_tokens=max_num_batched_tokens,
        num_draft_rows=num_draft_rows,
        full_sequence_gate=False,
    )
    core.submit(Request(0, 0, 9, 9, priority=9))
    step(core)
    step(core)
    core.submit(Request(1, 1, 3, 9, priority=1))
    assert told(step(core)) == [(0, 1, 9), (1, 3, 0)]
    core.submit(Request(2, 2, 20, 1, priority=2))
    assert told(step(core)) == [(0, 1, 10), (1, 1, 3), (2, before, 0)]
    plan = step(core)
    assert preempted(plan) == [0]
    assert told(plan) == [(1, 1, 4), (2, 5, before)]
    drain(core)


@pytest.mark.parametrize("detail", PlanDetail)
def test_a_victim_that_decodes_steadily_gives_its_token_to_others_too(detail: PlanDetail) -> None:
    """Request 1's second chunk needs a block and evicts 0; of eight tokens 2 gets four instead of three."""
    core = make_core(
        num_blocks=4,
        detail=detail,
        policy=PolicyKind.PRIORITY,
        max_num_batched_tokens=8,
        long_prefill_token_threshold=4,
        full_sequence_gate=False,
    )
    core.submit(Request(0, 0, 5, 9, priority=9))
    step(core)
    for number in (1, 2):
        core.submit(Request(number, number, 12, 2, priority=number))
    assert told(step(core))[-2:] == [(1, 4, 0), (2, 3, 0)]
    plan = step(core)
    assert preempted(plan) == [0]
    assert told(plan) == [(1, 4, 4), (2, 4, 3)]
    drain(core)


def test_not_even_the_most_urgent_is_let_in_where_somebody_was_preempted() -> None:
    core = make_core(num_blocks=6, policy=PolicyKind.PRIORITY)
    core.submit(Request(0, 0, 12, 10, priority=1))
    core.submit(Request(1, 0, 8, 10, priority=2))
    step(core)
    core.submit(Request(2, 0, 1, 2, priority=0))
    plan = step(core)
    assert plan.preempted
    assert 2 not in members(plan)
    assert 2 in members(step(core))


@given(
    asked=st.lists(
        st.tuples(st.integers(1, 24), st.integers(1, 16), st.integers(0, 3), st.integers(0, 5)),
        min_size=1,
        max_size=14,
    ),
    num_blocks=st.integers(10, 16),
    max_num_seqs=st.integers(1, 8),
    policy=st.sampled_from(PolicyKind),
)
@examples(100)
def test_blasts_of_priorities_on_few_blocks_end_with_every_request_done(
    asked: list[tuple[int, int, int, int]], num_blocks: int, max_num_seqs: int, policy: PolicyKind
) -> None:
    core = make_core(num_blocks=num_blocks, max_num_seqs=max_num_seqs, policy=policy)
    for number, (prompt, output, priority, arrival) in enumerate(asked):
        core.submit(Request(number, arrival, prompt, output, priority=priority))
    num_ended = 0
    for _ in range(5000):
        if not core.has_unfinished:
            break
        before = list(core.running)
        plan = begin(core)
        if policy is PolicyKind.PRIORITY and plan.preempted:
            worst = max((seq.request.priority, seq.request.arrival_ns) for seq in before)
            first = plan.preempted[0].request
            assert (first.priority, first.arrival_ns) == worst
        if plan.preempted:
            assert all(row.kind is ScheduleKind.RUNNING for row in plan.rows)
        assert not {*plan.preempted} & {row.seq for row in plan.rows}
        ended = finish(core, plan).finished
        assert all(seq.num_output_tokens == seq.request.max_tokens for seq in ended)
        num_ended += len(ended)
    assert num_ended == len(asked)
    assert core.num_used_blocks == 0
