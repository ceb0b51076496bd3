"""Drafts: which are scheduled, and what becomes of accepted and rejected ones."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sim.core.engine import EngineCore
from sim.core.policy import PolicyKind
from sim.core.request import FinishReason, Request, SeqId
from sim.core.step import StepPlan, StepResult
from tests.core.stepping import Text, begin, drain, finish, in_queue, make_core, step, told
from tests.strategies import examples
from tests.v1 import v1_scheduler

FIRST = SeqId(0)


def _drafts(count: int, *seqs: int) -> StepResult:
    return StepResult([1], num_drafts={SeqId(seq): count for seq in seqs or (0,)})


def test_accepted_drafts_are_settled_rejected_ones_given_back_and_what_follows_the_end_dropped() -> None:
    core = make_core(num_speculative_tokens=3)
    core.submit(Request(0, 0, 5, 6))
    step(core, _drafts(3))
    drafted = step(core, StepResult([1], num_accepted={FIRST: 2}, num_drafts={FIRST: 3}))
    assert drafted.rows[0].num_tokens == 4
    (running,) = core.running
    assert (running.num_output_tokens, running.num_computed) == (4, 8)
    outcome = finish(core, begin(core), StepResult([1], num_accepted={FIRST: 3}))
    assert outcome.finished[0].num_output_tokens == 6
    assert outcome.finished[0].runs == [(0, 1, 1), (1, 1, 3), (2, 1, 2)]
    assert core.num_used_blocks == 0


@pytest.mark.parametrize("num_accepted", [0, 1, 3])
def test_none_some_or_all_drafts_are_kept(num_accepted: int) -> None:
    core = make_core(num_speculative_tokens=3)
    core.submit(Request(0, 0, 5, 20))
    step(core, _drafts(3))
    step(core, StepResult([1], num_accepted={FIRST: num_accepted}))
    (seq,) = core.running
    assert seq.num_output_tokens == 1 + num_accepted + 1
    assert seq.num_computed == 5 + 1 + num_accepted == seq.num_known - 1


def test_sequences_with_and_without_drafts_mix_in_one_step() -> None:
    core = make_core(num_speculative_tokens=3)
    for number in range(3):
        core.submit(Request(number, 0, 5, 20))
    step(core, StepResult([1], num_drafts={SeqId(0): 1, SeqId(2): 3}))
    plan = step(core, StepResult([1], num_accepted={SeqId(2): 2}))
    assert [row.num_draft_tokens for row in plan.rows] == [1, 0, 3]
    assert told(plan) == [(0, 2, 5), (1, 1, 5), (2, 4, 5)]
    assert [seq.num_output_tokens for seq in core.running] == [2, 2, 4]
    assert (plan.num_decode_seqs, plan.decode_context_tokens) == (1, 6)
    assert [row.seq.seq_id for row in plan.chunks] == [0, 2]


def test_drafts_for_a_sequence_that_is_still_in_its_prompt_are_dropped() -> None:
    core = make_core(num_speculative_tokens=3, max_num_batched_tokens=8)
    core.submit(Request(0, 0, 12, 5))
    step(core, _drafts(3))
    assert told(step(core)) == [(0, 4, 8)]


def test_what_the_budget_does_not_hold_of_the_drafts_is_dropped_for_good() -> None:
    core = make_core(num_speculative_tokens=3, max_num_batched_tokens=6)
    for number in range(2):
        core.submit(Request(number, 0, 3, 20))
    step(core, _drafts(3, 0, 1))
    assert told(step(core)) == [(0, 4, 3), (1, 2, 3)]
    assert told(step(core)) == [(0, 1, 4), (1, 1, 4)]


def test_drafts_wait_for_a_sequence_that_the_budget_has_not_reached() -> None:
    core = make_core(num_speculative_tokens=5, max_num_batched_tokens=6, pad_single_token_admissions=False)
    for number in range(2):
        core.submit(Request(number, 0, 3, 20))
    step(core, _drafts(5, 0, 1))
    assert told(step(core)) == [(0, 6, 3)]
    assert told(step(core)) == [(0, 1, 4), (1, 5, 3)]


def test_drafts_are_lost_with_a_preemption() -> None:
    core = make_core(num_blocks=4, num_speculative_tokens=3)
    core.submit(Request(0, 0, 8, 6))
    core.submit(Request(1, 0, 8, 6))
    step(core, _drafts(3, 0, 1))
    plan = step(core, _drafts(3, 0, 1))
    assert [seq.seq_id for seq in plan.preempted] == [1]
    (victim,) = core.waiting
    assert (victim.num_drafts, victim.num_known, victim.table) == (0, 9, [])
    drain(core)


def test_each_sequence_takes_its_draft_rows_out_of_the_second_budget() -> None:
    core = make_core(max_num_batched_tokens=8, num_draft_rows=1, num_speculative_tokens=1)
    for number in range(2):
        core.submit(Request(number, 0, 5, 4))
    assert told(step(core)) == [(0, 5, 0), (1, 1, 0)]
    wide = make_core(max_num_batched_tokens=8, max_num_scheduled_tokens=6, num_speculative_tokens=1)
    wide.submit(Request(0, 0, 10, 4))
    assert told(step(wide)) == [(0, 6, 0)]


def test_drafts_leave_one_slot_of_the_longest_sequence_for_the_sampled_token() -> None:
    core = make_core(max_model_len=16, num_speculative_tokens=3)
    core.submit(Request(0, 0, 12, 9))
    step(core, _drafts(3))
    step(core, _drafts(3))
    plan = step(core)
    assert (plan.rows[0].num_computed_tokens, plan.rows[0].num_tokens) == (13, 2)


def test_lookahead_slots_are_kept_and_rejected_drafts_never_shrink_the_table() -> None:
    core = make_core(num_speculative_tokens=4, num_lookahead_slots=4)
    core.submit(Request(0, 0, 8, 20))
    assert len(step(core, _drafts(4)).rows[0].new_blocks) == 3  # 8 tokens and 4 slots
    step(core)  # computes 13 of which 4 are rejected, and keeps slots for 17
    (seq,) = core.running
    assert (len(seq.table), seq.num_computed) == (5, 9)
    step(core)
    assert len(seq.table) == 5


def test_draft_tokens_are_never_registered_as_content() -> None:
    core = make_core(caching=True, num_speculative_tokens=3)
    core.submit(Request(0, 0, 5, 20, content=Text("a")))
    step(core, _drafts(3))
    step(core, _drafts(3))  # computes tokens 5 to 8, of which only token 5 is settled
    assert core.num_cached_blocks == 1
    step(core, StepResult([1], num_accepted={FIRST: 3}))  # 6 to 9 are settled, 6 and 7 fill block 1
    assert core.num_cached_blocks == 1
    step(core)
    assert core.num_cached_blocks == 2


def test_an_end_token_ends_a_sequence_with_the_tokens_before_it() -> None:
    core = make_core(num_speculative_tokens=3)
    core.submit(Request(0, 0, 5, 20))
    step(core, _drafts(3))
    outcome = finish(core, begin(core), StepResult([1], num_accepted={FIRST: 1}, stopped=frozenset({FIRST})))
    (seq,) = outcome.finished
    assert (seq.finish_reason, seq.num_output_tokens) == (FinishReason.STOP, 3)


# Everything at once -------------------------------------------------------------------------------------

MAX_MODEL_LEN = 40

speculative_cores = st.builds(
    make_core,
    num_blocks=st.integers(8, 40),
    block_size=st.sampled_from([1, 2, 4, 8]),
    caching=st.booleans(),
    max_model_len=st.just(MAX_MODEL_LEN),
    max_num_seqs=st.integers(1, 6),
    max_num_batched_tokens=st.integers(8, 40),
    long_prefill_token_threshold=st.sampled_from([0, 0, 3]),
    policy=st.sampled_from(PolicyKind),
    num_speculative_tokens=st.integers(1, 4),
    num_lookahead_slots=st.sampled_from([0, 0, 4]),
    num_draft_rows=st.sampled_from([0, 0, 1, 3]),
    pad_single_token_admissions=st.booleans(),
    full_sequence_gate=st.booleans(),
)


def _random_result(core: EngineCore, plan: StepPlan, data: st.DataObject) -> StepResult:
    most = v1_scheduler(core.config).num_speculative_tokens
    accepted: dict[SeqId, int] = {}
    drafts: dict[SeqId, int] = {}
    for row in plan.rows:
        seq_id = row.seq.seq_id
        if row.num_draft_tokens and row.kind.value == "running":
            accepted[seq_id] = data.draw(st.integers(0, row.num_draft_tokens))
        drafts[seq_id] = data.draw(st.integers(0, most))
    return StepResult([1], num_accepted=accepted, num_drafts=drafts)


def _check_plan(core: EngineCore, plan: StepPlan, tables: dict[SeqId, list[int]]) -> None:
    """Each row computes what is known and proposed, as far as it may, into slots it has."""
    config, block_size = v1_scheduler(core.config), core.config.cache.block_size
    tokens = sum(row.num_tokens for row in plan.rows)
    assert tokens <= config.token_budget
    assert tokens + len(plan.rows) * config.num_draft_rows <= config.max_num_batched_tokens
    for row in plan.rows:
        seq, after = row.seq, row.num_computed_tokens + row.num_tokens
        assert 0 <= row.num_draft_tokens < row.num_tokens
        assert after - row.num_draft_tokens <= seq.num_known
        assert after <= MAX_MODEL_LEN - 1
        slots = min(after + config.num_lookahead_slots, MAX_MODEL_LEN)
        assert len(seq.table) >= -(-slots // block_size)
        if row.kind.value == "running":
            before = tables[seq.seq_id]
            assert seq.table[: len(before)] == before, "a running table only grows"
            assert seq.table[len(before) :] == row.new_blocks


@given(core=speculative_cores, data=st.data())
@examples(150)
def test_whatever_is_drafted_and_accepted_every_token_comes_once_and_in_order(
    core: EngineCore, data: st.DataObject
) -> None:
    asked = data.draw(st.lists(st.tuples(st.integers(1, 20), st.integers(1, 15)), min_size=1, max_size=8))
    requests = [
        Request(number, number, prompt, output, priority=number % 2, content=Text(str(number % 3)))
        for number, (prompt, output) in enumerate(asked)
    ]
    ended: list[Any] = []
    for request in requests:
        core.submit(request)
    for _ in range(3000):
        if not core.has_unfinished:
            break
        tables = {seq.seq_id: seq.table[:] for seq in core.running}
        plan = begin(core)
        _check_plan(core, plan, tables)
        yielding = {row.seq for row in plan.rows if row.yields_token}
        known = {row.seq: row.seq.num_known for row in plan.rows}
        ended += finish(core, plan, _random_result(core, plan, data)).finished
        for seq, before in known.items():
            assert (seq.num_known > before) == (seq in yielding)
            if not seq.is_finished and seq in yielding:
                assert seq.num_computed == seq.num_known - 1
                assert seq.num_keyed_blocks * core.config.cache.block_size <= seq.num_known
    assert not core.has_unfinished
    assert core.num_used_blocks == 0
    assert in_queue(ended) == list(dict.fromkeys(in_queue(ended))), "a sequence ended twice"
    for seq in ended:
        assert seq.num_output_tokens == seq.request.max_tokens
        assert sum(count * tokens for _, count, tokens in seq.runs) == seq.num_output_tokens
        steps = [first + ahead for first, count, _ in seq.runs for ahead in range(count)]
        assert steps == sorted(set(steps))
