"""An admission of one token is padded with drafts, so that it looks like the decodes beside it."""

from __future__ import annotations

import pytest

from sim.core.engine import SubmitStatus
from sim.core.request import Request, SeqId
from sim.core.scheduler_config import SchedulerConfig
from sim.core.step import StepResult
from tests.core.stepping import Text, drain, make_core, members, step, told


@pytest.mark.parametrize(("pads", "tokens"), [(True, 4), (False, 1)])
def test_an_admission_of_one_token_is_padded_to_look_like_a_decode(pads: bool, tokens: int) -> None:
    core = make_core(num_speculative_tokens=3, pad_single_token_admissions=pads)
    core.submit(Request(0, 0, 5, 9))
    step(core)
    core.submit(Request(1, 0, 1, 9))
    plan = step(core)
    assert plan.rows[1].num_tokens == tokens
    assert [seq.num_output_tokens for seq in core.running] == [2, 1]


def test_an_admission_is_padded_only_beside_running_sequences_or_after_a_hit() -> None:
    alone = make_core(num_speculative_tokens=3)
    alone.submit(Request(0, 0, 1, 9))
    assert told(step(alone)) == [(0, 1, 0)]
    hit = make_core(caching=True, num_speculative_tokens=3)
    hit.submit(Request(0, 0, 9, 1, content=Text("a")))
    step(hit)
    hit.submit(Request(1, 0, 9, 5, content=Text("a")))
    assert told(step(hit)) == [(1, 4, 8)]


def test_an_admission_beside_another_s_prompt_chunk_is_not_padded_be_it_the_last_chunk() -> None:
    core = make_core(num_speculative_tokens=2, max_num_batched_tokens=9)
    core.submit(Request(0, 0, 12, 5))
    step(core)
    core.submit(Request(1, 0, 1, 5))
    assert told(step(core)) == [(0, 3, 9), (1, 1, 0)]


def test_one_token_left_of_a_prompt_is_a_chunk_too() -> None:
    core = make_core(num_speculative_tokens=2, max_num_batched_tokens=9)
    core.submit(Request(0, 0, 10, 5))
    step(core)
    core.submit(Request(1, 0, 1, 5))
    assert told(step(core)) == [(0, 1, 9), (1, 1, 0)]
    core.submit(Request(2, 0, 1, 5))
    assert told(step(core)) == [(0, 1, 10), (1, 1, 1), (2, 3, 0)]


def test_an_admission_is_padded_only_with_room_for_the_sampled_token() -> None:
    for max_model_len, tokens in ((13, 4), (12, 1)):
        core = make_core(caching=True, num_speculative_tokens=3, max_model_len=max_model_len)
        core.submit(Request(0, 0, 9, 1, content=Text("a")))
        step(core)
        core.submit(Request(1, 0, 9, 2, content=Text("a")))
        assert told(step(core)) == [(1, tokens, 8)], max_model_len


def test_an_admission_whose_padding_exceeds_the_budget_waits() -> None:
    core = make_core(num_speculative_tokens=3, max_num_batched_tokens=6)
    core.submit(Request(0, 0, 5, 4))
    step(core, StepResult([1], num_drafts={SeqId(0): 3}))
    core.submit(Request(1, 0, 1, 4))
    assert members(step(core)) == [0]
    assert told(step(core)) == [(0, 1, 6), (1, 4, 0)]


def test_the_long_prompt_threshold_does_not_cut_the_padding() -> None:
    core = make_core(num_speculative_tokens=3, long_prefill_token_threshold=2)
    core.submit(Request(0, 0, 1, 9))
    step(core)
    core.submit(Request(1, 0, 1, 9))
    plan = step(core)
    assert told(plan)[1] == (1, 4, 0)
    assert [seq.num_output_tokens for seq in core.running] == [2, 1]


def test_a_request_whose_drafts_can_never_fit_is_refused() -> None:
    """Padded to four tokens, an admission on seven hit blocks would want ten of eight blocks for ever."""
    core = make_core(num_blocks=8, block_size=1, caching=True, num_speculative_tokens=3)
    assert core.submit(Request(0, 0, 8, 1, content=Text("a"))) is SubmitStatus.REJECTED
    assert core.submit(Request(1, 0, 5, 1, content=Text("a"))) is SubmitStatus.NEXT_STEP
    step(core)
    core.submit(Request(2, 0, 5, 1, content=Text("a")))
    drain(core)


def test_a_step_that_cannot_hold_a_padded_admission_is_refused() -> None:
    with pytest.raises(ValueError, match="4 tokens and 1 draft rows"):
        SchedulerConfig(64, max_num_batched_tokens=4, num_speculative_tokens=3, num_draft_rows=1)
    with pytest.raises(ValueError, match="4 tokens and 0 draft rows"):
        SchedulerConfig(64, max_num_scheduled_tokens=3, num_speculative_tokens=3)
    SchedulerConfig(64, max_num_batched_tokens=5, num_speculative_tokens=3, num_draft_rows=1)


def test_drafts_that_may_be_cut_are_and_a_padded_admission_then_stands_still() -> None:
    """A replay must follow vLLM, which takes such settings, to where nothing moves."""
    core = make_core(caching=True, max_num_scheduled_tokens=3, num_speculative_tokens=3, may_cut_drafts=True)
    core.submit(Request(0, 0, 5, 9, content=Text("a")))
    plans = [step(core, StepResult([1], num_drafts={SeqId(0): 3})) for _ in range(3)]
    assert [told(plan) for plan in plans] == [[(0, 3, 0)], [(0, 2, 3)], [(0, 3, 5)]]
    assert plans[-1].rows[0].num_draft_tokens == 2
    core.abort(0)
    core.submit(Request(1, 0, 5, 9, content=Text("a")))
    assert core.begin_step(0) is None
