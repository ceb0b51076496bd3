"""Who computes how much in a step, and who is let in."""

from __future__ import annotations

import pytest

from sim.core.policy import PolicyKind
from sim.core.request import Request
from sim.core.scheduler_config import SchedulerConfig
from sim.core.step import ScheduleKind
from tests.core.stepping import (
    drain,
    in_queue,
    make_core,
    members,
    step,
    told,
)

# Budgets --------------------------------------------------------------------------------------------------


def test_prompts_that_fit_are_all_computed_in_one_step() -> None:
    core = make_core(num_blocks=30)
    for number in range(5):
        core.submit(Request(number, 0, 10, 2))
    assert told(step(core)) == [(number, 10, 0) for number in range(5)]


def test_prompt_and_output_less_one_tokens_are_computed() -> None:
    core = make_core()
    core.submit(Request(0, 0, 5, 7))
    num_tokens = 0
    while core.has_unfinished:
        num_tokens += step(core).num_tokens
    assert num_tokens == 5 + 7 - 1


def test_the_first_token_comes_out_of_the_step_that_ends_the_prompt() -> None:
    core = make_core(max_num_batched_tokens=4)
    core.submit(Request(0, 0, 10, 2))
    outputs = []
    while core.has_unfinished:
        plan = step(core)
        outputs.append((plan.rows[0].yields_token, plan.rows[0].seq.num_output_tokens))
    assert outputs == [(False, 0), (False, 0), (True, 1), (True, 2)]


def test_the_budget_cuts_the_last_prompt_into_a_chunk_and_running_ones_go_first() -> None:
    core = make_core(max_num_batched_tokens=10)
    core.submit(Request(0, 0, 6, 4))
    core.submit(Request(1, 0, 9, 4))
    assert told(step(core)) == [(0, 6, 0), (1, 4, 0)]
    assert told(step(core)) == [(0, 1, 6), (1, 5, 4)]
    drain(core)


def test_running_sequences_beyond_the_budget_are_left_out_and_nobody_overtakes_them() -> None:
    core = make_core(max_num_batched_tokens=2)
    for number in range(4):
        core.submit(Request(number, 0, 1, 4))
    assert [members(step(core)) for _ in range(3)] == [[0, 1], [0, 1], [0, 1]]
    assert in_queue(core.running) == [0, 1]


def test_the_token_budget_may_be_smaller_than_the_batch() -> None:
    core = make_core(max_num_batched_tokens=64, max_num_scheduled_tokens=7)
    core.submit(Request(0, 0, 10, 2))
    assert told(step(core)) == [(0, 7, 0)]


def test_without_chunking_a_prompt_that_does_not_fit_ends_the_pass() -> None:
    core = make_core(enable_chunked_prefill=False)
    for number, prompt in enumerate((50, 15, 4)):
        core.submit(Request(number, 0, prompt, 2))
    assert members(step(core)) == [0]
    assert told(step(core)) == [(0, 1, 50), (1, 15, 0), (2, 4, 0)]


@pytest.mark.parametrize(("exempt", "first_chunk"), [(True, 20), (False, 8)])
def test_a_lone_prompt_is_exempt_from_the_threshold_by_setting(exempt: bool, first_chunk: int) -> None:
    core = make_core(long_prefill_token_threshold=8, exempt_lone_prompt=exempt)
    core.submit(Request(0, 0, 20, 2))
    assert told(step(core)) == [(0, first_chunk, 0)]


def test_a_prompt_is_not_alone_while_another_waits_or_runs() -> None:
    core = make_core(long_prefill_token_threshold=8, max_num_seqs=1)
    core.submit(Request(0, 0, 20, 2))
    core.submit(Request(1, 0, 20, 2))
    assert told(step(core)) == [(0, 8, 0)]
    core.abort(1)
    assert told(step(core)) == [(0, 12, 8)]


def test_the_threshold_gives_three_long_prompts_equal_shares() -> None:
    core = make_core(long_prefill_token_threshold=8)
    for number in range(3):
        core.submit(Request(number, 0, 20, 2))
    for computed, tokens in ((0, 8), (8, 8), (16, 4)):
        assert told(step(core)) == [(number, tokens, computed) for number in range(3)]


# Seats and order ------------------------------------------------------------------------------------------


def test_no_more_run_than_there_are_seats_and_a_seat_is_taken_in_the_step_after_it_is_left() -> None:
    core = make_core(max_num_seqs=2)
    for number, length in enumerate((1, 3, 3, 3)):
        core.submit(Request(number, 0, 4, length))
    assert [members(step(core)) for _ in range(5)] == [[0, 1], [1, 2], [1, 2], [2, 3], [3]]


@pytest.mark.parametrize("chunked", [True, False])
def test_waiting_ones_are_let_in_first_come_first_served(chunked: bool) -> None:
    core = make_core(num_blocks=100, enable_chunked_prefill=chunked, max_num_batched_tokens=64)
    for number, prompt in enumerate((40, 30, 3, 20, 1)):
        core.submit(Request(number, number, prompt, 3))
    admitted: list[int] = []
    while core.has_unfinished:
        admitted += [row.seq.request.request_id for row in step(core).rows if row.kind is ScheduleKind.NEW]
    assert admitted == [0, 1, 2, 3, 4]


def test_a_head_that_does_not_fit_holds_back_those_behind_it() -> None:
    core = make_core(num_blocks=6)
    core.submit(Request(0, 0, 12, 4))
    core.submit(Request(1, 0, 16, 2))
    core.submit(Request(2, 0, 1, 1))
    assert [members(step(core)) for _ in range(2)] == [[0], [0]]


def test_the_most_urgent_waits_least_and_equals_by_arrival() -> None:
    core = make_core(max_num_seqs=1, policy=PolicyKind.PRIORITY)
    for number, (priority, arrival) in enumerate(((2, 0), (1, 5), (1, 3), (0, 9))):
        core.submit(Request(number, arrival, 4, 1, priority=priority))
    assert [members(step(core)) for _ in range(4)] == [[3], [2], [1], [0]]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"max_model_len": 0}, "max_model_len must be at least 1, not 0"),
        ({"max_num_seqs": 0}, "max_num_seqs must be at least 1, not 0"),
        ({"max_num_scheduled_tokens": 0}, "token_budget must be at least 1, not 0"),
        ({"num_lookahead_slots": -1}, "num_lookahead_slots must not be negative, not -1"),
        ({"watermark_fraction": 1.0}, r"watermark must be in \[0, 1\), not 1.0"),
        (
            {"max_num_batched_tokens": 32, "enable_chunked_prefill": False},
            "without chunked prefill a prompt must fit one step",
        ),
    ],
)
def test_settings_that_cannot_work_are_refused(settings: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SchedulerConfig(**{"max_model_len": 64, **settings})  # type: ignore[arg-type]
