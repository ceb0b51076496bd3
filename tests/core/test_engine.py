"""How requests come to an end, and what is refused."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from sim.core.engine import EngineConfig, EngineCore, PlanDetail, SubmitStatus
from sim.core.kv_cache import CacheConfig
from sim.core.request import FinishReason, Request, SeqId
from sim.core.scheduler_config import SchedulerConfig
from sim.core.step import StepResult
from tests.core.stepping import (
    Text,
    assert_empty,
    begin,
    drain,
    finish,
    make_core,
    members,
    step,
    step_until_preemption,
)

# Ends -----------------------------------------------------------------------------------------------------


def test_a_sequence_ends_with_the_step_that_gives_its_last_token() -> None:
    core = make_core()
    core.submit(Request(0, 0, 5, 3))
    outcomes = [finish(core, begin(core)) for _ in range(3)]
    assert [len(outcome.finished) for outcome in outcomes] == [0, 0, 1]
    (seq,) = outcomes[-1].finished
    assert (seq.finish_reason, seq.finish_step, seq.runs) == (FinishReason.LENGTH, 2, [(0, 3, 1)])
    assert seq.request.is_finished
    assert_empty(core)


@pytest.mark.parametrize("detail", PlanDetail)
def test_output_is_capped_by_the_longest_sequence_of_the_model(detail: PlanDetail) -> None:
    core = make_core(max_model_len=16, detail=detail)
    core.submit(Request(0, 0, 10, 99))
    (ended,) = drain(core)
    assert (ended.finish_reason, ended.num_output_tokens) == (FinishReason.LENGTH_CAPPED, 6)


def test_an_output_that_ends_exactly_at_the_longest_sequence_is_not_capped() -> None:
    core = make_core(max_model_len=16)
    core.submit(Request(0, 0, 10, 6))
    (ended,) = drain(core)
    assert (ended.finish_reason, ended.num_output_tokens) == (FinishReason.LENGTH, 6)


def test_an_end_token_ends_a_sequence_early_and_its_blocks_count_in_the_next_plan() -> None:
    core = make_core(num_blocks=4)
    core.submit(Request(0, 0, 12, 4))
    core.submit(Request(1, 0, 12, 4))
    assert members(step(core)) == [0]
    outcome = finish(core, begin(core), StepResult([1], stopped=frozenset({SeqId(0)})))
    (ended,) = outcome.finished
    assert (ended.finish_reason, ended.num_output_tokens) == (FinishReason.STOP, 2)
    assert members(step(core)) == [1]
    drain(core)


def test_those_that_end_in_one_step_are_named_and_freed_in_scheduled_order() -> None:
    core = make_core(num_blocks=6)
    for number in (2, 0, 1):
        core.submit(Request(number, 0, 5, 1))
    plan = begin(core)
    assert [seq.request.request_id for seq in finish(core, plan).finished] == [2, 0, 1]
    assert core.free_head(6) == [6, 5, 4, 3, 2, 1]


def test_a_request_is_over_when_all_its_samples_are() -> None:
    core = make_core()
    request = Request(0, 0, 5, 9, num_samples=2, sample_tokens=(2, 4))
    core.submit(request)
    finished = []
    while core.has_unfinished:
        finished.append((len(finish(core, begin(core)).finished), request.is_finished))
    assert finished == [(0, False), (1, False), (0, False), (1, True)]


def test_an_id_can_be_used_again_when_its_request_is_over() -> None:
    core = make_core()
    core.submit(Request(0, 0, 5, 1))
    drain(core)
    assert core.submit(Request(0, 0, 5, 1)) is SubmitStatus.NEXT_STEP
    drain(core)


# Refusals -------------------------------------------------------------------------------------------------


def test_what_can_never_fit_is_refused_at_once_and_keeps_nobody_waiting() -> None:
    core = make_core(num_blocks=4)
    too_long = Request(0, 0, 10, 8)
    assert core.submit(too_long) is SubmitStatus.REJECTED
    assert too_long.is_finished
    assert core.submit(Request(1, 0, 64, 1)) is SubmitStatus.REJECTED
    assert not core.has_unfinished
    assert core.begin_step(0) is None
    assert core.submit(Request(2, 0, 10, 7)) is SubmitStatus.NEXT_STEP
    (ended,) = drain(core)
    assert ended.num_output_tokens == 7


def test_a_prompt_that_leaves_no_room_for_a_token_of_output_is_refused() -> None:
    core = make_core(max_model_len=16)
    assert core.submit(Request(0, 0, 16, 1)) is SubmitStatus.REJECTED
    assert core.submit(Request(1, 0, 15, 1)) is SubmitStatus.NEXT_STEP
    drain(core)


def test_lookahead_slots_count_in_what_can_ever_fit() -> None:
    core = make_core(num_blocks=4, num_lookahead_slots=2)
    assert core.submit(Request(0, 0, 10, 7)) is SubmitStatus.REJECTED
    assert core.submit(Request(1, 0, 10, 5)) is SubmitStatus.NEXT_STEP
    drain(core)


def test_only_who_may_join_the_next_step_ends_a_plan_under_way() -> None:
    core = make_core(max_num_seqs=2, num_blocks=6)
    statuses = [core.submit(Request(number, 0, 8, 4)) for number in range(2)]
    step(core)
    statuses.append(core.submit(Request(2, 0, 8, 4)))
    assert statuses == [SubmitStatus.NEXT_STEP, SubmitStatus.NEXT_STEP, SubmitStatus.QUEUED]
    roomy = make_core(max_num_seqs=8, num_blocks=4)
    roomy.submit(Request(0, 0, 8, 4))
    step(roomy)
    assert roomy.submit(Request(1, 0, 8, 4)) is SubmitStatus.NEXT_STEP, "the core has not tried it yet"
    assert roomy.submit(Request(2, 0, 1, 4)) is SubmitStatus.QUEUED, "it stands behind another"


def test_misuse_is_an_exception() -> None:
    core = make_core()
    core.submit(Request(0, 0, 5, 4))
    with pytest.raises(ValueError, match="request 0 is here already"):
        core.submit(Request(0, 0, 5, 4))
    plan = begin(core)
    for num_steps in (0, 2):
        with pytest.raises(ValueError, match=f"{num_steps} steps settled of a plan for 1"):
            core.finish_step(plan, StepResult([1, 2]), num_steps)
    with pytest.raises(ValueError, match="at least 1"):
        Request(1, 0, 0, 4)
    with pytest.raises(ValueError, match="max_horizon must be at least 1, not 0"):
        EngineConfig(CacheConfig(4), SchedulerConfig(64), max_horizon=0)


# Giving up ------------------------------------------------------------------------------------------------


def _waiting() -> tuple[EngineCore, int]:
    core = make_core(num_blocks=6)
    core.submit(Request(0, 0, 12, 10))
    core.submit(Request(1, 0, 16, 4))
    step(core)
    return core, 1


def _running() -> tuple[EngineCore, int]:
    core = make_core(num_blocks=6)
    core.submit(Request(0, 0, 4, 10))
    core.submit(Request(1, 0, 8, 10))
    step(core)
    return core, 1


def _steady() -> tuple[EngineCore, int]:
    core = make_core(num_blocks=20, detail=PlanDetail.COUNTS, max_horizon=2**31)
    for number in range(3):
        core.submit(Request(number, 0, 4, 20))
    step(core)
    plan = begin(core)
    assert plan.num_steady_seqs == 3
    core.finish_step(plan, StepResult(list(range(1, plan.horizon + 1))), 7)
    return core, 1


def _mid_chunk() -> tuple[EngineCore, int]:
    core = make_core(max_num_batched_tokens=8)
    core.submit(Request(0, 0, 20, 4))
    step(core)
    return core, 0


def _preempted() -> tuple[EngineCore, int]:
    core = make_core(num_blocks=6)
    core.submit(Request(0, 0, 12, 10))
    core.submit(Request(1, 0, 8, 10))
    step_until_preemption(core)
    return core, 1


def _sharing() -> tuple[EngineCore, int]:
    core = make_core(caching=True)
    core.submit(Request(0, 0, 13, 5, num_samples=3, content=Text("a")))
    core.submit(Request(1, 0, 13, 5, num_samples=3, content=Text("a")))
    step(core)
    return core, 0


@pytest.mark.parametrize("prepare", [_waiting, _running, _steady, _mid_chunk, _preempted, _sharing])
def test_a_request_that_is_given_up_leaves_nothing_behind(
    prepare: Callable[[], tuple[EngineCore, int]],
) -> None:
    core, number = prepare()
    ended = core.abort(number)
    assert ended
    for seq in ended:
        assert (seq.finish_reason, seq.table) == (FinishReason.ABORT, [])
        assert seq.num_known >= seq.num_computed
    core.check_invariants()
    assert core.abort(number) == []
    drain(core)


def test_a_request_given_up_amid_a_steady_run_has_the_tokens_of_the_steps_it_took_part_in() -> None:
    core, number = _steady()
    (ended,) = core.abort(number)
    assert ended.num_output_tokens == 8
    assert ended.runs == [(0, 8, 1)]
    assert ended.finish_step == core.step == 8


def test_a_request_given_up_before_it_ran_has_no_last_step() -> None:
    core, number = _waiting()
    (ended,) = core.abort(number)
    assert (ended.first_scheduled_step, ended.finish_step) == (None, None)


def test_giving_up_one_sample_s_request_does_not_touch_another_s() -> None:
    core, number = _sharing()
    core.abort(number)
    assert sorted({seq.request.request_id for seq in core.running}) == [1]
    assert [seq.num_output_tokens for seq in drain(core)] == [5, 5, 5]


# Counting -------------------------------------------------------------------------------------------------


def test_an_outcome_tells_the_blocks_held_and_the_slots_filled_in_each_step() -> None:
    core = make_core(detail=PlanDetail.COUNTS, max_horizon=2**31)
    for number, prompt in enumerate((3, 8)):
        core.submit(Request(number, 0, prompt, 6))
    outcome = finish(core, begin(core))
    assert (outcome.used_blocks, outcome.filled_slots) == ([3], 11)
    plan = begin(core)
    assert plan.horizon == 5
    outcome = core.finish_step(plan, StepResult([1, 2, 3, 4, 5]), 5)
    assert outcome.used_blocks == [4, 5, 5, 5, 6]
    assert (outcome.filled_slots, outcome.filled_slots_per_step) == (13, 2)


def test_shared_slots_are_counted_once() -> None:
    core = make_core(caching=True)
    for number in range(2):
        core.submit(Request(number, 0, 9, 6, content=Text("a")))
    outcome = finish(core, begin(core))
    assert (outcome.used_blocks, outcome.filled_slots) == ([4], 10)
